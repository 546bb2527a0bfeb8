"""Labelled images of every artefact and level: real and procedural objects, the paper's noise and cameras'."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from torch.nn.functional import interpolate

from parfocal.models.artefacts import Classifier, load_classifier
from parfocal.models.metrics.frc import single_image_frc
from parfocal.models.quality_labels import LOGIT_CLIP
from parfocal.models.quality_net import PATCH_PX
from parfocal.models.training.degradations import (
    ARTEFACTS,
    MAX_LEVEL,
    NOISES,
    PEAK,
    REFERENCE_NOISE,
    TABLE2_REFERENCE_NOISE,
    MixedNoise,
    expected,
    gaussian_blur,
    noise_of,
    parameter,
    scaled,
    vary,
)
from parfocal.models.training.fields import Field, Split, load_fields
from parfocal.models.training.objects import ObjectBank
from parfocal.models.training.quality_camera import (
    PHYSICAL,
    Objective,
    digitise,
    expose,
    light_for,
    to_counts,
    uneven,
)
from parfocal.models.training.quality_graded import GRADABLE, RUNGS, alike_throughout, along, graded
from parfocal.models.training.quality_light import flattened
from parfocal.models.training.quality_recipe import LADDER
from parfocal.models.training.workers import worker_pool

FloatImage = NDArray[np.float32]
Labels = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]
Chunk = dict[str, NDArray[Any]]
NO_LEVEL = -1.0
"""Level of the class "reference": no artefact."""
PHYSICAL_SHARE = 0.4
NOISE_FREE_SHARE, NOISE_FREE_LADDERS = 0.25, 0.6
WEAK_SHARE, WORSE_SHARE = 0.2, 0.05
BACKGROUND_ROOT = (0.22, 0.5)
"""Root of the background light, as a share of the peak: 5-25 %. No fluorescence image is without, and a vignette over
a few bright objects on black could be told from objects that are dimmer at the border by nobody."""
MIN_FILLED = 0.002
MIN_DIAGONAL = 0.2
MIN_PEAK = 0.1
MIN_EDGE = 0.12
"""Steep enough for the first crop to do; a step blurred by sigma 1 px has 0.4 of its height a pixel."""
SOURCES_TRIED, CROPS_TRIED = 20, 5
PROCEDURAL_SHARE = 0.5
COARSEST_PX = 32.0
"""FRC labels end here, the side of the networks' patches, which can show nothing coarser. Images in which nothing
correlates above its own chance, where FRC knows no number, get this one: it is what their noise has left of them."""
_BATCH = 16


@dataclass(frozen=True)
class QualitySource:
    """What images are made of.

    Parameters
    ----------
    fields : Path or None
        Folder of real fields; without it all objects are procedural.
    split : {"train", "validation", "test"}
    procedural : int
        Number of procedural specimens in the bank.
    size_px : int
    seed : int
    card : Path, optional
        Of the MM-style classifier; the packaged one if absent.
    graded : float
        Share of the blurred and the noisy images that get worse from top to bottom.
    ladders : float
        Share of the images that belong to ladders: `LADDER` levels of one artefact on one specimen.
    table1_only : bool
        Levels of the paper's Table 1 alone, its noise alone, no image free of noise: what its tables are made of.
    """

    fields: Path | None
    split: Split
    procedural: int
    size_px: int = 256
    seed: int = 0
    card: Path | None = None
    table1_only: bool = False
    graded: float = 0.0
    ladders: float = 0.0


@dataclass(frozen=True)
class Drawn:
    """One image before it is labelled.

    `expected` is free of noise, in the tables' units; `level` as in `degradations.parameter`, `NO_LEVEL` for the
    reference; `blur_px` the sigma of the blur that was added; `noise` the variance of the noise at the mean of the
    image, in the tables' units, 0 without noise; `rungs`, of a graded image, what its rows are like, see
    `quality_graded`; `real`: of a real field, not of a procedural specimen.
    """

    counts: NDArray[np.uint16]
    expected: FloatImage
    artefact: int
    level: float
    blur_px: float
    noise: float
    noise_free: bool
    physical: bool
    rungs: tuple[FloatImage, ...] = ()
    real: bool = False


class CrispBank(ObjectBank):
    """Objects that can show an artefact: not empty, as sharp as their source has them, seen through a small PSF.

    Real fields are shrunk to 0.3 to 0.85 of their size: at their own scale they are as soft as their own optics made
    them, which is often more than a pixel, and a blur of a pixel more would be seen by nobody. Small fields are
    shrunk less: to be filled up they are mirrored, and mirrored halves fall off to both sides like a vignette.
    Procedural specimens are blurred by 0.45 to 0.9 px, for no image has finer detail than its optics: of points finer
    than a pixel the two halves that FRC compares share nothing.
    """

    def __init__(self, fields: Sequence[Field], *, procedural: int, seed: int) -> None:
        super().__init__(flattened(fields), procedural=procedural, seed=seed)
        self.real = False
        """Whether the last object drawn was of a real field; a folder may be called like a kind of specimen."""

    def sample(self, size: int, rng: np.random.Generator) -> tuple[str, FloatImage]:
        """Draw a source, then the first of a few crops with steep edges, or else the one with the steepest.

        Raises
        ------
        ValueError
            If crop after crop is all but empty.
        """
        for _ in range(SOURCES_TRIED):
            source = self._source(rng)
            self.real = source is not None
            best: tuple[float, str, FloatImage] | None = None
            for _ in range(CROPS_TRIED):
                kind, image = self._crop(source, size, rng)
                steepness = _steepness(image)
                if best is None or steepness > best[0]:
                    best = (steepness, kind, image)
                if steepness > MIN_EDGE:
                    break
            if best is not None and best[0] > 0.0:
                return best[1], best[2]
        raise ValueError(f"{SOURCES_TRIED * CROPS_TRIED} crops in a row hold next to nothing; are the fields empty?")

    def _source(self, rng: np.random.Generator) -> str | None:
        """A folder of real fields, many beating few but not by their number, or None for a procedural specimen."""
        if not self.by_source or (self.drawn and rng.random() < PROCEDURAL_SHARE):
            return None
        sources = sorted(self.by_source)
        shares = np.sqrt([len(self.by_source[name]) for name in sources])
        return sources[int(rng.choice(len(sources), p=shares / shares.sum()))]

    def _crop(self, source: str | None, size: int, rng: np.random.Generator) -> tuple[str, FloatImage]:
        """A crop, turned and flipped; of some the brightness is bent."""
        if source is None:
            kind, image = self._procedural(size, rng)
            image = gaussian_blur(image, float(rng.uniform(0.45, 0.9)))
        else:
            kind, image = source, self._shrunk(source, size, rng)
        turned = np.rot90(image, int(rng.integers(4)))
        turned = turned[:, ::-1] if rng.random() < 0.5 else turned
        if rng.random() < 0.3:
            turned = np.maximum(turned, 0.0) ** np.float32(rng.uniform(0.6, 1.8))
        return kind, np.ascontiguousarray(turned, dtype=np.float32)

    def _shrunk(self, source: str, size: int, rng: np.random.Generator) -> FloatImage:
        fields = self.by_source[source]
        image = fields[int(rng.integers(len(fields)))].image
        least = float(np.clip(0.85 * size / min(image.shape), 0.3, 0.6))
        need = int(np.ceil(size / rng.uniform(least, least + 0.25)))
        rows, columns = (_mirrored(side, need, rng) for side in image.shape)
        crop = torch.from_numpy(image[rows[:, None], columns[None, :]])[None, None]
        shrunk = interpolate(crop, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        return np.maximum(np.asarray(shrunk[0, 0].numpy(), dtype=np.float32), 0.0)


class QualitySynthesiser:
    """Draws images of one size from a bank of objects; every draw from `rng`."""

    def __init__(
        self, bank: CrispBank, *, size_px: int, seed: int, table1_only: bool = False, graded: float = 0.0
    ) -> None:
        self.bank = bank
        self.graded = graded
        self.size_px = size_px
        self.rng = np.random.default_rng(seed)
        self.table1_only = table1_only
        self._objective = Objective(size_px)

    def draw(self, artefact: str, level: float | None = None) -> Drawn:
        """One image of a class, its level drawn unless given."""
        if level is None and artefact in GRADABLE and self.graded and self.rng.random() < self.graded:
            return self._graded(artefact)
        level = self._level(artefact) if level is None else level
        physical = artefact in PHYSICAL and not self.table1_only and self.rng.random() < PHYSICAL_SHARE
        return (self._physical if physical else self._tabled)(artefact, level)

    def _level(self, artefact: str) -> float:
        rng = self.rng
        if artefact == "reference":
            return NO_LEVEL
        chance = 1.0 if self.table1_only else float(rng.random())
        if chance < WEAK_SHARE:
            return float(rng.uniform(-0.95, 0.0))
        worse = chance < WEAK_SHARE + WORSE_SHARE
        return float(rng.uniform(1.0, MAX_LEVEL if artefact != "vignetting" else 1.1) if worse else rng.uniform())

    def _tabled(self, artefact: str, level: float) -> Drawn:
        """By the paper's tables."""
        clean = self._clean()
        noise_free = not self.table1_only and artefact not in NOISES and self.rng.random() < NOISE_FREE_SHARE
        return self._degraded(clean, artefact, level, noise_free=noise_free)

    def ladder(self) -> list[Drawn]:
        """One artefact on one specimen, from a weak level to a strong one in even steps: their order is known."""
        rng = self.rng
        artefact = ARTEFACTS[int(rng.integers(1, len(ARTEFACTS)))]
        clean = self._clean()
        noise_free = artefact not in NOISES and rng.random() < NOISE_FREE_LADDERS
        levels = np.linspace(float(rng.uniform(0.0, 0.2)), float(rng.uniform(0.8, 1.05)), LADDER)
        return [self._degraded(clean, artefact, float(level), noise_free=noise_free) for level in levels]

    def _clean(self) -> FloatImage:
        """A specimen in the tables' units, with a background."""
        clean = scaled(self.object(self.size_px))
        clean += np.float32(PEAK * float(self.rng.uniform(*BACKGROUND_ROOT)) ** 2)
        return clean

    def _degraded(self, clean: FloatImage, artefact: str, level: float, *, noise_free: bool) -> Drawn:
        rng = self.rng
        value = parameter(artefact, level) if artefact != "reference" else 0.0
        image = expected(clean, artefact, value)
        units, variance = image, 0.0
        if not noise_free:
            noise = noise_of(artefact, value)
            if artefact == "reference" and not self.table1_only:
                floor = float(np.exp(rng.uniform(np.log(0.2 * REFERENCE_NOISE), np.log(TABLE2_REFERENCE_NOISE))))
                noise = MixedNoise(floor, floor, floor)
            units = noise.on(image, rng)
            variance = float(noise.dark + noise.readout + noise.shot * image.mean())
            if self.table1_only or rng.random() < 0.5:  # the paper's way; a camera's offset keeps them
                units = np.maximum(units, 0.0)
        blur = value if artefact == "blur" else 0.0
        return Drawn(
            to_counts(units, rng), image, ARTEFACTS.index(artefact), level, blur, variance, noise_free=noise_free,
            physical=False,
        )  # fmt: skip

    def _graded(self, artefact: str) -> Drawn:
        """By the paper's tables, worse and worse from the first row to the last."""
        rng = self.rng
        found = graded(self._clean(), artefact, rng)
        counts, *rungs = (to_counts(np.maximum(units, 0.0), rng) for units in (found.units, *found.rungs))
        return Drawn(
            counts, found.expected, ARTEFACTS.index(artefact), found.level, 0.0, 0.0, noise_free=False, physical=False,
            rungs=tuple(rung.astype(np.float32) for rung in rungs),
        )  # fmt: skip

    def _physical(self, artefact: str, level: float) -> Drawn:
        """By optics and a camera."""
        rng = self.rng
        blur = parameter("blur", level) if artefact == "blur" else 0.0
        specimen = self.object(self._objective.canvas_px)
        image = self._objective.image(specimen, blur, rng)
        image = image + np.float32(PEAK * float(rng.uniform(*BACKGROUND_ROOT)) ** 2)
        if artefact == "vignetting":
            image = image * uneven((self.size_px, self.size_px), level, rng)
        light = light_for(artefact, level, rng)
        electrons = expose(image, light, rng)
        per_unit = light.photons_per_unit
        variance = float(image.mean()) / per_unit + (light.read_electrons / per_unit) ** 2
        return Drawn(
            digitise(electrons, rng), image, ARTEFACTS.index(artefact), level, blur, variance, noise_free=False,
            physical=True,
        )  # fmt: skip

    def object(self, size: int) -> FloatImage:
        """A clean object, see `CrispBank`."""
        return self.bank.sample(size, self.rng)[1]


def raw_chunk(source: QualitySource, number: int, images: int) -> list[Drawn]:
    """Images of chunk `number`, the classes in turn: the same whoever makes it and whenever."""
    synthesiser = _synthesiser(source)
    synthesiser.rng = np.random.default_rng((source.seed, number))
    start = int(synthesiser.rng.integers(len(ARTEFACTS)))
    drawn = []
    for _ in range(_ladders(source, images)):
        drawn += [replace(one, real=synthesiser.bank.real) for one in synthesiser.ladder()]
    for index in range(images - len(drawn)):
        one = synthesiser.draw(ARTEFACTS[(start + index) % len(ARTEFACTS)])
        drawn.append(replace(one, real=synthesiser.bank.real))
    return drawn


def quality_chunk(source: QualitySource, number: int, images: int) -> Chunk:
    """Chunk `number` of labelled images.

    Returns
    -------
    dict of ndarray, first axis `images`
        ``counts`` uint16 (n, size, size); ``artefact`` int64, index in `ARTEFACTS`; ``level`` float32, 0..1 over the
        paper's Table 1, below 0 weaker, above 1 worse, `NO_LEVEL` for the reference; ``frc`` float32, log2 of the
        single-image FRC resolution in px, or of its bound where ``frc_censored``, `COARSEST_PX` at most; ``mm``
        float32, MM-style probability of the reference; ``blur_px`` float32; ``noise_free``, ``physical`` and ``real``
        bool; ``ladder`` int64, which ladder of the chunk an image is of, or -1; ``frc_rows``, ``frc_rows_censored`` and
        ``mm_rows`` (n, rows), the same labels for each row of patches.

    Notes
    -----
    Of a noise-free image FRC tells nothing, and neither do the markers of noise. We made it, so it gets the labels of
    its twin, the same image with the reference's noise. FRC also takes the twin where the image itself is censored,
    and is censored only where the twin is.
    """
    drawn = raw_chunk(source, number, images)
    rng = np.random.default_rng((source.seed, number, 1))
    frc, censored, mm = label(drawn, _classifier(source.card), rng)
    return {
        "counts": np.stack([one.counts for one in drawn]),
        "artefact": np.asarray([one.artefact for one in drawn], dtype=np.int64),
        "level": np.asarray([one.level for one in drawn], dtype=np.float32),
        "frc": frc,
        "frc_censored": censored,
        "mm": mm,
        "blur_px": np.asarray([one.blur_px for one in drawn], dtype=np.float32),
        "noise_free": np.asarray([one.noise_free for one in drawn], dtype=bool),
        "physical": np.asarray([one.physical for one in drawn], dtype=bool),
        "real": np.asarray([one.real for one in drawn], dtype=bool),
        "ladder": _ladder_of(_ladders(source, images), images),
        **row_labels(drawn, (frc, censored, mm), source.size_px // PATCH_PX, _classifier(source.card)),
    }


def _ladders(source: QualitySource, images: int) -> int:
    """How many ladders a chunk begins with."""
    return int(images * source.ladders) // LADDER


def _ladder_of(ladders: int, images: int) -> NDArray[np.int64]:
    found = np.full(images, -1, dtype=np.int64)
    found[: ladders * LADDER] = np.repeat(np.arange(ladders), LADDER)
    return found


def row_labels(drawn: list[Drawn], whole: Labels, rows: int, classifier: Classifier) -> dict[str, NDArray[Any]]:
    """Labels of each row of patches: the image's own, or in a graded one those of images that are like that row."""
    found = alike_throughout(*whole, rows)
    coarsest = np.float32(np.log2(COARSEST_PX))
    at = (np.arange(rows) + 0.5) / rows
    for index, one in enumerate(drawn):
        if one.rungs:
            held, bounds, scores = _measure(list(one.rungs), classifier)
            held = np.minimum(np.where(np.isnan(held), coarsest, held), coarsest)
            found["frc_rows"][index] = along(at, held, rising=True)
            # As logits, which is how they are learned: a probability falls too steeply for a straight line.
            odds = logit(np.clip(scores.astype(np.float64), LOGIT_CLIP, 1.0 - LOGIT_CLIP))
            found["mm_rows"][index] = expit(along(at, odds, rising=False))
            found["frc_rows_censored"][index] = np.interp(at, RUNGS, bounds.astype(np.float32)) > 0.0
    return found


def label(drawn: list[Drawn], classifier: Classifier, rng: np.random.Generator) -> Labels:
    """FRC label (log2 px), whether it is a bound, and MM-style score of each image; see `quality_chunk`."""
    free = np.asarray([one.noise_free for one in drawn])
    noisy = np.asarray([ARTEFACTS[one.artefact] in NOISES for one in drawn])
    seen = [MixedNoise().on(one.expected, rng) if one.noise_free else one.counts.astype(np.float32) for one in drawn]
    frc, censored, mm = _measure(seen, classifier)
    # Undefined for want of correlation: by its noise, or because of what else it shows, which the twin shows as well.
    again = np.flatnonzero(~free & (censored | (np.isnan(frc) & ~noisy)))
    if again.size:
        twins = [MixedNoise().on(drawn[index].expected, rng) for index in again]
        frc[again], censored[again], _ = _measure(twins, None)
    coarsest = np.float32(np.log2(COARSEST_PX))
    return np.minimum(np.where(np.isnan(frc), coarsest, frc), coarsest), censored, mm


def chunks(source: QualitySource, *, count: int, images: int, workers: int, start: int = 0) -> Iterator[Chunk]:
    """Chunks `start` to `count`, in order, made ahead by `workers` processes (0: in this one)."""
    if workers == 0:
        for number in range(start, count):
            yield quality_chunk(source, number, images)
        return
    with worker_pool(workers, threads=1) as pool:
        ahead: deque[Future[Chunk]] = deque()
        for number in range(start, count):
            ahead.append(pool.submit(quality_chunk, source, number, images))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def objects(source: QualitySource, count: int) -> list[FloatImage]:
    """Clean objects of a source, real and procedural, of any scale: what `degradations.degrade` takes."""
    synthesiser = _synthesiser(source)
    synthesiser.rng = np.random.default_rng((source.seed, 3))
    return [synthesiser.object(source.size_px) for _ in range(count)]


def spatially_varying(
    source: QualitySource, kind: Literal["blur", "noise"], number: int
) -> tuple[NDArray[np.uint16], FloatImage]:
    """Image `number` that gets worse from top to bottom (the paper's Supplementary Table 3), and the truth of each row.

    Counts of shape (size, size); the truth is the sigma of the blur in px or the noise's standard deviation.
    """
    synthesiser = _synthesiser(source)
    synthesiser.rng = np.random.default_rng((source.seed, number, 2))
    image, truth = vary(synthesiser.object(source.size_px), kind, synthesiser.rng)
    return to_counts(image, synthesiser.rng), truth


def real_objects(source: QualitySource, count: int, *, varying: bool = False) -> list[bool]:
    """Which of `objects`, or of the images of `spatially_varying` by their numbers, are of real fields."""
    synthesiser = _synthesiser(source)
    synthesiser.rng = np.random.default_rng((source.seed, 3))
    real = []
    for number in range(count):
        if varying:
            synthesiser.rng = np.random.default_rng((source.seed, number, 2))
        synthesiser.object(source.size_px)
        real.append(synthesiser.bank.real)
    return real


@lru_cache(maxsize=2)
def _synthesiser(source: QualitySource) -> QualitySynthesiser:
    return QualitySynthesiser(
        _bank(source.fields, source.split, source.procedural, source.seed),
        size_px=source.size_px, seed=source.seed, table1_only=source.table1_only, graded=source.graded,
    )  # fmt: skip


@lru_cache(maxsize=2)
def _bank(folder: Path | None, split: Split, procedural: int, seed: int) -> CrispBank:
    return CrispBank(load_fields(folder, split) if folder else [], procedural=procedural, seed=seed)


_classifier = lru_cache(maxsize=2)(load_classifier)


def _measure(images: list[Any], classifier: Classifier | None) -> Labels:
    """Log2 of the FRC resolution or its bound, whether censored, and the score (NaN without a classifier)."""
    frc, censored, mm = (np.empty(len(images), dtype=kind) for kind in (np.float32, bool, np.float32))
    with torch.inference_mode():
        for first in range(0, len(images), _BATCH):
            at = slice(first, first + _BATCH)
            batch = torch.from_numpy(np.stack(images[at]))
            told = single_image_frc(batch, mode="robust")
            px = torch.where(told.censored, told.bound_px, told.resolution_px)
            frc[at], censored[at] = torch.log2(px).numpy(), told.censored.numpy()
            mm[at] = classifier.scores(batch, told).numpy() if classifier else np.nan
    return frc, censored, mm


def _mirrored(side: int, need: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of `need` neighbouring pixels of a line of `side`, mirrored at its ends where it is too short."""
    start = int(rng.integers(0, side - need + 1)) if side >= need else int(rng.integers(side))
    at = (start + np.arange(need)) % (2 * side)
    return np.where(at < side, at, 2 * side - 1 - at)


def _steepness(image: FloatImage) -> float:
    """Steepness of the steepest half per cent of a crop's pixels, in shares of its range a pixel; 0 if all but empty.

    Something brighter than a fifth of the peak must lie in three of its quarters, and diagonal neighbours must have
    something to do with each other.
    """
    coarse = image[::2, ::2]
    peak = float(np.percentile(coarse, 99.9))
    rows, columns = (side // 2 for side in coarse.shape)
    quarters = (coarse > 0.2 * peak)[: 2 * rows, : 2 * columns].reshape(2, rows, 2, columns).mean(axis=(1, 3))
    if peak <= MIN_PEAK or np.count_nonzero(quarters > MIN_FILLED) < 3 or not _resolved(image):
        return 0.0
    steps = np.abs(image[:, 2:] - image[:, :-2])[::2] * np.float32(0.5)
    return float(np.percentile(steps, 99.5)) / max(peak - float(image.min()), 1e-9)


def _resolved(image: FloatImage) -> bool:
    """Whether diagonal neighbours correlate."""
    side = min(image.shape) // 2 * 2
    one, two = image[:side:2, :side:2].ravel(), image[1:side:2, 1:side:2].ravel()
    one, two = one - one.mean(), two - two.mean()
    return float(one @ two) > MIN_DIAGONAL * float(np.sqrt((one @ one) * (two @ two)))
