"""One frame while the session is paused: scored and written down, told to no policy, followed by nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parfocal.daemon.decide import Decider
from parfocal.daemon.owner import Owner, Taken
from parfocal.daemon.record import Record
from parfocal.daemon.records import as_told
from parfocal.daemon.terms import Deadlines
from parfocal.models.base import Assessment

UNFIT = "snap"
"""What the journal says of such a frame: there is no decision on it."""


@dataclass(frozen=True)
class Snapped:
    """A frame that somebody asked for, and what the models say of it."""

    taken: Taken
    assessments: Mapping[str, Assessment]

    def to_json(self) -> dict[str, Any]:
        """Return what whoever asked gets to read; what is not known is null."""
        frame = self.taken.frame
        said = {
            name: {
                "value": _known(one.value), "sd": _known(one.sd), "abstained": one.abstained, "reason": one.reason,
                "signed": None if one.distribution is None else one.distribution.signed,
                "detail": {key: _known(value) for key, value in one.detail.items()},
            }
            for name, one in self.assessments.items()
        }  # fmt: skip
        settings = {name: _known(value) for name, value in frame.settings.items()}
        return {"index": frame.index, "settings": settings, "assessments": said, "dose": _known(self.taken.dose)}


async def take_one(owner: Owner, decider: Decider, record: Record, deadlines: Deadlines) -> Snapped:
    """Take and score one frame.

    Raises
    ------
    HardwareError, SafetyTripError
        There is no frame: the camera does not answer, the dose budget is spent.
    ScorerError, ImageError
        There is a frame, which is in the journal, and nobody can say what it is worth.
    """
    taken = await owner.one(deadlines.frame_s + deadlines.command_s)
    record.frame(taken, UNFIT)
    scorer, frame = decider.scorer, taken.frame
    raw = await asyncio.to_thread(scorer.score, frame.pixels, frame.pixel_um, deadlines.score_s)
    assessments = {name: as_told(assessment) for name, assessment in raw.items()}
    record.assessments(frame.index, assessments)
    return Snapped(taken, assessments)


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
