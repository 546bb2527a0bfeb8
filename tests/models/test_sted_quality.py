"""The model `sted_quality`: what it says of good and bad frames, and when it says nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models import make_model
from parfocal.models.base import Assessment, ImageError, ModelError
from parfocal.models.cards import load_card, packaged_card_path, save_card, save_weights
from parfocal.models.sted_quality import StedQualityModel
from parfocal.models.sted_quality_net import RobitailleNet, StedQualityNet, judged
from parfocal.simulator.sted import DYES, StedSample, StedSettings, scan

PIXEL_UM = 0.02
GOOD = StedSettings(2.0, 150.0, 15.0)
BAD = {
    "too dim": StedSettings(0.05, 100.0, 5.0),
    "confocal": StedSettings(2.0, 0.0, 15.0),
    "over-dosed": StedSettings(20.0, 300.0, 60.0),
}


@pytest.fixture(scope="module")
def shipped() -> StedQualityModel:
    return StedQualityModel({})


@pytest.fixture(scope="module")
def good() -> NDArray[np.uint16]:
    return scanned(GOOD)


def scanned(how: StedSettings, *, dye: str = "robust", size: int = 128, seed: int = 4) -> NDArray[np.uint16]:
    sample = StedSample.make("actin_rings", (size, size), pixel_um=PIXEL_UM, seed=seed, dye=DYES[dye])
    return scan(sample, how, np.random.default_rng(seed))


def said(model: StedQualityModel, image: NDArray[np.generic], pixel_um: float = PIXEL_UM) -> Assessment:
    return model.assess(image[None], pixel_um)[0]


def test_a_good_image_is_good_and_it_knows_how_sure_it_is(shipped: StedQualityModel, good: NDArray[np.uint16]) -> None:
    found = said(shipped, good)
    assert found.value > 0.65
    assert 0.005 <= found.sd < 0.2
    assert set(found.detail) >= {"too_dim", "bleached", "unresolved", "mean_counts", "dispersion", "saturated_share"}
    assert all(0.0 <= found.detail[name] <= 1.0 for name in ("too_dim", "bleached", "unresolved"))
    json.dumps(dict(found.detail), allow_nan=False)


@pytest.mark.parametrize("why", sorted(BAD))
def test_a_bad_image_is_bad(shipped: StedQualityModel, why: str) -> None:
    found = said(shipped, scanned(BAD[why]))
    assert found.abstained or found.value < 0.4


def test_it_says_what_is_wrong(shipped: StedQualityModel, good: NDArray[np.uint16]) -> None:
    best = said(shipped, good).detail
    assert said(shipped, scanned(StedSettings(0.2, 150.0, 5.0))).detail["too_dim"] > best["too_dim"] + 0.3
    assert said(shipped, scanned(BAD["confocal"])).detail["unresolved"] > best["unresolved"] + 0.3
    assert said(shipped, scanned(StedSettings(10.0, 200.0, 40.0), dye="fragile")).detail["bleached"] > best["bleached"]


def test_frames_of_other_sizes_are_judged_alike(shipped: StedQualityModel) -> None:
    found = [said(shipped, scanned(GOOD, size=size)).value for size in (96, 160, 224)]
    assert max(found) - min(found) < 0.2


def test_a_frame_is_judged_by_itself(shipped: StedQualityModel, good: NDArray[np.uint16]) -> None:
    other = scanned(BAD["confocal"])
    both = shipped.assess(np.stack([good, other]), PIXEL_UM)
    assert both[0].value == said(shipped, good).value
    assert both[1].value == said(shipped, other).value


def test_a_mirrored_frame_is_worth_the_same(shipped: StedQualityModel, good: NDArray[np.uint16]) -> None:
    assert said(shipped, good[:, ::-1]).value == pytest.approx(said(shipped, good).value, abs=1e-5)


def test_camera_counts_are_made_photons(good: NDArray[np.uint16], shipped: StedQualityModel) -> None:
    scaled = StedQualityModel({"gain": 4.0, "offset": 100.0})
    assert said(scaled, 4 * good.astype(np.int64) + 100).value == pytest.approx(said(shipped, good).value, abs=1e-5)


def test_it_says_nothing_of_frames_that_say_nothing(shipped: StedQualityModel, good: NDArray[np.uint16]) -> None:
    rng = np.random.default_rng(0)
    saturated = good.astype(np.uint16)
    saturated[:40] = 65535
    for image, reason in (
        (np.zeros((64, 64), np.uint16), "all pixels are the same"),
        (np.full((64, 64), 9.0), "all pixels are the same"),
        (rng.poisson(3.0, (96, 96)), "no structure"),
        (saturated, "saturated"),
        (good.astype(np.float64) - 50.0, "many pixels are negative"),
    ):
        found = said(shipped, image)
        assert found.abstained
        assert reason in found.reason
        assert np.isnan(found.value)
        assert np.isnan(found.sd)


@pytest.mark.parametrize(
    ("pixel_um", "reason"), [(0.0, "not known"), (0.1, "100 nm"), (0.005, "5 nm"), (np.nan, "not known")]
)
def test_pixels_that_it_has_not_learned(
    shipped: StedQualityModel, good: NDArray[np.uint16], pixel_um: float, reason: str
) -> None:
    found = said(shipped, good, pixel_um)
    assert found.abstained
    assert reason in found.reason


def test_what_is_no_image_is_refused(shipped: StedQualityModel) -> None:
    with pytest.raises(ImageError, match="too small"):
        shipped.assess(np.ones((1, 16, 16)), PIXEL_UM)
    with pytest.raises(ImageError, match="no photon counts"):
        shipped.assess(np.full((1, 64, 64), 1e9), PIXEL_UM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gian": 2.0}, "did you mean 'gain'"),
        ({"gain": 0.0}, "'gain' must be positive"),
        ({"offset": "dark"}, "'offset' must be a finite number"),
        ({"min_dispersion": float("nan")}, "finite"),
        ({"saturation_counts": -1}, "positive"),
        ({"device": "abacus"}, "unknown device"),
        ({"card": "nowhere.json"}, "cannot be read"),
    ],
)
def test_wrong_options_are_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_model("sted_quality", options)


def test_the_card_says_what_the_network_wants(shipped: StedQualityModel) -> None:
    assert shipped.card.input["pixel_um"] == [0.015, 0.03]
    assert "absolute" in shipped.card.input["pixels"]
    assert "synapses" not in shipped.card.training["kinds"]
    assert shipped.describe()["precision"] == "float32"


def other_card(folder: Path, **changes: object) -> Path:
    """The shipped card with other content, beside the shipped weights."""
    path = folder / "sted_quality.json"
    shipped = packaged_card_path("sted_quality")
    (folder / "sted_quality.safetensors").write_bytes(shipped.with_suffix(".safetensors").read_bytes())
    save_card(replace(load_card(shipped), **changes), path)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "StudentQualityNet"}, "describes a 'StudentQualityNet'"),
        ({"architecture": "RobitailleNet"}, "not those of a RobitailleNet"),
        ({"input": {}}, "for which pixels"),
        ({"measured": {}}, "no calibration"),
    ],
)
def test_cards_that_do_not_fit_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        StedQualityModel({"card": str(other_card(tmp_path, **changes))})


def test_the_spread_is_that_of_the_calibration(tmp_path: Path, good: NDArray[np.uint16]) -> None:
    path = other_card(tmp_path, measured={"calibration": {"value": [0.0, 1.0], "sd": [0.01, 0.11]}})
    found = said(StedQualityModel({"card": str(path)}), good)
    assert found.sd == pytest.approx(0.01 + 0.1 * found.value)


def test_robitailles_network_can_be_asked_too(tmp_path: Path, good: NDArray[np.uint16]) -> None:
    torch.manual_seed(0)
    network = RobitailleNet(2.0, 6.0).eval()
    sha = save_weights(network.state_dict(), tmp_path / "paper.safetensors")
    card = replace(
        load_card(packaged_card_path("sted_quality")), architecture="RobitailleNet", weights_sha256=sha,
        weights_file="paper.safetensors", input={"pixel_um": [0.02, 0.02]},
    )  # fmt: skip
    save_card(card, tmp_path / "paper.json")
    model = StedQualityModel({"card": str(tmp_path / "paper.json")})
    with torch.inference_mode():
        expected = judged(network, torch.from_numpy(good.astype(np.float32))[None, None], torch.tensor([0.02]))
    assert said(model, good).value == pytest.approx(float(expected), abs=1e-5)
    assert "too_dim" not in said(model, good).detail
    assert "needs 48 px" in said(model, good[:40, :40]).reason


def test_mirroring_is_along_the_fast_axis() -> None:
    torch.manual_seed(0)
    network = StedQualityNet().eval()
    counts = torch.poisson(torch.rand(1, 1, 64, 64) * 6 + torch.arange(64.0)[:, None] * 0.3)
    size = torch.tensor([PIXEL_UM])
    with torch.inference_mode():
        whole = judged(network, counts, size)
        assert torch.allclose(judged(network, counts.flip(3), size), whole, atol=1e-6)
        assert not torch.allclose(judged(network, counts.flip(2), size), whole, atol=1e-5)
