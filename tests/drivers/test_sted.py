from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.drivers import make_microscope
from parfocal.drivers.base import CameraError, HardwareError, Microscope, ParameterError
from parfocal.drivers.options import DriverOptionError
from parfocal.drivers.sted import SimulatedSted
from parfocal.simulator.clock import RealClock, VirtualClock
from parfocal.simulator.sted.dyes import DYES, random_dye

FIELD: dict[str, Any] = {"size_px": 32, "structure": "filaments", "fields": 4}
CONFOCAL = {"excitation_power": 1.0, "depletion_power": 0.0, "dwell_us": 10.0, "line_steps": 1.0}
STED = {"excitation_power": 4.0, "depletion_power": 150.0, "dwell_us": 5.0, "line_steps": 3.0}


def microscope(simulation: dict[str, Any] | None = None, **options: Any) -> SimulatedSted:
    given = {"pixel_um": 0.04, **options, "simulation": {**FIELD, **(simulation or {})}}
    made = SimulatedSted(given, VirtualClock(1000.0))
    made.open()
    return made


def command(made: SimulatedSted, values: dict[str, float]) -> None:
    for name, value in values.items():
        assert made.set(name, value) == value


def test_is_a_microscope_and_says_it_is_simulated() -> None:
    made = make_microscope("simulated_sted", {"simulation": FIELD}, clock=VirtualClock())
    assert isinstance(made, Microscope)
    assert made.simulated
    made.open()
    frame = made.snap()
    assert frame.simulated
    assert set(frame.truth) >= {"defocus_um", "focus_z_um", "bleached", "bleached_by_frame", "fwhm_nm"}
    assert frame.metadata["driver"] == "simulated_sted"
    assert frame.metadata["structure"] == "filaments"
    assert frame.metadata["dye"] == "robust"
    assert frame.pixels.shape == (32, 32)
    assert frame.pixels.dtype == np.uint16
    assert frame.pixel_um == 0.02
    assert not frame.pixels.flags.writeable


def test_parameters_have_physical_ranges_and_kinds() -> None:
    made = microscope()
    ranges = {name: (p.unit, p.lower, p.upper, p.kind) for name, p in made.parameters.items()}
    pitch = made.field_pitch_um
    assert ranges == {
        "excitation_power": ("uW", 0.0, 20.0, "beam"),
        "depletion_power": ("mW", 0.0, 350.0, "beam"),
        "dwell_us": ("us", 1.0, 100.0, "timing"),
        "line_steps": ("passes", 1.0, 25.0, "timing"),
        "x_um": ("um", 0.0, pytest.approx(3 * pitch + 0.001), "position"),
        "y_um": ("um", 0.0, pytest.approx(3 * pitch + 0.001), "position"),
        "z_um": ("um", -100.0, 100.0, "position"),
    }


def test_opened_it_is_dark_and_a_scan_shows_the_background_only() -> None:
    made = microscope({"size_px": 64})
    assert made.read()["excitation_power"] == made.read()["depletion_power"] == 0.0
    frame = made.snap()
    assert frame.pixels.mean() == pytest.approx(0.16, abs=0.05)
    assert frame.truth["bleached"] == 0.0


def test_depletion_alone_shows_nothing() -> None:
    made = microscope({"size_px": 64})
    command(made, {"depletion_power": 300.0, "dwell_us": 10.0})
    assert made.snap().pixels.mean() == pytest.approx(0.16, abs=0.05)


def test_a_trial_is_three_frames_of_one_field() -> None:
    made = microscope({"structure": "clusters", "density": 3.0})
    frames = []
    for values in (CONFOCAL, {**STED, "dwell_us": 15.0}, CONFOCAL):
        command(made, values)
        frames.append(made.snap())
    first, sharp, second = frames
    assert first.truth["fwhm_nm"] == pytest.approx(219, abs=4)
    assert sharp.truth["fwhm_nm"] == pytest.approx(74, abs=3)
    assert sharp.truth["fidelity"] > first.truth["fidelity"]
    assert 0.03 < sharp.truth["bleached_by_frame"] < 0.9
    assert second.truth["bleached"] == pytest.approx(
        sum(frame.truth["bleached_by_frame"] for frame in frames), abs=1e-9
    )
    assert second.pixels.mean() < first.pixels.mean()
    assert {**STED, "dwell_us": 15.0, "x_um": 0.0, "y_um": 0.0, "z_um": 0.0} == sharp.settings


def test_bleaching_stays_where_it_happened() -> None:
    made = microscope()
    pitch = made.field_pitch_um
    command(made, {**STED, "excitation_power": 20.0})
    burnt = made.snap().truth["bleached"]
    assert burnt > 0.15
    command(made, {"x_um": pitch, "excitation_power": 0.0})
    fresh = made.snap()
    assert fresh.truth["bleached"] == 0.0
    assert fresh.settings["x_um"] == pytest.approx(pitch)
    command(made, {"y_um": 2 * pitch})
    assert made.snap().truth["bleached"] == 0.0
    command(made, {"x_um": 0.0, "y_um": 0.0})
    assert made.snap().truth["bleached"] == pytest.approx(burnt)


def test_fields_are_the_same_whatever_was_seen_before() -> None:
    def at(x: int, y: int, *, first: bool) -> np.ndarray:
        made = microscope(seed=3)
        if first:
            made.snap()
        command(made, {"x_um": x * made.field_pitch_um, "y_um": y * made.field_pitch_um})
        return made.canvas.sample(made.read()["y_um"], made.read()["x_um"]).fresh

    np.testing.assert_array_equal(at(2, 1, first=True), at(2, 1, first=False))
    assert not np.array_equal(at(2, 1, first=False), at(1, 2, first=False))


def test_the_last_field_can_be_reached_by_adding_steps() -> None:
    made = SimulatedSted({"simulation": {"size_px": 128, "fields": 32, "structure": "empty"}}, VirtualClock())
    made.open()
    x_um = 0.0
    for _ in range(31):
        x_um += made.field_pitch_um
    made.set("x_um", x_um)
    assert made.snap().pixels.shape == (128, 128)


def test_a_scan_takes_the_time_of_its_lines() -> None:
    made = microscope({"overhead_ms": 20.0, "optics": {"flyback_us": 100.0}})
    command(made, STED)
    before = made.clock.now()
    frame = made.snap()
    took = 32 * 3 * (32 * 5.0 + 100.0) * 1e-6
    assert frame.start_s == before
    assert frame.end_s - frame.start_s == pytest.approx(took)
    assert made.clock.now() - before == pytest.approx(took + 0.020)


def test_real_time_passes_during_a_scan() -> None:
    made = SimulatedSted({"simulation": {**FIELD, "size_px": 16}})
    assert isinstance(made.clock, RealClock)
    made.open()
    before = made.clock.now()
    frame = made.snap()
    assert made.clock.now() - before >= frame.end_s - frame.start_s + 0.0499
    made.close()


def test_saturation_is_told_for_the_time_on_each_pixel() -> None:
    made = microscope()
    command(made, STED)
    assert made.snap().saturation_counts == pytest.approx(0.5 * 20 * 15)
    bright = microscope({"density": 30.0, "dye": "robust"})
    command(bright, {**CONFOCAL, "excitation_power": 20.0})
    frame = bright.snap()
    assert np.percentile(frame.pixels, 99) > frame.saturation_counts
    assert frame.pixels.max() <= 2 * frame.saturation_counts


def test_frames_honour_the_interval_and_end_with_the_microscope() -> None:
    made = microscope(interval_ms=500.0)
    source = made.frames()
    frames = [next(source) for _ in range(3)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert np.diff([frame.start_s for frame in frames]) == pytest.approx([0.5, 0.5])
    made.close()
    assert list(source) == []


def test_make_safe_turns_both_beams_off_and_can_be_called_at_any_time() -> None:
    made = SimulatedSted({"simulation": FIELD}, VirtualClock())
    made.make_safe()
    made.open()
    made.open()
    command(made, STED)
    made.make_safe()
    made.make_safe()
    values = made.read()
    assert (values["excitation_power"], values["depletion_power"]) == (0.0, 0.0)
    assert (values["dwell_us"], values["line_steps"]) == (5.0, 3.0)
    assert made.snap().truth["bleached"] == 0.0
    command(made, STED)
    made.close()
    made.close()
    made.open()
    assert made.read()["excitation_power"] == 0.0


def test_closed_it_does_nothing() -> None:
    made = SimulatedSted({"simulation": FIELD}, VirtualClock())
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("excitation_power", 20.01),
        ("depletion_power", -0.1),
        ("depletion_power", 351.0),
        ("dwell_us", 0.5),
        ("dwell_us", float("nan")),
        ("line_steps", 0.0),
        ("line_steps", 2.5),
        ("line_steps", 26.0),
        ("x_um", -1.0),
        ("y_um", 1e4),
        ("z_um", float("inf")),
        ("exposure_ms", 10.0),
    ],
)
def test_what_it_must_not_do_is_refused_and_nothing_changes(name: str, value: float) -> None:
    made = microscope()
    command(made, STED)
    before = made.read()
    with pytest.raises(ParameterError, match=name):
        made.set(name, value)
    assert made.read() == before


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["excitation_power", "depletion_power", "dwell_us", "line_steps", "x_um", "z_um"]),
            st.floats() | st.integers(-5, 400).map(float),
        ),
        max_size=20,
    )
)
@settings(max_examples=40, deadline=None)
def test_no_number_brings_it_outside_its_range(commands: list[tuple[str, float]]) -> None:
    made = microscope({"structure": "empty"})
    for name, value in commands:
        try:
            made.set(name, value)
        except ParameterError:
            pass
        values = made.read()
        assert values["line_steps"] == int(values["line_steps"])
        for key, now in values.items():
            assert made.parameters[key].lower <= now <= made.parameters[key].upper


def test_same_seed_same_session_other_seed_another() -> None:
    def run(seed: int) -> list[np.ndarray]:
        made = microscope({"focus_um": "random", "drift": {"random_walk_um_per_sqrt_min": 1.0}}, seed=seed)
        frames = []
        for values in (CONFOCAL, STED, {"x_um": made.field_pitch_um}):
            command(made, values)
            frames.append(made.snap().pixels)
        return frames

    assert all(np.array_equal(a, b) for a, b in zip(run(1), run(1), strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(run(1), run(2), strict=True))


def test_the_focus_drifts_and_z_follows_it() -> None:
    made = microscope({"drift": {"rate_um_per_min": 6.0}, "focus_um": 0.2})
    command(made, {**CONFOCAL, "z_um": 0.2})
    sharp = made.snap()
    assert abs(sharp.truth["defocus_um"]) < 0.05
    made.clock.sleep(10.0)
    blurred = made.snap()
    assert blurred.truth["defocus_um"] == pytest.approx(-1.0, abs=0.05)
    assert blurred.pixels.mean() < 0.6 * sharp.pixels.mean()
    made.set("z_um", blurred.truth["focus_z_um"])
    assert made.snap().pixels.mean() > 0.8 * sharp.pixels.mean()


def test_random_focus_stays_in_its_range() -> None:
    options = {"structure": "empty", "focus_um": "random", "focus_range_um": 0.5}
    places = [microscope(options, seed=n).snap().truth["focus_z_um"] for n in range(12)]
    assert max(map(abs, places)) <= 0.5
    assert max(places) - min(places) > 0.3


def test_dye_optics_and_objective_reach_the_simulator() -> None:
    made = microscope({"dye": "fragile", "optics": {"residual_zero": 0.02, "dead_time_ns": 25.0}})
    assert made.canvas.dye == DYES["fragile"]
    assert (made.canvas.optics.residual_zero, made.canvas.optics.na) == (0.02, 1.4)
    assert microscope({"dye": {"base": "dim", "anti_stokes_m2": 1e-27}}).canvas.dye.anti_stokes_m2 == 1e-27
    assert microscope({"dye": "random"}, seed=5).canvas.dye == microscope({"dye": "random"}, seed=5).canvas.dye
    assert microscope({"dye": "random"}).canvas.dye == random_dye(np.random.default_rng([0, 0xD7E]))
    water = microscope(objective={"na": 1.2, "immersion_index": 1.33, "magnification": 60.0}).canvas.optics
    assert (water.na, water.immersion_index) == (1.2, 1.33)
    default = microscope(objective={"na": 0.75, "immersion_index": 1.0, "magnification": 20.0}).canvas.optics
    assert (default.na, default.immersion_index) == (1.4, 1.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simulaton": {}}, r"microscope\.simulaton: unknown key; did you mean 'simulation'\?"),
        ({"simulation": {"strcture": "x"}}, r"simulation\.strcture: unknown key; did you mean 'structure'\?"),
        ({"simulation": {"structure": "filament"}}, r"simulation\.structure: .*did you mean 'filaments'\?"),
        ({"simulation": {"dye": "robst"}}, r"no dye 'robst'; did you mean 'robust'\?"),
        ({"simulation": {"dye": {"k_1": 1e-15}}}, r"simulation\.dye: .*unknown key 'k_1'; did you mean 'k1'\?"),
        ({"simulation": {"optics": {"deadtime_ns": 1.0}}}, r"simulation\.optics: .*did you mean 'dead_time_ns'\?"),
        ({"simulation": {"optics": {"na": 1.6}}}, r"simulation\.optics: .*na 1\.6"),
        ({"simulation": {"fields": 1}}, r"simulation\.fields"),
        ({"simulation": {"start_um": 500.0}}, r"simulation\.start_um: .*-100\.\.100"),
        ({"simulation": {"stage": {"lower_um": 5.0, "upper_um": 1.0}}}, r"simulation\.stage: .*upper_um"),
        ({"pixel_um": 0.5}, r"microscope\.pixel_um: .*\(got 0\.5\)"),
    ],
)
def test_wrong_options_name_the_key_and_the_nearest_valid_one(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DriverOptionError, match=message) as caught:
        SimulatedSted(options, VirtualClock())
    assert caught.value.exit_code == 3


def test_keys_of_other_drivers_and_absent_values_are_no_mistake() -> None:
    options = {"driver": "simulated_sted", "system_config": "scope.cfg", "path": None, "options": {}}
    made = SimulatedSted({**options, "simulation": FIELD}, VirtualClock())
    made.open()
    assert made.snap().pixels.shape == (FIELD["size_px"], FIELD["size_px"])
