"""Losses of the quality networks: the paper's E_w + E_p, one-sided where a label is censored."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import QualityOutput, weighted_mean

ARTEFACT_SHARE = 0.5
REFERENCE = 0
"""Index of the class that has no artefact."""
ORDER_MARGIN = 0.5
LEAST_ORDER = 1e-3
"""Label sd: lines of patches that differ by more have an order, and should be apart by up to the margin."""
LADDER_MARGIN = 0.25
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


def order_loss(out: QualityOutput, label: Tensor, censored: Tensor, scale: LabelScale) -> Tensor:
    """How far the lines of patches of a map are out of the order of their labels, along rows and along columns.

    A map is read by comparing its parts, and where labels differ by less than their error the error alone does not
    teach which part is worse. Every two lines of patches should differ by as much as their labels do, `ORDER_MARGIN` at
    most; only what is missing counts. A line's value is what users see, the weighted mean of the values shown, in the
    labels' units.

    Parameters
    ----------
    out : QualityOutput
        Of n frames.
    label, censored : Tensor, shape (n, rows, columns)
        Of each patch. Lines with a bound among their labels have no place in an order.
    scale : LabelScale
        What the labels are.
    """
    shown = scale.value(out.patch_quality)
    missing, count = label.new_zeros(()), label.new_zeros(())
    for dim in (1, 2):
        weight = out.patch_weight.sum(dim=dim)
        said = scale.z(scale.label((out.patch_weight * shown).sum(dim=dim) / weight))
        known = label.mean(dim=dim)
        sure = ~censored.any(dim=dim)
        want = known[:, :, None] - known[:, None, :]
        pairs = (want > LEAST_ORDER) & sure[:, :, None] & sure[:, None, :]
        lack = torch.relu(want.clamp(max=ORDER_MARGIN) - (said[:, :, None] - said[:, None, :]))
        missing, count = missing + (lack * pairs).sum(), count + pairs.sum()
    return missing / count.clamp(min=1.0)


def ladder_loss(score: Tensor, ladder: Tensor, level: Tensor, unmixed: Tensor, scale: LabelScale) -> Tensor:
    """How far the frames of a ladder are out of the order of their levels, the mean over their pairs.

    A label is measured on one exposure, and between two near levels its own chance decides. The levels are known: a
    better one is to have the better score, by `LADDER_MARGIN` label sd a unit of level at least.

    Parameters
    ----------
    score, ladder, level, unmixed : Tensor, shape (n,)
        Scores as z; which frames are of one ladder (-1: of none); their levels; whether they are all of one image.
    scale : LabelScale
        What the labels are, and whether more is better.
    """
    worth = -score if scale.form == "log2_px" else score
    apart = level[None, :] - level[:, None]
    whole = (ladder >= 0) & unmixed
    pairs = (ladder[:, None] == ladder[None, :]) & whole[:, None] & whole[None, :] & (apart > 0)
    lack = torch.relu(LADDER_MARGIN * apart - (worth[:, None] - worth[None, :]))
    return (lack * pairs).sum() / pairs.sum().clamp(min=1)


def artefact_loss(logits: Tensor, artefact: Tensor, unmixed: Tensor, level: Tensor | None = None) -> Tensor:
    """Cross-entropy of the artefact of the frames that have just one.

    With `level` (n,), below 0 down to -1 where an artefact is weaker than any of the paper's table and at last none,
    such a frame counts as a reference by as much as it is weaker.
    """
    wanted = functional.one_hot(artefact, logits.shape[1]).to(logits.dtype)
    if level is not None:
        weaker = torch.where(artefact == REFERENCE, 0.0, (-level).clamp(0.0, 1.0)).to(logits.dtype)[:, None]
        none = functional.one_hot(torch.full_like(artefact, REFERENCE), logits.shape[1])
        wanted = (1.0 - weaker) * wanted + weaker * none
    return ARTEFACT_SHARE * _mean(functional.cross_entropy(logits, wanted, reduction="none"), unmixed)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    weights = chosen.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1.0)
