"""A bank of sharp objects to blur: procedural specimens at many scales, and real fields resampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.models.training.fields import Field
from parfocal.simulator.specimens import SPECIMENS, make_specimen

FloatImage = NDArray[np.float32]
BANK_PX = 512


class ObjectBank:
    """Sharp objects by number; real fields come first, each as often as procedural ones in all.

    Parameters
    ----------
    fields : sequence of Field
        May be empty: the bank is then procedural only.
    procedural : int
        How many specimens to draw.
    seed : int
    """

    def __init__(self, fields: Sequence[Field], *, procedural: int, seed: int) -> None:
        self.by_source: dict[str, list[Field]] = {}
        for field in fields:
            self.by_source.setdefault(field.source, []).append(field)
        rng = np.random.default_rng(seed)
        kinds = [kind for kind in SPECIMENS if kind != "empty"]
        self.drawn: list[tuple[str, NDArray[np.float16]]] = []
        for index in range(procedural):
            kind = kinds[index % len(kinds)]
            pixel_um = float(np.exp(rng.uniform(np.log(0.06), np.log(1.5))))
            density = float(np.exp(rng.uniform(np.log(0.1), np.log(3.0)))) * min(1.0, (0.5 / pixel_um) ** 1.5 + 0.15)
            image = make_specimen(
                kind, (BANK_PX, BANK_PX), pixel_um=pixel_um, seed=int(rng.integers(2**31)), density=density
            )
            self.drawn.append((kind, image.astype(np.float16)))

    def sample(self, size: int, rng: np.random.Generator) -> tuple[str, FloatImage]:
        """Draw a crop of an object, turned, flipped and rescaled: its kind, and `size` squared pixels of 0..about 1."""
        if self.by_source and (not self.drawn or rng.random() < 0.5):
            kind, image = self._real(size, rng)
        else:
            kind, image = self._procedural(size, rng)
        turned = np.rot90(image, int(rng.integers(4)))
        turned = turned[:, ::-1] if rng.random() < 0.5 else turned
        if rng.random() < 0.3:
            turned = np.maximum(turned, 0.0) ** np.float32(rng.uniform(0.6, 1.8))
        return kind, np.ascontiguousarray(turned, dtype=np.float32)

    def _procedural(self, size: int, rng: np.random.Generator) -> tuple[str, FloatImage]:
        kind, stored = self.drawn[int(rng.integers(len(self.drawn)))]
        shift = rng.integers(0, BANK_PX, 2)
        rows, columns = ((start + np.arange(size)) % BANK_PX for start in shift)
        return kind, stored[rows[:, None], columns[None, :]].astype(np.float32)

    def _real(self, size: int, rng: np.random.Generator) -> tuple[str, FloatImage]:
        # A source's say grows with the square root of its files: many beats few, but not by its number.
        sources = sorted(self.by_source)
        shares = np.sqrt([len(self.by_source[name]) for name in sources])
        source = sources[int(rng.choice(len(sources), p=shares / shares.sum()))]
        of_source = self.by_source[source]
        field = of_source[int(rng.integers(len(of_source)))]
        scale = float(rng.uniform(0.4, 1.1)) if source != "dsb2018" else float(rng.uniform(0.35, 1.0))
        need = int(np.ceil(size / scale))
        image = field.image
        pads = [(0, max(0, need - side)) for side in image.shape]
        top, left = (int(rng.integers(0, max(1, side - need + 1))) for side in image.shape)
        crop = image[top : top + need, left : left + need]
        if any(pad for _, pad in pads):
            crop = np.pad(crop, pads, mode="symmetric")
        return source, _shrink(crop, size)


def _shrink(image: FloatImage, size: int) -> FloatImage:
    """Resample to `size` squared with a Gaussian that keeps below the new Nyquist frequency."""
    ratio = image.shape[0] / size
    if ratio > 1.3:
        image = ndimage.uniform_filter(image, round(ratio))
    at = (np.arange(size) + 0.5) * ratio - 0.5
    low = np.clip(np.floor(at).astype(int), 0, image.shape[0] - 2)
    part = np.clip(at - low, 0.0, 1.0).astype(np.float32)  # nothing is extrapolated at the edges
    rows = image[low] * (1 - part)[:, None] + image[low + 1] * part[:, None]
    return np.asarray(rows[:, low] * (1 - part)[None, :] + rows[:, low + 1] * part[None, :], dtype=np.float32)
