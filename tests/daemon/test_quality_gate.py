"""The quality gate in a session: configuration, journal, summary, outcome, and the live view's line."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from parfocal.daemon import compose
from parfocal.daemon.check import unfit
from parfocal.daemon.config import ConfigError, load_config
from parfocal.daemon.journal import read_journal
from parfocal.daemon.quality_gate import QualityCounts, good_frames, outcome_of_finish
from parfocal.daemon.summarytext import summary_lines
from parfocal.daemon.view import RunFacts, RunView
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment
from parfocal.policies import make_policy
from parfocal.policies.base import Finish, Hold
from parfocal.policies.quality_gate import GatedPolicy, GateTerms
from parfocal.simulator.clock import VirtualClock

QUALITY = "quality={model: sharpness, score: midband, %s}"
SMALL = (
    "microscope.simulation.size_px=96",
    "scoring.models=[sharpness]",
    "scoring.process=false",
    "policy.name=focus.hold",
    "session.max_frames=9",
    "session.record=none",
)


class Judge:
    """A scorer that gives each frame the next quality of a list; None abstains."""

    def __init__(self, *values: float | None) -> None:
        self._values = list(values)

    def start(self) -> None:
        pass

    def score(self, pixels: Any, pixel_um: float, timeout_s: float = 5.0) -> dict[str, Assessment]:
        value = self._values.pop(0) if len(self._values) > 1 else self._values[0]
        if value is None:
            return {"quality": Assessment.abstain("quality", "an empty field")}
        detail = {"artefact_reference": 0.2, "artefact_blur": 0.7, "artefact_shot": 0.1}
        return {"quality": Assessment("quality", value, 0.05, detail=detail)}

    def restart(self) -> None:
        pass

    def close(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"quality": {"version": "double"}}


def bench() -> Any:
    import sys

    return sys.modules["daemon_doubles"].Bench()


def gated(**terms: Any) -> GatedPolicy:
    return GatedPolicy(make_policy("focus.hold"), GateTerms(below=0.5, **terms))


def test_flags_are_in_the_journal_and_in_the_summary(make_loop: Callable[..., Any]) -> None:
    scorer = Judge(0.9, 0.2, 0.3, 0.1, None, 0.8, 0.7)
    loop = make_loop(bench(), "session.max_frames=9", scorer=scorer, policy=gated())
    summary = asyncio.run(loop.run())
    content = summary.to_json()
    assert content["final"]["quality"] == 0.7
    judged = summary.scored - 1
    assert content["gate"] == {
        "judged": judged,
        "flagged": 3,
        "flagged_share": 3 / judged,
        "unjudged": 0,
        "retakes": 0,
    }
    reading = read_journal(loop.session.folder / "journal.jsonl")
    told = [record["index"] for record in reading.of("assessment")]
    assert good_frames(reading) == [told[0], *told[5:]]
    rows = dict(summary_lines(content))
    assert rows["final quality"] == "0.7"
    assert rows["quality gate"].startswith(f"3 of {judged} frames flagged (")


def test_a_retake_discards_what_was_taken(make_loop: Callable[..., Any]) -> None:
    scorer = Judge(0.2, 0.3, 0.9)
    loop = make_loop(bench(), "session.max_frames=6", scorer=scorer, policy=gated(for_frames=2, then="retake"))
    summary = asyncio.run(loop.run())
    assert summary.to_json()["gate"]["retakes"] == 1
    reading = read_journal(loop.session.folder / "journal.jsonl")
    told = [record["index"] for record in reading.of("assessment")]
    assert good_frames(reading) == told[2:]
    assert any("to be taken again (retake 1 of 2)" in record["reason"] for record in reading.of("action"))
    assert "1 retakes asked for" in dict(summary_lines(summary.to_json()))["quality gate"]


def test_stop_is_an_outcome_of_its_own(make_loop: Callable[..., Any]) -> None:
    microscope = bench()
    loop = make_loop(microscope, "session.max_frames=30", scorer=Judge(0.1), policy=gated(then="stop"))
    summary = asyncio.run(loop.run())
    assert (summary.outcome, summary.exit_code, summary.scored) == ("bad_quality", 0, 3)
    assert {setting for setting in microscope.sets if setting[0] == "z_um"} == {("z_um", 0.0)}  # the start's
    assert microscope.safe
    reading = read_journal(loop.session.folder / "journal.jsonl")
    assert [record["reason"] for record in reading.of("action")][-1].startswith("bad quality: quality 0.1")


def test_abstentions_are_counted_apart(make_loop: Callable[..., Any]) -> None:
    loop = make_loop(bench(), "session.max_frames=8", scorer=Judge(None), policy=gated(then="stop", abstain_report=2))
    content = asyncio.run(loop.run()).to_json()
    assert content["outcome"] == "done"
    assert content["final"]["quality"] is None
    assert (content["gate"]["judged"], content["gate"]["flagged_share"]) == (0, None)
    assert content["gate"]["unjudged"] == content["scored"] - 1


def test_without_a_gate_there_are_no_counts() -> None:
    counts = QualityCounts()
    counts.note(Hold("x"), {"quality": Assessment("quality", 0.4, 0.1)})
    assert (counts.value, counts.to_json()) == (0.4, None)
    assert outcome_of_finish(Finish({}, "done")) == "finished"


@pytest.mark.usefixtures("_quiet")
def test_the_configuration_makes_the_gate(tmp_path: Path) -> None:
    config = load_config(None, [f"session.folder={tmp_path}", *SMALL, QUALITY % "below: 1.0e30, for_frames: 2"])
    loop = compose.build(config, clock=VirtualClock())
    content = asyncio.run(loop.run()).to_json()
    assert content["gate"]["judged"] == content["gate"]["flagged"] > 3
    assert unfit(config) == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("for_frames: 2", "give below"),
        ("below: 0.5, for_frames: 0", "quality.for_frames"),
        ("below: 0.5, then: flags", "did you mean 'flag'"),
        ("below: 0.5, max_retakes: 1", "max_retakes needs then: retake"),
        ("below: 0.5, above: 0.4", "must be less than above"),
        ("belw: 0.5", "did you mean 'below'"),
    ],
)
def test_mistakes_in_the_section_are_said(section: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*SMALL, QUALITY % section])
    assert message in " ".join(caught.value.problems)


@pytest.mark.parametrize("setting", ["quality={below: 0.5}", "policy={name: focus.quality}"])
def test_a_model_nobody_runs_cannot_be_read(setting: str) -> None:
    (problem,) = unfit(load_config(None, [*SMALL, setting]))
    assert "reads the model 'quality', which is not among scoring.models (sharpness)" in problem


# -- the live view ------------------------------------------------------------------------------------------------


def step(index: int, value: float | None, **detail: float) -> Any:
    chances = {"artefact_reference": 0.1, "artefact_blur": 0.9}
    if value is None:
        said = Assessment.abstain("quality", "an empty field")
    else:
        said = Assessment("quality", value, 0.05, detail=chances if value < 0.5 else {"artefact_reference": 0.9})
        detail |= {"quality": value, "quality_sd": 0.05, "good": float(value >= 0.5)}
    return SimpleNamespace(
        frame=Frame(np.zeros((1, 1)), index, {"z_um": 1.0}, index / 10, index / 10 + 0.01, 0.3),
        assessments={"quality": said}, action=Hold("in focus", detail), verdict=None, stale=False, state="running",
        frames=index, scored=index, stale_frames=0, dropped=0, actions=0, refused=0, dose=0.0, dose_unit="",
        travel_um=0.0, fps=10.0, latency_ms=0.1, notes="",
    )  # fmt: skip


def screen(*steps: Any, height: int = 24, encoding: str = "utf-8") -> str:
    view = RunView(RunFacts("simulated", "focus.belief", True, quality_below=0.5))
    for one in steps:
        view.listen(one)
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=file, width=80, height=height, color_system=None, legacy_windows=False).print(view, end="")
    file.flush()
    return raw.getvalue().decode(encoding)


def test_the_view_shows_quality_with_a_bar_the_artefact_and_the_share_of_flagged_frames() -> None:
    text = screen(step(0, 0.9), step(1, 0.25, flagged=1.0))
    (line,) = [line for line in text.splitlines() if line.startswith(" quality")]
    assert line == " quality 0.25 ± 0.05  ━━───│─────  BAD  blur (90%)  flagged 1 of 2 (50.0%)"
    assert "model quality" not in text
    good = screen(step(0, 0.25), step(1, 0.9))
    assert "BAD" not in good
    assert "blur" not in good
    assert "#####|####." in screen(step(0, 0.9), encoding="ascii")


def test_the_line_stays_while_a_frame_is_stale_and_an_abstention_says_why() -> None:
    stale = step(1, 0.9)
    stale.action, stale.assessments, stale.stale = None, None, True
    assert " quality 0.9" in screen(step(0, 0.9), stale)
    assert "quality abstains: an empty field" in screen(step(0, None))
    nothing = step(0, 0.9)
    nothing.assessments, nothing.action = {}, Hold("x")
    assert "quality" not in screen(nothing)


def test_quality_has_a_plot_where_there_is_room() -> None:
    steps = [step(index, 0.5 + index / 100) for index in range(40)]
    assert sum("quality" in line for line in screen(*steps, height=40).splitlines()) == 2
    assert sum("quality" in line for line in screen(*steps, height=24).splitlines()) == 1
