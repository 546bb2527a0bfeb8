"""Which positions show bad frames, by the configuration's own terms of quality."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

from parfocal.daemon.config_models import QualitySection
from parfocal.models.base import Assessment


class Bench:
    """Judges the frames of every position; one is bad after `for_frames` bad frames in a row, until a good one.

    Parameters
    ----------
    terms : QualitySection or None
        None: nothing is ever bad.
    """

    def __init__(self, terms: QualitySection | None) -> None:
        self._terms = terms
        self._in_a_row: dict[int, int] = {}
        self._why: dict[int, str] = {}
        self._lock = threading.Lock()

    def judge(self, position: int, assessments: Mapping[str, Assessment]) -> None:
        """Look at one frame; an abstention is neither good nor bad."""
        if self._terms is None or (assessment := assessments.get(self._terms.model)) is None:
            return
        if assessment.abstained:
            return
        score = self._terms.score
        value = assessment.value if score is None else float(assessment.detail.get(score, math.nan))
        why = self._wrong(value)
        with self._lock:
            self._in_a_row[position] = self._in_a_row.get(position, 0) + 1 if why else 0
            self._why[position] = why

    def bad(self, position: int) -> str:
        """Why a position is bad; empty if it is not."""
        with self._lock:
            if self._terms is None or self._in_a_row.get(position, 0) < self._terms.for_frames:
                return ""
            return self._why[position]

    def _wrong(self, value: float) -> str:
        terms = self._terms
        if terms is None:
            return ""
        name = terms.model if terms.score is None else f"{terms.model} {terms.score}"
        if terms.below is not None and not value >= terms.below:
            return f"{name} is {value:.3g}, below {terms.below:.3g}"
        if terms.above is not None and not value <= terms.above:
            return f"{name} is {value:.3g}, above {terms.above:.3g}"
        return ""
