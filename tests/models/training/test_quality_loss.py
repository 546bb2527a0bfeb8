from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import QualityOutput
from parfocal.models.training.quality_loss import (
    ARTEFACT_SHARE,
    LADDER_MARGIN,
    ORDER_MARGIN,
    VALUE_SHARE,
    artefact_loss,
    deviation,
    frame_loss,
    ladder_loss,
    order_loss,
    paper_loss,
)

FRC = LabelScale("frc", "log2_px", 2.0, 0.5)
MM = LabelScale("mm", "logit", 0.0, 1.0)
NO = torch.tensor([False])


def test_the_papers_loss_is_the_error_of_the_mean_and_the_mean_of_the_errors() -> None:
    quality, weight = torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 1.0]])
    parts = paper_loss(quality, weight, torch.tensor([1.0]), NO)
    assert float(parts["whole"]) == pytest.approx(0.5)  # the weighted mean is 0.5
    assert float(parts["patch"]) == pytest.approx(1.0)
    assert float(parts["total"]) == pytest.approx(1.5)


def test_images_of_a_batch_count_alike() -> None:
    quality, weight = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.ones(2, 2)
    parts = paper_loss(quality, weight, torch.tensor([1.0, 1.0]), torch.tensor([False, False]))
    assert float(parts["whole"]) == pytest.approx(0.5)


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_a_bound_costs_only_what_lies_above_it(said: float, bound: float) -> None:
    one, two = torch.tensor([said]), torch.tensor([bound])
    assert float(deviation(one, two, torch.tensor([True]))[0]) == pytest.approx(max(0.0, said - bound), abs=1e-6)
    assert float(deviation(one, two, NO)[0]) == pytest.approx(abs(said - bound), abs=1e-6)


def test_nothing_pulls_at_an_answer_below_its_bound() -> None:
    quality = torch.tensor([[-1.0, 3.0]], requires_grad=True)
    parts = paper_loss(quality, torch.ones(1, 2), torch.tensor([2.0]), torch.tensor([True]))
    parts["total"].backward()  # type: ignore[no-untyped-call]
    assert quality.grad is not None
    assert quality.grad.tolist() == [[0.0, 0.5]]  # of the patch above the bound; the mean, 1, is below it


def output(score: list[float], patches: list[list[list[float]]]) -> QualityOutput:
    quality = torch.tensor(patches)
    return QualityOutput(torch.tensor(score), quality, torch.ones_like(quality))


def test_a_frame_of_two_images_has_patch_labels_and_no_score() -> None:
    out = output([9.0, 1.0], [[[0.0, 2.0]], [[1.0, 1.0]]])
    label = torch.tensor([[[0.0, 2.0]], [[0.0, 0.0]]])
    parts = frame_loss(out, label, torch.zeros_like(label, dtype=torch.bool), torch.tensor([False, True]), FRC)
    assert float(parts["whole"]) == pytest.approx(1.0)  # the second frame's alone
    assert float(parts["patch"]) == pytest.approx(0.5)
    assert float(parts["total"]) == pytest.approx(1.5)


def test_no_whole_frame_is_no_error() -> None:
    out = output([9.0], [[[1.0]]])
    label = torch.zeros(1, 1, 1)
    parts = frame_loss(out, label, torch.zeros_like(label, dtype=torch.bool), torch.tensor([False]), MM)
    assert float(parts["whole"]) == 0.0
    assert math.isfinite(float(parts["total"]))


def test_logits_are_compared_as_probabilities_as_well() -> None:
    out = output([0.0], [[[0.0]]])
    label = torch.full((1, 1, 1), 2.0)
    parts = frame_loss(out, label, torch.zeros_like(label, dtype=torch.bool), torch.tensor([True]), MM)
    extra = VALUE_SHARE * (1 / (1 + math.exp(-2.0)) - 0.5)
    assert float(parts["total"]) == pytest.approx(4.0 + extra, rel=1e-5)


def test_the_artefact_of_a_mixed_frame_is_not_asked_for() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.0]])
    both = torch.tensor([1, 1])
    assert float(artefact_loss(logits, both, torch.tensor([False, True]))) == pytest.approx(
        ARTEFACT_SHARE * math.log(2.0)
    )
    assert float(artefact_loss(logits, both, torch.tensor([True, True]))) > 1.0


def order_of(patches: list[list[float]], label: list[list[float]], scale: LabelScale = FRC) -> float:
    known = torch.tensor([label])
    return float(order_loss(output([0.0], [patches]), known, torch.zeros_like(known, dtype=torch.bool), scale))


@pytest.mark.parametrize("scale", [FRC, MM])
def test_a_map_in_the_order_of_its_labels_lacks_nothing(scale: LabelScale) -> None:
    label = [[0.0, 0.0], [0.2, 0.2], [3.0, 3.0]]
    assert order_of(label, label, scale) == pytest.approx(0.0, abs=1e-5)
    assert order_of([[1.0, 1.0], [1.2, 1.2], [1.8, 1.8]], label, scale) == pytest.approx(0.0, abs=1e-5)  # any height


@pytest.mark.parametrize("scale", [FRC, MM])
def test_a_map_out_of_order_lacks_the_step_and_what_it_goes_the_wrong_way(scale: LabelScale) -> None:
    assert order_of([[0.3, 0.3], [0.0, 0.0]], [[0.0, 0.0], [0.2, 0.2]], scale) == pytest.approx(0.5, abs=1e-4)
    assert order_of([[0.0, 0.3], [0.0, 0.3]], [[0.0, -9.0], [0.0, -9.0]], scale) == pytest.approx(
        0.3 + ORDER_MARGIN, abs=1e-4
    )


def test_the_order_counts_what_users_see_of_a_line_and_weight() -> None:
    out = QualityOutput(
        torch.zeros(1), torch.tensor([[[0.0, 8.0], [1.0, 1.0]]]), torch.tensor([[[1.0, 1e-9], [1.0, 1.0]]])
    )
    label = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    assert float(order_loss(out, label, torch.zeros_like(label, dtype=torch.bool), FRC)) == pytest.approx(0.0, abs=1e-5)


def test_lines_that_are_alike_or_bounds_have_no_order() -> None:
    assert order_of([[0.3, 0.1], [0.0, 9.0]], [[1.0, 1.0], [1.0, 1.0]]) == 0.0
    label = torch.tensor([[[0.0], [1.0]]])
    out = output([0.0], [[[5.0], [0.0]]])
    assert float(order_loss(out, label, torch.tensor([[[False], [True]]]), FRC)) == 0.0
    assert float(order_loss(out, label, torch.tensor([[[False], [False]]]), FRC)) == pytest.approx(5.0 + ORDER_MARGIN)


def test_an_artefact_next_to_none_is_next_to_a_reference() -> None:
    logits, one = torch.tensor([[2.0, 0.0]]), torch.tensor([True])
    as_none, as_one = (float(artefact_loss(logits, torch.tensor([kind]), one)) for kind in (0, 1))
    weak = float(artefact_loss(logits, torch.tensor([1]), one, torch.tensor([-0.75])))
    assert weak == pytest.approx(0.75 * as_none + 0.25 * as_one, rel=1e-5)
    assert float(artefact_loss(logits, torch.tensor([1]), one, torch.tensor([0.5]))) == pytest.approx(as_one)
    assert float(artefact_loss(logits, torch.tensor([0]), one, torch.tensor([-1.0]))) == pytest.approx(as_none)


LADDER = torch.tensor([0, 0, 0, -1, 1])
LEVEL = torch.tensor([0.0, 0.5, 1.0, 0.2, 0.1])
WHOLE = torch.ones(5, dtype=torch.bool)


@pytest.mark.parametrize(("scale", "sign"), [(MM, 1.0), (FRC, -1.0)])
def test_a_ladder_in_order_lacks_nothing_and_one_the_other_way_round_all_of_it(scale: LabelScale, sign: float) -> None:
    worth = sign * torch.tensor([2.0, 1.0, 0.0, 9.0, 5.0])
    assert float(ladder_loss(worth, LADDER, LEVEL, WHOLE, scale)) == 0.0
    steps = torch.tensor([0.5, 0.5, 1.0])  # of its three pairs
    wrong = float((LADDER_MARGIN * steps + 2.0 * steps).mean())
    assert float(ladder_loss(-worth, LADDER, LEVEL, WHOLE, scale)) == pytest.approx(wrong)


def test_neither_other_specimens_nor_mixed_frames_have_a_place_on_a_ladder() -> None:
    score = torch.tensor([0.0, 1.0, 2.0, 9.0, 5.0])
    mixed = torch.tensor([True, False, True, True, True])
    one = float(ladder_loss(score, LADDER, LEVEL, mixed, MM))
    assert one == pytest.approx(LADDER_MARGIN + 2.0)  # the first and the last alone
    assert float(ladder_loss(score, torch.full((5,), -1), LEVEL, WHOLE, MM)) == 0.0
