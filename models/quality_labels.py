"""What the quality networks are taught, and what their numbers mean: z-scored labels and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.base import ModelError

Form = Literal["log2_px", "logit", "probability"]
FORMS: Mapping[str, tuple[Form, ...]] = {"frc": ("log2_px",), "mm": ("logit", "probability")}
LOGIT_CLIP = 1e-6
"""Probabilities nearer than this to 0 or 1 count as this near: their logits would be infinite."""
NYQUIST_PX = 2.0
UNREACHED = 1e4


@dataclass(frozen=True)
class LabelScale:
    """How the labels of one target became numbers of mean 0 and standard deviation 1.

    Parameters
    ----------
    target : {"frc", "mm"}
        Resolution by single-image FRC, or the MM-style probability that the image is a reference.
    form : {"log2_px", "logit", "probability"}
        The unit that was averaged: log2 of pixels; logit of the probability, which keeps apart what is nearly 0 or 1;
        or the probability itself, as in the paper.
    mean, sd : float
        Over the training set, in that unit.
    """

    target: str
    form: Form
    mean: float
    sd: float

    def __post_init__(self) -> None:
        if self.form not in FORMS.get(self.target, ()):
            raise ModelError(f"a label of target {self.target!r} cannot be a {self.form!r}")
        if not (np.isfinite(self.mean) and np.isfinite(self.sd) and self.sd > 0):
            raise ModelError(f"labels of target {self.target!r}: mean {self.mean} and sd {self.sd} are no scale")

    @staticmethod
    def of(target: str, form: Form, labels: NDArray[Any], censored: NDArray[np.bool_] | None = None) -> LabelScale:
        """Measure the scale of a training set; censored labels, being bounds, and NaN, none at all, are left out."""
        known = np.isfinite(labels) if censored is None else np.isfinite(labels) & ~censored
        used = labels[known]
        if len(used) < 2:
            raise ModelError(f"target {target!r}: {len(used)} labels that are not censored are too few to train on")
        values = _formed(torch.as_tensor(np.asarray(used), dtype=torch.float64), form)
        return LabelScale(target, form, float(values.mean()), max(float(values.std()), 1e-3))

    @staticmethod
    def from_json(target: str, data: Mapping[str, Any]) -> LabelScale:
        """Inverse of `to_json`; raises `ModelError` for anything else."""
        try:
            return LabelScale(target, data["form"], float(data["mean"]), float(data["sd"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the labels of target {target!r} are not described: {error!r}") from error

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"form": self.form, "mean": self.mean, "sd": self.sd}

    def z(self, labels: Tensor) -> Tensor:
        """What the network is to say, from labels: log2 of px (frc) or probability (mm)."""
        return (_formed(labels.float(), self.form) - self.mean) / self.sd

    def bounded(self, labels: Tensor, censored: Tensor) -> tuple[Tensor, Tensor]:
        """Labels as `z`, and which are bounds; NaN, an image without a label, becomes a bound that nothing reaches."""
        z, none = self.z(labels), ~torch.isfinite(labels)
        return torch.where(none, torch.full_like(z, UNREACHED), z), censored | none

    def unit(self, z: Tensor) -> Tensor:
        """Back in the unit of `form`."""
        return z * self.sd + self.mean

    def label(self, value: Tensor) -> Tensor:
        """The label, log2 of px or probability, of a number shown: `z` of it is what `value` shows as that number."""
        return torch.log2(NYQUIST_PX / value) if self.form == "log2_px" else value

    def value(self, z: Tensor) -> Tensor:
        """The number shown, higher is better: probability, or 2 px over the resolution (share of Nyquist)."""
        unit = self.unit(z)
        if self.form == "log2_px":
            return NYQUIST_PX / torch.exp2(unit)
        return torch.sigmoid(unit) if self.form == "logit" else unit.clamp(0.0, 1.0)


def _formed(labels: Tensor, form: Form) -> Tensor:
    if form != "logit":
        return labels
    return torch.logit(labels.double().clamp(LOGIT_CLIP, 1.0 - LOGIT_CLIP)).to(labels.dtype)
