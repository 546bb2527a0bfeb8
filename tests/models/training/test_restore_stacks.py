"""Real focus series: which planes are restored, against what, and fields without a truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Blur, Restoration, Verdict, unchanged
from parfocal.models.training import restore_stacks as stacks
from parfocal.models.training.restore_cases import DEPTHS
from parfocal.simulator.optics import Optics

BEADS = stacks.FLUORESCENT["imagexpress_beads"]
RNG = np.random.default_rng(5)
FIELD = 100.0 + 3000.0 * ndimage.gaussian_filter((RNG.random((128, 128)) < 0.004).astype(float), 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One series of beads (pixel 1.3668 um), one by transmitted light, one of optics that nobody knows."""
    lines = ["series,file,z_um,defocus_um,pixel_um,modality,truth"]
    for series in ("imagexpress_beads/s1", "sephace_brightfield", "unheard_of"):
        (tmp_path / series.split("/")[0]).mkdir()
        for number, z_um in enumerate((-10.0, 0.5, 5.0, 40.0)):
            name = f"{series.split('/')[0]}/{number}.tif"
            counts = ndimage.gaussian_filter(FIELD, abs(z_um) / 4 + 0.3) + RNG.normal(0.0, 1.0, FIELD.shape)
            tifffile.imwrite(tmp_path / name, np.roll(counts, 3 if z_um == 5.0 else 0, axis=1).astype(np.uint16))
            lines.append(f"{series},{name},0,{z_um},1.3668,light,by hand")
    (tmp_path / "truth.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_planes_within_reach_are_restored_against_the_one_in_focus(folder: Path) -> None:
    found = list(stacks.planes(folder))
    assert [plane.series for plane in found] == ["imagexpress_beads/s1"] * 2
    assert [plane.depths for plane in found] == [
        pytest.approx(um / found[0].optics.depth_of_field_um) for um in (10.5, 4.5)
    ]
    assert found[0].optics.pixel_um == 1.3668
    assert np.array_equal(found[0].focused, tifffile.imread(folder / "imagexpress_beads/1.tif"))


def test_what_is_not_fluorescence_is_to_be_refused(folder: Path) -> None:
    found = list(stacks.stray_frames(folder))
    assert [name for name, _, _ in found] == ["transmitted light, real"] * 4


def test_fields_far_out_of_focus_are_to_be_refused(tmp_path: Path) -> None:
    assert list(stacks.far_frames(tmp_path)) == []
    (tmp_path / stacks.FAR_FOLDER).mkdir(parents=True)
    for name in ("b.tif", "a.tif"):
        tifffile.imwrite(tmp_path / stacks.FAR_FOLDER / name, np.full((64, 64), ord(name[0]), dtype=np.uint16))
    found = list(stacks.far_frames(tmp_path))
    assert [(kind, int(frame[0, 0]), optics) for kind, frame, optics in found] == [
        (stacks.FAR_KIND, ord("a"), stacks.FAR_OPTICS), (stacks.FAR_KIND, ord("b"), stacks.FAR_OPTICS),
    ]  # fmt: skip
    # Beyond what restoring is measured on.
    assert 32.0 / stacks.FAR_OPTICS.depth_of_field_um > max(DEPTHS)


class Answering:
    """Gives what a function makes of the frame."""

    name = "answering"

    def __init__(self, answer: Callable[[NDArray[Any]], NDArray[Any]], verdict: Verdict = Verdict.RESTORED) -> None:
        self._answer, self._verdict = answer, verdict

    def restore(self, frame: NDArray[Any], blur: Blur) -> Restoration:
        if self._verdict is not Verdict.RESTORED:
            return unchanged(self.name, self._verdict, "", frame.astype(np.float32), blur)
        pixels = self._answer(frame).astype(np.float32)
        return Restoration(self.name, Verdict.RESTORED, "", pixels, None, np.zeros((4, 4), dtype=bool), blur)


def known(frame: NDArray[Any], optics: Optics) -> Blur:
    return Blur(optics, 5.0)


def told(folder: Path, restorer: Answering) -> dict[str, Any]:
    here = {"identity": make_restorer("identity"), "answering": restorer}
    (row,) = stacks.stack_table(folder, here, known)
    return row


def test_the_truth_itself_gains_and_a_blur_loses(folder: Path) -> None:
    focused = tifffile.imread(folder / "imagexpress_beads/1.tif").astype(float)
    best = told(folder, Answering(lambda _: 0.5 * focused + 7.0 + RNG.normal(0.0, 0.01, focused.shape)))
    assert (best["planes"], best["refused"], best["worse"]) == (2, 0, 0)
    assert best["gain"] > 10.0
    assert best["worst"] > 5.0
    assert best["pcc"] > 0.0
    assert best["spectrum_db"] < 0.1 < best["spectrum_db_raw"]
    bad = told(folder, Answering(lambda frame: ndimage.gaussian_filter(frame.astype(float), 6.0)))
    assert bad["worse"] == 2
    assert bad["worst"] <= bad["gain"] < 0.0


def test_a_frame_left_alone_gains_nothing_and_a_refused_one_is_in_no_mean(folder: Path) -> None:
    same = told(folder, Answering(lambda frame: frame))
    assert same["gain"] == same["gain_aligned"] == same["ssim"] == 0.0
    refused = told(folder, Answering(lambda frame: frame, Verdict.REFUSED))
    assert refused["refused"] == 2
    assert np.isnan(refused["gain"])
    assert told(folder, Answering(lambda frame: frame, Verdict.IN_FOCUS))["in_focus"] == 2


@pytest.mark.parametrize("by", [(0, 0), (5, -3), (-12, 12)])
def test_the_shift_between_two_planes_is_found(by: tuple[int, int]) -> None:
    blurred = ndimage.gaussian_filter(FIELD, 2.0) + RNG.normal(0.0, 1.0, FIELD.shape)
    moved = np.roll(blurred, by, axis=(0, 1))
    assert stacks.shift_px(moved, FIELD) == by
    cut, reference = stacks._cut(moved, *by), stacks._cut(blurred, -by[0], -by[1])
    assert np.array_equal(cut, reference)


def test_a_shifted_plane_is_measured_after_its_shift_too(folder: Path) -> None:
    near = next(plane for plane in stacks.planes(folder) if plane.depths < 2.0)
    found = stacks._compared({"identity": near.frame.astype(float)}, near)["identity"]
    assert found["psnr_aligned"] > found["psnr_fit"] + 1.0


def test_spectra_tell_a_blur_without_the_same_field() -> None:
    def field(seed: int, sd: float) -> NDArray[Any]:
        rng = np.random.default_rng(seed)
        sharp = ndimage.gaussian_filter((rng.random((128, 128)) < 0.02).astype(float), sd)
        return 3000.0 * sharp + rng.normal(0.0, 1.0, sharp.shape)

    focused = stacks.spectrum(field(1, 1.0))
    assert stacks.spectral_distance(stacks.spectrum(field(2, 1.0)), focused) < 3.0
    assert stacks.spectral_distance(stacks.spectrum(field(2, 3.0)), focused) > 8.0
    assert stacks.spectral_distance(focused, focused) == 0.0
    assert np.allclose(stacks.spectrum(5.0 * field(1, 1.0) + 9.0), focused)
    assert np.isnan(stacks.spectral_distance(focused, stacks.spectrum(RNG.normal(0.0, 1.0, (128, 128)))))


def test_fields_without_a_truth_are_compared_by_their_spectra(tmp_path: Path) -> None:
    here = {"identity": make_restorer("identity"), "answering": Answering(lambda _: FIELD)}
    assert stacks.far_table(tmp_path, here, known) == []
    for name, sd in ((stacks.NEAR_FOLDER, 0.0), (stacks.FAR_FOLDER, 4.0)):
        (tmp_path / name).mkdir(parents=True)
        tifffile.imwrite(tmp_path / name / "a.tif", ndimage.gaussian_filter(FIELD, sd).astype(np.uint16))
    (row,) = stacks.far_table(tmp_path, here, known)
    assert (row["method"], row["planes"], row["refused"]) == ("answering", 1, 0)
    assert row["spectrum_db"] < 1.0 < row["spectrum_db_raw"]
