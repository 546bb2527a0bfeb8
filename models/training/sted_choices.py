"""Do people prefer a network's score to an expert's: confusion and domination on recorded choices (Robitaille 2018).

A tester sees an image with two scores in random order, the target and the prediction, and picks one, calls them
equivalent, or discards the image because neither fits.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parfocal import UsageError, did_you_mean

CHOICES = ("target", "prediction", "equivalent", "discard")
BINS = 5
_COLUMNS = ("tester", "target", "choice")


@dataclass(frozen=True)
class Tally:
    """How often each was chosen; `discard` does not count."""

    target: int = 0
    prediction: int = 0
    equivalent: int = 0
    discard: int = 0

    @property
    def effective(self) -> int:
        """Images that were not discarded, the paper's N with a tilde."""
        return self.target + self.prediction + self.equivalent


@dataclass(frozen=True)
class Choice:
    """What one tester chose for one image, whose expert's score was `target`."""

    tester: str
    target: float
    choice: str


def tally(choices: Iterable[str]) -> Tally:
    """Count choices; raises `UsageError` for a word that is none of `CHOICES`."""
    counts = dict.fromkeys(CHOICES, 0)
    for choice in choices:
        if choice not in counts:
            raise UsageError(f"there is no choice {choice!r}{did_you_mean(choice, CHOICES)}; {', '.join(CHOICES)}")
        counts[choice] += 1
    return Tally(**counts)


def confusion(counts: Tally) -> float:
    """``C = 1 - |(2P + E) - N| / N`` (equation 4): 1 if nobody can tell them apart; NaN if all were discarded."""
    if counts.effective == 0:
        return math.nan
    return 1.0 - abs(2 * counts.prediction + counts.equivalent - counts.effective) / counts.effective


def domination(counts: Tally) -> float:
    """``D = P / (T + P)`` (equation 5): above 0.5 the prediction is preferred; NaN if nobody preferred either."""
    preferred = counts.target + counts.prediction
    return counts.prediction / preferred if preferred else math.nan


@dataclass(frozen=True)
class StudyRow:
    """A bin of target scores: mean and standard deviation over the testers of both measures.

    The standard deviation is that of a sample, NaN for a single tester. Testers for whom a measure is undefined in a
    bin are left out of it; `testers` counts those with any image in the bin.
    """

    low: float
    high: float
    testers: int
    confusion: tuple[float, float]
    domination: tuple[float, float]


def study(records: Sequence[Choice], *, bins: int = BINS) -> list[StudyRow]:
    """Confusion and domination by bin of the target score, computed for each tester and averaged (Tables 1 and 2).

    A score on the edge of two bins lies in the upper one, 1 in the last.

    Raises
    ------
    UsageError
        A target outside 0..1, or an unknown choice.
    """
    for record in records:
        if not 0.0 <= record.target <= 1.0:
            raise UsageError(f"a target score must lie in 0..1 (got {record.target!r}, tester {record.tester!r})")
    rows = []
    for number in range(bins):
        inside = [one for one in records if min(int(one.target * bins + 1e-9), bins - 1) == number]
        testers = sorted({one.tester for one in inside})
        counts = [tally(one.choice for one in inside if one.tester == tester) for tester in testers]
        low, high = number / bins, (number + 1) / bins
        measured = [_over_testers([measure(one) for one in counts]) for measure in (confusion, domination)]
        rows.append(StudyRow(low, high, len(testers), measured[0], measured[1]))
    return rows


def read_choices(path: Path) -> list[Choice]:
    """Read a CSV with the columns tester, target, choice.

    Raises
    ------
    UsageError
        No such file, a missing column, or a target that is no number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UsageError(f"{path}: no column {', '.join(missing)}; it needs {', '.join(_COLUMNS)}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    found = []
    for line, row in enumerate(rows, 2):
        try:
            found.append(Choice(row["tester"], float(row["target"]), (row["choice"] or "").strip()))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path}:{line}: target must be a number (got {row['target']!r})") from error
    return found


def _over_testers(values: Sequence[float]) -> tuple[float, float]:
    known = np.asarray([value for value in values if math.isfinite(value)])
    if not len(known):
        return math.nan, math.nan
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else math.nan
