"""The engine: pymmcore-plus's own, with a correction before each event and nothing lost where parfocal fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import chain, pairwise
from typing import Any, TypeVar

import structlog
from pymmcore_plus.core._sequencing import SequencedEvent
from pymmcore_plus.mda import MDAEngine, RunState, SkipEvent
from useq import CustomAction, HardwareAutofocus, MDAEvent, MDASequence

from parfocal import ParfocalError
from parfocal.daemon.guard import SafetyTripError
from parfocal.daemon.mda.corrections import Correction
from parfocal.daemon.mda.light import Light, LightError
from parfocal.daemon.mda.run import SeatRun
from parfocal.daemon.mda.search import search

log = structlog.get_logger()
_T = TypeVar("_T")

AUTOFOCUS = ("parfocal.autofocus", "software_autofocus")
"""Names of a `useq.CustomAction` that ask for a search."""


class ClosedLoopEngine(MDAEngine):
    """Runs a `useq` sequence like `MDAEngine`, and keeps it in focus.

    In `setup_event`, which the runner calls after the wait for ``min_start_time``, the z of the event is corrected;
    the event itself, and so all that is stored of it, keeps the z that was planned. Frames are looked at on their way
    out of `exec_event`, which costs a copy. Whatever goes wrong in parfocal is logged, and the acquisition goes on as
    it would with a plain `MDAEngine`.

    Parameters
    ----------
    core : CMMCorePlus
    make_run : callable
        Makes the `SeatRun` of one sequence; called when it begins.
    use_hardware_sequencing : bool
        Inside a hardware-triggered burst nothing can be corrected: with True, stacks get one correction each.
    **options
        Of `MDAEngine`.
    """

    def __init__(
        self,
        core: Any,
        make_run: Callable[[], SeatRun],
        *,
        use_hardware_sequencing: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(core, use_hardware_sequencing=use_hardware_sequencing, **options)
        self._make_run = make_run
        self.seat: SeatRun | None = None
        self.light: Light | None = None
        self.trouble = ""
        self._left: list[tuple[str, str, Any]] | None = None
        self._next: MDAEvent | None = None

    # -- the protocol -------------------------------------------------------------------------------------------

    def setup_sequence(self, sequence: MDASequence) -> Any:
        """Set up the sequence, then take the seat."""
        meta = super().setup_sequence(sequence)
        self.trouble, self._next = "", None
        self._leave("a new sequence began")
        self.seat = self._safely(self._make_run, None)
        if self.seat is not None:
            seat = self.seat
            self.light = self._safely(
                lambda: Light(
                    self.mmcore, seat.instrument, seat.guard, seat.book, seat.clock, seat.config.microscope.properties
                ),
                None,
            )
        return meta

    def event_iterator(self, events: Iterable[MDAEvent]) -> Iterator[MDAEvent]:
        """Pass on the events, and know the one after each, where all are known from the start.

        Whoever makes events as they go may want to see a frame first: a generator is never asked ahead.
        """
        source = super().event_iterator(events)
        if self.use_hardware_sequencing or not isinstance(events, (MDASequence, list, tuple)):
            yield from source
            return
        for event, following in pairwise(chain(source, (None,))):
            self._next = following
            if event is not None:
                yield event

    def setup_event(self, event: MDAEvent) -> None:
        """Correct the event's z, then set everything up; raises `SkipEvent` where a frame must not be taken."""
        began = time.perf_counter()
        seat = self.seat
        if seat is None:
            super().setup_event(event)
            return
        began_s = seat.clock.now()
        if why := self._safely(lambda: seat.bad(event), ""):
            self._skip(event, why)
        lit = self._with_light(event)
        correction = self._safely(lambda: seat.correct(event, event.exposure), None) if self.seat is seat else None
        if correction is None:
            super().setup_event(event)
            return
        mine = self._without_z(lit, correction)
        seat.tally.added_ms.append(1000.0 * (time.perf_counter() - began))
        super().setup_event(mine)
        try:
            seat.place(correction, began_s)
        except Exception as error:  # noqa: BLE001 - the stage, or the disk: as if parfocal were not there
            self._fail(error)
            super().setup_event(event)
            return
        self._verify(event)

    def exec_event(self, event: MDAEvent) -> Iterable[Any]:
        """Carry the event out: a search where one is asked for, else the acquisition's own frames."""
        seat, action = self.seat, event.action
        if seat is not None and isinstance(action, CustomAction) and action.name in AUTOFOCUS:
            return self._search(seat)
        served = seat is not None and seat.options.hardware_autofocus == "parfocal"
        if seat is not None and served and isinstance(action, HardwareAutofocus):
            return self._search(seat)
        if seat is None or self._safely(lambda: seat.correction, None) is None:
            return super().exec_event(event)
        if isinstance(action, HardwareAutofocus):
            return self._device_autofocus(seat, event)
        return self._watched(seat, event)

    def teardown_event(self, event: MDAEvent) -> None:
        """Tear the event down; then, in the pause before the next, look beside the focus if needed, and go ahead."""
        super().teardown_event(event)
        seat = self.seat
        if seat is None or isinstance(event, SequencedEvent) or self._canceled():
            return
        if isinstance(event.action, (CustomAction, HardwareAutofocus)):
            return
        self._safely(lambda: seat.look_about(event), 0)
        self._go_ahead(event)

    def teardown_sequence(self, sequence: MDASequence) -> None:
        """Leave the seat, then tear the sequence down."""
        self._leave("")
        super().teardown_sequence(sequence)

    def get_frame_metadata(self, event: MDAEvent, *args: Any, **kwargs: Any) -> Any:
        """Return the frame's metadata, with what was planned and what was added to it."""
        meta: Any = super().get_frame_metadata(event, *args, **kwargs)
        seat = self.seat
        if seat is not None and (correction := seat.correction) is not None:
            meta["parfocal"] = {
                "planned_z_um": correction.place.planned_um if event.z_pos is None else float(event.z_pos),
                "correction_um": correction.um,
                "focus_sd_um": correction.sd_um,
                "reason": correction.reason,
                "session": str(seat.session.folder),
            }
        return meta

    # -- events -------------------------------------------------------------------------------------------------

    def _without_z(self, event: MDAEvent, correction: Correction) -> MDAEvent:
        """Return a copy of the event that leaves z to the seat; the event itself stays as it was planned.

        The stage goes last, so that it is not moved while the sample is: a burst's own z-sequence only is shifted.
        """
        if not correction.sent:
            return event
        changes: dict[str, Any] = {"z_pos": None}
        if isinstance(event, SequencedEvent) and event.z_sequence:
            changes["z_sequence"] = tuple(z + correction.um for z in event.z_sequence)
        return event.model_copy(update=changes)

    def _with_light(self, event: MDAEvent) -> MDAEvent:
        """Set the declared properties of an event with read-back; what is left is set by the plain engine."""
        light, seat = self.light, self.seat
        self._left = None
        if light is None or seat is None or (event.properties is None and event.channel is None):
            return event
        try:
            self._left = light.set(event, seat.settings)
        except SafetyTripError as error:
            self._fail(error)
            return event
        except LightError as error:
            self._skip(event, str(error), error)
        except ParfocalError as error:
            self._skip(event, f"light: {error}", error)
        return event if self._left is None else event.model_copy(update={"properties": self._left})

    def _verify(self, event: MDAEvent) -> None:
        light = self.light
        if light is None:
            return
        try:
            light.verify(self._left)
        except LightError as error:
            self._skip(event, str(error), error)

    def _skip(self, event: MDAEvent, reason: str, error: Exception | None = None) -> None:
        if self.seat is not None:
            self.seat.tally.skipped += 1
            if error is not None:
                self._safely(lambda: self.seat.book.error(error) if self.seat else None, None)
        log.warning("mda.skipped", index=dict(event.index), reason=reason)
        frames = len(event.events) if isinstance(event, SequencedEvent) else 1
        raise SkipEvent(frames, reason) from error

    def _watched(self, seat: SeatRun, event: MDAEvent) -> Generator[Any, Any, None]:
        """Pass on what the plain engine yields, and the runner's answers to it; look at each frame on its way."""
        source = iter(super().exec_event(event))
        burst = isinstance(event, SequencedEvent)
        send = getattr(source, "send", lambda _signal: next(source))
        signal: Any = None
        started = False
        while True:
            try:
                payload = send(signal) if started else next(source)
            except StopIteration:
                return
            started = True
            if payload is not None:
                image, sub_event, meta = payload
                planned = sub_event.z_pos if burst else None
                self._safely(partial(seat.took, image, sub_event, meta, planned), None)
            signal = yield payload

    def _go_ahead(self, event: MDAEvent) -> None:
        """Have the stage's way lie in the pause before the next event, if there is one and only z will change."""
        seat, following, runner = self.seat, self._next, self.mmcore.mda
        if seat is None or following is None or following.min_start_time is None or self._canceled():
            return
        if isinstance(following.action, (CustomAction, HardwareAutofocus)) or runner.status.pause_requested:
            return
        if (following.x_pos, following.y_pos) != (event.x_pos, event.y_pos):
            return
        start_in_s = following.min_start_time
        if not following.reset_event_timer:
            # The runner puts every start off by what it was paused for, and does not say so in public.
            start_in_s += float(getattr(runner, "_paused_time", 0.0)) - runner.event_seconds_elapsed()
        self._safely(lambda: seat.ahead(following, start_in_s), False)

    def _search(self, seat: SeatRun) -> Iterable[Any]:
        self._safely(lambda: search(seat, self._canceled), None)
        return ()

    def _device_autofocus(self, seat: SeatRun, event: MDAEvent) -> Iterable[Any]:
        """Have the microscope's own autofocus do it; how far it went becomes the correction."""
        before = self._safely(seat.instrument.read_z_um, None)
        yield from super().exec_event(event)
        self._z_correction.clear()  # ours takes its place
        if before is not None:
            self._safely(lambda: seat.moved_by_device(before), None)

    def _canceled(self) -> bool:
        status = self.mmcore.mda.status
        return bool(status.cancel_requested) or status.phase is RunState.FINISHING

    # -- never in the way ---------------------------------------------------------------------------------------

    def _safely(self, function: Callable[[], _T], otherwise: _T) -> _T:
        """Call something of parfocal's; if it fails, the acquisition goes on without."""
        try:
            return function()
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the acquisition
            self._fail(error)
            return otherwise

    def _fail(self, error: Exception) -> None:
        self.trouble = f"{type(error).__name__}: {error}"
        log.error("mda.failed", error=self.trouble)
        seat = self.seat
        if seat is None:
            return
        try:
            seat.book.error(error)
        except Exception as again:  # noqa: BLE001 - a full disk, for example: it is said, and that is all
            log.error("mda.not_recorded", error=str(again))
        self._leave(self.trouble)

    def _leave(self, why: str) -> None:
        """End the seat; from now on this is a plain `MDAEngine`."""
        seat, self.seat, self.light = self.seat, None, None
        if seat is None:
            return
        try:
            seat.end(why)
        except Exception as error:  # noqa: BLE001 - as above
            log.error("mda.not_recorded", error=str(error))
            seat.follower.close(0.1)


__all__ = ["AUTOFOCUS", "ClosedLoopEngine"]
