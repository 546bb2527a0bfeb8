"""The tables of the defocus card: held-out fields and optics, intervals, empty fields, real focus stacks."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.base import Assessment
from parfocal.models.training.camera_noise import empty, expose
from parfocal.models.training.fields import Field
from parfocal.models.training.objects import ObjectBank
from parfocal.simulator.optics import PIXELS_PER_LEVEL, Imager, Optics

Image = NDArray[Any]
Assessor = Callable[[Image, Optics], Assessment]
HELD_OUT_OPTICS = (
    Optics(na=0.45, pixel_um=0.65, emission_um=0.5),
    Optics(na=0.75, pixel_um=0.325, emission_um=0.52),
    Optics(na=0.75, pixel_um=0.45, emission_um=0.6, zernike_waves={(4, 0): 0.08, (2, 2): 0.04}),
    Optics(na=1.2, immersion_index=1.33, pixel_um=0.16, emission_um=0.52, depth_um=10.0, sample_index=1.38),
)
"""Apertures that training leaves out (`HELD_OUT_NA`), with pixels that give other samplings."""
PHOTON_LEVELS = (10_000.0, 2_000.0, 200.0, 20.0)


@dataclass(frozen=True)
class Case:
    """One test image with its truth; `detectability` in standard deviations above the noise."""

    counts: Image
    optics: Optics
    defocus_um: float
    photons: float
    source: str
    detectability: float


def held_out_optics(rng: np.random.Generator) -> Optics:
    """One of `HELD_OUT_OPTICS`."""
    return HELD_OUT_OPTICS[int(rng.integers(len(HELD_OUT_OPTICS)))]


def blurred_cases(
    objects: Iterable[tuple[str, NDArray[np.float32]]],
    *,
    seed: int,
    photons: Iterable[float],
    max_level: float = 10.4,
    optics_of: Callable[[np.random.Generator], Optics] = held_out_optics,
) -> Iterator[Case]:
    """Blur every object once at each photon level: blur uniform over the paper's levels, optics by `optics_of`."""
    rng = np.random.default_rng(seed)
    levels = tuple(photons)
    for source, image in objects:
        for peak in levels:
            optics = optics_of(rng)
            blur_px = float(rng.uniform(0.0, max_level)) * PIXELS_PER_LEVEL
            defocus = blur_px / optics.blur_px_per_um * float(rng.choice([-1.0, 1.0]))
            imager = Imager(optics, (image.shape[0], image.shape[1]), boundary="mirror")
            sharp = float(np.percentile(imager.image(image, 0.0), 99.95))
            exposure = expose(imager.image(image, defocus), sharp, rng, photons=peak)
            counts = exposure.counts.astype(np.uint16)
            yield Case(counts, optics, defocus, peak, source, exposure.detectability)


def field_objects(fields: Iterable[Field], *, side_px: int = 512, scale: int = 1) -> Iterator[tuple[str, Image]]:
    """Central crops of real fields, at their own sampling (`scale` 1) or binned."""
    for field in fields:
        image = field.image
        if scale > 1:
            h, w = (side // scale * scale for side in image.shape)
            image = image[:h, :w].reshape(h // scale, scale, w // scale, scale).mean(axis=(1, 3)).astype(np.float32)
        if min(image.shape) >= 128:
            top, left = (max(0, (side - side_px) // 2) for side in image.shape)
            yield field.source, np.ascontiguousarray(image[top : top + side_px, left : left + side_px])


def procedural_objects(count: int, *, seed: int, side_px: int = 512) -> Iterator[tuple[str, Image]]:
    """Specimens from seeds that training did not use."""
    bank = ObjectBank([], procedural=count, seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield bank.sample(side_px, rng)


def assessor(card: Path | None = None) -> Assessor:
    """The defocus model told the optics of each case; made once for each optics."""
    from parfocal.models.defocus import DefocusModel

    made: list[tuple[Optics, DefocusModel]] = []

    def assess(image: Image, optics: Optics) -> Assessment:
        for known, model in made:
            if known == optics:
                return model.assess(image[None], optics.pixel_um)[0]
        options: dict[str, Any] = {
            "na": optics.na, "immersion_index": optics.immersion_index, "emission_um": optics.emission_um,
            "patch_map": False, "precision": "float32", "backend": "torch", "card": str(card) if card else None,
        }  # fmt: skip
        made.append((optics, DefocusModel(options)))
        return made[-1][1].assess(image[None], optics.pixel_um)[0]

    return assess


def accuracy(cases: Iterable[Case], assess: Assessor) -> dict[str, Any]:
    """Level within one, mean error, interval coverage and abstentions over the cases."""
    return summarise([judged(assess(case.counts, case.optics), case) for case in cases])


def judged(said: Assessment, case: Case) -> dict[str, float]:
    """What was said of a case against its truth, all in pixels of blur diameter."""
    scale = case.optics.blur_px_per_um
    truth_px = abs(case.defocus_um) * scale
    q = {name: said.detail.get(name, np.nan) * scale for name in ("q05", "q25", "q50", "q75", "q95")}
    level = said.detail.get("level", np.nan)
    return {
        "abstained": float(said.abstained),
        "within": float(abs(level - min(10, round(truth_px / PIXELS_PER_LEVEL))) <= 1),
        "error_px": abs(q["q50"] - truth_px), "cover50": float(q["q25"] <= truth_px <= q["q75"]),
        "cover90": float(q["q05"] <= truth_px <= q["q95"]), "truth_px": truth_px, "estimate_px": q["q50"],
    }  # fmt: skip


def summarise(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Shares and means of `judged` rows; accuracy is over those not abstained, abstentions are counted beside it."""
    said = [row for row in rows if not row["abstained"]]

    def mean(name: str) -> float:
        return round(float(np.mean([row[name] for row in said])), 4) if said else float("nan")

    return {
        "images": len(rows), "abstained": round(1 - len(said) / max(1, len(rows)), 4),
        "level_within_1": mean("within"), "mean_error_px": mean("error_px"),
        "cover50": mean("cover50"), "cover90": mean("cover90"),
    }  # fmt: skip


def empty_abstained(assess: Assessor, *, count: int, seed: int, size_px: int = 512) -> float:
    """Share of empty fields on which the model abstains."""
    rng = np.random.default_rng(seed)
    optics = HELD_OUT_OPTICS[1]
    told = [assess(empty((size_px, size_px), rng).counts.astype(np.uint16), optics) for _ in range(count)]
    return float(np.mean([one.abstained for one in told]))


@dataclass(frozen=True)
class Series:
    """A focus series on disk."""

    name: str
    planes: tuple[Path, ...]
    defocus_um: tuple[float, ...]
    pixel_um: float
    modality: str


def read_series(folder: Path) -> list[Series]:
    """Focus series listed in ``truth.csv`` (series, file, z_um, defocus_um, pixel_um, modality, truth)."""
    by_name: dict[str, list[dict[str, str]]] = {}
    with (folder / "truth.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            by_name.setdefault(row["series"], []).append(row)
    return [_series(folder, name, rows) for name, rows in by_name.items()]


def _series(folder: Path, name: str, rows: list[dict[str, str]]) -> Series:
    rows = sorted(rows, key=lambda row: float(row["defocus_um"]))
    planes = tuple(folder / row["file"] for row in rows)
    defocus = tuple(float(row["defocus_um"]) for row in rows)
    return Series(name, planes, defocus, float(rows[0]["pixel_um"] or "nan"), rows[0]["modality"])


def best_plane(values: NDArray[Any], defocus_um: tuple[float, ...]) -> int:
    """How many planes the best-scored one (smallest value, NaN never) lies from the one nearest focus."""
    order = int(np.nanargmin(values))
    true = int(np.argmin(np.abs(defocus_um)))
    return abs(order - true)


def stack_rows(folder: Path, assess_plain: Callable[[Image, float], Assessment]) -> list[dict[str, Any]]:
    """One row a series: distance of the best-scored plane in planes, or an abstention."""
    rows = []
    for series in read_series(folder):
        told = [assess_plain(read_plane(path), series.pixel_um) for path in series.planes]
        values = np.asarray([one.detail.get("blur_px", np.nan) if not one.abstained else np.nan for one in told])
        row: dict[str, Any] = {"series": series.name, "modality": series.modality, "planes": len(values)}
        row["blur_px"] = [round(float(v), 2) for v in values]
        row["abstained"] = int(np.isnan(values).sum())
        row["planes_off"] = None if np.isnan(values).all() else best_plane(values, series.defocus_um)
        rows.append(row)
    return rows


def read_plane(path: Path) -> Image:
    """One plane of a series; a coloured one as the mean of its colours."""
    import tifffile

    array = np.squeeze(tifffile.imread(path))
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        array = array[..., :3].mean(axis=-1)
    return array
