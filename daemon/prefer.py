"""Preferences on disk: pairs of outcomes that a person picked between, and the network learned from them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parfocal import ParfocalError
from parfocal.daemon.journal import read_journal
from parfocal.policies.sted.prefnet import PreferenceError, PrefNet, agreement, find_cycle, train_prefnet

SCHEMA = "parfocal.preference/1"
INPUTS = ("resolution_nm", "bleach", "signal_ratio")
UNITS = {"resolution_nm": "nm", "bleach": "", "signal_ratio": "", "pixel_us": "us a pixel", "quality": ""}
SMALLER_IS_BETTER = ("resolution_nm", "bleach", "pixel_us")
RANGES = {
    "resolution_nm": (50.0, 200.0),
    "bleach": (0.0, 0.8),
    "signal_ratio": (0.05, 1.2),
    "pixel_us": (2.0, 100.0),
    "quality": (0.0, 1.0),
}
"""Outcomes to choose between where no session gives real ones."""
CLOSE_AFTER = 6
"""From so many picks on, what is asked is what the network is least sure of."""
_TRIES = 200
_LOOKS = 40

Outcome = tuple[float, ...]


class PreferenceFileError(ParfocalError):
    """A preference file, or a session to take outcomes from, cannot be read or written, or holds something else."""

    exit_code = 3


class PreferenceCycleError(ParfocalError):
    """Picks that contradict each other: A over B, B over C, C over A."""

    exit_code = 3


@dataclass
class Picks:
    """What a person picked, in order.

    Parameters
    ----------
    inputs : tuple of str
        The objectives that are shown, in order.
    pairs : list
        (preferred, other), each a tuple of the objectives.
    """

    inputs: tuple[str, ...] = INPUTS
    pairs: list[tuple[Outcome, Outcome]] = field(default_factory=list)

    def add(self, preferred: Outcome, other: Outcome) -> list[Outcome]:
        """Add a pick; return the cycle it closes, and do not add it then."""
        cycle = find_cycle([*self.pairs, (preferred, other)])
        if not cycle:
            self.pairs.append((preferred, other))
        return cycle

    def replace(self, preferred: Outcome, other: Outcome) -> int:
        """Add a pick that contradicts earlier ones, and drop as few of those as it takes; return how many."""
        dropped = 0
        while cycle := find_cycle([*self.pairs, (preferred, other)]):
            around = {(cycle[i], cycle[(i + 1) % len(cycle)]) for i in range(len(cycle))}
            # The new pick itself is in the cycle only if it is not among the earlier ones.
            oldest = next(index for index, pair in enumerate(self.pairs) if pair in around)
            self.pairs.pop(oldest)
            dropped += 1
        self.pairs.append((preferred, other))
        return dropped

    def check(self) -> None:
        """Raise `PreferenceCycleError` if the picks contradict each other."""
        cycle = find_cycle(self.pairs)
        if cycle:
            raise PreferenceCycleError(
                f"the picks contradict each other: {describe_cycle(cycle, self.inputs)}; take one of them out"
            )

    def learn(self, seed: int = 0) -> PrefNet:
        """Train the network; raises `PreferenceError` without pairs."""
        return train_prefnet(self.pairs, self.inputs, seed=seed)


def describe(outcome: Outcome, inputs: Sequence[str]) -> str:
    """Say an outcome in words."""
    shown = []
    for name, value in zip(inputs, outcome, strict=True):
        word = name.removesuffix("_nm").removesuffix("_us").replace("_", " ")
        text = f"{value:.0%}" if name == "bleach" else f"{value:.3g} {UNITS.get(name, '')}".strip()
        shown.append(f"{word} {text}")
    return ", ".join(shown)


def describe_cycle(cycle: Sequence[Outcome], inputs: Sequence[str]) -> str:
    """Say a cycle in words."""
    around = [*cycle, cycle[0]]
    return " over ".join(f"({describe(outcome, inputs)})" for outcome in around)


def load(path: Path) -> tuple[Picks, PrefNet | None]:
    """Read a preference file; raises `PreferenceFileError`."""
    data = _read(path)
    try:
        inputs = tuple(str(name) for name in data["inputs"])
        pairs = [(_outcome(winner, inputs), _outcome(loser, inputs)) for winner, loser in data["pairs"]]
        net = None if data.get("network") is None else PrefNet.from_json(data["network"])
    except (KeyError, TypeError, ValueError) as error:
        raise PreferenceFileError(f"{path}: not a preference file ({type(error).__name__}: {error})") from error
    return Picks(inputs, pairs), net


def save(path: Path, picks: Picks, net: PrefNet | None) -> dict[str, Any]:
    """Write picks and network, the old file being replaced in one step; return what was written."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "inputs": list(picks.inputs),
        "pairs": [[list(winner), list(loser)] for winner, loser in picks.pairs],
        "network": None if net is None else net.to_json(),
    }
    if net is not None and picks.pairs:
        content["agreement"] = agreement(net, picks.pairs)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise PreferenceFileError(f"{path}: cannot be written ({error.strerror})") from error
    return content


def preference_option(path: Path) -> dict[str, Any]:
    """Return a file's network as the option ``preference`` of a STED policy takes it; raises `PreferenceFileError`."""
    _, net = load(path)
    if net is None:
        raise PreferenceFileError(f"{path}: holds no network yet; make picks with `parfocal prefer {path}`")
    return {"prefnet": net.to_json()}


def read_pairs(path: Path, inputs: Sequence[str]) -> Picks:
    """Read picks made elsewhere: JSON lines, or a list, of ``{"preferred": {...}, "other": {...}}``.

    Raises
    ------
    PreferenceFileError
        Not readable, or an outcome without one of `inputs`.
    PreferenceCycleError
        They contradict each other.
    """
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
        pairs = [
            tuple(tuple(float(row[side][name]) for name in inputs) for side in ("preferred", "other")) for row in rows
        ]
    except OSError as error:
        raise PreferenceFileError(f"{path}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise PreferenceFileError(f"{path}: not a list of picks ({type(error).__name__}: {error})") from error
    picks = Picks(tuple(inputs), [(pair[0], pair[1]) for pair in pairs])
    picks.check()
    return picks


def outcomes_of(sessions: Iterable[Path], inputs: Sequence[str]) -> list[Outcome]:
    """Return the outcomes of all trials of some recorded sessions; raises `JournalError` or `PreferenceFileError`."""
    found: list[Outcome] = []
    for folder in sessions:
        journal = read_journal(folder / "journal.jsonl" if folder.is_dir() else folder)
        seen = -1.0
        for record in journal.of("action"):
            detail = record.get("detail", {})
            if detail.get("outcome") != 1.0 or detail["images"] == seen or any(name not in detail for name in inputs):
                continue  # the same trial is shown with every decision until the next one
            seen = detail["images"]
            outcome = tuple(float(detail[name]) for name in inputs)
            if outcome not in found:
                found.append(outcome)
    if found and len(found) < 3:
        raise PreferenceFileError(f"{len(found)} outcomes are too few to choose between; there must be 3")
    if not found:
        raise PreferenceFileError("the sessions hold no outcome of a STED trial with " + ", ".join(inputs))
    return found


class Asker:
    """Says what to show next.

    Parameters
    ----------
    picks : Picks
        Added to as they are made.
    outcomes : sequence, optional
        What may be shown; None: drawn from plausible ranges.
    seed : int
    """

    def __init__(self, picks: Picks, outcomes: Sequence[Outcome] | None = None, seed: int = 0) -> None:
        self.picks, self._outcomes = picks, outcomes
        self._rng = np.random.default_rng([seed, len(picks.pairs)])

    def next(self) -> tuple[Outcome, Outcome] | None:
        """Return two outcomes of which neither is better throughout; None: none are left to ask about."""
        asked = {frozenset(pair) for pair in self.picks.pairs}
        open_pairs: list[tuple[Outcome, Outcome]] = []
        for _ in range(_TRIES):
            a, b = self._draw(), self._draw()
            if a != b and frozenset((a, b)) not in asked and not (self._beats(a, b) or self._beats(b, a)):
                open_pairs.append((a, b))
            if len(open_pairs) >= (_LOOKS if len(self.picks.pairs) >= CLOSE_AFTER else 1):
                break
        if not open_pairs:
            return None
        if len(self.picks.pairs) < CLOSE_AFTER:
            return open_pairs[0]
        net = self.picks.learn()
        gaps = [abs(float(net.score(np.array(a)) - net.score(np.array(b)))) for a, b in open_pairs]
        return open_pairs[int(np.argmin(gaps))]

    def _draw(self) -> Outcome:
        if self._outcomes is not None:
            return self._outcomes[int(self._rng.integers(len(self._outcomes)))]
        drawn = [self._rng.uniform(*RANGES[name]) for name in self.picks.inputs]
        return tuple(float(f"{value:.2g}") for value in drawn)

    def _beats(self, a: Outcome, b: Outcome) -> bool:
        """Whether one outcome is at least as good as another in every objective: nobody needs to be asked."""
        signs = [-1.0 if name in SMALLER_IS_BETTER else 1.0 for name in self.picks.inputs]
        return all(sign * x >= sign * y for sign, x, y in zip(signs, a, b, strict=True))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PreferenceFileError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise PreferenceFileError(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        got = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise PreferenceFileError(f"{path}: expected schema {SCHEMA} (got {got!r})")
    return data


def _outcome(values: Sequence[Any], inputs: Sequence[str]) -> Outcome:
    outcome = tuple(float(value) for value in values)
    if len(outcome) != len(inputs) or not all(math.isfinite(value) for value in outcome):
        raise PreferenceError(f"an outcome has {len(inputs)} finite objectives (got {values})")
    return outcome
