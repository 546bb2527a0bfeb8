"""Spots and nuclei that an image shows and its truth has not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from parfocal.models.training.restore_structures import Count, added, nuclei, otsu, spots, structures

SIDE = 128
NONE = np.zeros((SIDE, SIDE), dtype=bool)
NOISE = np.ones((SIDE, SIDE))


def dots(*places: tuple[int, int], light: float = 2000.0, sd: float = 1.5) -> NDArray[np.float64]:
    image = np.zeros((SIDE, SIDE))
    for row, column in places:
        image[row, column] += light
    return 100.0 + ndimage.gaussian_filter(image, sd)


def discs(*places: tuple[int, int], radius: float = 8.0) -> NDArray[np.float64]:
    y, x = np.mgrid[:SIDE, :SIDE]
    return 10.0 + 100.0 * np.sum([np.hypot(y - r, x - c) < radius for r, c in places], axis=0)


TRUE = ((30, 30), (30, 80), (90, 60))


def test_the_truth_invents_nothing_and_finds_itself() -> None:
    found = spots({"truth": dots(*TRUE)}, dots(*TRUE), NOISE, NONE)["truth"]
    assert found.invented == 0
    assert found.found == found.true == found.again > 0
    assert found.false_discovery == 0.0
    assert found.recall == 1.0


def test_a_spot_that_is_not_there_is_invented_and_one_that_is_gone_is_missed() -> None:
    images = {"more": dots(*TRUE, (60, 110)), "fewer": dots(*TRUE[:2])}
    found = spots(images, dots(*TRUE), NOISE, NONE)
    truth = spots({"truth": dots(*TRUE)}, dots(*TRUE), NOISE, NONE)["truth"]
    each = truth.found // 3  # once at each scale that sees it
    assert (found["more"].found, found["more"].invented) == (truth.found + each, each)
    assert (found["fewer"].invented, found["fewer"].again) == (0, truth.true - each)
    assert found["more"].false_discovery == pytest.approx(0.25)


def test_what_the_noise_could_be_is_no_spot() -> None:
    rng = np.random.default_rng(1)
    images = {str(n): 100.0 + rng.normal(0.0, 4.0, (SIDE, SIDE)) for n in range(8)}
    quiet = spots(images, np.full((SIDE, SIDE), 100.0), 4.0 * NOISE, NONE)
    assert added(quiet.values()).found <= 1
    # The same images by somebody who thinks the camera better than it is.
    loud = spots(images, np.full((SIDE, SIDE), 100.0), NOISE, NONE)
    assert added(loud.values()).found > 100
    assert added(loud.values()).false_discovery == 1.0


def test_a_faint_spot_made_brighter_is_not_invented() -> None:
    bar = next(
        light
        for light in range(10, 400, 5)
        if spots({"a": dots((64, 64), light=light)}, dots(), NOISE, NONE)["a"].found
    )
    faint = dots((64, 64), light=0.7 * bar)
    assert spots({"a": faint}, faint, NOISE, NONE)["a"].found == 0
    bright = spots({"a": dots((64, 64), light=2.0 * bar)}, faint, NOISE, NONE)["a"]
    assert bright.found > 0
    assert bright.invented == 0
    fainter = spots({"a": dots((64, 64), light=2.0 * bar)}, dots((64, 64), light=0.2 * bar), NOISE, NONE)["a"]
    assert fainter.invented == fainter.found


def test_a_hot_pixel_is_the_cameras_and_its_halo_the_methods() -> None:
    frame = dots()
    frame[50, 50] += 500.0
    hot = NONE.copy()
    hot[50, 50] = True
    assert spots({"raw": frame}, dots(), NOISE, NONE)["raw"].invented > 0
    assert spots({"raw": frame}, dots(), NOISE, hot)["raw"].invented == 0
    assert spots({"ring": dots((50, 62))}, dots(), NOISE, hot)["ring"].invented > 0


def test_otsu_is_the_one_everybody_uses() -> None:
    rng = np.random.default_rng(2)
    image = np.concatenate([rng.normal(10.0, 2.0, 3000), rng.normal(30.0, 4.0, 1000)]).reshape(40, 100)
    assert otsu(image) == pytest.approx(threshold_otsu(image, nbins=256), abs=2 * np.ptp(image) / 256)


def test_nuclei_are_matched_by_overlap() -> None:
    truth = discs((30, 30), (30, 90), (90, 60))
    images = {
        "same": truth, "moved": discs((30, 30), (30, 90), (90, 60 + 9)),
        "more": discs((30, 30), (30, 90), (90, 60), (95, 110)),
    }  # fmt: skip
    found = nuclei(images, truth)
    assert found["same"] == Count(3, 0, 3, 3)
    assert found["moved"] == Count(3, 1, 3, 2)
    assert found["more"] == Count(4, 1, 3, 3)


def test_specks_are_no_nuclei_and_two_merged_are_neither() -> None:
    truth = discs((40, 40), (40, 58))
    speckled = truth.copy()
    speckled[100:103, 100:103] = 200.0
    merged = truth.copy()
    merged[34:46, 40:58] = 110.0
    found = nuclei({"speckled": speckled, "merged": merged}, truth)
    assert found["speckled"] == Count(2, 0, 2, 2)
    assert found["merged"].invented == 1


def test_nuclei_count_only_where_a_case_has_them() -> None:
    truth = discs((30, 30))
    assert structures({"a": truth}, truth, NOISE, NONE, "nuclei")["a"]["nuclei"].found == 1
    assert structures({"a": truth}, truth, NOISE, NONE, "filaments")["a"]["nuclei"] == Count()


def test_counts_add_up() -> None:
    total = added([Count(2, 1, 3, 1), Count(2, 0, 1, 1)])
    assert total == Count(4, 1, 4, 2)
    assert (total.false_discovery, total.recall) == (0.25, 0.5)
    assert np.isnan(added([]).false_discovery)
