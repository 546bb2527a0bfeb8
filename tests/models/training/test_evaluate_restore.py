"""Methods on the same frames: who is there, what counts as refused, and the tables made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.models.base import ImageError
from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Blur, Restoration, RestoreError, Verdict, unchanged
from parfocal.models.training import restore_tables as tables
from parfocal.models.training.evaluate_restore import (
    IDENTITY,
    Row,
    attempt,
    judged,
    peers,
    run,
    truly,
)
from parfocal.models.training.restore_cases import RestoreCase, cases, samples
from parfocal.models.training.restore_stacks import FAR_KIND
from parfocal.models.training.restore_structures import Count
from parfocal.simulator.optics import Optics


@pytest.fixture(scope="module")
def some() -> list[RestoreCase]:
    return list(cases(samples(None, count=1, size_px=96, seed=4), seed=4, depths=(2.0, 3.0)))


class Told:
    """A restorer that answers what it is told to."""

    def __init__(self, name: str, answer: Callable[[NDArray[Any], Blur], Restoration]) -> None:
        self.name, self._answer = name, answer

    def restore(self, frame: NDArray[Any], blur: Blur) -> Restoration:
        return self._answer(frame, blur)


def oracle(case: RestoreCase, *, sd: NDArray[Any] | None = None) -> Told:
    def answer(frame: NDArray[Any], blur: Blur) -> Restoration:
        image = (case.truth + 1e-3 * frame).astype(np.float32)
        return Restoration("oracle", Verdict.RESTORED, "", image, sd, np.zeros((3, 3), dtype=bool), blur)

    return Told("oracle", answer)


def test_methods_without_weights_are_absent_with_a_reason_and_identity_is_always_there(tmp_path: Path) -> None:
    found = peers(["wiener", "unet"], {"unet": tmp_path / "none.json"})
    assert list(found.here) == [IDENTITY, "wiener"]
    assert "none.json" in found.absent["unet"]
    with pytest.raises(RestoreError, match="unknown method 'wienr'"):
        peers(["wienr"])


def test_a_blur_that_is_not_known_refuses_for_all_but_the_identity(some: list[RestoreCase]) -> None:
    def nobody_knows(frame: NDArray[Any], optics: Optics) -> Blur:
        raise RestoreError("nobody knows")

    here = {name: make_restorer(name) for name in (IDENTITY, "wiener")}
    rows = run(some[:1], here, nobody_knows)
    assert [(row.method, row.verdict, row.known) for row in rows] == [
        (IDENTITY, Verdict.RESTORED, True), ("wiener", Verdict.REFUSED, False),
    ]  # fmt: skip
    assert rows[1].reason == "nobody knows"
    assert rows[1].measures == {}
    assert rows[0].measures["psnr"] > 0


def test_an_error_with_its_reason_is_a_refusal_and_any_other_is_an_error(some: list[RestoreCase]) -> None:
    def failing(error: Exception) -> Told:
        def answer(frame: NDArray[Any], blur: Blur) -> Restoration:
            raise error

        return Told("failing", answer)

    made = attempt(failing(ImageError("in colour")), some[0].frame, truly(some[0]), "")
    assert (made.verdict, made.reason) == (Verdict.REFUSED, "in colour")
    with pytest.raises(ZeroDivisionError):
        attempt(failing(ZeroDivisionError()), some[0].frame, truly(some[0]), "")


def test_the_true_blur_is_told_where_no_estimate_is_asked_for(some: list[RestoreCase]) -> None:
    seen: list[Blur] = []

    def answer(frame: NDArray[Any], blur: Blur) -> Restoration:
        seen.append(blur)
        return unchanged("told", Verdict.IN_FOCUS, "", frame.astype(np.float32), blur)

    run(some[:1], {IDENTITY: make_restorer(IDENTITY), "told": Told("told", answer)})
    assert seen[0].defocus_um == some[0].defocus_um
    assert seen[0].optics is some[0].optics


def test_wiener_gains_on_a_frame_whose_blur_is_known(some: list[RestoreCase]) -> None:
    here = {name: make_restorer(name) for name in (IDENTITY, "wiener", "richardson_lucy")}
    found = tables.table(run(some, here))
    assert list(found) == [IDENTITY, "affine identity", "wiener", "richardson_lucy"]
    assert found["wiener"]["gain"] > 0.5
    assert found[IDENTITY]["gain"] <= 0.0
    assert found["affine identity"]["gain"] == 0.0
    assert found["affine identity"]["psnr"] >= found[IDENTITY]["psnr"]
    assert np.isnan(found["wiener"]["over_filters"])


def test_the_sd_is_judged_where_the_pixels_are_the_methods_own(some: list[RestoreCase]) -> None:
    case = some[0]
    sd = np.abs(case.truth + 1e-3 * case.frame - case.truth).astype(np.float32)
    results = {IDENTITY: make_restorer(IDENTITY).restore(case.frame, truly(case))}
    results["oracle"] = oracle(case, sd=sd).restore(case.frame, truly(case))
    rows = judged(case, results)
    assert rows[1].measures["sd_pixels"] == pytest.approx(1.0)
    assert "sd_pixels" not in rows[0].measures
    results["oracle"] = replace(results["oracle"], refused=np.ones((3, 3), dtype=bool))
    assert np.isnan(judged(case, results)[1].measures["sd_pixels"])


def row(method: str, psnr: float = 0.0, *, ssim: float = 0.5, refused: bool = False, spots: Count | None = None,
        depths: float = 1.0, photons: float = 200.0, sd: float = np.nan) -> Row:  # fmt: skip
    verdict = Verdict.REFUSED if refused else Verdict.RESTORED
    measures = {"psnr": psnr, "ssim": ssim, "pcc": 0.9, "psnr_fit": psnr + 1.0, "ssim_fit": ssim, "sd_pixels": sd}
    counts = {"spots": spots or Count(), "nuclei": Count()}
    return Row(method, "nuclei", depths, photons, verdict, "", True, float(refused), {} if refused else measures,
               {} if refused else counts)  # fmt: skip


ROWS = [
    row(IDENTITY, 20.0, spots=Count(10, 2, 10, 8)), row("wiener", 23.0, ssim=0.6),
    row("richardson_lucy", 25.0, ssim=0.6),
    row("unet", 27.0, ssim=0.7, spots=Count(10, 1, 10, 9), sd=0.7),
    row(IDENTITY, 30.0, depths=2.0, spots=Count(10, 4, 10, 6)), row("wiener", 33.0, ssim=0.4, depths=2.0),
    row("richardson_lucy", 31.0, depths=2.0),
    row("unet", 35.0, ssim=0.4, depths=2.0, spots=Count(10, 3, 10, 7), sd=0.5),
    row(IDENTITY, 10.0, photons=2000.0, spots=Count(10, 10, 10, 0)), row("wiener", 15.0, photons=2000.0),
    row("richardson_lucy", 9.0, photons=2000.0), row("unet", refused=True, photons=2000.0),
]  # fmt: skip


def test_means_are_over_what_is_shown_and_leads_over_the_same_frames() -> None:
    found = tables.table(ROWS)["unet"]
    assert found["images"] == 3
    assert found["refused"] == pytest.approx(1 / 3)
    assert found["psnr"] == 31.0
    assert found["gain"] == pytest.approx(((27.0 - 21.0) + (35.0 - 31.0)) / 2)
    assert found["gain_fit"] == pytest.approx(((28.0 - 21.0) + (36.0 - 31.0)) / 2)
    assert found["ssim_higher"] == 0.5
    assert found["over_filters"] == pytest.approx(((27.0 - 25.0) + (35.0 - 33.0)) / 2)
    assert found["over_filter_means"] == pytest.approx(31.0 - max((23.0 + 33.0) / 2, (25.0 + 31.0) / 2))
    assert (found["sd_pixels_median"], found["sd_pixels_mean"]) == (pytest.approx(0.6), pytest.approx(0.6))
    # The frame that it refused is the identity's worst: it must not make the identity look worse.
    assert found["spots_false"] == pytest.approx(4 / 20)
    assert found["spots_false_identity"] == pytest.approx(6 / 20)
    assert found["spots_recall"] == pytest.approx(16 / 20)


def test_the_cyclegan_is_met_on_the_frames_that_it_shows() -> None:
    rows = [*ROWS[:4], row("comi", 26.0, ssim=0.8), *ROWS[4:8], row("comi", refused=True)]
    assert tables.table(rows)["unet"]["over_comi"] == {
        "psnr": pytest.approx(1.0), "ssim": pytest.approx(-0.1), "pcc": pytest.approx(0.0),
    }  # fmt: skip
    assert tables.table(rows)["comi"]["over_comi"] is None
    asked = {one["what"]: one["reached"] for one in tables.goals({"held out": {"table": tables.table(rows)}}, "unet")}
    assert asked["lead over the CycleGAN, PSNR"]
    assert not asked["lead over the CycleGAN, SSIM"]


def test_gains_are_told_by_defocus_and_light() -> None:
    held = {(cell["depths"], cell["photons"]): cell for cell in tables.gains(ROWS)["unet"]}
    assert held[1.0, 200.0]["gain"] == pytest.approx(6.0)
    assert held[2.0, None]["gain"] == pytest.approx(4.0)
    assert held[None, None]["images"] == 3
    assert held[None, 2000.0]["refused"] == 1.0
    assert np.isnan(held[None, 2000.0]["gain"])
    assert held[2.0, 2000.0]["images"] == 0


def test_goals_say_what_fell_short() -> None:
    bad = {"all": {"methods": {"unet": {"refused": 0.97}}}}
    series = [{"method": "unet", "worse": 0}, {"method": "wiener", "worse": 3}, {"method": "unet"}]
    found = {"held out": {"table": tables.table(ROWS)}, "refusals": bad, "series": series}
    asked = {one["what"]: one for one in tables.goals(found, "unet")}
    assert {what: one["reached"] for what, one in asked.items()} == {
        "gain over affine identity, dB": True,
        "lead over the better of Wiener and RL, image by image, dB": True,
        "lead over the better of their means, dB": True,
        "share of images with higher SSIM": False,
        "good frames refused": False,
        "uncertainty against error, Spearman, median": True,
        "invented spots, false discovery rate": True,
        "planes of real series made worse": True,
        "frames beyond recovery, empty or unlike refused": True,
    }
    assert tables.goals(found, "comi") == []


def test_work_time_and_real_far_frames_are_asked_where_they_were_measured() -> None:
    def asked(**more: Any) -> dict[str, tuple[float, bool]]:
        found = {"held out": {"table": tables.table(ROWS)}, **more}
        return {one["what"]: (one["found"], one["reached"]) for one in tables.goals(found, "unet")}

    work, time_ = "times less work than the CycleGAN", "a 512 px frame on one core, gate included, ms of processor time"
    far = "32 um out of focus, real: refused"
    none = asked()
    assert not {work, time_, far} & set(none)
    reached = asked(
        cost={"unet": {"gmac": 3.0, "ms": 59.0}, "comi": {"gmac": 60.0}},
        refusals={"all": {"methods": {"unet": {"refused": 0.9}}}, FAR_KIND: {"methods": {"unet": {"refused": 1.0}}}},
    )
    assert (reached[work], reached[time_], reached[far]) == ((20.0, True), (59.0, True), (1.0, True))
    short = asked(
        cost={"unet": {"gmac": 3.0, "ms": 61.0}, "comi": {"gmac": 57.0}},
        refusals={"all": {"methods": {"unet": {"refused": 0.9}}}, FAR_KIND: {"methods": {"unet": {"refused": 0.5}}}},
    )
    assert (short[work], short[time_], short[far]) == ((19.0, False), (61.0, False), (0.5, False))
    assert work not in asked(cost={"unet": {"gmac": 3.0}})
