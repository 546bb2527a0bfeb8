"""Whole runs of the loop on the simulated STED microscope: it tunes, it ends with a reason, and the laser is off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parfocal.daemon.bench_focus import run_virtual
from parfocal.daemon.check import problems_of
from parfocal.daemon.compose import build
from parfocal.daemon.config import ConfigError, load_config
from parfocal.daemon.journal import read_journal
from parfocal.daemon.report.after import report_after
from parfocal.simulator.clock import VirtualClock

EXAMPLE = Path(__file__).parents[2] / "examples" / "sted.yaml"
BRIGHT = "microscope.simulation={density: 50, size_px: 64, optics: {dead_time_ns: 1000}}"
SMALL = ("microscope.simulation.size_px=64", "policy.field_um=2.5")
RANDOM = ("policy.name=sted.random", "policy.max_images=3")


def run(*overrides: str) -> tuple[Any, list[dict[str, Any]]]:
    return run_virtual([*SMALL, *overrides], config=EXAMPLE)


def dark(records: list[dict[str, Any]]) -> bool:
    """Whether the beams were at zero after the last command."""
    last: dict[str, float] = {}
    for record in records:
        if record["kind"] == "readback":
            last[record["parameter"]] = record["readback"]
    return last["excitation_power"] == 0.0 and last["depletion_power"] == 0.0


def test_it_tunes_stops_by_itself_and_recommends() -> None:
    few = ("policy.max_images=3", "policy.min_images=2", "policy.candidates=64")
    summary, records = run(*few, "policy.deadline_s=120")
    assert summary.outcome == "finished" and summary.exit_code == 0
    found = summary.recommendation
    assert found["settings"].keys() == {"excitation_power", "depletion_power", "dwell_us"}
    assert found["settings"]["depletion_power"] > 0 and 0 < found["utility"] < 1 and found["utility_sd"] > 0
    assert found["images"] in (2, 3)
    assert summary.refused == 0 and dark(records)
    assert summary.settings["excitation_power"] == 0.0
    assert any(record["kind"] == "suggestion" for record in records)


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("microscope.simulation.structure=empty",), "no structure in 5 fields in a row"),
        (("microscope.simulation.optics={excitation_transmission: 1.0e-6}",), "no structure in 5 fields in a row"),
        ((BRIGHT, "policy.max_rate_mhz=0.01"), "too bright"),
        (("microscope.simulation.dye={base: fragile, k1: 3.0e-11}", "policy.max_bleach=0.6"), "% was bleached"),
        (("policy.field_um=60",), "no fresh field is left"),
        (("policy.dose_budget=400",), "dose budget"),
    ],
    ids=["no structure", "dead laser", "saturated", "bleaches at once", "no field", "no budget"],
)
def test_bad_input_has_its_clear_end_and_the_laser_is_off(overrides: tuple[str, ...], why: str) -> None:
    summary, records = run(*RANDOM, *overrides)
    assert summary.outcome == "finished" and summary.exit_code == 0
    assert why in summary.recommendation["reason"]
    assert dark(records)


def test_measures_that_return_nothing_end_it() -> None:
    with pytest.raises(ConfigError, match="sted_measures"):
        run(*RANDOM, "scoring.models=[sharpness]")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("policy.bounds={depletion_power: [100, 200]}", "leaves no confocal frame"),
        ("policy.bounds={dwell_us: [1, 90]}", "wider than limits.dwell_us"),
        ("policy.bounds={dwell_us: [50, 2]}", "above the upper"),
        ("limits.x_um.max_step=1.0", "less than field_um"),
        ("policy.max_imges=3", "max_images"),
    ],
)
def test_contradictions_are_found_before_anything_moves(override: str, says: str) -> None:
    assert any(says in problem for problem in problems_of(EXAMPLE, [override]))


def test_the_example_is_clean() -> None:
    assert problems_of(EXAMPLE) == []


async def _run(folder: Path) -> Any:
    config = load_config(EXAMPLE, [*SMALL, *RANDOM, "scoring.process=false", "session.record=none"])
    return await build(config, clock=VirtualClock(), session_folder=folder).run()


def test_the_session_has_a_plot_and_the_report_shows_it(tmp_path: Path) -> None:
    import asyncio
    from xml.etree import ElementTree

    folder = tmp_path / "run"
    summary = asyncio.run(_run(folder))
    report_after(folder)
    svg = (folder / "sted.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)  # noqa: S314 - our own
    page = (folder / "report.html").read_text(encoding="utf-8")
    for text in (svg, page):
        assert "3 images were taken" in text and "Utility" in text and "Light spent" in text
    assert f"depletion {summary.recommendation['settings']['depletion_power']:.3g} mW" in svg
    assert "It recommends" in page
    assert any(record["kind"] == "end" for record in read_journal(folder / "journal.jsonl").records)


def test_on_a_real_clock_no_frame_is_taken_that_nobody_waits_for(tmp_path: Path) -> None:
    import asyncio

    config = load_config(EXAMPLE, [*SMALL, *RANDOM, "policy.max_images=2", "scoring.process=false"])
    summary = asyncio.run(build(config, session_folder=tmp_path / "run").run())
    # The first only shows that the camera is alive, the second is what the policy begins with; three an image follow.
    assert (summary.frames, summary.scored, summary.stale, summary.dropped) == (8, 7, 0, 0)
