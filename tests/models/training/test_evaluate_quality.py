"""The tables judge a judge rightly: one that knows is found perfect, one that guesses or moves is found out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.models.base import Assessment, PatchMap
from parfocal.models.training.evaluate_quality import (
    ORDERED,
    TARGETS,
    agreement,
    along_rows,
    invariance,
    label_judge,
    order,
    order_of_labels,
    pairs_below,
    regained,
    with_hot_pixel,
)
from parfocal.models.training.quality_data import QualitySource, quality_chunk
from parfocal.models.training.quality_tables import render, tables

SOURCE = QualitySource(None, "test", 12, size_px=64, seed=5, table1_only=True)


def answer(frc: float, mm: float, **more: float) -> Assessment:
    return Assessment("quality", mm, 0.1, False, "", {"frc_px": 2.0**frc, "mm": mm, **more})


class Knows:
    """Says the labels of a chunk's images, in the order they come, with an error of its own."""

    def __init__(self, images: int, error: float = 0.0) -> None:
        self.chunk = quality_chunk(SOURCE, 0, images)
        self.at = 0
        self.error = error

    def __call__(self, image: NDArray[Any]) -> Assessment:
        chunk, at = self.chunk, self.at
        assert np.array_equal(image, chunk["counts"][at])
        self.at += 1
        said = int(chunk["artefact"][at]) if at else 5
        return answer(float(chunk["frc"][at]) + self.error, float(chunk["mm"][at]), artefact=float(said))


def sharpness(image: NDArray[Any]) -> Assessment:
    """Gradients over contrast: falls with blur, rises with noise."""
    pixels = image.astype(float)
    steep = float(np.abs(np.diff(pixels, axis=0)).mean() / max(pixels.std(), 1e-9))
    return answer(-steep, min(steep, 1.0))


def test_a_judge_that_says_the_labels_agrees_with_them() -> None:
    found = agreement(Knows(24, error=0.1), SOURCE, images=24, targets=TARGETS)
    chunk = quality_chunk(SOURCE, 0, 24)
    sd = float(np.std(chunk["frc"][~chunk["frc_censored"]]))
    assert found["frc_spearman"] == found["mm_spearman"] == pytest.approx(1.0)
    assert found["frc_mae_sd"] == pytest.approx(0.1 / sd, rel=1e-3)
    assert found["mm_mae_sd"] == pytest.approx(0.0, abs=1e-6)
    wrong = chunk["artefact"][0] != 5
    assert found["artefact_accuracy"] == pytest.approx((24 - wrong) / 24)
    assert np.asarray(found["confusion"]).sum() == 24


def test_levels_in_order_are_found_so_and_an_abstention_is_disorder() -> None:
    found = order(sharpness, SOURCE, samples=2, targets=TARGETS)
    assert set(found) == {f"{artefact} {target}" for artefact in ORDERED for target in TARGETS}
    assert found["blur frc"] == pytest.approx({"grouped": 1.0, "median": 1.0, "answered": 1.0})
    assert found["readout frc"]["median"] < 0  # noise looks sharp to it
    silent = order(lambda _: Assessment.abstain("quality", "no"), SOURCE, samples=1, targets=("mm",))
    assert silent["blur mm"] == {"grouped": 0.0, "median": 0.0, "answered": 0.0}


def test_the_labels_have_an_order_of_their_own_for_the_same_images() -> None:
    found = order_of_labels(QualitySource(None, "test", 12, size_px=128, seed=5, table1_only=True), samples=2)
    assert set(found) == {f"{artefact} {target}" for artefact in ORDERED for target in TARGETS}
    assert found["blur frc"]["grouped"] == pytest.approx(1.0)
    assert all(abs(row["median"]) <= 1.0 + 1e-9 and row["answered"] == 1.0 for row in found.values())


def test_rows_are_judged_by_their_own_patches() -> None:
    source = QualitySource(None, "test", 12, size_px=256, seed=5, table1_only=True)

    def mapped(image: NDArray[Any], *, turned: bool = False) -> Assessment:
        """Fine structure of each patch, of which noise makes more."""
        fine = np.abs(ndimage.laplace(image.astype(float))).reshape(8, 32, 8, 32).mean(axis=(1, 3))
        value = -np.log(fine) if turned else np.log(fine)
        return Assessment("quality", 0.5, 0.1, patch_map=PatchMap(value, np.ones_like(value), 32, 32))

    upright, turned = (along_rows(lambda i, t=t: mapped(i, turned=t), source, samples=3) for t in (False, True))  # type: ignore[misc]
    assert turned["noise"] > 0.9
    assert upright == pytest.approx({kind: -value for kind, value in turned.items()})
    assert along_rows(lambda _: answer(1.0, 0.5), source, samples=1) == {"blur": 0.0, "noise": 0.0}


def test_a_score_that_follows_gain_or_a_hot_pixel_is_found_out() -> None:
    def steady(image: NDArray[Any]) -> Assessment:
        ranks = float(np.mean(image > np.median(image)))
        return answer(ranks, ranks)

    def peaky(image: NDArray[Any]) -> Assessment:
        share = float(np.ptp(np.percentile(image, [10, 90])) / np.ptp(image))
        return answer(share, share)

    def bright(image: NDArray[Any]) -> Assessment:
        return answer(float(np.log2(image.mean())), 0.5)

    steady_row, peaky_row, bright_row = (
        invariance(judge, SOURCE, images=12, targets=("frc",)) for judge in (steady, peaky, bright)
    )
    assert steady_row["frc_hot_p95"] < 0.02
    assert peaky_row["frc_p95"] < 0.02 < 0.1 < peaky_row["frc_hot_mean"]
    assert bright_row["frc_mean"] > 0.5


def test_a_hot_pixel_is_one_pixel_and_gain_and_offset_keep_the_rest() -> None:
    image = np.arange(100, 4196, dtype=np.uint16).reshape(64, 64)
    hot = with_hot_pixel(image)
    assert np.count_nonzero(hot != image) == 1
    assert int(hot.max()) == 100 + 3 * 4095
    assert np.array_equal(regained(image, 2.0, 100.0), image * 2 + 100)
    assert int(with_hot_pixel(np.full((32, 32), 65535, np.uint16) - image[:32, :32] % 2).max()) == 65535


def test_pairs_count_for_the_clean_image_unless_it_has_no_answer() -> None:
    def mean(image: NDArray[Any]) -> Assessment:
        value = float(image.mean())
        return answer(-value, value) if value > 0 else Assessment.abstain("quality", "dark")

    def flat(*values: int) -> list[NDArray[Any]]:
        return [np.full((32, 32), value) for value in values]

    assert pairs_below(mean, flat(5, 3), flat(4, 1, 0), "mm") == {"clean": 2, "bad": 3, "below": pytest.approx(5 / 6)}
    assert pairs_below(mean, flat(0), flat(4, 0), "mm")["below"] == 0.0


def test_labels_can_be_measured_of_any_image() -> None:
    judge, rng = label_judge(), np.random.default_rng(3)
    clean = np.kron(rng.random((32, 32)) > 0.8, np.ones((4, 4))) * 900.0 + 100.0
    sharp, soft = (judge(rng.poisson(ndimage.gaussian_filter(clean, sigma))) for sigma in (0.7, 4.0))
    assert sharp.detail["frc_px"] < soft.detail["frc_px"] <= 32.0
    assert sharp.value > soft.value
    assert judge(rng.normal(100.0, 1.0, (64, 64))).detail["frc_px"] == 32.0  # nothing correlates


def test_the_tables_have_a_row_a_peer_and_one_of_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    from parfocal.models.training import quality_tables

    monkeypatch.setattr(
        quality_tables, "held_out",
        lambda fields, seed, size_px=64: QualitySource(fields, "test", 12, size_px=64, seed=seed, table1_only=True),
    )  # fmt: skip
    found = tables(fields=None, stacks=None, peers={"mine": (sharpness, TARGETS)}, images=12, samples=8)
    text = render(found)
    assert set(found["order"]) == {"mine", "the labels"}
    assert text.count("| mine |") == 2 + 2 * len(ORDERED) + 1 + 2
    assert "hot pixel" in text
