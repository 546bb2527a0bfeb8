"""What is coarse in a frame and no shade: a dim specimen far out of focus is told from uneven light."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.models.defocus import MIN_EXCESS, MIN_SHARE, DefocusModel
from parfocal.models.emptiness import unevenness
from parfocal.models.metrics.planes import Planes
from parfocal.models.training.camera_noise import empty
from parfocal.simulator.widefield import WidefieldParameters, WidefieldSimulator

FAR_UM = -25.0


def exposed(expected: NDArray[Any], seed: int = 0) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(expected) + rng.normal(100.0, 1.6, expected.shape)
    return np.clip(np.round(counts), 0, 65535).astype(np.uint16)


def far_and_dim(kind: str) -> NDArray[np.uint16]:
    """Twenty photons at the peak if it were in focus; 25 um away about one."""
    parameters = WidefieldParameters(
        specimen=kind, density=1.5, photons=20.0, background_photons=5.0, focus_um=FAR_UM, seed=92
    )
    simulator = WidefieldSimulator(parameters, threads=1)
    return exposed(simulator.photons(0.0, parameters.nominal_exposure_ms, 1.0))


def believed(frame: NDArray[Any]) -> bool:
    found = unevenness(Planes(frame[None]))
    return bool(found.excess[0] > MIN_EXCESS) and bool(found.share[0] > MIN_SHARE)


@pytest.mark.parametrize("kind", ["filaments", "mitochondria", "tissue"])
def test_a_dim_specimen_far_out_of_focus_is_more_than_uneven_light(kind: str) -> None:
    frame = far_and_dim(kind)
    assert believed(frame)
    model = DefocusModel({"na": 0.75, "emission_um": 0.525, "threads": 1, "patch_map": False})
    (said,) = model.assess(frame[None], 0.325)
    assert not said.abstained
    assert abs(said.value - abs(FAR_UM)) < 3.0 * said.sd


@pytest.mark.parametrize("size_px", [128, 256, 512])
def test_empty_fields_with_uneven_light_are_not(size_px: int) -> None:
    rng = np.random.default_rng(3)
    frames = [empty((size_px, size_px), rng).counts.astype(np.uint16) for _ in range(60)]
    assert np.mean([believed(frame) for frame in frames]) <= 0.05


@pytest.mark.parametrize("photons", [3.0, 300.0, 30_000.0])
def test_a_shade_leaves_no_share_however_surely_it_is_seen(photons: float) -> None:
    y, x = np.linspace(-1, 1, 512)[:, None], np.linspace(-1, 1, 512)[None, :]
    found = unevenness(Planes(exposed(photons * np.exp(-0.7 * ((x - 0.2) ** 2 + y**2)))[None]))
    assert not (found.excess[0] > MIN_EXCESS and found.share[0] > MIN_SHARE)


def test_neither_gain_nor_offset_matters() -> None:
    frame = far_and_dim("filaments").astype(np.float64)
    one, two = (unevenness(Planes(image[None])) for image in (frame, 3.0 * frame + 500.0))
    assert float(one.excess[0]) == pytest.approx(float(two.excess[0]), rel=1e-6)
    assert float(one.share[0]) == pytest.approx(float(two.share[0]), rel=1e-6)


@pytest.mark.parametrize("shape", [(128, 128), (130, 700), (64, 64), (512, 160)])
def test_noise_alone_is_within_a_few_of_its_standard_deviations(shape: tuple[int, int]) -> None:
    excess = [float(unevenness(Planes(exposed(np.full(shape, 50.0), seed)[None])).excess[0]) for seed in range(20)]
    assert np.percentile(excess, 90) < MIN_EXCESS
    constant = unevenness(Planes(np.full((1, *shape), 7, np.uint16)))
    assert float(constant.excess[0]) <= 0.0 or float(constant.share[0]) == 0.0
