"""What a STED policy is told of limits, dose budget and the user's own options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parfocal.daemon.compose import policy_maker, policy_options
from parfocal.daemon.config import Config, ConfigError, load_config
from parfocal.daemon.stedterms import within_detector
from parfocal.drivers.base import Frame

LIMITS = """
limits:
  excitation_power: {lower: 0, upper: 8}
  depletion_power: {lower: 0, upper: 200, max_step: 150}
  x_um: {lower: 0, upper: 50}
  z_um: {lower: -3, upper: 3, max_step: 1}
  dose: {budget: 900}
"""


def config(tmp_path: Path, policy: str, limits: str = LIMITS) -> Config:
    path = tmp_path / "c.yaml"
    text = f"microscope: {{driver: simulated_sted}}\nscoring: {{models: [sted_measures]}}\npolicy: {policy}\n{limits}"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_limits_become_bounds_steps_and_budget(tmp_path: Path) -> None:
    options = policy_options(config(tmp_path, "{name: sted.bayes, max_images: 7}"))
    assert options == {
        "max_images": 7,
        "bounds": {"excitation_power": [0, 8], "depletion_power": [0, 200], "x_um": [0, 50]},
        "max_step": {"depletion_power": 150},
        "dose_budget": 900,
    }


def test_the_users_own_bounds_narrow(tmp_path: Path) -> None:
    own = "{name: sted.random, bounds: {excitation_power: [1, 5]}, dose_budget: 100.0}"
    options = policy_options(config(tmp_path, own))
    assert options["bounds"]["excitation_power"] == [1, 5]
    assert options["bounds"]["depletion_power"] == [0, 200]
    assert options["dose_budget"] == 100.0


def test_bounds_wider_than_the_limits_are_refused_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml:3 policy\.bounds\.excitation_power: 0\.\.9 is wider than limits"):
        policy_options(config(tmp_path, "{name: sted.bayes, bounds: {excitation_power: [0, 9]}}"))


def test_a_supervised_run_tells_both_policies(tmp_path: Path) -> None:
    own = "{name: sted.supervised, focus: focus.jaf, sted: {max_images: 4}, focusing: {max_step_um: 0.5}}"
    options = policy_options(config(tmp_path, own))
    assert options["focus"] == "focus.jaf"
    assert options["sted"]["max_images"] == 4 and options["sted"]["dose_budget"] == 900
    assert options["focusing"] == {"lower_um": -3, "upper_um": 3, "max_step_um": 0.5}


def a_frame(saturation_counts: float, dwell_us: float = 10.0, line_steps: float = 2.0) -> Frame:
    settings = {"dwell_us": dwell_us, "line_steps": line_steps}
    pixels = np.zeros((64, 64), np.uint16)
    return Frame(pixels, 0, settings, 0.0, 0.1, 0.02, saturation_counts=saturation_counts)


@pytest.mark.parametrize(
    ("counts", "own", "rate"),
    [(100.0, "", 5.0), (1000.0, "", 15.0), (65535.0, "", 15.0), (100.0, "max_rate_mhz: 8", 8.0)],
)
def test_a_slow_detector_lowers_the_rate_unless_the_user_named_one(
    tmp_path: Path, counts: float, own: str, rate: float
) -> None:
    """Of a detector that misses every second photon at 5 MHz no pixel shows it: counts only grow more slowly."""
    made, options = policy_maker(config(tmp_path, f"{{name: sted.random, {own}}}"))(a_frame(counts))
    assert made.options.max_rate_mhz == rate  # type: ignore[attr-defined]
    assert options.get("max_rate_mhz", 15.0) == rate, "a replay takes it from the journal"


def test_a_supervised_run_is_told_of_a_slow_detector_too(tmp_path: Path) -> None:
    section = "{name: sted.supervised, focus: focus.jaf, sted: {max_images: 4}}"
    found = within_detector(config(tmp_path, section), {"sted": {"max_images": 4}}, a_frame(40.0))
    assert found == {"sted": {"max_images": 4, "max_rate_mhz": 2.0}}


def test_without_limits_nothing_is_made_up(tmp_path: Path) -> None:
    assert policy_options(config(tmp_path, "{name: sted.bayes}", "")) == {}


def test_a_frame_is_taken_on_request_where_it_costs_the_sample(tmp_path: Path) -> None:
    assert config(tmp_path, "{name: sted.bayes}").takes_on_request
    assert not config(tmp_path, "{name: focus.hold}").takes_on_request
