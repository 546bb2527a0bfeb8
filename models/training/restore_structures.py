"""Structures that a restoration shows and the truth has not: spots and nuclei, counted as a user's software would.

Why the thresholds are what they are. All images of a case aim at the same counts, so one threshold in counts serves all
of them: five standard deviations of what the raw frame's own noise gives behind the same filter, pixel by pixel. It is
known, because the camera is, and it is the frame's: what stands above it is what somebody who knows the noise would
believe. A threshold from each image's own roughness would be fairer to none: it would count every ripple of a smooth
restoration, and let the noise that a filter has blown up raise its own bar.
A spot counts as invented if the truth has no local maximum there, at any scale, of even half the threshold: one that
is in the truth and was only made a little brighter or broader is none.
Nuclei are cut out of every image by its own Otsu threshold, which noise hardly moves, and are invented if they overlap
no nucleus of the truth by half (intersection over union).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

FloatImage = NDArray[np.float32]
SCALES_PX = (1.5, 3.0)
"""Sd of the Gaussian spots that are looked for."""
THRESHOLD_SD, KNOWN_SHARE = 5.0, 0.5
NUCLEUS_SMOOTH_PX, NUCLEUS_LEAST_PX, NUCLEUS_OVERLAP = 1.0, 30, 0.5
NUCLEI = frozenset({"nuclei", "dsb2018", "sbs_u2os", "cellprofiler"})
"""Kinds of cases with nuclei or whole cells in them."""


@dataclass(frozen=True)
class Count:
    """Structures of one image: found in it, invented by it, in the truth, and of those found again."""

    found: int = 0
    invented: int = 0
    true: int = 0
    again: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.found + other.found, self.invented + other.invented, self.true + other.true, self.again + other.again
        )

    @property
    def false_discovery(self) -> float:
        """Share of what was found that is not in the truth; NaN where nothing was found."""
        return self.invented / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        """Share of what is in the truth that was found."""
        return self.again / self.true if self.true else float("nan")


def spots(images: Mapping[str, NDArray[Any]], truth: NDArray[Any], noise_sd: NDArray[Any],
          defects: NDArray[np.bool_]) -> dict[str, Count]:  # fmt: skip
    """Bright spots of each image against those of the truth, at both scales.

    Parameters
    ----------
    images : mapping of name to ndarray, shape (height, width)
        In counts.
    truth : ndarray, shape (height, width)
    noise_sd : ndarray, shape (height, width)
        Of the raw frame.
    defects : ndarray of bool, shape (height, width)
        Hot pixels: a spot at one is the camera's, and counts in no image. What a method makes of it around it does.
    """
    bars = {scale: THRESHOLD_SD * _filtered_noise(noise_sd, scale) for scale in SCALES_PX}
    for scale, bar in bars.items():
        bar[ndimage.maximum_filter(defects, size=2 * int(np.ceil(scale)) + 1)] = np.inf
    true, allowed = _both(truth, bars)
    counts = dict.fromkeys(images, Count())
    for name, image in images.items():
        found, hints = _both(image, bars)
        for scale in SCALES_PX:
            reach = max(2.0, 1.5 * scale)
            invented = len(found[scale]) - _paired(found[scale], allowed, reach)
            again = _paired(true[scale], hints, reach)
            counts[name] += Count(len(found[scale]), invented, len(true[scale]), again)
    return counts


def _both(image: NDArray[Any], bars: Mapping[float, NDArray[np.float64]]
          ) -> tuple[dict[float, NDArray[np.intp]], NDArray[np.intp]]:  # fmt: skip
    """Spots by scale, and places of what reaches `KNOWN_SHARE` of the bar at any scale."""
    found, hints = {}, []
    for scale, bar in bars.items():
        response = _response(image, scale)
        found[scale] = _maxima(response, scale, bar)
        hints.append(_maxima(response, scale, KNOWN_SHARE * bar))
    return found, np.concatenate(hints)


def nuclei(images: Mapping[str, NDArray[Any]], truth: NDArray[Any]) -> dict[str, Count]:
    """Segmented nuclei of each image against those of the truth."""
    true, many = _segmented(truth)
    return {name: _overlapping(*_segmented(image), true, many) for name, image in images.items()}


def structures(images: Mapping[str, NDArray[Any]], truth: NDArray[Any], noise_sd: NDArray[Any],
               defects: NDArray[np.bool_], kind: str) -> dict[str, dict[str, Count]]:  # fmt: skip
    """Counts of both kinds by image; nuclei only where a case of this `kind` has them."""
    of_spots = spots(images, truth, noise_sd, defects)
    of_nuclei = nuclei(images, truth) if kind in NUCLEI else dict.fromkeys(images, Count())
    return {name: {"spots": of_spots[name], "nuclei": of_nuclei[name]} for name in images}


def added(counts: Iterable[Count]) -> Count:
    """All of them together."""
    return sum(counts, Count())


def otsu(image: NDArray[Any]) -> float:
    """Otsu's threshold (1979): the split of a histogram of 256 bins with the greatest variance between its parts."""
    weight, edges = np.histogram(image, bins=256)
    centre = 0.5 * (edges[1:] + edges[:-1])
    below, above = np.cumsum(weight), np.cumsum(weight[::-1])[::-1]
    mean_below = np.cumsum(weight * centre) / np.maximum(below, 1)
    mean_above = np.cumsum((weight * centre)[::-1])[::-1] / np.maximum(above, 1)
    between = below[:-1].astype(np.float64) * above[1:] * np.square(mean_below[:-1] - mean_above[1:])
    return float(edges[1:-1][int(np.argmax(between))])


@lru_cache(maxsize=4)
def _kernel_norm(scale: float) -> float:
    """Root of the sum of squares of the filter: what it makes of white noise of sd 1."""
    side = 2 * int(np.ceil(6 * scale)) + 1
    impulse = np.zeros((side, side))
    impulse[side // 2, side // 2] = 1.0
    return float(np.sqrt(np.sum(np.square(_response(impulse, scale)))))


def _response(image: NDArray[Any], scale: float) -> NDArray[np.float64]:
    """Laplacian of Gaussian, its sign turned and its scale normalised (Lindeberg 1998)."""
    found = ndimage.gaussian_laplace(np.asarray(image, dtype=np.float64), scale, mode="reflect")
    return np.asarray(-(scale**2) * found)


def _filtered_noise(noise_sd: NDArray[Any], scale: float) -> NDArray[np.float64]:
    variance = ndimage.gaussian_filter(np.square(np.asarray(noise_sd, dtype=np.float64)), scale, mode="reflect")
    return np.asarray(np.sqrt(variance) * _kernel_norm(scale))


def _maxima(response: NDArray[np.float64], scale: float, bar: NDArray[np.float64]) -> NDArray[np.intp]:
    """Places (n, 2) of local maxima of the response above the bar."""
    window = 2 * int(np.ceil(1.5 * scale)) + 1
    peaks = (response == ndimage.maximum_filter(response, size=window, mode="reflect")) & (response > bar)
    return np.argwhere(peaks)


def _paired(ours: NDArray[np.intp], theirs: NDArray[np.intp], reach: float) -> int:
    """How many of ours have one of theirs within reach for themselves, the nearest pairs first."""
    if not (len(ours) and len(theirs)):
        return 0
    near = spatial.cKDTree(ours).sparse_distance_matrix(spatial.cKDTree(theirs), reach, output_type="ndarray")
    taken_ours, taken_theirs = set(), set()
    for one, other in zip(*(near[name][np.argsort(near["v"], kind="stable")] for name in ("i", "j")), strict=True):
        if one not in taken_ours and other not in taken_theirs:
            taken_ours.add(one)
            taken_theirs.add(other)
    return len(taken_ours)


def _segmented(image: NDArray[Any]) -> tuple[NDArray[np.int32], int]:
    """Labels of what lies above Otsu's threshold after a light smoothing; specks do not count."""
    smooth = ndimage.gaussian_filter(np.asarray(image, dtype=np.float64), NUCLEUS_SMOOTH_PX)
    # Hot pixels and ringing beyond the last thousandth must not stretch the histogram.
    smooth = np.clip(smooth, *np.percentile(smooth, (0.1, 99.9)))
    labels, many = ndimage.label(smooth > otsu(smooth))
    sizes = np.bincount(labels.ravel(), minlength=many + 1)
    keep = sizes >= NUCLEUS_LEAST_PX
    keep[0] = False
    number = np.where(keep, np.cumsum(keep), 0)
    return np.asarray(number[labels], dtype=np.int32), int(np.count_nonzero(keep))


def _overlapping(ours: NDArray[np.int32], many: int, true: NDArray[np.int32], true_many: int) -> Count:
    """Nuclei matched by overlap; above half, intersection over union pairs each with one at most."""
    shared = np.zeros((many + 1, true_many + 1))
    np.add.at(shared, (ours.ravel(), true.ravel()), 1.0)
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    matched = (shared / np.maximum(union, 1.0))[1:, 1:] > NUCLEUS_OVERLAP
    return Count(many, many - int(matched.any(axis=1).sum()), true_many, int(matched.any(axis=0).sum()))
