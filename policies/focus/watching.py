"""Has the score fallen? Frames at the maximum, the reference they make, and the last few held against it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

REFERENCE_FRAMES = 20


@dataclass
class Watch:
    """A running reference and the latest scores.

    The first frames at the maximum make the reference (it then stays: a slow fall is a fall too); the latest ones are
    compared with it. A fall is what is both more than scatter explains and enough to matter.

    Parameters
    ----------
    frames : int
        How many of the latest frames are compared.
    fall_share : float
        Least fall, as a share of the peak's height over its floor.
    fall_sd : float
        Least fall, in standard deviations of the difference of the two means.
    height, noise_sd : float
        Of the peak that was found, and of one score.
    """

    frames: int
    fall_share: float
    fall_sd: float
    height: float
    noise_sd: float
    reference: list[float] = field(default_factory=list)
    latest: list[float] = field(default_factory=list)

    def add(self, score: float) -> None:
        """Take in one frame's score at the maximum."""
        self.latest.append(score)
        if len(self.latest) > self.frames:
            moved = self.latest.pop(0)
            if len(self.reference) < REFERENCE_FRAMES:
                self.reference.append(moved)

    @property
    def level(self) -> float:
        """The score at the maximum; NaN before there is a reference."""
        return sum(self.reference) / len(self.reference) if self.reference else math.nan

    @property
    def now(self) -> float:
        """Mean of the latest frames; NaN before the first."""
        return sum(self.latest) / len(self.latest) if self.latest else math.nan

    @property
    def margin(self) -> float:
        """By how much the latest may lie below the reference."""
        scatter = self.noise_sd * math.sqrt(1.0 / self.frames + 1.0 / max(len(self.reference), 1))
        return max(self.fall_share * self.height, self.fall_sd * scatter)

    @property
    def fallen(self) -> bool:
        """Whether the score is significantly below what it was."""
        full = len(self.latest) >= self.frames and len(self.reference) >= self.frames
        return full and self.level - self.now > self.margin
