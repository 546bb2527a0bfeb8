"""When people are called: what counts as wrong, said once when it begins and once when it is over."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from parfocal import ParfocalError
from parfocal.daemon.manners.part import Part
from parfocal.daemon.states import State
from parfocal.policies.base import Hold

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.daemon.config_models import AlertsSection
    from parfocal.daemon.manners.vitals import Vitals
    from parfocal.daemon.manners.webhook import Webhook
    from parfocal.daemon.summary import Step, Summary

log = structlog.get_logger()
LOOK_EVERY_S = 0.5
CALM_S = 60.0
"""Losses of the recorder count as over when there was none for so long."""

STILL_POLICIES = ("focus.hold",)
"""Policies that hold by design."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What matters of the last frame: when, for how long it has been held and why, the dose."""

    wall_s: float
    held_s: float
    reason: str
    dose: float
    budget: float | None
    unit: str


class Alerts(Part):
    """Watches a run, and calls.

    Parameters
    ----------
    section : AlertsSection
    webhook : Webhook
    patience_s : float
        How long there is no frame by design: interval and exposure.
    monotonic : callable
        Seconds that never jump.
    """

    def __init__(
        self,
        section: AlertsSection,
        webhook: Webhook,
        *,
        patience_s: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._section, self._webhook, self._patience_s = section, webhook, patience_s
        self._monotonic = monotonic
        self._about: dict[str, Any] = {}
        self._policy = ""
        self._state, self._state_s = State.IDLE, monotonic()
        self._seen: Seen | None = None
        self._held_since_s: float | None = None
        self._vitals: Vitals | None = None
        self._lost, self._lost_s = 0, -float("inf")
        self._active: set[str] = set()
        self._ended = False
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    # -- told in the loop's thread --------------------------------------------------------------------------------

    def listen(self, step: Step) -> None:
        """Note how long nothing has been done although the sample is not known to be in focus; microseconds."""
        action, verdict, reason, held_s = step.action, step.verdict, "", 0.0
        if action is None or step.state != "running":
            if self._seen is not None:
                held_s, reason = self._seen.held_s, self._seen.reason
        else:
            refused = verdict is not None and not verdict.accepted
            if (refused or isinstance(action, Hold)) and action.detail.get("focused") != 1.0:
                if self._held_since_s is None:
                    self._held_since_s = step.frame.start_s
                held_s = step.frame.end_s - self._held_since_s
                reason = f"refused: {verdict.reason}" if refused and verdict is not None else action.reason
            else:
                self._held_since_s = None
        self._seen = Seen(self._monotonic(), held_s, reason, step.dose, step.dose_budget, step.dose_unit)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Keep what messages say of the session."""
        self._about = {key: facts[key] for key in ("session", "simulated", "shadow") if key in facts}
        self._policy = str(facts.get("policy", {}).get("name", ""))

    def state(self, old: State, new: State, reason: str, time_s: float) -> None:
        """Begin to count anew where the session begins anew."""
        self._state, self._state_s, self._held_since_s = new, self._monotonic(), None
        seen = self._seen
        if seen is not None:
            self._seen = Seen(seen.wall_s, 0.0, "", seen.dose, seen.budget, seen.unit)

    # -- by whoever runs the session ------------------------------------------------------------------------------

    def attach(self, vitals: Vitals) -> None:
        """Begin to watch."""
        self._vitals = vitals
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    def end(self, summary: Summary) -> None:
        """Call if it did not end well."""
        self.look()
        self._ended = True
        if summary.outcome == "tripped":
            self._call("tripped", "firing", f"SAFETY TRIP: {summary.error}")
        elif summary.outcome == "safe":
            self._call("safe", "firing", f"MADE SAFE, and ended: {summary.error}")
        elif summary.outcome == "failed":
            self._call("failed", "firing", f"FAILED: {summary.error or 'no reason is known'}")

    def failed(self, error: BaseException) -> None:
        """Call if it ended with an error that is in no summary."""
        if not self._ended and not isinstance(error, KeyboardInterrupt):
            name = "" if isinstance(error, ParfocalError) else f"{type(error).__name__}: "
            self._ended = True
            self._call("failed", "firing", f"FAILED: {name}{error}")

    def close(self) -> None:
        """End the thread, and send what still waits. Idempotent."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(2.0)
        self._webhook.close()

    # -- in the watching thread -----------------------------------------------------------------------------------

    def look(self) -> None:
        """Compare what is wrong now with what was wrong before, and call where that differs."""
        with self._lock:
            wrong = self._wrong()
            for kind, text in wrong.items():
                if kind not in self._active:
                    self._call(kind, "firing", text)
            if self._state not in (State.RUNNING, State.PAUSED):
                self._active |= set(wrong)
                return  # that it ended has cured nothing
            for kind in sorted(self._active - set(wrong)):
                self._call(kind, "cleared", f"over: {WORDS[kind]}")
            self._active = set(wrong)

    def _wrong(self) -> dict[str, str]:
        found: dict[str, str | None] = {
            "hold": self._hold(), "no_frame": self._no_frame(), "recorder": self._recorder(), "dose": self._dose(),
        }  # fmt: skip
        return {kind: text for kind, text in found.items() if text is not None}

    def _hold(self) -> str | None:
        longest, seen = self._section.hold_longer_than_s, self._seen
        if longest is None or seen is None or seen.held_s <= longest or self._policy in STILL_POLICIES:
            return None
        return f"HOLDS for {seen.held_s:.0f} s, not known to be in focus: {seen.reason}"

    def _no_frame(self) -> str | None:
        longest = self._section.no_frame_for_s
        if longest is None or self._state is not State.RUNNING:
            return None
        last_s = max(self._state_s, self._seen.wall_s if self._seen is not None else self._state_s)
        silence_s = self._monotonic() - last_s
        return f"NO FRAME for {silence_s:.0f} s" if silence_s > longest + self._patience_s else None

    def _recorder(self) -> str | None:
        lost, now = self._vitals.recorder_lost if self._vitals is not None else 0, self._monotonic()
        if lost > self._lost:
            self._lost, self._lost_s = lost, now
        return f"FRAMES NOT RECORDED: {lost} so far, the disk is too slow" if now - self._lost_s < CALM_S else None

    def _dose(self) -> str | None:
        share, seen = self._section.dose_share, self._seen
        if share is None or seen is None or not seen.budget or seen.dose < share * seen.budget:
            return None
        return f"DOSE: {seen.dose:.4g} of {seen.budget:.4g} {seen.unit} spent ({seen.dose / seen.budget:.0%})"

    def _call(self, kind: str, status: str, text: str) -> None:
        log.info("alert", kind=kind, status=status, text=text)
        self._webhook.send(message(kind, status, text, name=self._section.name, about=self._about))

    def _run(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            self.look()


WORDS = {
    "hold": "it is in focus, moves, or was paused",
    "no_frame": "frames come again, or none is expected",
    "recorder": "no frame was lost for a minute",
    "dose": "the dose is below the mark",
}


def message(kind: str, status: str, text: str, *, name: str | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is posted: ``text`` for people (as Slack and its likes show it), the rest for programs."""
    where = name or platform.node() or "this computer"
    signs = [word.upper() for word in ("simulated", "shadow") if about.get(word)]
    session = f" ({about['session']})" if about.get("session") else ""
    line = " ".join(["parfocal", *signs, f"{where}{session}:", text])
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):  # or "<!channel>" in a reason rings everybody
        line = line.replace(sign, entity)
    return {
        "text": line, "kind": kind, "status": status, "microscope": where, "session": about.get("session"),
        "simulated": about.get("simulated"), "time_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }  # fmt: skip


def alerts_of(config: Config) -> Alerts | None:
    """Return who calls people as a configuration says; None: nobody does. Raises `ConfigError`."""
    from parfocal.daemon.manners.webhook import Webhook, webhook_url

    section, microscope = config.alerts, config.microscope
    if section is None:
        return None
    patience_s = ((microscope.interval_ms or 0.0) + (microscope.exposure_ms or 0.0)) / 1000.0
    webhook = Webhook(webhook_url(config), timeout_s=section.timeout_s)
    return Alerts(section, webhook, patience_s=patience_s)
