"""The quality gate in the record: running counts while a session goes on, and which of its frames are good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parfocal.daemon.journal import JournalReading
    from parfocal.models.base import Assessment
    from parfocal.policies.base import Action

QUALITY = "quality"


@dataclass
class QualityCounts:
    """What the gate said of a session so far.

    `judged` frames were good or bad; `flagged` of them are marked as bad, `retakes` were asked for, and `unjudged`
    frames belong to runs in which nothing could be said. `value` is the last frame's quality, judged by a gate or not.
    """

    judged: int = 0
    flagged: int = 0
    unjudged: int = 0
    retakes: int = 0
    value: float = math.nan
    _gated: bool = field(default=False, repr=False)

    def note(self, action: Action, assessments: Mapping[str, Assessment]) -> None:
        """Take in one decision."""
        detail = action.detail
        self.value = quality_of(action, assessments)
        self.judged += "good" in detail
        self.flagged += int(detail.get("flagged", 0.0))
        self.retakes += "retake" in detail
        self._gated |= "good" in detail or "cannot_be_judged" in detail
        if "cannot_be_judged" in detail:
            self.unjudged += 1

    @property
    def share(self) -> float:
        """Share of the judged frames that are flagged; NaN before the first."""
        return self.flagged / self.judged if self.judged else math.nan

    def to_json(self) -> dict[str, Any] | None:
        """Return the counts for the summary; nothing where no gate has said anything."""
        if not self._gated:
            return None
        share = self.share
        return {
            "judged": self.judged,
            "flagged": self.flagged,
            "flagged_share": share if math.isfinite(share) else None,
            "unjudged": self.unjudged,
            "retakes": self.retakes,
        }


def quality_of(action: Action | None, assessments: Mapping[str, Assessment] | None) -> float:
    """Return the score that the gate judged or, without one, what the model ``quality`` says; NaN: nothing."""
    if action is not None and "quality" in action.detail:
        return float(action.detail["quality"])
    assessment = (assessments or {}).get(QUALITY)
    return math.nan if assessment is None or assessment.abstained else float(assessment.value)


def outcome_of_finish(action: Action) -> str:
    """Name the outcome of a session that an action ended: the policy's own end, or that of the quality gate."""
    return "bad_quality" if action.detail.get("bad_quality_stop") == 1.0 else "finished"


def good_frames(reading: JournalReading) -> list[int]:
    """Return the indices of the frames that the gate judged and did not flag, in order.

    Flagged frames, those of a field that was to be taken again among them, are not in it; nor are frames that were not
    judged: stale and doubtful ones, those on the way to the focus, and those of which the model says nothing.
    """
    judged: list[int] = []
    bad: set[int] = set()
    for record in reading.of("action"):
        detail = record.get("detail", {})
        if "good" not in detail:
            continue
        judged.append(int(record["index"]))
        bad.update(judged[len(judged) - int(detail.get("flagged", 0.0)) :])
    return [index for index in judged if index not in bad]
