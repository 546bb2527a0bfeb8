"""The defocus model: how far out of focus a frame is, how sure that is, and where; or why it cannot be said."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.base import Assessment, ModelCard, ModelError, PatchMap, check_images
from parfocal.models.cards import load_card, load_into, packaged_card_path
from parfocal.models.defocus_net import CELL_PX, WINDOW_PX, Cells, CompactDefocusNet
from parfocal.models.defocus_patches import neighbours, patch_values
from parfocal.models.defocus_posterior import Posterior
from parfocal.models.defocus_trunk import CellTrunk
from parfocal.models.defocus_views import TILE_PX, TOGETHER, Looker, View
from parfocal.models.emptiness import content, unevenness
from parfocal.models.folding import fold_batch_norm
from parfocal.models.metrics.planes import Planes
from parfocal.models.saturation import saturated_share
from parfocal.models.training.defocus_loss import SIGN_FROM_WAVES
from parfocal.simulator.optics import Optics

PRECISION = "float32"
"""What ``auto`` means on a CPU: fixed, so that a replay gives the same bits; see docs/decisions."""
MAX_SATURATED = 0.01
QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
LARGE_PX = 1_200_000
"""Frames of more pixels are looked at binned first, and unbinned only in part, where that matters."""
FINE_TILES, FINER_TO_PX = 8, 20.0
"""So many tiles of a large frame are looked at unbinned, where its blur is below so many pixels."""
MIN_CONTRAST = 1.2
"""Contrast over that of noise alone from which there is something in a frame, whatever the network says."""
MIN_EXCESS, MIN_SHARE = 4.0, 0.15
"""Coarse energy over that of noise, in its standard deviations, and its share beside a shade's, from which it is
believed what a coarse view shows far out of focus."""
COARSER_FROM_PX, COARSER_TO_PX = 36.0, 20.0
"""Blur beyond the first is looked at again in a binned frame, by so much that it shrinks to about the second."""
MAX_LOG2_CUTOFF = 2.2
"""No view coarser than training saw: 4.6 cycles of the optical cut-off a pixel."""
OPTIONS = frozenset(
    {
        "na", "immersion_index", "emission_um", "pixel_um", "magnification", "sample_index", "depth_um",
        "zernike_waves", "spherical_waves", "saturation_counts", "card", "device", "backend", "precision", "threads",
        "patch_map",
    }
)  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """What is known of the optics at one pixel size: conditions for the network, scale for the result."""

    log2_cutoff: float | None
    waves: float | None
    px_per_um: float | None

    @property
    def orientation(self) -> float:
        """Sign of the spherical aberration, 0 where there is none to tell the sign of the defocus by."""
        return 0.0 if self.waves is None or abs(self.waves) < SIGN_FROM_WAVES else float(np.sign(self.waves))

    def conditions(self, binning: int) -> Tensor:
        """What the network is told, shape (1, 4), when it looks at the frame binned so."""
        cutoff = 0.0 if self.log2_cutoff is None else self.log2_cutoff + float(np.log2(binning))
        waves = 0.0 if self.waves is None else 10.0 * abs(self.waves)
        return torch.tensor([[cutoff, float(self.log2_cutoff is not None), waves, float(self.waves is not None)]])


@dataclass(frozen=True)
class _Look:
    """The network's answer to one view of a frame: the frame itself, or binned."""

    binning: int
    cells: Cells
    posterior: Posterior
    signal: float

    @property
    def median_px(self) -> float:
        """Median blur diameter in pixels of this view."""
        return self.posterior.quantiles_px((0.5,))[0]


class DefocusModel:
    """Defocus in um where the optics are known, in pixels of blur diameter where they are not.

    Parameters
    ----------
    options : mapping
        ``na``, ``immersion_index``, ``emission_um`` (then values are in um), ``spherical_waves`` (calibrated primary
        spherical aberration, rms waves: then values are signed), ``depth_um`` and ``sample_index`` or
        ``zernike_waves`` (the same from the physics), ``saturation_counts``, ``card`` (path of another card),
        ``device``, ``backend``, ``precision``, ``threads``, ``patch_map`` (default true).

    Raises
    ------
    ModelError
        Unknown option, or weights that are missing or not those of the card.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            raise ModelError(f"model 'defocus' knows no option {unknown[0]!r}; it takes {', '.join(sorted(OPTIONS))}")
        from parfocal.models.runtime import Runner

        path = Path(options["card"]) if options.get("card") else packaged_card_path("defocus")
        self.card: ModelCard = load_card(path)
        self._options = dict(options)
        network = CompactDefocusNet()
        load_into(network, self.card, path)
        network = fold_batch_norm(network.eval())
        self._network = network
        self._runner = Runner(
            CellTrunk(network),
            device=options.get("device", "auto"),
            backend=_unless_auto(options.get("backend"), "torch"),
            precision=_unless_auto(options.get("precision"), PRECISION),
            chunk=TOGETHER,
        )
        threads = options.get("threads") or os.cpu_count() or 1
        self._looker = Looker(network, self._runner, int(threads))
        calibration = self.card.measured["calibration"]
        self._temperature = float(calibration["temperature"])
        self._floor = float(calibration["floor"])
        self._signal_from = float(calibration["signal_from"])

    def describe(self) -> Mapping[str, Any]:
        """Which device, precision and backend run the network."""
        return self._runner.describe()

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        """Assess a batch of raw frames, shape (n, height, width); for the unit see the class."""
        batch = check_images(images)
        known = self._known(pixel_um)
        return [self._looker.lead(self._assess_one, frame, known) for frame in batch]

    def _known(self, pixel_um: float) -> _Known:
        options = self._options
        if options.get("na") is None or options.get("emission_um") is None or not pixel_um > 0:
            return _Known(None, None, None)
        optics = Optics.from_options({**options, "pixel_um": pixel_um})
        return _Known(float(np.log2(optics.cutoff_per_px)), self._spherical_waves(optics), optics.blur_px_per_um)

    def _spherical_waves(self, optics: Optics) -> float | None:
        """Calibrated aberration, else that of the stated physics, else unknown."""
        if self._options.get("spherical_waves") is not None:
            return float(self._options["spherical_waves"])
        if optics.depth_um or optics.zernike_waves:
            return optics.spherical_waves
        return None

    def _assess_one(self, frame: NDArray[Any], known: _Known) -> Assessment:
        saturated = saturated_share(frame, self._options.get("saturation_counts"))
        if saturated > MAX_SATURATED:
            reason = f"{100 * saturated:.1f} % of the pixels are saturated: lower the exposure or the light"
            return Assessment.abstain("defocus", reason, {"saturated": saturated})
        if frame.min() == frame.max():
            return Assessment.abstain("defocus", "all pixels have one value: no light, or no camera", {"signal": 0.0})
        look = self._look_for_signal(frame, known, 2 if frame.size > LARGE_PX else 1)
        if look.signal >= self._signal_from:
            look = self._look_coarser(frame, known, look)
        patch_map = self._patch_map(look, known) if self._options.get("patch_map", True) else None
        if look.binning == 2 and 2 * look.median_px < FINER_TO_PX and look.signal >= self._signal_from:
            look = self._look_finer(frame, known, look)
        return self._report(look, saturated, known, patch_map)

    def _look(self, frame: NDArray[Any], known: _Known, binning: int) -> _Look:
        """Let the network see the frame, binned."""
        return self._judged(self._looker.cells(View(frame, binning)), known, binning)

    def _judged(self, cells: Cells, known: _Known, binning: int) -> _Look:
        with torch.inference_mode():
            out = self._network.judge(cells, known.conditions(binning))
        posterior = self._posterior(out.blur[0].numpy(), out.sign[0].numpy(), known)
        return _Look(binning, cells, posterior, float(torch.sigmoid(out.signal)[0]))

    def _look_finer(self, frame: NDArray[Any], known: _Known, look: _Look) -> _Look:
        """Look at a large frame unbinned where the coarse look put most weight: a part tells its focus as the whole."""
        side = TILE_PX // CELL_PX // 2
        share = torch.exp(look.cells.log_weight[0, 0] - look.cells.log_weight.max())
        tiles = share[: share.shape[0] // side * side, : share.shape[1] // side * side]
        weight = tiles.unfold(0, side, side).unfold(1, side, side).sum(dim=(2, 3))
        order = torch.argsort(weight.flatten(), descending=True, stable=True)[:FINE_TILES].tolist()
        places = []
        for at in sorted(order):
            row, column = divmod(at, weight.shape[1])
            places.append(
                (
                    slice(row * TILE_PX, (row + 1) * TILE_PX),
                    slice(column * TILE_PX, (column + 1) * TILE_PX),
                )
            )
        finer = self._judged(self._looker.pooled(View(frame), places), known, 1)
        return finer if finer.signal >= self._signal_from else look

    def _look_for_signal(self, frame: NDArray[Any], known: _Known, binning: int) -> _Look:
        """Look; where nothing shows, look again for dim structure, or for a few bright points.

        A network shown a coarse view takes a shade for a specimen far out of focus, and sparse points in focus for hot
        pixels: far answers of the coarse view, and near ones that the network itself doubts, need contrast that noise,
        hot pixels and the shade of a lamp do not explain. Of a dim specimen far out of focus that contrast is all in
        its coarsest parts.
        """
        look = self._look(frame, known, binning)
        if look.signal >= self._signal_from:
            return look
        structured = _structured(frame)
        if structured and look.median_px <= COARSER_FROM_PX:  # no shade looks like this
            return replace(look, signal=self._signal_from)
        if self._may_bin(frame, known, 2 * binning):
            coarser = self._look(frame, known, 2 * binning)
            near = structured or coarser.median_px <= COARSER_FROM_PX
            if coarser.signal >= self._signal_from and (near or _uneven(frame)):
                return coarser
        return look

    def _look_coarser(self, frame: NDArray[Any], known: _Known, look: _Look) -> _Look:
        """Bin until the blur is of a size the network tells well."""
        while look.median_px > COARSER_FROM_PX:
            binning = look.binning * (4 if look.median_px > 4 * COARSER_TO_PX else 2)
            if not self._may_bin(frame, known, binning):
                return look
            coarser = self._look(frame, known, binning)
            if coarser.signal < self._signal_from:
                return look
            look = coarser
        return look

    def _may_bin(self, frame: NDArray[Any], known: _Known, binning: int) -> bool:
        """Whether a view so coarse holds a window of the network, and is no coarser than training saw."""
        if min(frame.shape) < binning * WINDOW_PX:
            return False
        return known.log2_cutoff is None or known.log2_cutoff + np.log2(binning) <= MAX_LOG2_CUTOFF

    def _report(self, look: _Look, saturated: float, known: _Known, patch_map: PatchMap | None) -> Assessment:
        posterior, k = look.posterior, look.binning
        scale = (known.px_per_um or 1.0) / k
        quantiles = posterior.quantiles_px(tuple(QUANTILES.values()))
        detail = {
            "blur_px": k * posterior.mean_px(), "blur_sd_px": k * posterior.sd_px(), "level": float(posterior.level(k)),
            "certainty": posterior.certainty(k), "signal": look.signal, "saturated": saturated, "binning": float(k),
            "in_um": float(known.px_per_um is not None), "signed": float(posterior.signed),
            "positive": posterior.probability_positive(),
            **{name: value / scale for name, value in zip(QUANTILES, quantiles, strict=True)},
        }  # fmt: skip
        if look.signal < self._signal_from:
            nan, reason = float("nan"), "no structure above the noise"
            return Assessment("defocus", nan, nan, True, reason, detail, None, patch_map)
        if posterior.signed:
            value, sd = posterior.signed_mean_px() / scale, posterior.signed_sd_px() / scale
        else:
            value, sd = posterior.mean_px() / scale, posterior.sd_px() / scale
        distribution = posterior.distribution(scale) if known.px_per_um else None
        return Assessment("defocus", value, sd, False, "", detail, distribution, patch_map)

    def _posterior(self, blur: NDArray[Any], sign: NDArray[Any], known: _Known) -> Posterior:
        return Posterior.of_logits(
            blur, sign, temperature=self._temperature, floor=self._floor, orientation=known.orientation
        )

    def _patch_map(self, look: _Look, known: _Known) -> PatchMap | None:
        """The same head on every two by two cells: patches of 128 px of the view, every 64 px."""
        rows, columns = look.cells.embedding.shape[2:]
        with torch.inference_mode():
            patches = Cells(*(neighbours(part) for part in vars(look.cells).values()))
            out = self._network.judge(patches, known.conditions(look.binning).expand(len(patches.power), -1))
            signal = torch.sigmoid(out.signal).numpy()
        blur_px, certainty = patch_values(out.blur.numpy(), look.binning, self._temperature, self._floor)
        seen, shape = signal >= self._signal_from, (rows - 1, columns - 1)
        value = np.where(seen, blur_px / (known.px_per_um or 1.0), np.nan)
        unit = "um" if known.px_per_um else "px"
        side = CELL_PX * look.binning
        return PatchMap(value.reshape(shape), np.where(seen, certainty, 0.0).reshape(shape), 2 * side, side, unit)


def make(options: Mapping[str, Any]) -> DefocusModel:
    """Make the model from plain JSON options (see `DefocusModel`)."""
    return DefocusModel(options)


def _structured(frame: NDArray[Any]) -> bool:
    """Whether anything but noise and uneven light is in the frame: lamps and lenses shade as a square of the radius."""
    held = content(Planes(frame[None]), MIN_CONTRAST, integer=frame.dtype.kind in "ui", illumination_order=2)
    return bool(held.contrast[0] > held.threshold[0])


def _uneven(frame: NDArray[Any]) -> bool:
    """Whether there is anything coarse in the frame but uneven light, as of a dim specimen far out of focus."""
    found = unevenness(Planes(frame[None]))
    return bool(found.excess[0] > MIN_EXCESS) and bool(found.share[0] > MIN_SHARE)


def _unless_auto(asked: str | None, ours: str) -> str:
    return ours if asked in (None, "auto") else asked
