"""The restored preview: now and then the live frame as it would look in focus, computed beside the loop, for the eye.

What is computed here goes to people's screens and nowhere else. The loop hands over a reference and never waits; a
thread of this module takes the latest frame when one is due and has a process of its own restore it. If that process
dies or stalls it is started again a few times, then the preview is switched off with a warning; the session goes on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from pydantic import ValidationError

from parfocal.daemon.config_models import PreviewSection, ServiceSection
from parfocal.daemon.controls import Change, ControlError
from parfocal.daemon.restorechild import (
    FrameRefusedError,
    Method,
    RestoreChild,
    RestorerLostError,
    RestorerUnusableError,
)
from parfocal.daemon.restored import OFF, REFUSED, RESTORED, RestoredFrame
from parfocal.daemon.restoreoptics import optics_of
from parfocal.daemon.service.events import known
from parfocal.models.base import Assessment, ModelError, ScorerError

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.daemon.loop import Onlooker
    from parfocal.daemon.orders import Orders
    from parfocal.daemon.states import State
    from parfocal.daemon.summary import Step
    from parfocal.drivers.base import Frame
    from parfocal.models.restore.base import Blur

log = structlog.get_logger()
DEFOCUS = "defocus"
"""The model whose assessment says how far a frame is out of focus."""

START_S = 120.0
DEFAULTS: dict[str, dict[str, Any]] = {"unet": {"device": "cpu"}}
"""Options that a preview has where the user gives no others: a graphics processor knows no low priority."""

MOST_FAILURES, WITHIN_S = 3, 600.0
"""So many failures within that time are made good by a new process; one more, and the preview is switched off."""
BACKOFF_S = 0.5
JOIN_S = 5.0
Showing = Callable[[RestoredFrame], None]


class Restoring(Protocol):
    """What is needed of the process; see `RestoreChild`."""

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait for the method."""
        ...

    def restore(self, pixels: Any, pixel_um: float, told: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Have one frame restored."""
        ...

    def kill(self) -> None:
        """End it at once; from any thread."""
        ...

    def close(self) -> None:
        """Let everything go."""
        ...


@dataclass(frozen=True)
class _Seen:
    """A frame that the network has looked at."""

    frame: Frame
    said: Assessment | None
    at_s: float


class RestoredPreview:
    """Takes in steps in the loop's thread, shows restored frames from a thread of its own.

    Parameters
    ----------
    section : PreviewSection
        What is wanted at the beginning.
    optics : mapping
        What the defocus network is told of the optics, as plain JSON; without ``na`` they are not known.
    longest_px : int
        Of the images shown; 0: none, verdicts only.
    scored : bool
        Whether the defocus network is among the models; without it nothing can be restored.
    make_child : callable
        Starts a process for a method.
    """

    def __init__(
        self,
        section: PreviewSection,
        optics: Mapping[str, Any],
        *,
        longest_px: int = 256,
        scored: bool = True,
        make_child: Callable[[Method], Restoring] = RestoreChild,
    ) -> None:
        self._base = self._section = section
        self._optics, self._longest_px, self._scored, self._make_child = optics, longest_px, scored, make_child
        self._showing: list[Showing] = []
        self._also: Onlooker | None = None
        self._facts: Mapping[str, Any] | None = None
        self._changed = threading.Condition()
        self._wanted: Method | None = None
        self._latest: _Seen | None = None
        self._hungry = self._closing = False
        self._version = 0
        self._child: Restoring | None = None
        self._runs: Method | None = None
        self._due_s = 0.0
        self._failures: deque[float] = deque()
        self._thread: threading.Thread | None = None

    # -- from whoever runs the session, and from the event loop's thread ------------------------------------------

    def attach(self, orders: Orders, showing: Sequence[Showing]) -> None:
        """Take the commands that are about this preview, and learn whom to show it to; before the session begins."""
        self._showing = list(showing)
        orders.also("set_preview", self.prepare)

    def begin(self) -> None:
        """Start computing, if that is wanted from the beginning."""
        self._switch(self._section)

    def listen(self, step: Step) -> None:
        """Take in a step; cheap, and never waits for what is computed."""
        if self._wanted is None or step.assessments is None:
            return
        seen = _Seen(step.frame, step.assessments.get(DEFOCUS), time.perf_counter())
        with self._changed:
            self._latest = seen
            if self._hungry:
                self._changed.notify()

    def prepare(self, arguments: Mapping[str, Any]) -> Change:
        """Check a change of the preview that somebody ordered; raises `ControlError`.

        Parameters
        ----------
        arguments : mapping
            ``key`` and ``value``; the value `None` is what the configuration says.
        """
        key, value = str(arguments["key"]), arguments["value"]
        value = getattr(self._base, key) if value is None else value
        try:
            section = PreviewSection.model_validate({**self._section.model_dump(), key: value})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ControlError(f"preview.{key}: {first['msg']} (got {first['input']!r})") from None
        if section.restored != OFF and not self._scored:
            raise ControlError(
                f"preview.{key}: a frame is restored from what the model {DEFOCUS!r} says of it, which does not run"
            )
        return Change(
            f"preview.{key}: {getattr(section, key)}", lambda: self._switch(section), {"value": getattr(section, key)}
        )

    def and_also(self, onlooker: Onlooker | None) -> Onlooker | None:
        """Return whom the loop tells of facts and states: an onlooker, who learns of the preview besides."""
        if onlooker is None:
            return None
        self._also = onlooker
        return self

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Pass on what holds for the session, with what holds for the preview."""
        self._facts = facts
        if self._also is not None:
            now = {"restored": self._section.restored, "every_s": self._section.every_s}
            self._also.facts({**facts, "preview": now})

    def state(self, old: State, new: State, reason: str, time_s: float) -> None:
        """Pass on a change of state."""
        if self._also is not None:
            self._also.state(old, new, reason, time_s)

    def close(self) -> None:
        """End process and thread; what is being computed nobody waits for. Idempotent."""
        with self._changed:
            self._closing = True
            self._version += 1
            self._changed.notify()
        self._interrupt()
        if self._thread is not None:
            self._thread.join(JOIN_S)
            if self._thread.is_alive():
                log.error("preview.hangs")

    def _switch(self, section: PreviewSection) -> None:
        was, before = self._section, self._wanted
        options = self._base.options if section.restored == self._base.restored else {}
        wanted = (
            None if section.restored == OFF else Method(section.restored, DEFAULTS.get(section.restored, {}) | options)
        )
        if wanted == before:
            wanted = before  # its process goes on
        with self._changed:
            self._section, self._wanted, self._latest, self._due_s = section, wanted, None, 0.0
            self._version += 1
            self._changed.notify()
        if wanted is not before:
            self._failures.clear()
            self._interrupt()
        if wanted is not None and self._thread is None and not self._closing:
            self._thread = threading.Thread(target=self._run, name="restored-preview", daemon=True)
            self._thread.start()
        if wanted is None and before is not None:
            self._show(RestoredFrame(was.restored, OFF, "switched off"))

    def _interrupt(self) -> None:
        child = self._child
        if child is not None:
            child.kill()

    # -- the preview's own thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    self._turn()
                except Exception as error:  # noqa: BLE001 - a mistake in here costs the preview, never the session
                    self._failed(self._wanted, f"{type(error).__name__}: {error}")
        finally:
            self._drop()

    def _turn(self) -> None:
        """Do the next thing there is to do: start the process, wait, or restore a frame."""
        with self._changed:
            version, wanted, left_s = self._version, self._wanted, self._due_s - time.monotonic()
        if self._runs is not wanted:
            self._drop()
        if wanted is None:
            self._sleep(version, None)
        elif left_s > 0:
            self._sleep(version, left_s)
        elif self._child is None:
            self._start(wanted)
        else:
            seen = self._take(version)
            if seen is not None:
                self._one(wanted, self._child, seen)

    def _sleep(self, version: int, seconds: float | None) -> None:
        """Wait until something is switched, or for so long."""
        with self._changed:
            if self._version == version:
                self._changed.wait(seconds)

    def _take(self, version: int) -> _Seen | None:
        """Take the latest frame, wait for one if there is none; `None`: something was switched."""
        with self._changed:
            if self._version == version and self._latest is None:
                self._hungry = True
                self._changed.wait()
                self._hungry = False
            if self._version != version or self._latest is None:
                return None
            seen, self._latest = self._latest, None
            self._due_s = time.monotonic() + self._section.every_s
            return seen

    def _start(self, wanted: Method) -> None:
        try:
            self._child, self._runs = self._make_child(wanted), wanted
            if not self._interrupted(wanted):  # else whoever interrupted may have found no process to end
                self._child.wait_until_ready(START_S)
        except RestorerUnusableError as error:
            self._give_up(wanted, str(error))
        except FAILURES as error:
            self._failed(wanted, str(error))

    def _one(self, wanted: Method, child: Restoring, seen: _Seen) -> None:
        """Show one frame restored, or why it is not."""
        shown = RestoredFrame(wanted.name, REFUSED, "", seen.frame.index, simulated=seen.frame.simulated)
        if seen.said is not None and not seen.said.abstained:
            shown = replace(shown, defocus_um=known(seen.said.value), defocus_sd_um=known(seen.said.sd))
        try:
            told = {**_told(self._blur(seen)), "longest_px": self._longest_px}
            made = child.restore(seen.frame.pixels, seen.frame.pixel_um, told, self._section.timeout_ms / 1000.0)
        except FAILURES as error:
            self._failed(wanted, str(error))
            return
        except (ModelError, FrameRefusedError) as error:
            shown = replace(shown, reason=str(error), image=self._raw(seen.frame))
        else:
            refused = made["refused"] if made["verdict"] == RESTORED else None
            shown = replace(shown, verdict=made["verdict"], reason=made["reason"], image=made["image"], refused=refused)
        if not self._interrupted(wanted):
            self._show(replace(shown, took_ms=1000.0 * (time.perf_counter() - seen.at_s)))

    def _blur(self, seen: _Seen) -> Blur:
        """How far out of focus a frame is; raises `NotEstimatedError` with the reason why that is not known."""
        from parfocal.models.restore.estimate import NotEstimatedError, blur_of

        if seen.said is None:
            raise NotEstimatedError(f"the model {DEFOCUS!r} did not look at this frame")
        if "na" not in self._optics:
            raise NotEstimatedError("the optics are not known: give microscope.objective.na and emission_nm")
        try:
            return blur_of(seen.said, optics_of({**self._optics, "pixel_um": seen.frame.pixel_um}))
        except ValueError as error:
            raise NotEstimatedError(f"the optics cannot be: {error}") from None

    def _raw(self, frame: Frame) -> dict[str, Any] | None:
        """The frame itself, made small."""
        from parfocal.daemon.service.previews import preview

        return preview(frame.pixels, None, self._longest_px) if self._longest_px else None

    def _interrupted(self, wanted: Method | None) -> bool:
        return self._closing or self._wanted is not wanted

    def _failed(self, wanted: Method | None, reason: str) -> None:
        """Drop the process; have another one started after a while, or give up."""
        if self._interrupted(wanted) or wanted is None:
            return
        self._drop()
        now = time.monotonic()
        self._failures.append(now)
        while self._failures[0] < now - WITHIN_S:
            self._failures.popleft()
        times = len(self._failures)
        if times > MOST_FAILURES:
            self._give_up(wanted, f"{reason} ({times} failures within {WITHIN_S / 60:.0f} min)")
            return
        log.warning("preview.started_again", method=wanted.name, reason=reason, failures=times)
        with self._changed:
            self._due_s = now + BACKOFF_S * 2.0 ** (times - 1)

    def _give_up(self, wanted: Method, reason: str) -> None:
        with self._changed:
            if self._interrupted(wanted):
                return
            self._wanted, self._latest = None, None
            self._section = self._section.model_copy(update={"restored": OFF})
            self._version += 1
        log.warning("preview.switched_off", method=wanted.name, reason=reason)
        self._show(RestoredFrame(wanted.name, OFF, reason))
        if self._facts is not None:
            self.facts(self._facts)

    def _drop(self) -> None:
        child, self._child, self._runs = self._child, None, None
        if child is not None:
            child.close()

    def _show(self, shown: RestoredFrame) -> None:
        for show in self._showing:
            try:
                show(shown)
            except Exception as error:  # noqa: BLE001 - one screen that cannot show it is no reason to keep it from others
                log.error("preview.not_shown", where=repr(show), error=str(error))


FAILURES = (RestorerLostError, ScorerError, OSError)
"""What another process may make good."""


def _told(blur: Blur) -> dict[str, Any]:
    """A blur as plain JSON."""
    optics = asdict(blur.optics)
    optics["zernike_waves"] = {f"{n},{m}": waves for (n, m), waves in blur.optics.zernike_waves.items()}
    return {"optics": optics, "defocus_um": float(blur.defocus_um), "sd_um": float(blur.sd_um)}


@contextmanager
def preview_of(config: Config) -> Iterator[RestoredPreview]:
    """Make the restored preview of a run, switched off where the configuration has none; end it at the end."""
    from parfocal.daemon.compose import optics_told

    section = config.preview or PreviewSection()
    longest_px = (config.service or ServiceSection()).preview_px
    scored = DEFOCUS in config.scoring.models
    made = RestoredPreview(section, optics_told(config, DEFOCUS), longest_px=longest_px, scored=scored)
    try:
        yield made
    finally:
        made.close()
