from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parfocal.models.base import ModelError
from parfocal.models.quality_labels import LOGIT_CLIP, LabelScale


def test_labels_get_mean_0_and_sd_1_and_bounds_do_not_count() -> None:
    labels = np.asarray([1.0, 2.0, 3.0, 50.0], dtype=np.float32)
    scale = LabelScale.of("frc", "log2_px", labels, np.asarray([False, False, False, True]))
    assert (scale.mean, scale.sd) == (2.0, 1.0)
    assert scale.z(torch.tensor([1.0, 2.0, 3.0])).tolist() == [-1.0, 0.0, 1.0]


def test_what_has_no_label_does_not_count() -> None:
    scale = LabelScale.of("mm", "probability", np.asarray([0.0, 0.5, 1.0, np.nan], dtype=np.float32))
    assert scale.mean == 0.5


def test_a_resolution_is_shown_as_the_share_of_nyquist() -> None:
    scale = LabelScale("frc", "log2_px", 2.0, 0.5)
    assert float(scale.value(scale.z(torch.tensor([3.0])))[0]) == pytest.approx(2.0 / 8.0)


@given(st.floats(0.001, 0.999), st.floats(-3, 3), st.floats(0.1, 5))
def test_probabilities_come_back_as_they_went_in(p: float, mean: float, sd: float) -> None:
    scale = LabelScale("mm", "logit", mean, sd)
    assert float(scale.value(scale.z(torch.tensor([p])))[0]) == pytest.approx(p, abs=1e-4)


def test_certain_probabilities_have_finite_logits() -> None:
    scale = LabelScale("mm", "logit", 0.0, 1.0)
    z = scale.z(torch.tensor([0.0, 1.0]))
    assert torch.isfinite(z).all()
    assert float(z[0]) == pytest.approx(float(np.log(LOGIT_CLIP)), rel=1e-3)


def test_a_probability_said_beyond_0_and_1_is_shown_at_the_border() -> None:
    scale = LabelScale("mm", "probability", 0.5, 0.3)
    assert scale.value(torch.tensor([-9.0, 0.0, 9.0])).tolist() == [0.0, 0.5, 1.0]


@given(st.floats(-2, 2), st.floats(0.01, 1))
def test_more_is_better_in_either_target(z: float, step: float) -> None:
    mm, frc = LabelScale("mm", "logit", 0.2, 1.5), LabelScale("frc", "log2_px", 2.0, 0.7)
    assert float(mm.value(torch.tensor(z + step))) > float(mm.value(torch.tensor(z)))
    assert float(frc.value(torch.tensor(z + step))) < float(frc.value(torch.tensor(z)))


def test_it_survives_a_card() -> None:
    scale = LabelScale("mm", "logit", -1.25, 2.5)
    assert LabelScale.from_json("mm", scale.to_json()) == scale


@pytest.mark.parametrize(
    "data", [{}, {"form": "logit", "mean": 0.0, "sd": 0.0}, {"form": "log2_px", "mean": 0.0, "sd": 1.0}, {"form": 3}]
)
def test_what_is_no_scale_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        LabelScale.from_json("mm", data)


def test_a_set_of_bounds_alone_cannot_be_learned() -> None:
    with pytest.raises(ModelError, match="too few"):
        LabelScale.of("frc", "log2_px", np.ones(5, dtype=np.float32), np.ones(5, dtype=bool))
