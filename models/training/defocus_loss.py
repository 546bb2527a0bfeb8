"""Loss of the compact defocus network: soft cross-entropy and ranked probability over blur, sign, signal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from parfocal.models.defocus_net import BLUR_BINS, BLUR_MAX_PX, NetOutput

SOFT_BINS = 0.6
"""Standard deviation of the soft label: no image tells blur more finely than half a bin."""
SIGN_FROM_WAVES = 0.02
"""Below this much spherical aberration (rms waves) no image carries a sign that could be learned."""


def bin_position(blur_px: Tensor) -> Tensor:
    """Where a blur diameter lies on the scale of the bins, 0..BLUR_BINS (bin j spans j..j+1)."""
    return BLUR_BINS * torch.sqrt(blur_px.abs().clamp(max=BLUR_MAX_PX * 0.999) / BLUR_MAX_PX)


def soft_labels(blur_px: Tensor) -> Tensor:
    """Gaussian share of every bin about the true position, shape (n, BLUR_BINS), rows summing to 1."""
    centres = torch.arange(BLUR_BINS, device=blur_px.device) + 0.5
    distance = (centres[None, :] - bin_position(blur_px)[:, None]) / SOFT_BINS
    return torch.softmax(-0.5 * distance.square(), dim=1)


def defocus_loss(out: NetOutput, blur_px: Tensor, signal: Tensor, waves: Tensor) -> dict[str, Tensor]:
    """Parts of the loss by name, and ``total``.

    Parameters
    ----------
    out : NetOutput
    blur_px : Tensor, shape (n,)
        Signed so that positive goes with positive `waves`.
    signal : Tensor, shape (n,)
        1 present, 0 absent, -1 cannot be said.
    waves : Tensor, shape (n,)
        Spherical aberration that the network was told, 0 where it was not.
    """
    has = (signal > 0).float()
    soft = soft_labels(blur_px)
    log_p = torch.log_softmax(out.blur.float(), dim=1)
    cross = -(soft * log_p).sum(dim=1)
    ranked = (log_p.exp().cumsum(dim=1) - soft.cumsum(dim=1)).square().sum(dim=1)
    known = has * (waves.abs() >= SIGN_FROM_WAVES).float()
    sign_logit = (out.sign.float() * soft).sum(dim=1)
    sign = functional.binary_cross_entropy_with_logits(sign_logit, (blur_px > 0).float(), reduction="none")
    said = (signal >= 0).float()
    present = functional.binary_cross_entropy_with_logits(out.signal.float(), signal.clamp(min=0), reduction="none")
    parts = {
        "cross": _mean(cross, has),
        "ranked": _mean(ranked, has),
        "sign": _mean(sign, known),
        "signal": _mean(present, said),
    }
    parts["total"] = parts["cross"] + 0.3 * parts["ranked"] + 0.5 * parts["sign"] + parts["signal"]
    return parts


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1.0)
