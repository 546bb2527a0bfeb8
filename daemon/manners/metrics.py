"""A run as Prometheus sees it: what the loop's thread pays for is a tuple and a histogram; the rest is read when asked.

A registry of its own for every run: two runs in one process, or a test, never count into each other.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

from parfocal import __version__
from parfocal.daemon.decisions import side_known
from parfocal.daemon.guard import Refusal
from parfocal.daemon.manners.part import Part
from parfocal.daemon.service.events import note
from parfocal.daemon.states import State

if TYPE_CHECKING:
    from parfocal.daemon.manners.vitals import Vitals
    from parfocal.daemon.restored import RestoredFrame
    from parfocal.daemon.service.events import Note
    from parfocal.daemon.summary import Step, Summary

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ACTIONS = ("change", "hold", "finish")


class Metrics(Part, Collector):
    """Collects a run's numbers; a number that is not known is left out of the page, never shown as 0.

    Parameters
    ----------
    monotonic : callable
        Seconds that never jump.

    Attributes
    ----------
    registry : CollectorRegistry
        What the page is made from.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._latency = Histogram(
            "parfocal_loop_latency_seconds",
            "Time the loop adds to a frame, scoring left out: from its arrival to the command or the decision to hold",
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self._monotonic = monotonic
        self._last: Note | None = None
        self._decided: Note | None = None
        self._quality = math.nan
        self._last_s = math.nan
        self._actions: Counter[str] = Counter(dict.fromkeys(ACTIONS, 0))
        self._refusals: Counter[str] = Counter({refusal.name.lower(): 0 for refusal in Refusal})
        self._restored: Counter[str] = Counter()
        self._state = State.IDLE
        self._facts: Mapping[str, Any] = {}
        self._vitals: Vitals | None = None
        self._outcome = ""
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    # -- told in the loop's thread --------------------------------------------------------------------------------

    def listen(self, step: Step) -> None:
        """Keep a step's numbers; microseconds."""
        noted = note(step, 0, 0.0)
        self._last, self._last_s = noted, self._monotonic()
        if math.isfinite(noted.latency_ms) and noted.verdict is not None:
            self._latency.observe(noted.latency_ms / 1000.0)
        if noted.action is None:
            return
        self._decided = noted
        self._actions[type(noted.action).__name__.lower()] += 1
        if noted.verdict is not None and noted.verdict.refusal is not None:
            self._refusals[noted.verdict.refusal.name.lower()] += 1
        quality = (noted.assessments or {}).get("quality")
        if quality is not None:
            self._quality = quality.value

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Keep what holds for the session."""
        self._facts = facts

    def state(self, old: State, new: State, reason: str, time_s: float) -> None:
        """Keep the state."""
        self._state = new

    def restored(self, shown: RestoredFrame) -> None:
        """Count a restored preview by its verdict."""
        self._restored[shown.verdict] += 1

    def attach(self, vitals: Vitals) -> None:
        """Keep where counters are read."""
        self._vitals = vitals

    def end(self, summary: Summary) -> None:
        """Keep the outcome; the page stays until the process ends."""
        self._outcome = summary.outcome

    # -- read in the page's threads -------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Yield everything that is known now."""
        yield self._about()
        yield StateSetMetricFamily(
            "parfocal_state", "State of the session", {state.value: state is self._state for state in State}
        )
        yield from self._counters()
        yield from self._gauges()
        yield from self._helpers()

    def _about(self) -> Metric:
        facts = self._facts
        about = {"version": __version__}
        for key in ("session", "driver", "microscope", "simulated", "shadow"):
            if key in facts:
                about[key] = str(facts[key]).lower() if isinstance(facts[key], bool) else str(facts[key])
        if "policy" in facts:
            about["policy"] = str(facts["policy"]["name"])
        if self._outcome:
            about["outcome"] = self._outcome
        return InfoMetricFamily("parfocal_run", "What is running", about)

    def _counters(self) -> Iterator[Metric]:
        last, counts = self._last, self._vitals.counts if self._vitals is not None else None
        for name, text, value in (
            ("frames", "Frames exposed", last.frames if last else 0),
            ("frames_scored", "Frames the policy was told of", last.scored if last else 0),
            ("frames_stale", "Frames exposed before a change had settled", last.stale_frames if last else 0),
            ("frames_dropped", "Frames nobody looked at: missed or lost", last.dropped if last else 0),
            ("frames_missed", "Frames replaced by a later one before a look", counts.missed if counts else 0),
            ("frames_lost", "Frames the camera never handed over", counts.lost if counts else 0),
            ("frames_doubtful", "Frames not fit to decide on", counts.doubtful if counts else 0),
            ("actions", "Settings accepted by the guard (in shadow mode: and not sent)", last.actions if last else 0),
        ):  # fmt: skip
            yield CounterMetricFamily(f"parfocal_{name}", text, value)
        yield _by("parfocal_decisions", "Decisions of the policy and of the loop itself", "kind", self._actions)
        yield _by("parfocal_refusals", "Actions the guard refused", "kind", self._refusals)
        if self._restored:
            yield _by("parfocal_restored_previews", "Restored previews by verdict", "verdict", self._restored)

    def _gauges(self) -> Iterator[Metric]:
        last, decided = self._last, self._decided
        if last is None:
            return
        detail = decided.action.detail if decided is not None and decided.action is not None else {}
        belief = detail if side_known(detail) else {}
        for name, text, value in (
            ("frame_rate_hertz", "Frames a second the loop handles", last.fps),
            ("seconds_since_frame", "Since the loop last handled a frame", self._monotonic() - self._last_s),
            ("defocus_um", "Stage minus focus, as believed", belief.get("defocus_um", math.nan)),
            ("defocus_sd_um", "Standard deviation of that belief", belief.get("defocus_sd_um", math.nan)),
            ("focus_z_um", "Where the focus is, as believed", belief.get("focus_z_um", math.nan)),
            ("in_focus", "1 where the policy says that the last frame was in focus", detail.get("focused", math.nan)),
            ("quality", "Quality of the last frame judged", self._quality),
            ("travel_um", "How far the stage has gone", last.travel_um),
            ("latency_last_seconds", "Latency of the last frame", last.latency_ms / 1000.0),
        ):
            if math.isfinite(value):
                yield GaugeMetricFamily(f"parfocal_{name}", text, value)
        yield _by("parfocal_setting", "Settings of the last frame, in their own units", "parameter", last.settings)
        yield from _dose(last)

    def _helpers(self) -> Iterator[Metric]:
        vitals = self._vitals
        if vitals is None:
            return
        yield CounterMetricFamily(
            "parfocal_scorer_restarts", "How often the scorer was started again", vitals.scorer_restarts
        )
        if vitals.record.recorder is None:
            return
        yield GaugeMetricFamily("parfocal_recorder_queue_frames", "Frames not on the disk yet", vitals.recorder_queue)
        yield CounterMetricFamily("parfocal_recorder_written", "Frames on the disk", vitals.recorder_written)
        yield CounterMetricFamily("parfocal_recorder_lost", "Frames the recorder had no room for", vitals.recorder_lost)


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    counts = isinstance(values, Counter)
    family: CounterMetricFamily | GaugeMetricFamily = (
        CounterMetricFamily(name, text, labels=[label]) if counts else GaugeMetricFamily(name, text, labels=[label])
    )
    for key, value in dict(values).items():
        if math.isfinite(value):
            family.add_metric([key], value)
    return family


def _dose(last: Note) -> Iterator[Metric]:
    unit = last.dose_unit or "not known"
    spent = GaugeMetricFamily("parfocal_dose_spent", "Dose of all frames exposed", labels=["dose_unit"])
    spent.add_metric([unit], last.dose)
    yield spent
    if last.dose_budget is not None:
        budget = GaugeMetricFamily("parfocal_dose_budget", "Dose the session may spend", labels=["dose_unit"])
        budget.add_metric([unit], last.dose_budget)
        yield budget
