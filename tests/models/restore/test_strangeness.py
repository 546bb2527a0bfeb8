from __future__ import annotations

import torch

from parfocal.models.restore.strangeness import Strangeness

SIZE = 11


def traits(count: int, seed: int) -> torch.Tensor:
    torch.manual_seed(7)
    mixing = torch.randn(SIZE, SIZE)
    return torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed)) @ mixing + 3.0


def test_one_in_a_hundred_of_the_known_is_strange_and_others_are() -> None:
    fitted = Strangeness.fit(traits(600, 1), traits(400, 2))
    known = torch.tensor([fitted.of(row) for row in traits(400, 3)])
    assert float((known > 1.0).float().mean()) < 0.05
    assert all(fitted.of(row + 30.0) > 1.0 for row in traits(20, 4))


def test_usual_values_in_an_unusual_combination_are_strange() -> None:
    torch.manual_seed(3)
    along = torch.randn(500, 1)
    together = torch.cat([along, along + 0.05 * torch.randn(500, 1)], dim=1)
    fitted = Strangeness.fit(together[:300], together[300:])
    assert fitted.of(torch.tensor([1.0, 1.0])) < 1.0 < fitted.of(torch.tensor([1.0, -1.0]))


def test_it_goes_into_a_weight_file_and_back() -> None:
    fitted = Strangeness.fit(traits(200, 1), traits(200, 2))
    back = Strangeness.of_state(fitted.state())
    assert back.of(traits(1, 9)[0]) == fitted.of(traits(1, 9)[0])


def test_a_trait_that_never_varies_does_not_divide_by_nothing() -> None:
    constant = traits(100, 1)
    constant[:, 0] = 2.0
    fitted = Strangeness.fit(constant, constant)
    assert torch.isfinite(torch.tensor(fitted.of(constant[0] + 1e-4)))
