"""Losses of the quality networks: the paper's E_w + E_p, one-sided where a label is censored."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import QualityOutput, weighted_mean

ARTEFACT_SHARE = 0.5
VALUE_SHARE = 2.0
"""Of the error in probability, which spreads over half of 0..1 about, beside the error in logits."""


def deviation(said: Tensor, label: Tensor, censored: Tensor) -> Tensor:
    """Absolute error; where the label is censored, only what lies above it.

    A censored label is a bound: FRC never fell to its threshold, so the resolution is *at most* that many pixels. An
    answer below the bound may be right and costs nothing; one above it is wrong by at least the difference. All
    arguments broadcast; `censored` is boolean.
    """
    error = said - label
    return torch.where(censored, torch.relu(error), error.abs())


def paper_loss(quality: Tensor, weight: Tensor, label: Tensor, censored: Tensor) -> dict[str, Tensor]:
    """E_w + E_p of the paper (equations 2 and 3), the mean over some images.

    Parameters
    ----------
    quality, weight : Tensor, shape (n, patches)
        Of patches of one image a row. The paper's sums run over a batch of patches of one image, so E_w is the error of
        these patches' weighted mean; its E_p divides by the patches of the image while it sums over those of the batch,
        and is read as the mean over the batch.
    label, censored : Tensor, shape (n,)
        Of each image.
    """
    whole = deviation(weighted_mean(quality, weight), label, censored).mean()
    patch = deviation(quality, label[:, None], censored[:, None]).mean()
    return {"whole": whole, "patch": patch, "total": whole + patch}


def frame_loss(
    out: QualityOutput, label: Tensor, censored: Tensor, unmixed: Tensor, scale: LabelScale
) -> dict[str, Tensor]:
    """The same of whole frames, whose patches may come from two images.

    Labels that are logits are also compared as the probabilities that users see: a logit tells 0.001 from 0.01, which
    ranks bad images, but is as glad of an error there as of one about a half.

    Parameters
    ----------
    out : QualityOutput
        Of n frames.
    label, censored : Tensor, shape (n, rows, columns)
        Of the image that each patch is from.
    unmixed : Tensor, shape (n,)
        Whether a frame is all of one image. Only then it has a label of its own, and counts in E_w.
    scale : LabelScale
        What the labels are.
    """
    score = deviation(out.score, label[:, 0, 0], censored[:, 0, 0])
    whole = _mean(score, unmixed)
    patch = deviation(out.patch_quality, label, censored).mean()
    total = whole + patch
    if scale.form == "logit":
        error = (scale.value(out.score) - scale.value(label[:, 0, 0])).abs()
        total = total + VALUE_SHARE * _mean(error, unmixed)
    return {"whole": whole, "patch": patch, "total": total}


def artefact_loss(logits: Tensor, artefact: Tensor, unmixed: Tensor) -> Tensor:
    """Cross-entropy of the artefact of the frames that have just one."""
    return ARTEFACT_SHARE * _mean(functional.cross_entropy(logits, artefact, reduction="none"), unmixed)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    weights = chosen.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1.0)
