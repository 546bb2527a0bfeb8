"""The model around a network, with made-up weights: what it says and does not say, whatever the training brought."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.artefacts import ARTEFACTS
from parfocal.models.base import Assessment, ImageError, Model, ModelCard, ModelError, WeightsHashError
from parfocal.models.cards import save_card, save_weights
from parfocal.models.metrics.markers import MARKER_NAMES
from parfocal.models.quality import QualityModel
from parfocal.models.quality_net import PaperQualityNet
from parfocal.models.quality_student import StudentQualityNet
from parfocal.simulator.specimens import make_specimen

LABELS = {"frc": {"form": "log2_px", "mean": 2.0, "sd": 0.5}, "mm": {"form": "logit", "mean": 0.0, "sd": 1.0}}
CALIBRATION = {target: {"value": [0.2, 0.8], "sd": [0.1, 0.3]} for target in LABELS}


def card_at(folder: Path, kind: str = "student", *, dead: bool = False) -> Path:
    torch.manual_seed(4)
    network: Any = StudentQualityNet() if kind == "student" else PaperQualityNet()
    if dead:
        network.weight[2].bias.data.fill_(-1e6)
    folder.mkdir(exist_ok=True)
    labels = LABELS if kind == "student" else {"mm": LABELS["mm"]}
    card = ModelCard(
        name="quality_x", version="1", architecture=type(network).__name__, weights_file="w.safetensors",
        weights_sha256=save_weights(network.state_dict(), folder / "w.safetensors"),
        input={"scaling": "fixed", "markers": list(MARKER_NAMES)}, training={"labels": labels},
        measured={"calibration": CALIBRATION, "bfloat16_error_sd": 0.01},
    )  # fmt: skip
    save_card(card, folder / "card.json")
    return folder / "card.json"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return card_at(tmp_path_factory.mktemp("card"))


@pytest.fixture(scope="module")
def model(card: Path) -> QualityModel:
    return QualityModel({"card": str(card), "device": "cpu"})


def frame(shape: tuple[int, int] = (160, 224), photons: float = 800.0, seed: int = 3) -> NDArray[np.uint16]:
    specimen = make_specimen("nuclei", shape, pixel_um=0.3, seed=seed)
    return (np.random.default_rng(seed).poisson(specimen * photons + 20) + 100).astype(np.uint16)


def say(model: QualityModel, image: NDArray[Any], pixel_um: float = 0.2) -> Assessment:
    return model.assess(image[None], pixel_um)[0]


def test_it_is_a_model(model: QualityModel) -> None:
    assert isinstance(model, Model)
    assert model.describe()["precision"] == "float32"


def test_the_value_is_a_probability_with_its_calibrated_spread(model: QualityModel) -> None:
    said = say(model, frame())
    assert not said.abstained
    assert 0.0 < said.value < 1.0
    assert said.value == said.detail["mm"]
    assert said.sd == pytest.approx(float(np.interp(said.value, [0.2, 0.8], [0.1, 0.3])))


def test_it_says_resolution_in_px_and_in_um_where_the_pixel_is_known(model: QualityModel) -> None:
    known, unknown = say(model, frame(), 0.2), say(model, frame(), float("nan"))
    assert known.detail["frc_um"] == pytest.approx(0.2 * known.detail["frc_px"])
    assert "frc_um" not in unknown.detail
    assert unknown.detail["frc_px"] == known.detail["frc_px"] > 0


def test_it_names_the_artefact(model: QualityModel) -> None:
    detail = say(model, frame()).detail
    chances = [detail[f"artefact_{name}"] for name in ARTEFACTS]
    assert sum(chances) == pytest.approx(1.0)
    assert detail["artefact"] == float(np.argmax(chances))


def test_the_map_has_a_value_a_patch_in_the_unit_of_the_value(model: QualityModel) -> None:
    said = say(model, frame())
    patches = said.patch_map
    assert patches is not None
    assert patches.value.shape == patches.certainty.shape == (5, 7)
    assert (patches.patch_px, patches.stride_px) == (32, 32)
    assert ((patches.value > 0) & (patches.value < 1)).all()
    assert float(patches.certainty.max()) == 1.0
    assert (patches.certainty >= 0).all()
    assert patches.value.min() <= said.value <= patches.value.max()


def test_the_other_target_is_the_share_of_nyquist(card: Path) -> None:
    said = say(QualityModel({"card": str(card), "target": "frc", "patch_map": False}), frame())
    assert said.value == pytest.approx(2.0 / said.detail["frc_px"])
    assert said.patch_map is None


def test_gain_and_offset_leave_no_trace(model: QualityModel) -> None:
    image = frame()
    one, two = say(model, image), say(model, image * np.uint16(2) + np.uint16(500))
    assert one.value == pytest.approx(two.value, abs=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int32", "float32", "float64"])
def test_every_real_type_of_pixel_is_taken(model: QualityModel, dtype: str) -> None:
    image = (frame() / frame().max() * 200).astype(np.uint8)
    assert say(model, image.astype(dtype)).value == pytest.approx(say(model, image).value, abs=1e-3)


def test_read_only_frames_of_any_shape_are_taken(model: QualityModel) -> None:
    image = frame((33, 131))
    image.flags.writeable = False
    patches = say(model, image).patch_map
    assert patches is not None
    assert patches.value.shape == (2, 5)


def test_the_map_reaches_the_far_edges_of_a_frame_that_is_no_multiple_of_a_patch(model: QualityModel) -> None:
    image = frame((150, 200))
    spoiled = image.copy()
    spoiled[:, 195:] = np.random.default_rng(1).permutation(spoiled[:, 195:].ravel()).reshape(150, 5)
    one, two = say(model, image), say(model, spoiled)
    assert one.patch_map is not None
    assert two.patch_map is not None
    assert one.patch_map.value.shape == (5, 7)
    changed = np.abs(two.patch_map.value - one.patch_map.value).max(axis=0)
    assert changed[-1] == changed.max() > 0  # of all columns of patches the last, which alone can see it whole
    assert one.value != two.value


def test_the_answer_does_not_depend_on_the_neighbours(model: QualityModel) -> None:
    images = np.stack([frame(seed=seed) for seed in (3, 5)])
    together = model.assess(images, 0.2)
    assert together[1].value == say(model, images[1]).value
    assert together[0].value != together[1].value


def test_it_abstains_from_frames_that_say_nothing_and_not_from_their_neighbours(model: QualityModel) -> None:
    saturated, noise = frame(), np.random.default_rng(1).poisson(200, (160, 224)).astype(np.uint16)
    saturated[:20] = 65535
    constant = np.full((160, 224), 7, dtype=np.uint16)
    said = model.assess(np.stack([saturated, frame(), constant, np.zeros_like(constant), noise]), 0.2)
    assert [one.abstained for one in said] == [True, False, True, True, True]
    for one, reason in zip(said, ["saturated", "", "one value", "one value", "no structure"], strict=True):
        assert reason in one.reason
        assert np.isnan(one.value) == one.abstained


def test_where_the_camera_clips_can_be_told(card: Path) -> None:
    image = frame()
    image[:20] = 4095
    assert say(QualityModel({"card": str(card), "saturation_counts": 4095}), image).abstained


@pytest.mark.parametrize(
    "image",
    [
        np.ones((31, 64)),
        np.full((64, 64), np.nan),
        np.ones((64, 64, 3)),
        np.ones((2, 64, 64, 3)),
        np.ones((64, 64), "c8"),
    ],
    ids=["tiny", "nan", "rgb", "rgb batch", "complex"],
)
def test_what_is_no_image_is_refused(model: QualityModel, image: NDArray[Any]) -> None:
    with pytest.raises(ImageError):
        model.assess(image, 0.2)


def test_pixels_beyond_single_precision_are_refused(model: QualityModel) -> None:
    with pytest.raises(ImageError, match="too large"):
        say(model, frame().astype(np.float64) * 1e300)


def test_the_papers_network_has_one_target_and_no_artefact(tmp_path: Path) -> None:
    said = say(QualityModel({"card": str(card_at(tmp_path, "paper")), "network": "paper"}), frame())
    assert 0.0 < said.value < 1.0
    assert said.detail["alive"] == 1.0
    assert not any(name.startswith("artefact") or name.startswith("frc") for name in said.detail)


def test_a_dead_weight_head_is_said_once_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from parfocal.models import quality

    events: list[str] = []
    monkeypatch.setattr(quality.log, "warning", lambda event, **_: events.append(event))
    model = QualityModel({"card": str(card_at(tmp_path, "paper", dead=True)), "device": "cpu"})
    said = [say(model, frame()) for _ in range(2)]
    assert len(events) == 1
    assert said[0].detail["alive"] == 0.0
    assert said[0].patch_map is not None
    assert not said[0].patch_map.certainty.any()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"netwrok": "paper"}, "did you mean 'network'"), ({"network": "papr"}, "did you mean 'paper'"),
        ({"target": "beauty"}, "beauty"), ({"precision": "float8"}, "float8"),
    ],
)  # fmt: skip
def test_unknown_options_are_refused(card: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        QualityModel({"card": str(card), **options})


def test_a_card_of_another_network_or_target_is_refused(tmp_path: Path, card: Path) -> None:
    with pytest.raises(ModelError, match="StudentQualityNet"):
        QualityModel({"card": str(card), "network": "paper"})
    with pytest.raises(ModelError, match="not for target 'frc'"):
        QualityModel({"card": str(card_at(tmp_path, "paper")), "target": "frc"})


def test_a_card_without_calibration_or_of_other_weights_is_refused(tmp_path: Path) -> None:
    path = card_at(tmp_path)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "measured": {}}))
    with pytest.raises(ModelError, match="no calibration"):
        QualityModel({"card": str(path)})
    path.write_text(json.dumps({**data, "weights_sha256": "0" * 64}))
    with pytest.raises(WeightsHashError):
        QualityModel({"card": str(path)})
