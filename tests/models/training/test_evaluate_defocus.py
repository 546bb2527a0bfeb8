from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from parfocal.models.base import Assessment
from parfocal.models.training import evaluate_defocus as evaluate
from parfocal.models.training.evaluate_defocus import Case
from parfocal.models.training.fields import Field
from parfocal.simulator.optics import Optics

OPTICS = Optics(na=0.45, pixel_um=0.65, emission_um=0.5)
SCALE = OPTICS.blur_px_per_um
BLANK = np.zeros((8, 8), dtype=np.uint16)


def case(blur_px: float) -> Case:
    return Case(BLANK, OPTICS, -blur_px / SCALE, 100.0, "made", 50.0)


def said(level: float, quantiles_px: tuple[float, float, float, float, float]) -> Assessment:
    names = ("q05", "q25", "q50", "q75", "q95")
    detail = {name: value / SCALE for name, value in zip(names, quantiles_px, strict=True)} | {"level": level}
    return Assessment("fake", quantiles_px[2] / SCALE, 0.1, detail=detail)


def test_answers_are_counted_as_they_are() -> None:
    # Truth 12 px: level 4. Answers: right; one level off and outside the 50 % interval; three levels off; refused.
    answers = iter(
        [
            said(4, (8.0, 10.0, 13.0, 14.0, 16.0)),
            said(5, (8.0, 13.0, 14.0, 15.0, 16.0)),
            said(7, (18.0, 20.0, 21.0, 22.0, 25.0)),
            Assessment.abstain("fake", "nothing there"),
        ]
    )
    told = evaluate.accuracy([case(12.0)] * 4, lambda image, optics: next(answers))
    assert told["images"] == 4
    assert told["abstained"] == 0.25
    assert told["level_within_1"] == pytest.approx(2 / 3, abs=1e-3)
    assert told["cover50"] == pytest.approx(1 / 3, abs=1e-3)
    assert told["cover90"] == pytest.approx(2 / 3, abs=1e-3)
    assert told["mean_error_px"] == pytest.approx((1 + 2 + 9) / 3, abs=1e-3)


def test_levels_past_the_last_count_as_the_last() -> None:
    assert evaluate.judged(said(10, (60, 70, 80, 90, 99)), case(80.0))["within"] == 1.0
    assert evaluate.judged(said(8, (60, 70, 80, 90, 99)), case(80.0))["within"] == 0.0


def test_nothing_but_abstentions_gives_no_accuracy() -> None:
    told = evaluate.accuracy([case(3.0)], lambda image, optics: Assessment.abstain("fake", "no"))
    assert told["abstained"] == 1.0
    assert np.isnan(told["level_within_1"])


def test_an_oracle_is_perfect_and_a_calibrated_liar_is_covered_as_it_says() -> None:
    rng = np.random.default_rng(1)
    cases = [case(float(blur)) for blur in rng.uniform(0, 30, 400)]

    def oracle(image: NDArray[np.uint16], optics: Optics) -> Assessment:
        del image, optics
        truth = abs(cases[oracle_at[0]].defocus_um) * SCALE
        oracle_at[0] += 1
        seen = truth + rng.normal(0.0, 2.0)
        quantiles = tuple(seen + 2.0 * z for z in (-1.645, -0.6745, 0.0, 0.6745, 1.645))
        return said(round(truth / 3.0), quantiles)  # type: ignore[arg-type]

    oracle_at = [0]
    told = evaluate.accuracy(cases, oracle)
    assert told["level_within_1"] == 1.0
    assert told["cover50"] == pytest.approx(0.5, abs=0.08)
    assert told["cover90"] == pytest.approx(0.9, abs=0.05)


def test_cases_are_blurred_as_they_say_and_the_same_for_a_seed() -> None:
    objects = list(evaluate.procedural_objects(2, seed=5, side_px=128))
    made = list(evaluate.blurred_cases(objects, seed=3, photons=(1000.0, 50.0)))
    again = list(evaluate.blurred_cases(objects, seed=3, photons=(1000.0, 50.0)))
    assert [one.photons for one in made] == [1000.0, 50.0, 1000.0, 50.0]
    for one, two in zip(made, again, strict=True):
        np.testing.assert_array_equal(one.counts, two.counts)
        assert one.counts.dtype == np.uint16
        assert one.optics in evaluate.HELD_OUT_OPTICS
        assert one.optics.blur_diameter_px(one.defocus_um) <= 10.4 * 3.0 + 1e-6


def test_fields_are_cropped_about_their_middle_and_binned() -> None:
    image = np.arange(300 * 280, dtype=np.float32).reshape(300, 280)
    small = Field(np.zeros((130, 130), dtype=np.float32), "g", "s")
    (source, crop), *rest = evaluate.field_objects([Field(image, "g", "s"), small], side_px=200)
    assert source == "s"
    np.testing.assert_array_equal(crop, image[50:250, 40:240])
    assert len(rest) == 1
    binned = list(evaluate.field_objects([Field(image, "g", "s"), small], side_px=200, scale=2))
    assert len(binned) == 1  # the other is smaller than a window once binned
    assert binned[0][1][0, 0] == pytest.approx(image[:2, :2].mean())


def test_abstentions_on_empty_fields_are_counted() -> None:
    answers = iter([Assessment.abstain("fake", "empty")] * 3 + [said(1, (1, 2, 3, 4, 5))])
    assert evaluate.empty_abstained(lambda image, optics: next(answers), count=4, seed=1, size_px=64) == 0.75


def test_best_plane_leaves_refusals_out() -> None:
    defocus = (-4.0, -2.0, 0.0, 2.0, 4.0)
    assert evaluate.best_plane(np.asarray([9.0, 4.0, 1.0, 4.0, 9.0]), defocus) == 0
    assert evaluate.best_plane(np.asarray([9.0, 4.0, np.nan, 3.0, 9.0]), defocus) == 1
    assert evaluate.best_plane(np.asarray([0.5, 4.0, 1.0, 3.0, 9.0]), defocus) == 2


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    lines = ["series,file,z_um,defocus_um,pixel_um,modality,truth"]
    for name, pixel in (("one", "0.5"), ("two", "")):
        for index, defocus in enumerate((2.0, -2.0, 0.0)):  # not in order on disk
            file = f"{name}_{index}.tif"
            tifffile.imwrite(tmp_path / file, np.full((16, 16), 100 + int(abs(defocus)), dtype=np.uint16))
            lines.append(f"{name},{file},{defocus},{defocus},{pixel},fluorescence,measured")
    (tmp_path / "truth.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_series_are_read_in_the_order_of_defocus(stacks: Path) -> None:
    one, two = evaluate.read_series(stacks)
    assert one.name == "one"
    assert one.defocus_um == (-2.0, 0.0, 2.0)
    assert [path.name for path in one.planes] == ["one_1.tif", "one_2.tif", "one_0.tif"]
    assert one.pixel_um == 0.5
    assert np.isnan(two.pixel_um)


def test_series_are_scored_by_their_sharpest_plane_or_abstained(stacks: Path) -> None:
    def assess(image: NDArray[np.uint16], pixel_um: float) -> Assessment:
        if np.isnan(pixel_um):
            return Assessment.abstain("fake", "no optics")
        return Assessment("fake", 0.0, 1.0, detail={"blur_px": float(image[0, 0]) - 100.0})

    one, two = evaluate.stack_rows(stacks, assess)
    assert one["blur_px"] == [2.0, 0.0, 2.0]
    assert one["planes_off"] == 0
    assert one["abstained"] == 0
    assert two["planes_off"] is None
    assert two["abstained"] == 3
