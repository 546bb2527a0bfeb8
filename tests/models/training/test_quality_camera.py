from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.models.training.degradations import PEAK, parameter
from parfocal.models.training.quality_camera import (
    PHYSICAL,
    Light,
    Objective,
    digitise,
    expose,
    light_for,
    to_counts,
    uneven,
)

FLAT = np.full((200, 200), 2.0, dtype=np.float32)


@pytest.fixture(scope="module")
def objective() -> Objective:
    return Objective(64)


@pytest.fixture(scope="module")
def points(objective: Objective) -> NDArray[np.float32]:
    specimen = np.zeros((objective.canvas_px, objective.canvas_px), dtype=np.float32)
    specimen[objective.canvas_px // 2, objective.canvas_px // 2] = 1.0
    return specimen


@pytest.mark.parametrize("sigma", [3.0, 5.0])
def test_defocus_has_the_second_moment_it_was_asked_for(
    objective: Objective, points: NDArray[np.float32], sigma: float
) -> None:
    y, x = np.mgrid[:64, :64] - 32.0
    for seed in range(4):
        image = objective.image(points, sigma, np.random.default_rng(seed)).astype(np.float64)
        weight = np.where(np.hypot(y, x) < 28, image, 0.0)
        moment = np.sqrt(np.sum(weight * (y**2 + x**2)) / weight.sum() / 2)
        # Diffraction widens it, and the rings that the window cuts off narrow it.
        assert 0.6 * sigma < moment < 1.8 * sigma


def test_in_focus_an_image_has_its_peak_and_a_defocused_one_less(
    objective: Objective, points: NDArray[np.float32]
) -> None:
    specimen = np.repeat(np.repeat(np.random.default_rng(0).random((32, 32)) > 0.7, 4, 0), 4, 1).astype(np.float32)
    specimen = np.ascontiguousarray(specimen[: objective.canvas_px, : objective.canvas_px])
    for seed in range(5):
        sharp = objective.image(specimen, 0.0, np.random.default_rng(seed))
        soft = objective.image(specimen, 8.0, np.random.default_rng(seed))
        assert sharp.shape == (64, 64)
        assert 0.7 * PEAK < sharp.max() < 1.4 * PEAK
        assert soft.std() < 0.7 * sharp.std()
        assert soft.min() >= 0.0


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_few_photons_have_the_tables_shot_noise(level: float) -> None:
    light = light_for("shot", level, np.random.default_rng(1))
    seen = expose(FLAT, Light(light.photons_per_unit, 0.0), np.random.default_rng(2)) / light.photons_per_unit
    assert seen.mean() == pytest.approx(2.0, rel=0.05)
    assert seen.var() == pytest.approx(parameter("shot", level) * 2.0, rel=0.05)
    assert light.read_electrons**2 < 0.2 * 2.0 * light.photons_per_unit


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_read_noise_has_the_tables_variance(level: float) -> None:
    for seed in range(5):
        light = light_for("readout", level, np.random.default_rng(seed))
        assert (light.read_electrons / light.photons_per_unit) ** 2 == pytest.approx(parameter("readout", level))
        # A normal number, and the spread between the pixels of an sCMOS sensor.
        noise = expose(np.zeros_like(FLAT), light, np.random.default_rng(seed)) / light.photons_per_unit
        assert 0.9 < noise.std() / np.sqrt(parameter("readout", level)) < 1.5


@pytest.mark.parametrize("artefact", ["reference", "blur", "vignetting"])
def test_the_other_classes_have_light_enough(artefact: str) -> None:
    for seed in range(30):
        light = light_for(artefact, -1.0 if artefact == "reference" else 0.5, np.random.default_rng(seed))
        assert light.photons_per_unit * PEAK >= (150.0 if artefact == "reference" else 60.0)
        assert light.read_electrons <= 2.5


def test_uneven_light_is_as_deep_as_the_table_but_not_always_in_the_middle() -> None:
    deepest = []
    for seed in range(20):
        weak, strong = (uneven((64, 64), level, np.random.default_rng(seed)) for level in (0.0, 1.0))
        assert strong.min() < weak.min() < 0.8
        assert strong.max() == pytest.approx(1.0, abs=0.02)
        deepest.append(np.unravel_index(np.argmax(strong), strong.shape))
    assert len(set(deepest)) > 10


def test_counts_are_those_of_a_camera() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        electrons = expose(FLAT, Light(30.0, 2.0), rng)
        counts = digitise(electrons, rng)
        assert counts.dtype == np.uint16
        ordinary = counts[counts < np.percentile(counts, 99)]
        assert np.corrcoef(electrons.ravel()[:4000], counts.ravel()[:4000].astype(float))[0, 1] > 0.0
        assert 0 <= ordinary.min() < 65_000


def test_a_gain_of_counts_per_unit_keeps_the_noise_and_clips_nothing() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        units = np.abs(rng.normal(2.0, 0.5, (64, 64))).astype(np.float32) - np.float32(1.0)
        counts = to_counts(units, rng).astype(np.float64)
        slope, intercept = np.polyfit(units.ravel(), counts.ravel(), 1)
        assert slope > 20.0
        assert np.abs(counts - (slope * units + intercept)).max() < 0.6  # the line is fitted
        assert 0 <= counts.min() <= counts.max() < 65_535


def test_every_physical_class_can_be_exposed() -> None:
    for artefact in PHYSICAL:
        light = light_for(artefact, 0.3, np.random.default_rng(0))
        assert np.isfinite(expose(FLAT, light, np.random.default_rng(1))).all()
