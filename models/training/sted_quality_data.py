"""Simulated STED frames with their true quality and what is wrong with them; the same from the same seed anywhere."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError, did_you_mean
from parfocal.models.training.sted_quality_truth import blurred, fine_detail, shared
from parfocal.simulator.sted import (
    LIMITS,
    STRUCTURES,
    Dye,
    StedOptics,
    StedSample,
    StedSettings,
    detector,
    make_dye,
    make_structure,
    random_dye,
)
from parfocal.simulator.sted.kernels import reach_px
from parfocal.simulator.sted.photophysics import fwhm_nm
from parfocal.simulator.sted.scan import light, plan_for
from parfocal.simulator.sted.truth import target

LABELS = ("quality", "too_dim", "bleached", "unresolved")
KEYS = ("counts", "pixel_um", *LABELS, "kind")
TRAINED_ON = ("actin_rings", "filaments", "clusters", "empty")
HELD_OUT = ("synapses",)
PIXELS_UM = (0.015, 0.02, 0.02, 0.025, 0.03)
SENSIBLE, CONFOCAL, DEFOCUSED = 0.6, 0.2, 0.12
"""Shares of scans near good settings, of confocal ones among the others, and out of focus."""
SEEN, MIXED, EMPTY = 0.15, 0.15, 0.05
"""Shares of specimens partly bleached before, made of two, and with stray label only."""
LEAST_EXCITATION_UW = 0.02
EFFICIENCY = ((0.5, 2.5), (0.03, 2.5), (0.03, 2.5))
"""Of the detection over the simulator's, drawn anew for each exposure: dim dyes and dim objectives are common."""
Chunk = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class StedSource:
    """What frames are made of.

    Parameters
    ----------
    seed : int
        Of everything; another seed for every split keeps specimens, dyes and settings apart.
    kinds : tuple of str
        Structures, see `parfocal.simulator.sted.STRUCTURES`.
    dyes : tuple of str
        Names of dyes; none: a random one for every scan.
    size_px : int
        Side of the frames.
    structures : int
        How many specimens there are of each kind and size of pixel; each is turned, labelled and stained anew
        whenever it is used.
    specimens : int
        How many of them are scanned with one dye and one choice of settings. Fewer are more work for as many frames,
        and more is learned from them.
    """

    seed: int
    kinds: tuple[str, ...] = TRAINED_ON
    dyes: tuple[str, ...] = ()
    size_px: int = 96
    structures: int = 48
    specimens: int = 6

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in STRUCTURES:
                raise UsageError(f"there is no structure {kind!r}{did_you_mean(kind, STRUCTURES)}")
        if self.size_px < 32 or self.structures < 1 or not self.kinds:
            raise UsageError("sted quality: frames of at least 32 px, one structure and one kind are needed")


def chunks(source: StedSource, *, count: int, frames: int, start: int = 0) -> Iterator[Chunk]:
    """Chunks `start` to `count` of a source, in order."""
    for number in range(start, count):
        yield make_chunk(source, number, frames)


def make_chunk(source: StedSource, number: int, frames: int) -> Chunk:
    """Chunk `number` of a source: the same whoever makes it and whenever.

    Returns
    -------
    dict
        ``counts`` uint16 (n, size, size); ``pixel_um``; `LABELS`, each float32 (n,); ``kind``, index into the
        source's kinds.
    """
    rng = np.random.default_rng((source.seed, 0x57ED, number))
    rows: list[dict[str, Any]] = []
    while len(rows) < frames:
        rows.extend(_scans(source, rng))
    made: Chunk = {"counts": np.stack([row["counts"] for row in rows[:frames]])}
    for name in ("pixel_um", *LABELS):
        made[name] = np.asarray([row[name] for row in rows[:frames]], dtype=np.float32)
    made["kind"] = np.asarray([row["kind"] for row in rows[:frames]], dtype=np.int64)
    return made


def joined(parts: Sequence[Chunk]) -> Chunk:
    """Several chunks as one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def random_settings(rng: np.random.Generator) -> StedSettings:
    """Draw settings: half of the time somewhere near good ones, else from far too dim to far too much.

    The dose is drawn first, then a power and a dwell that make it: which of them does hardly matters.
    """
    sensible = rng.random() < SENSIBLE
    low_mw, high_mw = LIMITS["depletion_power"]
    if sensible:
        depletion_mw = float(rng.uniform(80.0, high_mw))
        dose = float(rng.lognormal(math.log(30.0), 0.9))
    else:
        depletion_mw = low_mw if rng.random() < CONFOCAL else _between(rng, 5.0, high_mw)
        dose = _between(rng, 0.3, 4000.0)
    while True:
        dwell_us = _between(rng, *LIMITS["dwell_us"])
        steps = 1 if rng.random() < 0.6 else int(rng.integers(2, 16))
        power_uw = dose / (dwell_us * steps)
        if LEAST_EXCITATION_UW <= power_uw <= LIMITS["excitation_power"][1]:
            return StedSettings(power_uw, depletion_mw, dwell_us, steps)


def _scans(source: StedSource, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Frames of one dye and one choice of settings, on several specimens, each with more and less light collected."""
    pixel_um = float(rng.choice(PIXELS_UM))
    dye = make_dye(str(rng.choice(source.dyes))) if source.dyes else random_dye(rng)
    settings, optics = random_settings(rng), StedOptics(residual_zero=float(rng.choice((0.003, 0.005, 0.01, 0.02))))
    defocus_um = float(rng.uniform(0.1, 0.6)) if rng.random() < DEFOCUSED else 0.0
    for _ in range(source.specimens):
        kind = _kind(source, rng)
        sample = _sample(source, kind, pixel_um, dye, optics, rng)
        yield from _exposures(sample, settings, defocus_um, source.kinds.index(kind), rng)


def _kind(source: StedSource, rng: np.random.Generator) -> str:
    """Pick a kind; empty fields are rarer than others, for they all look alike."""
    if len(source.kinds) > 1 and "empty" in source.kinds:
        others = [kind for kind in source.kinds if kind != "empty"]
        return "empty" if rng.random() < EMPTY else str(rng.choice(others))
    return str(rng.choice(source.kinds))


def _sample(
    source: StedSource, kind: str, pixel_um: float, dye: Dye, optics: StedOptics, rng: np.random.Generator
) -> StedSample:
    molecules = _turned_structure(source, kind, pixel_um, rng)
    if len(source.kinds) > 1 and rng.random() < MIXED:  # two proteins share a colour, or lie on each other
        other = _turned_structure(source, _kind(source, rng), pixel_um, rng)
        molecules = molecules + rng.binomial(other, float(rng.uniform(0.1, 0.8))).astype(np.int32)
    if rng.random() < 0.5:  # labelled less densely
        molecules = rng.binomial(molecules, float(rng.uniform(0.25, 1.0))).astype(np.int32)
    sample = StedSample(np.ascontiguousarray(molecules), pixel_um=pixel_um, dye=dye, optics=optics)
    if rng.random() < SEEN:  # seen, and so partly bleached, before
        sample.molecules = rng.binomial(sample.molecules, float(rng.uniform(0.3, 0.95))).astype(np.int32)
    return sample


def _turned_structure(source: StedSource, kind: str, pixel_um: float, rng: np.random.Generator) -> NDArray[np.int32]:
    number, size_px = int(rng.integers(source.structures)), source.size_px + 2 * reach_px(pixel_um)
    molecules = np.rot90(_structure(kind, source.seed, number, pixel_um, size_px), int(rng.integers(4)))
    return molecules[:, ::-1] if rng.random() < 0.5 else molecules


@lru_cache(maxsize=2000)
def _structure(kind: str, seed: int, number: int, pixel_um: float, size_px: int) -> NDArray[np.int32]:
    own = int(np.random.SeedSequence((seed, number, STRUCTURES.index(kind))).generate_state(1)[0])
    return make_structure(kind, (size_px, size_px), pixel_um=pixel_um, seed=own)


def _exposures(
    sample: StedSample, settings: StedSettings, defocus_um: float, kind: int, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Scan a specimen with detection of several efficiencies, which changes the light and not the bleaching."""
    plan = plan_for(sample, settings, defocus_um)
    mean = light(sample.molecules, plan)
    present = sample.field(sample.molecules)
    kept = float(np.sum(present * sample.field(plan.survive)))
    pixel_um = sample.pixel_um
    wanted = fine_detail(target(sample), pixel_um)
    psf_nm = fwhm_nm(sample.optics, sample.dye, settings, defocus_um)
    resolved = shared(fine_detail(sample.field(blurred(sample.fresh, psf_nm, pixel_um)), pixel_um), wanted)
    known = {
        "pixel_um": pixel_um, "kind": kind, "unresolved": 1.0 - resolved,
        "bleached": 1.0 - kept / float(present.sum()) if present.any() else 0.0,
    }  # fmt: skip
    noiseless = shared(fine_detail(mean, pixel_um), wanted)
    for lower, upper in EFFICIENCY:
        optics = dataclasses.replace(sample.optics, background_cps=_between(rng, 1e4, 5e5))
        counts = detector.count(mean * np.float32(_between(rng, lower, upper)), optics, settings, rng)
        found = shared(fine_detail(counts, pixel_um), wanted)
        dim = 1.0 - min(1.0, found / noiseless) if noiseless > 0 else 1.0
        yield {"counts": counts, "quality": found, "too_dim": dim, **known}


def _between(rng: np.random.Generator, lower: float, upper: float) -> float:
    """Even in the logarithm."""
    return float(np.exp(rng.uniform(math.log(lower), math.log(upper))))
