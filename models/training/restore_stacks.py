"""Restoring on real focus series: a plane out of focus, restored, against the plane in focus of the same field.

The truth is itself a frame with noise, of a specimen that has depth, by a stage that may drift; so every image is
fitted to it by gain and offset first, the unrestored plane too. Measures are given as the planes lie, without any
registration, and the gain once more after one shift by whole pixels that the raw planes ask for, the same for all.
One measure needs no registration, nor even the same field: how far the power spectrum is from that of planes in focus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from parfocal.models.restore.base import Restorer, Verdict
from parfocal.models.training.evaluate_defocus import read_plane, read_series
from parfocal.models.training.evaluate_restore import IDENTITY, Estimate, attempt, blur_or_reason
from parfocal.models.training.restore_measures import affine_fit, likeness
from parfocal.simulator.optics import Optics

DEPTHS = (0.8, 6.5)
"""Planes so many depths of field from the one in focus are restored; those between are as good as in focus."""
MOST_SHIFT_PX = 12
FLUORESCENT: Mapping[str, Optics] = {
    "imagexpress_beads": Optics(na=0.75, pixel_um=1.3668, emission_um=0.52),
    "lightsheet_mitochondria": Optics(na=1.1, immersion_index=1.33, pixel_um=0.104, emission_um=0.52),
}
"""Optics by folder. The series' own notes give the aperture and pixel of the first; those of the second are assumed:
what microscopes of its kind have."""
OTHER_LIGHT: Mapping[str, tuple[str, Optics]] = {
    "sephace_brightfield": ("transmitted light, real", Optics(na=0.6, pixel_um=0.2004, emission_um=0.55)),
    "reflected_metal": ("reflected light, real", Optics(na=0.4, pixel_um=0.5, emission_um=0.55)),
}
"""Name and optics of the series that fluorescence is not: apertures, and the pixel of the second, are assumed."""
NEAR_FOLDER, FAR_FOLDER, FAR_NAME = "bbbc006/in_focus", "bbbc006/z00_far", "bbbc006, 32 um out of focus"
FAR_KIND = "32 um out of focus, real"
"""The same fields as frames to be refused: the series' notes say that they are far out of focus. With the aperture
assumed, 32 um are 9 depths of field; restoring is for up to 6."""
FAR_OPTICS = Optics(na=0.45, pixel_um=0.645, emission_um=0.46)
"""At 20x; the aperture is assumed. The fields in focus are others of the same plate, so there is no truth pixel by
pixel."""
RINGS = 64
SPECTRAL = ("spectrum_db", "spectrum_db_raw")


@dataclass(frozen=True)
class Plane:
    """One plane of a series and the one in focus."""

    series: str
    frame: NDArray[Any]
    focused: NDArray[Any]
    depths: float
    optics: Optics


def planes(folder: Path) -> Iterator[Plane]:
    """Planes out of focus of the fluorescent series in a folder with a ``truth.csv``."""
    for series in read_series(folder):
        optics = FLUORESCENT.get(series.name.split("/")[0])
        if optics is None:
            continue
        if np.isfinite(series.pixel_um):
            optics = replace(optics, pixel_um=series.pixel_um)
        sharpest = int(np.argmin(np.abs(series.defocus_um)))
        focused = read_plane(series.planes[sharpest])
        for path, defocus_um in zip(series.planes, series.defocus_um, strict=True):
            depths = abs(defocus_um - series.defocus_um[sharpest]) / optics.depth_of_field_um
            if DEPTHS[0] <= depths <= DEPTHS[1]:
                yield Plane(series.name, read_plane(path), focused, depths, optics)


def stray_frames(folder: Path) -> Iterator[tuple[str, NDArray[Any], Optics]]:
    """Real frames that must not be restored: by transmitted or reflected light."""
    for series in read_series(folder):
        name, optics = OTHER_LIGHT.get(series.name.split("/")[0], ("", None))
        if optics is not None:
            for path in series.planes:
                yield name, read_plane(path), optics


def far_frames(folder: Path) -> Iterator[tuple[str, NDArray[Any], Optics]]:
    """Real frames that must not be restored: farther out of focus than anything can be told of."""
    for path in sorted((folder / FAR_FOLDER).glob("*.tif")):
        yield FAR_KIND, read_plane(path), FAR_OPTICS


def stack_table(folder: Path, restorers: Mapping[str, Restorer], estimate: Estimate) -> list[dict[str, Any]]:
    """A row a series and method: planes, how many were refused or left alone, and the gains of those restored.

    ``gain`` (dB), ``ssim`` and ``pcc`` are differences to the plane itself, both after their own affine fit, means over
    the planes restored; ``worst`` is the least gain, ``worse`` how many planes lost PSNR; ``gain_aligned`` as `gain`
    after the shift; ``spectrum_db`` and ``spectrum_db_raw`` the distances of spectra (`spectral_distance`) to the plane
    in focus, of the restored and of the raw planes.
    """
    told: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for plane in planes(folder):
        known = blur_or_reason(plane.frame, plane.optics, estimate)
        results = {name: attempt(one, plane.frame, *known) for name, one in restorers.items()}
        shown = {name: one.pixels for name, one in results.items() if one.verdict is not Verdict.REFUSED}
        found = _compared(shown, plane)
        for name, one in results.items():
            if name != IDENTITY:
                row = {"verdict": one.verdict, "depths": plane.depths}
                told.setdefault((plane.series, name), []).append(row | _gains(name, found))
    return [{"series": series, "method": name, **_summary(rows)} for (series, name), rows in told.items()]


def far_table(folder: Path, restorers: Mapping[str, Restorer], estimate: Estimate) -> list[dict[str, Any]]:
    """Fields of `FAR_FOLDER`, which have no truth: frames refused, and their spectra against those of fields in focus.

    A row a method: ``planes``, ``refused``, ``in_focus``, ``spectrum_db`` and ``spectrum_db_raw`` of those restored.
    """
    near, far = (sorted((folder / name).glob("*.tif")) for name in (NEAR_FOLDER, FAR_FOLDER))
    if not (near and far):
        return []
    focused = np.mean([spectrum(read_plane(path)) for path in near], axis=0)
    told: dict[str, list[dict[str, Any]]] = {}
    for path in far:
        frame = read_plane(path)
        known = blur_or_reason(frame, FAR_OPTICS, estimate)
        raw = spectral_distance(spectrum(frame), focused)
        for name, one in restorers.items():
            made = attempt(one, frame, *known)
            row = {"verdict": made.verdict, "spectrum_db_raw": raw}
            told.setdefault(name, []).append(row | {"spectrum_db": spectral_distance(spectrum(made.pixels), focused)})
    return [{"series": FAR_NAME, "method": name, **_counts(rows), **_means(rows, SPECTRAL)}
            for name, rows in told.items() if name != IDENTITY]  # fmt: skip


def spectrum(image: NDArray[Any]) -> NDArray[np.float64]:
    """Mean power on `RINGS` rings of spatial frequency up to 0.5 a pixel, of the windowed image at variance 1."""
    counts = np.asarray(image, dtype=np.float64)
    window = np.hanning(counts.shape[0])[:, None] * np.hanning(counts.shape[1])[None, :]
    centred = (counts - np.sum(counts * window) / window.sum()) * window
    power = np.square(np.abs(fft.rfft2(centred)))
    fy, fx = fft.fftfreq(counts.shape[0])[:, None], fft.rfftfreq(counts.shape[1])[None, :]
    ring = np.minimum((np.hypot(fy, fx) * 2 * RINGS).astype(int), RINGS)
    total, many = (np.bincount(ring.ravel(), weight, RINGS + 1)[:RINGS] for weight in (power.ravel(), None))
    return np.asarray(total / np.maximum(many, 1) / max(float(np.mean(np.square(centred))), 1e-12))


def spectral_distance(first: NDArray[np.float64], focused: NDArray[np.float64]) -> float:
    """Mean absolute difference, dB, of two spectra on the rings where the one in focus stands out of its noise.

    Its noise is the median of the upper quarter of the rings; signal is from three times that. The first ring, where
    the field's own brightness lies, does not count.
    """
    floor = float(np.median(focused[-RINGS // 4 :]))
    use = np.flatnonzero(focused > 3.0 * floor)
    use = use[use > 0]
    if use.size == 0:
        return float("nan")
    return float(np.mean(np.abs(10.0 * np.log10(np.maximum(first[use], 1e-12) / focused[use]))))


def _compared(shown: Mapping[str, NDArray[Any]], plane: Plane) -> dict[str, dict[str, float]]:
    """Likeness to the plane in focus as the images lie; PSNR after the shift of the raw planes; distance of spectra."""
    # One hot pixel must not be the range that everything is relative to.
    span = float(np.ptp(np.percentile(plane.focused, (0.1, 99.9))))
    down, right = shift_px(plane.frame, plane.focused)
    focused, reference = spectrum(plane.focused), _cut(plane.focused, -down, -right)
    found = likeness(dict(shown), plane.focused, span)
    for name, image in shown.items():
        error = affine_fit(_cut(image, down, right), reference) - reference
        found[name]["psnr_aligned"] = float(10.0 * np.log10(span**2 / max(np.mean(np.square(error)), 1e-12)))
        found[name]["spectrum_db"] = spectral_distance(spectrum(image), focused)
    return found


def shift_px(image: NDArray[Any], reference: NDArray[Any]) -> tuple[int, int]:
    """Rows and columns, at most `MOST_SHIFT_PX`, by which an image lies off the reference: peak of their correlation.

    The slow part of both is taken out first, so that uneven light does not hold them together.
    """
    first, second = (_flattened(one) for one in (image, reference))
    shape = [fft.next_fast_len(side + 2 * MOST_SHIFT_PX, real=True) for side in first.shape]
    correlation = fft.irfft2(fft.rfft2(first, shape) * np.conj(fft.rfft2(second, shape)), shape)
    reach = np.arange(-MOST_SHIFT_PX, MOST_SHIFT_PX + 1)
    near = correlation[reach[:, None], reach[None, :]]
    row, column = np.unravel_index(int(np.argmax(near)), near.shape)
    return int(reach[row]), int(reach[column])


def _flattened(image: NDArray[Any]) -> NDArray[np.float64]:
    counts = np.asarray(image, dtype=np.float64)
    return np.asarray(ndimage.gaussian_filter(counts, 1.0) - ndimage.gaussian_filter(counts, 20.0))


def _cut(image: NDArray[Any], down: int, right: int) -> NDArray[Any]:
    """What is left of an image after half of a shift, so that two images cut by opposite shifts lie on each other."""
    rows, columns = (slice(max(0, by), side + min(0, by)) for by, side in zip((down, right), image.shape, strict=True))
    return image[rows, columns]


def _gains(name: str, found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    if name not in found:
        return {}
    mine, raw = found[name], found[IDENTITY]
    return {
        "gain": mine["psnr_fit"] - raw["psnr_fit"], "ssim": mine["ssim_fit"] - raw["ssim_fit"],
        "pcc": mine["pcc"] - raw["pcc"], "gain_aligned": mine["psnr_aligned"] - raw["psnr_aligned"],
        "spectrum_db": mine["spectrum_db"], "spectrum_db_raw": raw["spectrum_db"],
    }  # fmt: skip


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    shown = [row["gain"] for row in rows if row["verdict"] is Verdict.RESTORED]
    worst = {"worse": sum(gain < 0 for gain in shown), "worst": min(shown, default=np.nan)}
    return {**_counts(rows), **worst, **_means(rows, ("gain", "gain_aligned", "ssim", "pcc", *SPECTRAL))}


def _counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    verdicts = [row["verdict"] for row in rows]
    return {
        "planes": len(rows), "refused": verdicts.count(Verdict.REFUSED), "in_focus": verdicts.count(Verdict.IN_FOCUS)
    }  # fmt: skip


def _means(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, float]:
    """Means over the planes restored."""
    shown = [row for row in rows if row["verdict"] is Verdict.RESTORED]
    return {name: float(np.mean([row[name] for row in shown])) if shown else np.nan for name in names}
