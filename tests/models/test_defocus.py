"""The shipped defocus model on simulated frames: right where it should be, silent where it must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models import make_model
from parfocal.models.base import Assessment, ImageError, ModelError, WeightsHashError, WeightsMissingError
from parfocal.models.cards import PACKAGED
from parfocal.models.defocus import LARGE_PX, DefocusModel
from parfocal.models.defocus_views import Looker, View, binned, tiling
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen

OPTICS = Optics()
OPTIONS = {"na": 0.75, "immersion_index": 1.0, "emission_um": 0.52, "threads": 1}


@pytest.fixture(scope="module")
def model() -> DefocusModel:
    return DefocusModel(OPTIONS)


def frame(
    kind: str, defocus_um: float, *, side: int = 384, photons: float = 2000, seed: int = 5, optics: Optics = OPTICS
) -> NDArray[np.uint16]:
    specimen = make_specimen(kind, (side, side), pixel_um=optics.pixel_um, seed=seed)
    imager = Imager(optics, (side, side))
    peak = max(float(imager.image(specimen, 0.0).max()), 1e-9)
    expected = imager.image(specimen, defocus_um) * (photons / peak) + 10
    return (np.random.default_rng(seed).poisson(expected) + 100).astype(np.uint16)


def say(model: DefocusModel, image: NDArray[Any], pixel_um: float = 0.325) -> Assessment:
    return model.assess(image[None], pixel_um)[0]


@pytest.mark.parametrize("kind", ["nuclei", "filaments", "tissue", "mitochondria"])
def test_values_in_um_follow_the_truth(model: DefocusModel, kind: str) -> None:
    for truth in (0.0, 3.0, -8.0, 16.0):
        said = say(model, frame(kind, truth))
        assert not said.abstained, said.reason
        assert abs(said.value - abs(truth)) < max(1.2, 3.5 * said.sd), (kind, truth, said.value, said.sd)


def test_the_level_is_that_of_the_paper(model: DefocusModel) -> None:
    levels = [say(model, frame("nuclei", defocus)).detail["level"] for defocus in (0.0, 2.0, 4.0)]
    truth = [OPTICS.level(defocus) for defocus in (0.0, 2.0, 4.0)]
    assert np.abs(np.subtract(levels, truth)).max() <= 2
    assert levels == sorted(levels)


@pytest.mark.parametrize("light", [0.0, 5.0, 500.0, 20_000.0])
def test_empty_fields_are_abstained_from(model: DefocusModel, light: float) -> None:
    rng = np.random.default_rng(int(light))
    image = (rng.poisson(light, (384, 384)) + rng.normal(100, 2, (384, 384))).clip(0).astype(np.uint16)
    said = say(model, image)
    assert said.abstained
    assert "no structure" in said.reason
    assert np.isnan(said.value)
    assert said.distribution is None


def test_a_saturated_field_is_abstained_from(model: DefocusModel) -> None:
    image = frame("nuclei", 0.0)
    image[:80] = 65535
    said = say(model, image)
    assert said.abstained
    assert "saturated" in said.reason


def test_a_field_of_one_value_is_abstained_from(model: DefocusModel) -> None:
    assert say(model, np.full((256, 256), 100, dtype=np.uint16)).abstained


def test_gain_and_offset_leave_no_trace(model: DefocusModel) -> None:
    image = frame("nuclei", 5.0).astype(np.float32)
    plain, changed = say(model, image), say(model, 3.7 * image + 900)
    assert changed.value == pytest.approx(plain.value, rel=1e-3)
    assert changed.sd == pytest.approx(plain.sd, rel=1e-2)


def test_without_optics_the_unit_is_pixels_of_blur() -> None:
    unknown = DefocusModel({"threads": 1})
    said = say(unknown, frame("nuclei", 6.0))
    assert said.detail["in_um"] == 0.0
    assert said.distribution is None
    assert said.value == pytest.approx(OPTICS.blur_diameter_px(6.0), rel=0.4)
    assert said.patch_map is not None
    assert said.patch_map.unit == "px"


def test_the_distribution_is_a_symmetric_one_where_there_is_no_sign(model: DefocusModel) -> None:
    said = say(model, frame("filaments", -7.0))
    assert said.distribution is not None
    p, grid = said.distribution.probability, said.distribution.defocus_um
    assert p.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(p, p[::-1], atol=1e-9)
    np.testing.assert_allclose(grid, -grid[::-1])
    assert not said.distribution.signed
    assert said.detail["positive"] == pytest.approx(0.5)


def test_a_known_aberration_gives_the_sign() -> None:
    waves = 0.2
    optics = Optics(zernike_waves={(4, 0): waves})
    signed = DefocusModel({**OPTIONS, "spherical_waves": waves})
    opposite = DefocusModel({**OPTIONS, "spherical_waves": -waves})
    right = 0
    for kind in ("nuclei", "filaments", "mitochondria", "tissue"):
        for truth in (-4.0, 4.0):
            image = frame(kind, truth, optics=optics)
            said = say(signed, image)
            right += (said.detail["positive"] > 0.5) == (truth > 0)
            # Told the opposite aberration, the same image must tell the opposite side.
            assert say(opposite, image).detail["positive"] == pytest.approx(1 - said.detail["positive"], abs=1e-6)
    assert right >= 7


def test_a_batch_says_what_its_frames_say(model: DefocusModel) -> None:
    images = np.stack([frame("nuclei", 0.0), frame("tissue", 9.0)])
    batch = model.assess(images, 0.325)
    assert [one.value for one in batch] == [say(model, image).value for image in images]


def test_threads_change_not_a_bit() -> None:
    image = frame("nuclei", 4.0, side=640)
    one, three = (say(DefocusModel({**OPTIONS, "threads": count}), image) for count in (1, 3))
    assert (one.value, one.sd, one.detail) == (three.value, three.sd, three.detail)


def test_a_large_frame_says_what_its_part_says(model: DefocusModel) -> None:
    image = frame("nuclei", 1.5, side=1280)
    assert image.size > LARGE_PX
    whole, part = say(model, image), say(model, image[:640, :640])
    assert whole.detail["binning"] == 1.0
    assert whole.value == pytest.approx(part.value, abs=max(0.6, 2 * part.sd))
    assert whole.patch_map is not None
    assert whole.patch_map.stride_px == 128


def test_the_patch_map_finds_the_empty_half(model: DefocusModel) -> None:
    image = frame("tissue", 2.0, side=512)
    rng = np.random.default_rng(1)
    image[:, 256:] = rng.poisson(110, (512, 256))
    patches = say(model, image).patch_map
    assert patches is not None
    assert patches.value.shape == (7, 7)
    assert np.isfinite(patches.value[:, :3]).mean() > 0.9
    assert np.isnan(patches.value[:, 5:]).mean() > 0.9


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.full((64, 64), np.nan), np.zeros((64, 64), dtype=complex), np.zeros((2, 3, 64, 64))]
)
def test_what_is_no_image_is_refused(model: DefocusModel, image: NDArray[Any]) -> None:
    with pytest.raises(ImageError):
        model.assess(image, 0.325)


@pytest.mark.parametrize("shape", [(32, 32), (50, 700), (100, 130), (321, 233)])
def test_odd_and_small_frames_are_taken(model: DefocusModel, shape: tuple[int, int]) -> None:
    image = frame("tissue", 3.0, side=704)[: shape[0], : shape[1]]
    said = say(model, image)
    assert said.abstained or np.isfinite(said.value)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ModelError, match="numerical_aperture"):
        make_model("defocus", {"numerical_aperture": 0.75})


def test_exchanged_and_missing_weights_are_refused(tmp_path: Path) -> None:
    card = tmp_path / "defocus.json"
    shutil.copy(PACKAGED / "defocus.json", card)
    with pytest.raises(WeightsMissingError):
        make_model("defocus", {"card": str(card)})
    damaged = bytearray((PACKAGED / "defocus.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / json.loads(card.read_text())["weights_file"]).write_bytes(damaged)
    with pytest.raises(WeightsHashError):
        make_model("defocus", {"card": str(card)})


def test_the_shipped_weights_are_small() -> None:
    assert (PACKAGED / "defocus.safetensors").stat().st_size < 8e6


def test_binning_is_a_mean_over_blocks() -> None:
    image = np.arange(7 * 9, dtype=np.uint16).reshape(7, 9)
    expected = image[:6, :8].reshape(3, 2, 4, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(binned(image, 2), expected)
    np.testing.assert_allclose(binned(image, 3), image[:6, :9].reshape(2, 3, 3, 3).mean(axis=(1, 3)))
    np.testing.assert_array_equal(binned(image, 1), image)


@pytest.mark.parametrize("binning", [1, 2, 4])
def test_a_view_bins_parts_as_it_would_the_whole(binning: int) -> None:
    image = np.random.default_rng(3).integers(0, 65536, (131, 270), dtype=np.uint16)
    view, whole = View(image, binning), binned(image, binning)
    assert view.shape == whole.shape
    place = (slice(5, 20), slice(7, 60))
    np.testing.assert_array_equal(view.part(place), whole[place])
    mean, sd = view.scale()
    assert mean == pytest.approx(whole.mean(dtype=np.float64))
    assert sd == pytest.approx(whole.std(dtype=np.float64))


def test_the_scale_of_a_large_view_is_that_of_a_quarter_of_its_rows() -> None:
    image = np.zeros((2 * 1200, 2 * 1000), dtype=np.uint16)
    image[0::8] = image[1::8] = 4  # rows of the view that are looked at
    assert View(image, 2).scale() == (4.0, np.float32(1e-6))


def test_pixels_of_a_frame_are_left_as_they_are(model: DefocusModel) -> None:
    image = frame("nuclei", 3.0).astype(np.float32)
    before = image.copy()
    say(model, image)
    np.testing.assert_array_equal(image, before)


def test_tiles_cover_every_whole_cell() -> None:
    for shape in ((512, 512), (128, 128), (321, 640), (1088, 200), (90, 300)):
        places, rows, columns = tiling(shape)
        assert len(places) == rows * columns
        covered = np.zeros(shape, dtype=int)
        for place in places:
            covered[place] += 1
        assert covered.max() == 1
        assert (covered == 1).mean() > 0.7


def test_pooling_does_not_mind_where_the_tiles_lie(model: DefocusModel) -> None:
    looker: Looker = model._looker
    view = View(frame("nuclei", 3.0, side=512))
    places, _, _ = tiling((512, 512))
    one = model._network.judge(looker.cells(view), model._known(0.325).conditions(1))
    other = model._network.judge(looker.pooled(view, places[::-1]), model._known(0.325).conditions(1))
    np.testing.assert_allclose(one.blur.detach().numpy(), other.blur.detach().numpy(), atol=1e-3)


def test_the_callers_threads_are_its_own_and_the_models_do_not_spin(model: DefocusModel) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert model._looker.lead(torch.get_num_threads) == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
