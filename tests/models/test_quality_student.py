from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from parfocal.models.artefacts import load_classifier
from parfocal.models.folding import fold_batch_norm
from parfocal.models.metrics.markers import MARKERS, markers
from parfocal.models.quality_student import RINGS, TARGETS, MarkerBranch, PatchSpectrum, StudentQualityNet, outputs
from parfocal.models.training.degradations import gaussian_blur


def measured(images: torch.Tensor) -> torch.Tensor:
    return markers(images.detach()[:, 0])


@pytest.fixture(scope="module")
def network() -> StudentQualityNet:
    torch.manual_seed(5)
    network = StudentQualityNet()
    with torch.no_grad():
        for _ in range(3):  # running statistics that are not the initial ones
            images = torch.randn(4, 1, 96, 96)
            network(images, measured(images))
    return network.eval()


@pytest.mark.parametrize("shape", [(32, 32), (33, 95), (64, 160), (256, 128)])
def test_frames_of_any_size_give_a_row_a_patch(network: StudentQualityNet, shape: tuple[int, int]) -> None:
    with torch.inference_mode():
        said = network.outputs(torch.randn(2, 1, *shape))
    assert tuple(said) == TARGETS
    for out in said.values():
        assert out.patch_quality.shape == out.patch_weight.shape == (2, shape[0] // 32, shape[1] // 32)
        assert out.score.shape == (2,)
        assert out.artefact_logits is not None
        assert out.artefact_logits.shape == (2, 6)
        assert torch.isfinite(out.score).all()
        assert (out.patch_weight > 0).all()


def test_weights_are_small_enough_to_ship(network: StudentQualityNet) -> None:
    assert sum(value.numel() * value.element_size() for value in network.state_dict().values()) < 4_000_000


def test_the_score_is_the_weighted_mean_of_the_patches(network: StudentQualityNet) -> None:
    with torch.inference_mode():
        maps, logits = network(torch.randn(1, 1, 96, 96), torch.zeros(1, MARKERS))
    out = outputs(maps, logits)["mm"]
    weight = torch.exp(maps[0, 3])
    assert float(out.score[0]) == pytest.approx(float((maps[0, 1] * weight).sum() / weight.sum()), rel=1e-5)


def test_a_frame_does_not_depend_on_its_neighbours(network: StudentQualityNet) -> None:
    images = torch.randn(3, 1, 64, 64)
    with torch.inference_mode():
        told = measured(images)
        together, alone = network(images, told)[0], network(images[1:2], told[1:2])[0]
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_the_whole_frame_is_told_to_every_patch(network: StudentQualityNet) -> None:
    images = torch.randn(1, 1, 512, 64)
    other = images.clone()
    other[:, :, 448:] *= 3.0  # further away than any convolution reaches
    with torch.inference_mode():
        told = measured(images)  # the same for both: not by the markers alone
        one, two = network(images, told)[0], network(other, told)[0]
    assert not torch.allclose(one[0, :, 0], two[0, :, 0], atol=1e-6)


def test_place_in_the_frame_matters(network: StudentQualityNet) -> None:
    """Vignetting is told by where it is dark: the same patches elsewhere are another frame."""
    x = torch.linspace(-1, 1, 256)
    bowl = torch.exp(-2 * (x[:, None] ** 2 + x[None, :] ** 2))[None, None] + 0.1 * torch.randn(1, 1, 256, 256)
    with torch.inference_mode():
        told = measured(bowl)
        middle, corner = network(bowl, told)[1], network(bowl.roll((128, 128), (2, 3)), told)[1]
    assert not torch.allclose(middle, corner, atol=1e-3)


def test_batch_normalisation_folds_away(network: StudentQualityNet) -> None:
    folded = fold_batch_norm(network)
    images = torch.randn(2, 1, 96, 64)
    with torch.inference_mode():
        told = measured(images)
        for one, two in zip(network(images, told), folded(images, told), strict=True):
            assert torch.allclose(one, two, atol=1e-4)
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules()) == 0


def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(1)
    network = StudentQualityNet().train()
    images = torch.randn(4, 1, 64, 64)
    maps, logits = network(images, measured(images))
    (maps.square().sum() + logits.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_training_and_use_take_the_same_moments(network: StudentQualityNet) -> None:
    images = torch.randn(2, 1, 96, 64)
    with torch.no_grad():
        told = measured(images)
        used = network(images, told)[0]
    assert torch.allclose(network(images.requires_grad_(), told)[0], used, atol=1e-4)


def test_the_spectrum_is_that_of_a_fourier_transform() -> None:
    images = torch.randn(2, 1, 64, 96)
    spectrum = PatchSpectrum()
    found = spectrum(images)
    assert found.shape == (2, RINGS, 2, 3)
    patch = images[1, 0, 32:64, 64:96].double().numpy()
    hann = np.hanning(33)[:-1]
    power = np.abs(np.fft.rfft2((patch - patch.mean()) * np.outer(hann, hann))) ** 2
    radius = np.hypot(np.fft.fftfreq(32)[:, None] * 32, np.fft.rfftfreq(32)[None, :] * 32)
    norm = np.square(np.outer(hann, hann)).sum()
    for ring in (1, 7, 16):
        inside = np.round(radius) == ring
        assert float(found[1, ring - 1, 1, 2]) == pytest.approx(power[inside].mean() / norm, rel=1e-3)
    beyond = np.round(radius) >= RINGS
    assert float(found[1, RINGS - 1, 1, 2]) == pytest.approx(power[beyond].mean() / norm, rel=1e-3)


def test_the_power_of_white_noise_is_its_variance() -> None:
    power = PatchSpectrum()(3.0 * torch.randn(4, 1, 256, 256))
    assert power.mean(dim=(0, 2, 3)).numpy() == pytest.approx(np.full(RINGS, 9.0), rel=0.12)


def test_the_spectrum_stays_exact_under_autocast() -> None:
    spectrum, images = PatchSpectrum(), torch.randn(1, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        low = spectrum(images)
    assert torch.equal(low, spectrum(images))


def test_it_exports_for_other_runtimes(network: StudentQualityNet) -> None:
    images = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        told = measured(images)
        program = torch.export.export(network, (images, told))
        assert torch.allclose(program.module()(images, told)[0], network(images, told)[0], atol=1e-5)


def test_the_coarse_spectrum_is_that_of_the_binned_window_about_a_patch() -> None:
    images = torch.randn(2, 1, 160, 192)
    spectrum = PatchSpectrum()
    found = spectrum.coarse(images)
    assert found.shape == (2, RINGS, 5, 6)
    binned = images.reshape(2, 1, 40, 4, 48, 4).mean(dim=(3, 5))
    window = binned[1:, :, 4:36, 4:36]  # of 128 px about the patch at rows and columns 64 to 96
    assert torch.allclose(found[1, :, 2, 2], spectrum(window)[0, :, 0, 0], rtol=1e-4)


def test_two_strong_blurs_differ_more_in_the_coarse_spectrum() -> None:
    image = np.random.default_rng(4).random((512, 512), dtype=np.float32)
    blurred = [torch.from_numpy(gaussian_blur(image, sigma))[None, None] for sigma in (6.0, 8.0)]
    spectrum = PatchSpectrum()

    def apart(of: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """By how many sd, from patch to patch, the best ring tells the two."""
        one, two = (torch.log(of(image) / of(image)[:, :1]).flatten(2)[0, 1:] for image in blurred)
        return float(((one - two).mean(dim=1).abs() / one.std(dim=1)).max())

    assert apart(spectrum.coarse) > 1.5 * apart(spectrum)


@pytest.mark.parametrize("shape", [(32, 32), (33, 95)])
def test_a_frame_smaller_than_a_coarse_window_goes_on_at_its_borders(shape: tuple[int, int]) -> None:
    images = torch.randn(1, 1, *shape)[:, :, : shape[0] // 32 * 32, : shape[1] // 32 * 32]
    assert torch.isfinite(torch.log(PatchSpectrum().coarse(images))).all()


def test_the_markers_begin_as_the_classifier_takes_them() -> None:
    classifier, branch = load_classifier(), MarkerBranch()
    branch.begin_as(classifier)
    told = measured(torch.randn(3, 1, 64, 64))
    with torch.inference_mode():
        assert torch.allclose(classifier.layers[4](branch(told)), classifier(told), atol=1e-5)


def test_what_the_markers_say_reaches_score_and_artefact(network: StudentQualityNet) -> None:
    images = torch.randn(1, 1, 96, 96)
    told = measured(images)
    with torch.inference_mode():
        one, two = network(images, told), network(images, told + 1.0)
    assert not torch.allclose(one[0][:, :2], two[0][:, :2], atol=1e-4)
    assert not torch.allclose(one[1], two[1], atol=1e-4)
