from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parfocal import UsageError
from parfocal.simulator.bleaching import BleachingParameters
from parfocal.simulator.camera import CameraParameters
from parfocal.simulator.drift import DriftParameters
from parfocal.simulator.stage import StageParameters
from parfocal.simulator.widefield import WidefieldParameters, WidefieldSimulator

CLEAN = CameraParameters(vignetting=0.0, hot_pixel_fraction=0.0)
SMALL = WidefieldParameters(specimen="puncta", shape=(128, 128), camera=CLEAN, seed=4)


def sharpness(image: np.ndarray) -> float:
    image = image.astype(np.float64)
    return float(np.mean((image[:, 2:] - image[:, :-2]) ** 2) / np.mean(image) ** 2)


def test_the_brightest_pixel_in_focus_sees_the_photons_it_was_promised() -> None:
    simulator = WidefieldSimulator(replace(SMALL, photons=321.0))
    assert simulator.photons(0.0, 10.0, 1.0).max() == pytest.approx(321.0, rel=1e-5)
    assert simulator.photons(0.0, 30.0, 0.5).max() == pytest.approx(1.5 * 321.0, rel=1e-5)
    assert simulator.photons(0.0, 10.0, 0.0).max() == 0.0


def test_counts_are_the_photons_through_the_camera() -> None:
    simulator = WidefieldSimulator(replace(SMALL, photons=5000.0, background_photons=20.0))
    photons = simulator.photons(0.0, 10.0, 1.0)
    counts, _ = simulator.expose(0.0, 10.0)
    assert counts.astype(float).mean() - 100.0 == pytest.approx(0.8 * 2.0 * photons.mean(), rel=0.01)
    assert np.corrcoef(counts.ravel(), photons.ravel())[0, 1] > 0.98
    assert photons.min() >= 20.0


def test_focus_is_where_the_truth_says() -> None:
    simulator = WidefieldSimulator(replace(SMALL, focus_um=3.0))
    seen = {}
    for number, z_um in enumerate((-2.0, 0.0, 2.0, 3.0, 4.0, 8.0)):
        simulator.stage.move_to(z_um, float(number))
        _, truth = simulator.expose(number + 0.9, 10.0)
        assert truth["defocus_um"] == pytest.approx(z_um - 3.0)
        assert truth["focus_z_um"] == 3.0
        seen[z_um] = sharpness(simulator.photons(number + 0.95, 10.0, 1.0))
    assert max(seen, key=seen.__getitem__) == 3.0
    assert seen[8.0] < seen[4.0] < seen[3.0]


def test_an_hour_of_drift_costs_nothing_but_arithmetic() -> None:
    drift = DriftParameters(rate_um_per_min=1.0, random_walk_um_per_sqrt_min=0.2)
    simulator = WidefieldSimulator(replace(SMALL, drift=drift))
    _, truth = simulator.expose(3600.0, 10.0)
    assert truth["focus_z_um"] == pytest.approx(60.0, abs=8.0)
    assert truth["focus_z_um"] != pytest.approx(60.0, abs=1e-3)
    assert truth["defocus_um"] == pytest.approx(-truth["focus_z_um"])
    again = WidefieldSimulator(replace(SMALL, drift=drift))
    for t_s in range(0, 3600, 100):
        again.focus_z_um(float(t_s))
    assert again.focus_z_um(3600.005) == truth["focus_z_um"]


def test_motion_during_the_exposure_smears_it() -> None:
    slow = StageParameters(speed_um_per_s=100.0, settle_ms=0.0)
    simulator = WidefieldSimulator(replace(SMALL, stage=slow, start_um=-5.0))
    simulator.stage.move_to(5.0, 0.0)  # passes the focus in the middle of the exposure
    moving = simulator.photons(0.0, 100.0, 1.0)
    parts = [simulator.photons(t_s, 1e-6, 1.0) * 1e8 for t_s in (0.1 / 6, 0.05, 0.5 / 6)]
    assert moving == pytest.approx(sum(parts) / 3, rel=1e-3, abs=1.0)
    assert sharpness(moving) < 0.5 * sharpness(parts[1])
    _, truth = simulator.expose(0.0, 100.0)
    assert truth["defocus_um"] == pytest.approx(0.0, abs=0.02)


def test_backlash_parts_the_truth_from_the_encoder() -> None:
    simulator = WidefieldSimulator(replace(SMALL, stage=StageParameters(backlash_um=2.0)))
    simulator.stage.move_to(5.0, 0.0)
    _, truth = simulator.expose(1.0, 10.0)
    assert simulator.stage.position_um(1.0) == 5.0
    assert truth["stage_um"] == pytest.approx(4.0)
    assert truth["defocus_um"] == pytest.approx(4.0)
    there = WidefieldSimulator(replace(SMALL, start_um=4.0))
    assert simulator.photons(1.0, 10.0, 1.0) == pytest.approx(there.photons(1.0, 10.0, 1.0), rel=1e-4, abs=1e-3)


def test_the_specimen_bleaches_by_the_light_it_gets() -> None:
    simulator = WidefieldSimulator(replace(SMALL, photons=5000.0, bleaching=BleachingParameters(dose_ms=50.0)))
    frames = [simulator.expose(float(n), 10.0) for n in range(11)]
    brightness = [truth["brightness"] for _, truth in frames]
    assert brightness[0] == pytest.approx((1 - np.exp(-0.2)) / 0.2)
    assert brightness[10] / brightness[0] == pytest.approx(np.exp(-2.0))
    means = [counts.astype(float).mean() - 100.0 for counts, _ in frames]
    assert means[10] / means[0] == pytest.approx(np.exp(-2.0), rel=0.05)


def test_an_empty_field_holds_only_background() -> None:
    simulator = WidefieldSimulator(replace(SMALL, specimen="empty", background_photons=50.0))
    assert simulator.photons(0.0, 10.0, 1.0) == pytest.approx(50.0)


def test_an_image_is_a_specimen() -> None:
    image = np.zeros((100, 90))
    image[40:60, 30:50] = 7.0
    simulator = WidefieldSimulator(replace(SMALL, specimen=image))
    photons = simulator.photons(0.0, 10.0, 1.0)
    assert photons.shape == (128, 128)
    assert photons.max() == pytest.approx(1000.0, rel=1e-4)


def test_same_seed_same_frames_other_seed_other_specimen() -> None:
    drift = DriftParameters(random_walk_um_per_sqrt_min=1.0)
    one, same = (WidefieldSimulator(replace(SMALL, drift=drift), threads=threads) for threads in (1, 2))
    other = WidefieldSimulator(replace(SMALL, drift=drift, seed=5))
    for number in range(3):
        counts, truth = one.expose(10.0 * number, 10.0)
        again, truth_again = same.expose(10.0 * number, 10.0)
        assert np.array_equal(counts, again)
        assert truth == truth_again
        assert not np.array_equal(counts, other.expose(10.0 * number, 10.0)[0])
    assert not np.array_equal(one.specimen, other.specimen)


@pytest.mark.parametrize(
    "changes",
    [{"photons": -1.0}, {"background_photons": float("nan")}, {"nominal_exposure_ms": 0.0}, {"shape": (16, 64)}],
)
def test_impossible_fields_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="widefield"):
        replace(SMALL, **changes)


def test_impossible_exposures_are_refused_before_anything_bleaches() -> None:
    simulator = WidefieldSimulator(SMALL)
    for exposure_ms, power in ((0.0, 1.0), (float("nan"), 1.0), (10.0, -0.1), (10.0, float("inf"))):
        with pytest.raises(UsageError, match="widefield"):
            simulator.expose(0.0, exposure_ms, power)
    assert simulator.bleaching.dose_ms == 0.0
