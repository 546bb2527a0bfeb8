from __future__ import annotations

import numpy as np
import pytest
import torch

from parfocal.models.defocus_net import (
    BLUR_BINS,
    BLUR_MAX_PX,
    CELL_PX,
    CONDITIONS,
    GEOMETRIC_BANDS,
    OCTAVES,
    SPECTRUM_BANDS,
    WINDOW_PX,
    Cells,
    CompactDefocusNet,
    RingSpectrum,
    blur_edges,
    normalise,
    octave_energies,
)


@pytest.fixture(scope="module")
def network() -> CompactDefocusNet:
    torch.manual_seed(3)
    return CompactDefocusNet().eval()


def images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), [(128, 128), (191, 257), (320, 128), (128, 333)])
def test_frames_of_any_size_from_one_window(network: CompactDefocusNet, height: int, width: int) -> None:
    frames = images(2, height, width)
    with torch.inference_mode():
        cells = network.cells(frames)
        out = network(frames, torch.zeros(2, CONDITIONS))
    rows, columns = height // CELL_PX, width // CELL_PX
    assert cells.embedding.shape[2:] == (rows, columns)
    assert cells.log_weight.shape == (2, 1, rows, columns)
    assert cells.power.shape == (2, SPECTRUM_BANDS, rows, columns)
    assert out.blur.shape == (2, BLUR_BINS)
    assert out.sign.shape == (2, BLUR_BINS)
    assert out.signal.shape == (2,)
    for value in (out.blur, out.sign, out.signal, cells.power):
        assert torch.isfinite(value).all()


def test_the_shipped_weights_fit_into_8_mb(network: CompactDefocusNet) -> None:
    assert 4 * sum(value.numel() for value in network.state_dict().values()) < 8e6


def test_frames_of_a_batch_do_not_mix(network: CompactDefocusNet) -> None:
    frames, conditions = images(3, 128, 192), torch.randn(3, CONDITIONS, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together = network(frames, conditions)
        alone = network(frames[1:2], conditions[1:2])
    assert torch.allclose(together.blur[1:2], alone.blur, atol=1e-4)
    assert not torch.allclose(together.blur[0:1], alone.blur, atol=1e-4)


def test_what_is_known_of_the_optics_counts(network: CompactDefocusNet) -> None:
    with torch.inference_mode():
        cells = network.cells(images(1, 128, 128))
        without = network.judge(cells, torch.zeros(1, CONDITIONS)).blur
        for index in range(CONDITIONS):
            told = torch.zeros(1, CONDITIONS)
            told[0, index] = 1.0
            assert not torch.allclose(network.judge(cells, told).blur, without, atol=1e-6)


def test_a_cell_of_no_weight_has_no_say(network: CompactDefocusNet) -> None:
    with torch.inference_mode():
        cells = network.cells(images(1, 256, 256))
        weight = cells.log_weight.clone()
        weight[..., 2:, :] = -1e4
        other = cells.embedding.clone()
        other[..., 2:, :] = 7.0
        power = cells.power.clone()
        power[..., 2:, :] = 50.0
        conditions = torch.zeros(1, CONDITIONS)
        masked = network.judge(Cells(cells.embedding, weight, cells.power), conditions)
        swapped = network.judge(Cells(other, weight, power), conditions)
        cut = network.judge(Cells(cells.embedding[..., :2, :], weight[..., :2, :], cells.power[..., :2, :]), conditions)
        heard = network.judge(Cells(other, cells.log_weight, power), conditions)
    assert torch.allclose(masked.blur, swapped.blur, atol=1e-5)
    assert torch.allclose(masked.blur, cut.blur, atol=1e-5)
    assert not torch.allclose(masked.blur, heard.blur, atol=1e-3)


def test_where_a_cell_lies_does_not_matter(network: CompactDefocusNet) -> None:
    with torch.inference_mode():
        cells = network.cells(images(1, 256, 256))
        turned = Cells(cells.embedding.flip(2), cells.log_weight.flip(2), cells.power.flip(2))
        conditions = torch.zeros(1, CONDITIONS)
        assert torch.allclose(network.judge(cells, conditions).blur, network.judge(turned, conditions).blur, atol=1e-4)


# --- what is measured ----------------------------------------------------------------------------------------------


def test_white_noise_has_its_variance_in_every_ring() -> None:
    sigma = 1.7
    power = RingSpectrum()(sigma * images(1, 1024, 1024, seed=4))
    assert power.shape == (1, SPECTRUM_BANDS, 16, 16)
    mean = power.mean(dim=(2, 3))[0]
    filled = [index for index in range(SPECTRUM_BANDS) if index != 1]  # no frequency of the window lies in ring 1
    assert mean[filled].tolist() == pytest.approx([sigma**2] * len(filled), rel=0.2)


@pytest.mark.parametrize("cycles", [4, 12, 40, 60])
def test_a_wave_lies_in_the_ring_of_its_frequency(cycles: int) -> None:
    x = torch.arange(WINDOW_PX, dtype=torch.float32)
    wave = torch.cos(2 * torch.pi * cycles / WINDOW_PX * x).expand(1, 1, WINDOW_PX, WINDOW_PX)
    spectrum = RingSpectrum()
    power = spectrum(wave)[0, :, 0, 0]
    edges = np.concatenate([[0.5], np.geomspace(1.5, 64.0, GEOMETRIC_BANDS - 2)])
    assert int(power[:GEOMETRIC_BANDS].argmax()) == int(np.digitize(cycles, edges)) - 1
    assert int(power[GEOMETRIC_BANDS:].argmax()) == cycles - 1


def test_a_cell_has_the_mean_of_the_windows_that_cover_it() -> None:
    frame = torch.zeros(1, 1, 256, 256)
    frame[:, :, :128, :128] = images(1, 128, 128)
    spectrum = RingSpectrum()
    power = spectrum(frame)
    windows = [[spectrum(frame[:, :, y : y + 128, x : x + 128])[..., 0, 0] for x in (0, 64, 128)] for y in (0, 64, 128)]
    assert torch.allclose(power[..., 0, 0], windows[0][0], rtol=1e-4)
    assert torch.allclose(power[..., 0, 1], 0.5 * (windows[0][0] + windows[0][1]), rtol=1e-4)
    assert torch.allclose(power[..., 2, 1], 0.25 * sum(windows[y][x] for y in (1, 2) for x in (0, 1)), rtol=1e-4)
    assert torch.allclose(power[..., 3, :], torch.full_like(power[..., 3, :], 1e-5))


def test_octave_energies_find_the_scale() -> None:
    shape = (4, 4)
    for octave in range(1, 5):
        side = 2**octave
        y, x = np.mgrid[:256, :256] // side
        board = torch.from_numpy(((y + x) % 2 * 2.0 - 1.0).astype(np.float32))[None, None]
        told = octave_energies(board)
        assert told.shape == (1, 2 * OCTAVES, *shape)
        assert int(told[0, 0::2, 0, 0].argmax()) == octave


# --- bins and normalisation ----------------------------------------------------------------------------------------


def test_edges_of_the_blur_bins_grow_as_the_square() -> None:
    edges = blur_edges().numpy()
    assert edges.shape == (BLUR_BINS + 1,)
    assert edges[0] == 0.0
    assert edges[-1] == BLUR_MAX_PX
    np.testing.assert_allclose(np.sqrt(edges / BLUR_MAX_PX) * BLUR_BINS, np.arange(BLUR_BINS + 1), atol=1e-9)


def test_gain_and_offset_leave_no_trace() -> None:
    counts = np.random.default_rng(2).poisson(50.0, (2, 64, 64))
    told = normalise(torch.from_numpy(counts.astype(np.uint16).astype(np.int32)))
    assert told.shape == (2, 1, 64, 64)
    assert told.dtype == torch.float32
    assert torch.allclose(told.mean(dim=(2, 3)), torch.zeros(2, 1), atol=1e-5)
    assert torch.allclose(told.square().mean(dim=(2, 3)), torch.ones(2, 1), atol=1e-4)
    assert torch.allclose(told, normalise(torch.from_numpy(3.5 * counts + 700.0)), atol=1e-4)


def test_a_frame_of_one_value_stays_zero() -> None:
    assert float(normalise(torch.full((1, 64, 64), 1234.0)).abs().max()) == 0.0
