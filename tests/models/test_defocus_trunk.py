"""The trunk that the runner gets computes what the network computes."""

from __future__ import annotations

import pytest
import torch

from parfocal.models.defocus_net import CompactDefocusNet, octave_energies
from parfocal.models.defocus_trunk import CellTrunk, moments_by_rows, octave_energies_by_rows


@pytest.fixture(scope="module")
def network() -> CompactDefocusNet:
    torch.manual_seed(3)
    return CompactDefocusNet().eval().requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 128, 128), (2, 128, 256), (3, 192, 128)])
def test_it_says_what_the_network_says(network: CompactDefocusNet, shape: tuple[int, int, int]) -> None:
    images = torch.randn(shape[0], 1, *shape[1:])
    power = network.spectrum(images)
    channels_last = CellTrunk(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.inference_mode():
        expected = network.look(images, power)
        for trunk in (CellTrunk(network), channels_last):
            for said, wanted in zip(trunk(images, power), expected, strict=True):
                torch.testing.assert_close(said, wanted, rtol=1e-4, atol=1e-4)


def test_octaves_are_those_of_the_network() -> None:
    images = 5 * torch.randn(2, 1, 192, 128) + torch.linspace(0, 3, 128)
    torch.testing.assert_close(octave_energies_by_rows(images), octave_energies(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [1, 8, 16, 32])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_moments_are_over_cells(side: int, memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 3, 2 * side, 3 * side).contiguous(memory_format=memory_format)
    mean, square = moments_by_rows(x, side)
    cells = x.reshape(2, 3, 2, side, 3, side)
    torch.testing.assert_close(mean, cells.mean(dim=(3, 5)))
    torch.testing.assert_close(square, cells.square().mean(dim=(3, 5)))


def test_it_can_be_exported_for_any_number_and_size(network: CompactDefocusNet) -> None:
    images = torch.randn(2, 1, 128, 128)
    free = torch.export.Dim.AUTO
    shapes = ({0: free, 2: free, 3: free}, {0: free, 2: free, 3: free})
    exported = torch.export.export(CellTrunk(network), (images, network.spectrum(images)), dynamic_shapes=shapes)
    operations = {str(node.target) for node in exported.graph.nodes}
    assert any("avg_pool2d" in name for name in operations), "the form that any runtime converts was not taken"


def test_low_precision_takes_the_form_that_accumulates_in_float32(network: CompactDefocusNet) -> None:
    images = torch.randn(1, 1, 128, 128)
    power = network.spectrum(images)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        said, wanted = CellTrunk(network)(images, power), network.look(images, power)
    for one, other in zip(said, wanted, strict=True):
        assert torch.equal(one, other)
