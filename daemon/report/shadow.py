"""What a shadow run would have done: the moves it wanted, the focus it claims, and how that compares with the truth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from parfocal.daemon.report.events import MoveRow, Story

nan = math.nan


@dataclass(frozen=True)
class Shadow:
    """A shadow run in numbers.

    Parameters
    ----------
    decided : int
        Frames the policy decided on.
    wanted, refused : int
        Of these, how many with a move that the guard accepted, or refused.
    median_um, longest_um : float
        Of the accepted moves in z, each from where the stage was; NaN: none.
    known : int
        Frames for which it believed to know where the focus is.
    claimed : float
        Share of these that it held to be within half the depth of field; NaN: not known.
    true, right : float
        Share of the same frames that were so in truth, and share on which claim and truth agree; NaN: no truth.
    """

    decided: int
    wanted: int
    refused: int
    median_um: float
    longest_um: float
    known: int
    claimed: float
    true: float
    right: float

    def to_json(self) -> dict[str, float | None]:
        """Return the numbers; what is not known is null."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def shadow_of(story: Story, dof_um: float | None) -> Shadow:
    """Gather what a shadow run would have done."""
    wanted = [move for move in story.moves if move.accepted is True and move.index is not None]
    refused = [move for move in story.refusals if move.index is not None]
    steps = _steps(story, wanted)
    rows = [row for row in story.frames if row.known and not row.unfit]
    stage = np.array([row.settings.get("z_um", nan) for row in rows])
    believed = np.abs(stage - np.array([row.focus_um for row in rows]))
    truth = np.abs(stage - np.array([row.truth_um for row in rows]))
    half_um = dof_um / 2 if dof_um else nan
    claims = believed <= half_um
    sure = np.isfinite(believed) & math.isfinite(half_um)
    told = sure & np.isfinite(truth)
    return Shadow(
        decided=story.unfit[""],
        wanted=len(wanted),
        refused=len(refused),
        median_um=float(np.median(steps)) if steps else nan,
        longest_um=max(steps, default=nan),
        known=len(rows),
        claimed=_share(claims[sure]),
        true=_share(truth[told] <= half_um),
        right=_share(claims[told] == (truth[told] <= half_um)),
    )


def _steps(story: Story, moves: list[MoveRow]) -> list[float]:
    stage = {row.index: row.settings.get("z_um", nan) for row in story.frames}
    steps = [abs(m.targets["z_um"] - stage.get(m.index or 0, nan)) for m in moves if "z_um" in m.targets]
    return [step for step in steps if math.isfinite(step)]


def _share(holds: np.ndarray) -> float:
    return float(holds.mean()) if holds.size else nan


def lines(shadow: Shadow, dof_um: float | None, truth: str) -> list[str]:
    """Put it into sentences; `truth` says whose truth there is."""
    moves = "no move on any frame" if not shadow.wanted else f"a move on {shadow.wanted} of them"
    moved = f"SHADOW: nothing was commanded. It decided on {_frames(shadow.decided)} and wanted {moves}"
    if math.isfinite(shadow.median_um):
        moved += f", {shadow.median_um:.2f} um at the median and {shadow.longest_um:.2f} um at most"
    moved += f"; the guard would have refused {shadow.refused}" if shadow.refused else ""
    if shadow.wanted:
        moved += ". What is not done is asked for again: a run that moves would have needed fewer"
    found = [f"{moved}."]
    if not shadow.known:
        return [*found, "It never claimed to know where the focus was."]
    if not math.isfinite(shadow.claimed) or not dof_um:
        return [*found, f"It claims to have known where the focus was on {_frames(shadow.known)}."]
    claim = (
        f"It claims to have known where the focus was on {_frames(shadow.known)}, and that {shadow.claimed:.1%} of "
        f"them were in focus, within half the depth of field ({dof_um / 2:.2f} um)"
    )
    if math.isfinite(shadow.true):
        claim += f"; in truth ({truth}) {shadow.true:.1%} were, and it was right on {shadow.right:.1%}"
    return [*found, f"{claim}."]


def _frames(count: int) -> str:
    return f"{count} frame{'' if count == 1 else 's'}"
