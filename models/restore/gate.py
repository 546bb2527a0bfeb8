"""The gate: which frames, and which parts of one, may be shown restored; the same for every method.

Before: what no method can know (saturated light, a blur outside the range). Then: which kind of frame it is, by its
look (`kinds`). After: what the result itself gives away. A restoration that is imaged out of focus again must give the
frame back, to within the noise (`reblur_residual`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parfocal.models.restore.base import CELL_PX, Blur, FloatImage, Restoration, Verdict, unchanged
from parfocal.models.restore.deconvolution import Observed, observe, reblur_residual
from parfocal.models.restore.kinds import KindJudge, look
from parfocal.models.restore.levels import block_means, quantiles
from parfocal.models.restore.strangeness import Strangeness
from parfocal.models.restore.traits import blockiness, traits
from parfocal.models.saturation import saturated_share


@dataclass(frozen=True)
class Claim:
    """What a learned method says of its own result: its error in counts, and by which frames it knows its own kind."""

    sd: FloatImage
    strangeness: Strangeness


@dataclass(frozen=True)
class Limits:
    """Where the gate stands.

    Parameters
    ----------
    least_px, least_depths : float
        Blur diameter, or defocus plus its sd in depths of field, below which a frame is in focus for this purpose.
    most_depths, most_doubted, most_px : float
        Defocus in depths of field, less its sd and as it is, and blur diameter, beyond which nothing is restored.
    most_doubt : float
        Standard deviation of the defocus, as a share of it.
    most_saturated : float
        Share of the pixels.
    most_residual, most_residual_of_all : float
        Root mean square of `reblur_residual` over a square, and its median over all squares, in the noise's sd.
    most_refused : float
        Share of the squares refused from which all of the frame is.
    most_strange : float
        Of a method that learned: distance from what it learned on (`Strangeness`).
    most_noise : float
        The noise's sd in units of the restored image's brightness: beyond, there was too little light.
    most_blocks : float
        `blockiness` of lossy compression.
    """

    least_px: float = 1.5
    least_depths: float = 0.75
    most_depths: float = 9.0
    most_doubted: float = 12.0
    most_px: float = 90.0
    most_doubt: float = 1.0
    most_saturated: float = 0.002
    most_residual: float = 8.0
    most_residual_of_all: float = 5.0
    most_refused: float = 0.5
    most_strange: float = 1.1
    most_noise: float = 0.15
    most_blocks: float = 1.5


class Gate:
    """Verdicts before and after a method has run.

    Parameters
    ----------
    limits : Limits, optional
    judge : KindJudge, optional
        Without one, every kind of frame passes `known`.
    """

    def __init__(self, limits: Limits | None = None, judge: KindJudge | None = None) -> None:
        self.limits = limits or Limits()
        self.judge = judge

    def before(self, method: str, frame: NDArray[Any], pixels: FloatImage, blur: Blur) -> Restoration | None:
        """The frame unchanged, with the reason; None if the method may run."""
        detail = {"depths": blur.depths, "blur_px": blur.diameter_px}
        reason = self._unfit(frame, pixels, blur)
        if reason:
            return unchanged(method, Verdict.REFUSED, reason, pixels, blur, detail)
        if self._in_focus(blur):
            reason = "in focus, as far as can be told: nothing to restore"
            return unchanged(method, Verdict.IN_FOCUS, reason, pixels, blur, detail)
        return None

    def admit(self, method: str, frame: NDArray[Any], pixels: FloatImage, blur: Blur) -> Observed | Restoration:
        """The frame made ready for the method; or unchanged, refused or in focus, with the reason."""
        stop = self.before(method, frame, pixels, blur)
        if stop is not None and stop.verdict is Verdict.REFUSED:
            return stop
        seen = observe(pixels, blur)
        return self.known(method, pixels, seen, blur, focused=stop is not None) or stop or seen

    def known(
        self, method: str, frame: FloatImage, seen: Observed, blur: Blur, *, focused: bool = False
    ) -> Restoration | None:
        """The frame unchanged, with the reason, if it is of a kind that is not restored; else None.

        One that is called in focus stays as it is anyway: only what is plainly something else is refused then.
        """
        if self.judge is None:
            return None
        likely = self.judge.likely(look(frame, seen, blur))
        reason = self.judge.reason(likely, focused=focused)
        if not reason:
            return None
        detail = {"depths": blur.depths, "blur_px": blur.diameter_px}
        detail |= {f"likely_{kind}": share for kind, share in likely.items()}
        return unchanged(method, Verdict.REFUSED, reason, frame, blur, detail)

    def _in_focus(self, blur: Blur) -> bool:
        """Whether the blur is too small to matter, with all that its doubt allows."""
        reach = blur.depths + blur.sd_um / blur.optics.depth_of_field_um
        # Where the doubt is as large as the defocus there is nothing to restore by: near the focus it is called so.
        nearly = reach < 1.5 * self.limits.least_depths and self._doubtful(blur)
        return blur.diameter_px < self.limits.least_px or reach < self.limits.least_depths or nearly

    def _doubtful(self, blur: Blur) -> bool:
        return blur.sd_um > self.limits.most_doubt * abs(blur.defocus_um)

    def _unfit(self, frame: NDArray[Any], pixels: FloatImage, blur: Blur) -> str:
        limits = self.limits
        if float(np.min(frame)) == float(np.max(frame)):
            return "all pixels have one value: no light, or no camera"
        if blockiness(pixels) > limits.most_blocks:
            return "blocks of 8 px: the image was compressed with loss, and its noise is not a camera's"
        saturated = saturated_share(frame, None)
        if saturated > limits.most_saturated:
            return f"{100 * saturated:.1f} % of the pixels are saturated: their light is not known"
        if not (np.isfinite(blur.defocus_um) and np.isfinite(blur.sd_um)):
            return "the defocus is not a number"
        nearest = blur.depths - blur.sd_um / blur.optics.depth_of_field_um
        if nearest > limits.most_depths or blur.depths > limits.most_doubted or blur.diameter_px > limits.most_px:
            return (
                f"too far out of focus: {blur.depths:.1f} depths of field, {blur.diameter_px:.0f} px of blur "
                f"(at most {limits.most_depths:g} and {limits.most_px:g})"
            )
        if self._doubtful(blur) and not self._in_focus(blur):
            return f"the defocus is in doubt: {abs(blur.defocus_um):.2f} +- {blur.sd_um:.2f} um"
        return ""

    def after(
        self, method: str, frame: FloatImage, seen: Observed, restored: FloatImage, claim: Claim | None, blur: Blur
    ) -> Restoration:
        """The restoration, with the squares refused where it does not explain the frame."""
        residual = block_rms(reblur_residual(seen, restored).numpy())
        refused = residual > self.limits.most_residual
        detail = {
            "depths": blur.depths, "blur_px": blur.diameter_px, "residual": float(np.median(residual)),
            "refused_share": float(refused.mean()), "noise_sd": seen.levels.noise_sd,
            "noise": relative_noise(seen, restored),
        }  # fmt: skip
        if claim is not None:
            gain_db = claimed_gain_db(frame, seen, restored, claim)
            known_by = traits(frame, seen, residual, blur, detail["noise"], gain_db)
            detail |= {"strangeness": claim.strangeness.of(known_by), "gain_db": gain_db}
        reason = self._untrusted(detail)
        if reason:
            return unchanged(method, Verdict.REFUSED, reason, frame, blur, detail)
        if not refused.any():  # nothing of the frame's own has to be put back
            sd = None if claim is None else claim.sd
            return Restoration(method, Verdict.RESTORED, "", restored, sd, refused, blur, detail)
        reason = f"{refused.sum()} of {refused.size} squares refused"
        where = spread(refused, frame.shape)
        pixels = np.where(where, frame, restored).astype(np.float32)
        sd = None if claim is None else np.where(where, np.float32(seen.levels.noise_sd), claim.sd).astype(np.float32)
        return Restoration(method, Verdict.RESTORED, reason, pixels, sd, refused, blur, detail)

    def _untrusted(self, detail: Mapping[str, float]) -> str:
        limits = self.limits
        if detail["noise"] > limits.most_noise:
            return f"too little light: the noise is {100 * detail['noise']:.0f} % of the brightest structures"
        if detail.get("strangeness", 0.0) > limits.most_strange:
            return "unlike the images that the network learned on"
        if detail["refused_share"] > limits.most_refused or detail["residual"] > limits.most_residual_of_all:
            return "imaged out of focus again, the result does not give the frame back"
        return ""


def relative_noise(seen: Observed, restored: FloatImage) -> float:
    """The noise's sd in units of the restored image's brightest structures."""
    bright = float(quantiles(restored[::3, ::3], (99.7,))[0]) - seen.levels.background
    return seen.levels.noise_sd / max(bright, 1e-6)


def claimed_gain_db(frame: FloatImage, seen: Observed, restored: FloatImage, claim: Claim) -> float:
    """What the method believes to have gained: structure put right over the error that it says remains.

    The frame's error against the truth is its difference from the restoration, but for the noise, plus what the
    restoration is wrong by.
    """
    remains = _mean_square(claim.sd) + 1e-12
    changed = _mean_square(restored - frame)
    return 10.0 * float(np.log10(1.0 + max(changed - seen.levels.noise_sd**2, 0.0) / remains))


def _mean_square(image: FloatImage) -> float:
    """In torch, whose scalar product takes one pass, and no threads that it was not given."""
    flat = torch.from_numpy(np.ascontiguousarray(image)).reshape(-1)
    return float(torch.dot(flat, flat)) / flat.numel()


def block_rms(image: FloatImage) -> FloatImage:
    """Root mean square over squares of `CELL_PX`; the last ones are of what is left."""
    return np.sqrt(block_means(np.square(image), CELL_PX))


def spread(cells: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A map of squares on the frame's pixels."""
    return np.asarray(np.kron(cells, np.ones((CELL_PX, CELL_PX), dtype=bool))[: shape[0], : shape[1]])
