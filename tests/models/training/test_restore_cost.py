from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Blur, Restoration, Verdict, unchanged
from parfocal.models.training import restore_cost
from parfocal.models.training.restore_cost import costs, work_gmac


class Convolving:
    """Does one convolution, `times` over."""

    def __init__(self, name: str, times: int, device: str = "cpu") -> None:
        self.name, self.times, self.device = name, times, device
        self.threads: set[int] = set()

    def restore(self, frame: NDArray[Any], blur: Blur) -> Restoration:
        self.threads.add(torch.get_num_threads())
        for _ in range(self.times):
            torch.nn.functional.conv2d(torch.zeros(1, 1, *frame.shape), torch.zeros(4, 1, 3, 3), padding=1)
        return unchanged(self.name, Verdict.RESTORED, "", frame.astype("float32"), blur)

    def describe(self) -> Mapping[str, Any]:
        return {"device": self.device}


def test_work_is_counted_by_what_is_run() -> None:
    image, convolution = torch.zeros(1, 3, 32, 32), torch.nn.Conv2d(3, 8, 3, padding=1)
    with torch.inference_mode():
        assert work_gmac(lambda: convolution(image)) == pytest.approx(32 * 32 * 3 * 8 * 9 / 1e9)
    transform = 1.25 * 64 * 64 * math.log2(64 * 64) / 1e9
    both = work_gmac(lambda: torch.fft.irfft2(torch.fft.rfft2(torch.zeros(64, 64)), s=(64, 64)))
    assert both == pytest.approx(2 * transform, rel=1e-3)


def test_networks_are_measured_on_one_core_and_the_peer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_cost, "REPEATS", 2)
    before = torch.get_num_threads()
    unet = Convolving("unet", 1)
    found = costs({"wiener": make_restorer("wiener"), "unet": unet, "comi": Convolving("comi", 20)})
    assert set(found) == {"unet", "comi"}
    assert found["unet"]["gmac"] == pytest.approx(512 * 512 * 4 * 9 / 1e9)
    assert found["comi"] == {"gmac": pytest.approx(20 * found["unet"]["gmac"])}
    assert found["unet"]["ms"] > 0.0
    assert 1 in unet.threads and torch.get_num_threads() == before
    assert "ms" not in costs({"unet": Convolving("unet", 1, "cuda:0")})["unet"]
