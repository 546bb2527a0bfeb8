"""The tables judge a judge rightly: one that knows is found perfect, one that guesses or moves is found out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.models.base import Assessment, PatchMap
from parfocal.models.training.evaluate_quality import (
    DRAWN,
    ORDERED,
    REAL,
    TARGETS,
    agreement,
    along_rows,
    invariance,
    kinds_of,
    label_judge,
    order,
    order_of_labels,
    pairs_below,
    regained,
    with_hot_pixel,
)
from parfocal.models.training.quality_data import QualitySource, quality_chunk
from parfocal.models.training.quality_tables import render, tables
from tests.models.training.test_fields import write
from tests.models.training.test_quality_data import blocks

SOURCE = QualitySource(None, "test", 12, size_px=64, seed=5, table1_only=True)


def answer(frc: float, mm: float, **more: float) -> Assessment:
    return Assessment("quality", mm, 0.1, False, "", {"frc_px": 2.0**frc, "mm": mm, **more})


class Knows:
    """Says the labels of a chunk's images, in the order they come, with an error of its own."""

    def __init__(self, images: int, error: float = 0.0, source: QualitySource = SOURCE) -> None:
        self.chunk = quality_chunk(source, 0, images)
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


def test_real_fields_and_procedural_specimens_are_counted_and_judged_apart(tmp_path: Path) -> None:
    write(tmp_path / "cells", "test", [blocks(seed) for seed in range(3)])
    source = replace(SOURCE, fields=tmp_path)

    class KnowsTheDrawn(Knows):
        """Is right about procedural specimens and says the opposite of real fields."""

        def __call__(self, image: NDArray[Any]) -> Assessment:
            real, right = bool(self.chunk["real"][self.at]), super().__call__(image)
            return answer(*(-right.detail[name] for name in ("frc_px", "mm"))) if real else right

    found = agreement(KnowsTheDrawn(40, source=source), source, images=40, targets=("mm",))
    kinds = found["by kind"]
    real = int(quality_chunk(source, 0, 40)["real"].sum())
    assert {kind: row["images"] for kind, row in kinds.items()} == {REAL: real, DRAWN: 40 - real}
    assert found["images"] == 40
    assert kinds[DRAWN]["mm_spearman"] == pytest.approx(1.0)
    assert kinds[REAL]["mm_spearman"] == pytest.approx(-1.0)
    assert -1.0 < found["mm_spearman"] < 1.0
    assert kinds[DRAWN]["mm_mae_sd"] == pytest.approx(0.0, abs=1e-6) and kinds[REAL]["mm_mae_sd"] > 0.1
    assert kinds[DRAWN]["artefact_accuracy"] > 0.9


def test_too_few_images_of_a_kind_have_a_count_and_no_number() -> None:
    found = agreement(Knows(2), SOURCE, images=2, targets=("mm",))
    assert found["by kind"][DRAWN]["images"] == 2
    assert np.isnan(found["by kind"][DRAWN]["mm_spearman"]) and np.isnan(found["mm_mae_sd"])


def test_kinds_are_counted() -> None:
    assert kinds_of([True, False, True]) == {REAL: 2, DRAWN: 1}
    assert kinds_of([False]) == {DRAWN: 1}


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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of small images."""
    from parfocal.models.training import quality_tables

    monkeypatch.setattr(
        quality_tables, "held_out",
        lambda fields, seed, size_px=64: QualitySource(fields, "test", 12, size_px=64, seed=seed, table1_only=True),
    )  # fmt: skip


@pytest.mark.usefixtures("small")
def test_the_tables_have_a_row_a_peer_and_one_of_the_labels() -> None:
    with structlog.testing.capture_logs() as said:
        found = tables(fields=None, stacks=None, peers={"mine": (sharpness, TARGETS)}, images=12, samples=8)
    text = render(found)
    assert set(found["order"]) == {"mine", "the labels"}
    assert text.count("| mine |") == 2 + 2 * len(ORDERED) + 1 + 2
    assert "hot pixel" in text
    assert found["made of"] == {"order": {DRAWN: 8}, "rows": {DRAWN: 4}, "invariance": {DRAWN: 8}}
    assert (text.count(f"(8 {DRAWN})"), text.count(f"(4 {DRAWN})")) == (2, 1)
    # No real images: a sentence that says which would be needed, and no header over nothing.
    assert "| below |" not in text
    assert "No such images" in text and "`vignetted`" in text and "`live_low_snr`" in text and "--stacks" in text
    # Whoever waits for an hour sees how far it is.
    assert [one["table"] for one in said if one["event"] == "measured" and one["network"] == "mine"] == [
        "agreement with the labels", "order of levels", "patches", "camera", "real bad images",
    ]  # fmt: skip


@pytest.mark.usefixtures("small")
def test_the_tables_say_what_they_are_made_of(tmp_path: Path) -> None:
    for source in ("cells", "dsb2018"):
        write(tmp_path / source, "test", [blocks(seed) for seed in range(3)])
    (tmp_path / "vignetted").mkdir()
    for number in range(2):
        tifffile.imwrite(tmp_path / "vignetted" / f"{number}.tif", blocks(9 + number) // 3)
    judged: list[int] = []

    def mean(image: NDArray[Any]) -> Assessment:
        judged.append(id(image))
        return answer(1.0, float(image.mean()) / 65535)

    found = tables(fields=tmp_path, stacks=None, peers={"mine": (mean, TARGETS)}, images=24, samples=8)
    assert found["real sets"] == {
        "vignetted": {"clean": {"cells": 2}, "bad": 2},
        "vignetted; dsb2018 among the clean": {"clean": {"cells": 2, "dsb2018": 2}, "bad": 2},
    }
    assert found["real"]["mine"]["vignetted, mm"] == {"clean": 2, "bad": 2, "below": 1.0}
    assert found["real"]["mine"]["vignetted; dsb2018 among the clean, mm"]["clean"] == 4
    for kinds in found["made of"].values():
        assert set(kinds) <= {REAL, DRAWN}
    assert sum(found["made of"]["order"].values()) == 8
    text = render(found)
    both, real, drawn = (f"| mine | {kind} | {{}} | mm |" for kind in ("both", REAL, DRAWN))
    many = found["agreement"]["mine"]["by kind"][REAL]["images"]
    for row, images in ((both, 24), (real, many), (drawn, 24 - many)):
        assert row.format(images) in text
    assert "- vignetted: 2 bad; clean, test split: 2 cells\n" in text
    assert "dsb2018 is among the clean only where the set's name says so" in text
    assert f"{found['made of']['rows'].get(REAL, 0)} {REAL}" in text or REAL not in found["made of"]["rows"]
