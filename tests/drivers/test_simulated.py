from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.drivers.base import (
    CameraError,
    DeviceNotFoundError,
    HardwareError,
    Microscope,
    ParameterError,
)
from parfocal.drivers.options import DriverOptionError
from parfocal.drivers.simulated import SimulatedMicroscope
from parfocal.simulator import optics
from parfocal.simulator.clock import RealClock, VirtualClock

FIELD: dict[str, Any] = {"size_px": 64, "specimen": "puncta"}


def microscope(simulation: dict[str, Any] | None = None, **options: Any) -> SimulatedMicroscope:
    made = SimulatedMicroscope({"simulation": {**FIELD, **(simulation or {})}, **options}, VirtualClock(1000.0))
    made.open()
    return made


def light(made: SimulatedMicroscope) -> float:
    """Mean of a frame above the camera's offset."""
    return float(made.snap().pixels.astype(float).mean()) - 100.0


def test_is_a_microscope_and_says_it_is_simulated() -> None:
    made = microscope()
    assert isinstance(made, Microscope)
    assert made.simulated
    frame = made.snap()
    assert frame.simulated
    assert set(frame.truth) >= {"defocus_um", "focus_z_um"}
    assert frame.metadata["driver"] == "simulated"
    assert frame.pixels.shape == (64, 64)
    assert frame.pixels.dtype == np.uint16
    assert frame.pixel_um == pytest.approx(0.325)
    assert frame.saturation_counts == 65535.0
    assert not frame.pixels.flags.writeable


def test_without_a_clock_it_runs_in_real_time() -> None:
    assert isinstance(SimulatedMicroscope({"simulation": FIELD}).clock, RealClock)


def test_real_time_passes_during_an_exposure() -> None:
    made = SimulatedMicroscope({"simulation": FIELD, "exposure_ms": 20.0})
    made.open()
    before = made.clock.now()
    made.snap()
    assert made.clock.now() - before >= 0.0249
    made.close()


def test_a_frame_knows_where_and_when_it_was_exposed() -> None:
    made = microscope({"focus_um": 3.0}, exposure_ms=10.0)
    assert made.set("z_um", 5.0) == 5.0
    now = made.clock.now()
    frame = made.snap()
    assert frame.start_s == now
    assert frame.end_s == pytest.approx(now + 0.010)
    assert made.clock.now() == pytest.approx(now + 0.015)  # with the read-out
    assert frame.settings == {"z_um": 5.0, "exposure_ms": 10.0, "excitation_power": 1.0}
    assert frame.truth["defocus_um"] == pytest.approx(2.0)
    assert frame.settings["z_um"] - frame.truth["defocus_um"] == pytest.approx(frame.truth["focus_z_um"])


def test_set_lets_the_move_and_the_settling_pass() -> None:
    made = microscope({"stage": {"speed_um_per_s": 100.0, "settle_ms": 50.0}})
    before = made.clock.now()
    assert made.set("z_um", -20.0) == -20.0
    assert made.clock.now() - before == pytest.approx(0.25, abs=1e-4)
    assert made.read()["z_um"] == -20.0


def test_frames_honour_the_interval_and_count_up() -> None:
    made = microscope(interval_ms=100.0)
    source = made.frames()
    frames = [next(source) for _ in range(3)]
    made.clock.sleep(1.0)
    frames.append(next(source))
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert np.diff([frame.start_s for frame in frames]) == pytest.approx([0.1, 0.1, 1.015])
    assert made.snap().index == 4


def test_frames_come_back_to_back_by_default_and_end_with_the_microscope() -> None:
    made = microscope(exposure_ms=20.0)
    source = made.frames()
    starts = [next(source).start_s for _ in range(3)]
    assert np.diff(starts) == pytest.approx([0.025, 0.025])
    made.close()
    assert list(source) == []


def test_an_hour_of_drift_passes_in_a_blink() -> None:
    made = microscope({"drift": {"rate_um_per_min": 1.0}}, interval_ms=600_000.0)
    source = made.frames()
    truths = [next(source).truth["focus_z_um"] for _ in range(7)]
    assert np.diff(truths) == pytest.approx([10.0] * 6)


def test_light_scales_with_exposure_and_power() -> None:
    made = microscope({"photons": 2000.0, "camera": {"vignetting": 0.0, "hot_pixel_fraction": 0.0}})
    full = light(made)
    made.set("excitation_power", 0.25)
    assert light(made) == pytest.approx(full / 4, rel=0.05)
    assert made.set("exposure_ms", 40.0) == 40.0
    assert light(made) == pytest.approx(full, rel=0.05)
    frame = made.snap()
    assert frame.end_s - frame.start_s == pytest.approx(0.040)


def test_make_safe_is_dark_for_good_until_power_is_set_again() -> None:
    made = microscope()
    assert light(made) > 5
    made.make_safe()
    made.make_safe()
    assert made.read()["excitation_power"] == 0.0
    frame = made.snap()
    assert frame.settings["excitation_power"] == 0.0
    assert abs(float(frame.pixels.mean()) - 100.0) < 1.0
    assert made.snap().metadata["shutter_open"] is False
    made.set("excitation_power", 0.5)
    assert light(made) > 2


def test_without_auto_beam_it_opens_dark() -> None:
    made = microscope({"auto_beam": False, "excitation_power": 0.7})
    assert made.read()["excitation_power"] == 0.0
    assert abs(light(made)) < 1.0


def test_make_safe_works_at_any_time() -> None:
    made = SimulatedMicroscope({"simulation": FIELD}, VirtualClock())
    made.make_safe()
    made.open()
    made.open()
    assert abs(light(made)) > 1.0
    made.close()
    made.close()
    made.make_safe()
    with pytest.raises(CameraError, match="not open"):
        made.snap()


def test_closed_it_does_nothing() -> None:
    made = SimulatedMicroscope({"simulation": FIELD}, VirtualClock())
    for _ in range(2):
        with pytest.raises(CameraError, match="not open"):
            made.snap()
        with pytest.raises(CameraError, match="not open"):
            made.frames()
        with pytest.raises(HardwareError, match="not open"):
            made.set("z_um", 1.0)
        with pytest.raises(HardwareError, match="not open"):
            made.read()
        made.open()
        made.close()


def test_reopened_it_counts_from_zero_and_time_goes_on() -> None:
    made = microscope({"drift": {"rate_um_per_min": 60.0}})
    made.snap()
    made.close()
    made.clock.sleep(10.0)
    made.open()
    frame = made.snap()
    assert frame.index == 0
    assert frame.truth["focus_z_um"] == pytest.approx(10.02, abs=0.01)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("z_um", 100.5),
        ("z_um", float("nan")),
        ("z_um", float("inf")),
        ("excitation_power", -0.01),
        ("excitation_power", 1.01),
        ("exposure_ms", 0.0),
        ("depletion_power", 1.0),
    ],
)
def test_what_it_must_not_do_is_refused_and_nothing_changes(name: str, value: float) -> None:
    made = microscope()
    before = made.read()
    with pytest.raises(ParameterError, match=name):
        made.set(name, value)
    assert made.read() == before


@given(st.lists(st.tuples(st.sampled_from(["z_um", "exposure_ms", "excitation_power"]), st.floats()), max_size=20))
@settings(max_examples=60, deadline=None)
def test_no_float_brings_it_outside_its_range(commands: list[tuple[str, float]]) -> None:
    made = microscope({"size_px": 32, "specimen": "empty"})
    for name, value in commands:
        try:
            made.set(name, value)
        except ParameterError:
            pass
        for key, now in made.read().items():
            assert made.parameters[key].lower <= now <= made.parameters[key].upper


def test_same_seed_same_session_other_seed_another() -> None:
    def run(seed: int) -> list[np.ndarray]:
        made = microscope({"focus_um": "random", "drift": {"random_walk_um_per_sqrt_min": 1.0}}, seed=seed)
        source = made.frames()
        frames = [next(source)]
        made.set("z_um", 3.0)
        return [frame.pixels for frame in [*frames, next(source)]]

    assert all(np.array_equal(a, b) for a, b in zip(run(1), run(1), strict=True))
    assert not np.array_equal(run(1)[0], run(2)[0])


def test_random_focus_fills_its_range() -> None:
    options = {"focus_um": "random", "focus_range_um": 8.0}
    places = [microscope(options, seed=n).snap().truth["focus_z_um"] for n in range(30)]
    assert max(map(abs, places)) <= 8.0
    assert max(places) > 4.0
    assert min(places) < -4.0


def test_objective_and_pixel_reach_the_optics() -> None:
    made = microscope(objective={"na": 1.2, "immersion_index": 1.33, "magnification": 60.0}, emission_nm=600.0)
    optics = made.simulator.parameters.optics
    assert (optics.na, optics.immersion_index, optics.emission_um) == (1.2, 1.33, 0.6)
    assert made.snap().pixel_um == pytest.approx(6.5 / 60)
    assert microscope(pixel_um=0.2).snap().pixel_um == 0.2
    assert made.depth_of_field_um == optics.depth_of_field_um


def test_aberrations_reach_the_optics() -> None:
    aberration = {"depth_um": 20.0, "sample_index": 1.4, "zernike_waves": {"4,0": 0.1, "2,-2": 0.05}}
    optics = microscope({"aberration": aberration}).simulator.parameters.optics
    assert (optics.depth_um, optics.sample_index) == (20.0, 1.4)
    assert optics.zernike_waves == {(4, 0): 0.1, (2, -2): 0.05}


def test_a_tiff_is_a_specimen(tmp_path: Path) -> None:
    image = np.zeros((80, 80), dtype=np.uint16)
    image[20:30, 40:60] = 1000
    tifffile.imwrite(tmp_path / "cells.tif", image)
    frame = microscope({"specimen": str(tmp_path / "cells.tif"), "size_px": 80}).snap()
    counts = frame.pixels.astype(float)
    assert counts[22:28, 42:58].mean() > 3 * counts[60:, :20].mean()


def test_a_specimen_that_cannot_be_used_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFoundError, match=r"there is no file .*gone.tif"):
        microscope({"specimen": str(tmp_path / "gone.tif")})
    (tmp_path / "broken.tif").write_bytes(b"not a tiff")
    with pytest.raises(DeviceNotFoundError, match="cannot be read"):
        microscope({"specimen": str(tmp_path / "broken.tif")})
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((40, 40, 3), dtype=np.uint8), photometric="rgb")
    with pytest.raises(DriverOptionError, match="one grey image"):
        microscope({"specimen": str(tmp_path / "rgb.tif")})
    tifffile.imwrite(tmp_path / "flat.tif", np.ones((64, 64), dtype=np.uint8))
    with pytest.raises(DriverOptionError, match="one value"):
        microscope({"specimen": str(tmp_path / "flat.tif")})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simulaton": {}}, r"microscope\.simulaton: unknown key; did you mean 'simulation'\?"),
        (
            {"simulation": {"drift": {"rate_um_min": 1}}},
            r"simulation\.drift\.rate_um_min: .*did you mean 'rate_um_per_min'\?",
        ),
        ({"simulation": {"specimen": "nuclie"}}, r"simulation\.specimen: .*'nuclie'.*did you mean 'nuclei'\?"),
        ({"simulation": {"photons": "many"}}, r"simulation\.photons: .*\(got 'many'\)"),
        ({"simulation": {"stage": {"lower_um": 5.0, "upper_um": 1.0}}}, r"simulation\.stage: .*upper_um"),
        ({"simulation": {"start_um": 500.0}}, r"simulation\.start_um: .*-100\.\.100"),
        ({"simulation": {"bleaching": {"fast_fraction": 0.5}}}, r"simulation\.bleaching: .*fast_dose_ms"),
        ({"simulation": {"focus_um": float("nan")}}, r"simulation\.focus_um"),
        ({"objective": {"na": 1.3}}, r"microscope\.objective: .*immersion"),
        ({"exposure_ms": -1}, r"microscope\.exposure_ms: .*\(got -1\)"),
    ],
)
def test_wrong_options_name_the_key_and_the_nearest_valid_one(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DriverOptionError, match=message) as caught:
        SimulatedMicroscope(options, VirtualClock())
    assert caught.value.exit_code == 3


def test_every_wrong_option_is_named_at_once() -> None:
    with pytest.raises(DriverOptionError) as caught:
        SimulatedMicroscope({"exposure_ms": -1, "simulation": {"size_px": 1, "colour": "red"}})
    assert len(caught.value.problems) == 3


def test_keys_of_other_drivers_and_absent_values_are_no_mistake() -> None:
    options = {"driver": "simulated", "system_config": "scope.cfg", "path": None, "options": {}, "simulation": FIELD}
    made = SimulatedMicroscope(options, VirtualClock())
    made.open()
    assert made.snap().pixels.shape == (FIELD["size_px"], FIELD["size_px"])


def test_what_the_first_frame_needs_is_computed_when_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    optics._radial.cache_clear()
    made = microscope({"size_px": 256, "focus_um": 40.0})

    def late(*_: object, **__: object) -> None:
        raise AssertionError("made while a frame is waited for")

    monkeypatch.setattr(optics.RadialTransfer, "__init__", late)
    assert made.snap().pixels.shape == (256, 256)
    optics._radial.cache_clear()
