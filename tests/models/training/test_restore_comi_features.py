from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from parfocal.models.base import ModelError
from parfocal.models.quality_net import PaperQualityNet
from parfocal.models.restore.comi_net import to_network
from parfocal.models.training.restore_comi_features import VGG19_KEYS, QualityFeatures, load_vgg19
from parfocal.simulator.specimens import make_specimen

SHAPES = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights with torchvision's names and shapes, and keys that are not needed."""
    generator = torch.Generator().manual_seed(4)
    held = {"classifier.0.bias": torch.zeros(7), "features.16.bias": torch.zeros(256)}
    for index, (outputs, inputs) in SHAPES.items():
        held[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) / (9 * inputs) ** 0.5
        held[f"features.{index}.bias"] = 0.1 * torch.randn(outputs, generator=generator)
    return held


@pytest.fixture(scope="module")
def quality() -> QualityFeatures:
    return QualityFeatures()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def test_the_packaged_quality_networks_first_block_is_compared(quality: QualityFeatures) -> None:
    assert quality(noise(2, 1, 32, 48)).shape == (2, 32, 32, 48)
    assert not any(parameter.requires_grad for parameter in quality.parameters())


def test_the_quality_network_is_shown_background_0_and_peak_1_within_its_limits() -> None:
    network = PaperQualityNet()
    features = QualityFeatures(network)
    image = torch.tensor([0.0, 1.0, 4.0, -4.0]).repeat(32, 8)[None, None]
    with torch.no_grad():
        assert torch.allclose(features(to_network(image)), network.features[:4](image))
        assert torch.equal(features(to_network(image * 100)), features(to_network((image * 100).clamp(-4.0, 4.0))))


def test_blur_is_a_distance_of_the_features_and_the_gradient_reaches_the_image(quality: QualityFeatures) -> None:
    specimen = make_specimen("nuclei", (128, 128), pixel_um=0.2, seed=3)
    sharp, little, much = (torch.from_numpy(gaussian_filter(specimen, sigma))[None, None] for sigma in (1, 2, 5))
    made = to_network(much).requires_grad_()
    wanted = quality(to_network(sharp))
    distance = (quality(made) - wanted).square().mean()
    assert distance > (quality(to_network(little)) - wanted).square().mean() > 0
    distance.backward()
    assert made.grad is not None and made.grad.abs().sum() > 0


def test_vgg19_is_torchvisions_up_to_conv3_3_after_its_rectifier(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "vgg19.safetensors")
    features = load_vgg19(tmp_path / "vgg19.safetensors")
    image = noise(1, 1, 16, 24)
    x = (((image.clamp(-1, 1) + 1) / 2) - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    for index in SHAPES:
        x = max_pool2d(x, 2) if index in (5, 10) else x
        x = conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1).relu()
    assert features(image).shape == (1, 256, 4, 6)
    assert torch.allclose(features(image), x, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in features.parameters())


@pytest.mark.parametrize("key", [VGG19_KEYS[0], VGG19_KEYS[-1]])
def test_a_file_that_lacks_a_layer_is_named(state: dict[str, Tensor], tmp_path: Path, key: str) -> None:
    save_file({name: value for name, value in state.items() if name != key}, tmp_path / "part.safetensors")
    with pytest.raises(ModelError, match=f"lack '{key}'.*torchvision"):
        load_vgg19(tmp_path / "part.safetensors")


def test_a_layer_of_another_shape_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state | {"features.5.weight": torch.zeros(128, 3, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"not those of a VGG-19.*features\.5\.weight"):
        load_vgg19(tmp_path / "other.safetensors")


def test_a_file_that_is_no_safetensors_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vgg19.pth").write_bytes(b"PK\x03\x04 a pickle")
    for name in ("vgg19.pth", "none.safetensors"):
        with pytest.raises(ModelError, match="cannot be read as safetensors"):
            load_vgg19(tmp_path / name)
