from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from parfocal.models.defocus_net import CONDITIONS, CompactDefocusNet
from parfocal.models.folding import fold_batch_norm


def unsettle(network: nn.Module) -> nn.Module:
    """Give every batch normalisation statistics and scales that do something."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(module.num_features, generator=generator))
                module.bias.copy_(torch.randn(module.num_features, generator=generator))
    return network.eval()


def test_the_folded_network_is_the_same_function() -> None:
    torch.manual_seed(1)
    network = unsettle(CompactDefocusNet())
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_norm(network)
    images, conditions = torch.randn(2, 1, 192, 256), torch.randn(2, CONDITIONS)
    with torch.inference_mode():
        plain, quick = network(images, conditions), folded(images, conditions)
    for name in ("blur", "sign", "signal"):
        first, second = getattr(plain, name), getattr(quick, name)
        assert float((first - second).abs().max() / first.abs().max().clamp_min(1.0)) < 1e-5
    # Only the two-dimensional ones have a convolution beside them; the network given is left alone.
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_normalisation_is_folded_forward_into_a_pointwise_convolution_only() -> None:
    torch.manual_seed(2)
    pointwise = unsettle(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)))
    spatial = unsettle(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)))
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        for network in (pointwise, spatial):
            assert torch.allclose(network(x), fold_batch_norm(network)(x), atol=1e-5)
    assert isinstance(fold_batch_norm(pointwise)[0], nn.Identity)
    assert isinstance(fold_batch_norm(spatial)[0], nn.BatchNorm2d)  # zero padding would not be normalised


def test_what_cannot_be_folded_is_refused() -> None:
    without = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 4, 1)).eval()
    with pytest.raises(ValueError, match="cannot be folded"):
        fold_batch_norm(without)
    with pytest.raises(ValueError, match="cannot be folded"):
        fold_batch_norm(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1, bias=False)).eval())
