"""Labelled training examples without end: object, optics, defocus, exposure; every draw from one seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.models.training.blur import Blurrer, Scene, random_scene
from parfocal.models.training.camera_noise import Exposure, empty, expose
from parfocal.models.training.objects import ObjectBank

MARGIN_PX = 64
"""Drawn around every example, so that light from outside the crop comes in."""
PRESENT, ABSENT, UNCERTAIN = 1.0, 0.0, -1.0
SEEN_FROM, UNSEEN_TO = 6.0, 0.7
"""Standard deviations above the noise from which a signal is there for sure, and below which nobody could tell."""


@dataclass(frozen=True)
class Example:
    """One labelled image.

    `counts` (size, size) float32; `blur_px` signed; `log2_cutoff`; `spherical_waves`; `signal` is PRESENT, ABSENT or
    UNCERTAIN; `transmitted` tells bright field.
    """

    counts: NDArray[np.float32]
    blur_px: float
    log2_cutoff: float
    spherical_waves: float
    signal: float
    transmitted: bool = False


class Synthesiser:
    """Draws examples of one size.

    Parameters
    ----------
    bank : ObjectBank
    size_px : int
        Side of the examples.
    seed : int
    empty_share : float
        Share of fields without a specimen.
    """

    def __init__(self, bank: ObjectBank, *, size_px: int, seed: int, empty_share: float = 0.1) -> None:
        self.bank = bank
        self.size_px = size_px
        self.rng = np.random.default_rng(seed)
        self.empty_share = empty_share
        self._blurrer = Blurrer(size_px + 2 * MARGIN_PX)

    def examples(self) -> Iterator[Example]:
        """Examples for ever."""
        while True:
            yield self.example()

    def example(self) -> Example:
        """Draw one."""
        return self.exposures(1)[0]

    def exposures(self, count: int) -> list[Example]:
        """Draw one scene and expose it `count` times, each time with other light, camera, and orientation."""
        rng = self.rng
        scene = random_scene(rng)
        if rng.random() < self.empty_share:
            return [self._labelled(empty((self.size_px, self.size_px), rng), scene) for _ in range(count)]
        image, peak = self.image(scene)
        drawn = []
        for _ in range(count):
            turned = np.rot90(image, int(rng.integers(4)))
            turned = turned[::-1] if rng.random() < 0.5 else turned
            drawn.append(self._labelled(expose(np.ascontiguousarray(turned), peak, rng), scene))
        return drawn

    def image(self, scene: Scene) -> tuple[NDArray[np.float32], float]:
        """Expected image of a random object in this scene, and its in-focus peak."""
        rng, canvas = self.rng, self._blurrer.canvas_px
        _, specimen = self.bank.sample(canvas, rng)
        if rng.random() < 0.2:
            specimen = specimen + float(rng.uniform(0.1, 1.0)) * self.bank.sample(canvas, rng)[1]
        if rng.random() < 0.25 and not scene.transmitted:  # out-of-focus haze of a thick specimen
            haze = ndimage.uniform_filter(specimen[::8, ::8], 9, mode="wrap")
            haze = ndimage.uniform_filter(np.kron(haze, np.ones((8, 8), dtype=np.float32)), 17, mode="wrap")
            specimen = specimen + float(rng.uniform(0.0, 1.5)) * haze[:canvas, :canvas]
        if scene.transmitted:
            phase_map = specimen if rng.random() < 0.6 else self.bank.sample(canvas, rng)[1]
            image = self._blurrer.transmitted(specimen, phase_map, scene, rng)
            peak = float(image.max()) / float(rng.uniform(0.02, 1.0))
            return self._crop(image), min(peak, 30.0 * float(image.max()))
        image, peak = self._blurrer.fluorescence(specimen, scene)
        return self._crop(image), peak

    def _crop(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        return image[MARGIN_PX : MARGIN_PX + self.size_px, MARGIN_PX : MARGIN_PX + self.size_px]

    def _labelled(self, exposure: Exposure, scene: Scene) -> Example:
        seen = exposure.detectability
        signal = PRESENT if seen > SEEN_FROM else ABSENT if seen < UNSEEN_TO else UNCERTAIN
        return Example(
            exposure.counts, scene.blur_px, float(np.log2(scene.optics.cutoff_per_px)), scene.spherical_waves, signal,
            scene.transmitted,
        )  # fmt: skip


def stack(examples: list[Example]) -> dict[str, NDArray[Any]]:
    """Examples of one size as arrays by name."""
    return {
        "counts": np.stack([example.counts for example in examples]),
        "blur_px": np.asarray([example.blur_px for example in examples], dtype=np.float32),
        "log2_cutoff": np.asarray([example.log2_cutoff for example in examples], dtype=np.float32),
        "spherical_waves": np.asarray([example.spherical_waves for example in examples], dtype=np.float32),
        "signal": np.asarray([example.signal for example in examples], dtype=np.float32),
        "transmitted": np.asarray([example.transmitted for example in examples], dtype=bool),
    }
