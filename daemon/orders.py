"""Orders from outside, carried out in the loop's thread: written down before they take effect, then answered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import structlog

from parfocal import ParfocalError
from parfocal.daemon.alive import kept_alive
from parfocal.daemon.controls import Change, ControlError, Controls
from parfocal.daemon.record import Record
from parfocal.daemon.requests import Answer, Order, Requests
from parfocal.daemon.session import Session
from parfocal.daemon.states import State, StateMachine
from parfocal.drivers.base import Frame
from parfocal.simulator.clock import Clock

log = structlog.get_logger()
_T = TypeVar("_T")
MOST_WAITING = 32
"""Orders that wait for the frame at hand; a sender who is faster than the microscope is told so."""

RENEW_EVERY_S = 0.5
IMMEDIATE = frozenset({"pause", "resume", "stop", "safe"})
ENDING = "the session is ending, and the microscope is made safe first of all"


class Orders:
    """Receives orders and carries them out.

    `pause`, `resume`, `stop` and `safe` are answered at once, whatever the loop waits for. What changes limits or the
    policy, and a `snap`, waits until the frame at hand is done with.

    Parameters
    ----------
    requests, controls, state
        What orders act upon.
    record, session
        Where they are written down, before they take effect.
    clock : Clock
        The microscope's.
    snap : callable
        Takes one frame; returns what a program reads of it.
    renew : callable
        Says that the loop is alive while an order takes long.
    """

    def __init__(
        self,
        requests: Requests,
        controls: Controls,
        state: StateMachine,
        record: Record,
        session: Session,
        clock: Clock,
        snap: Callable[[str], Awaitable[Mapping[str, Any]]],
        renew: Callable[[], None],
    ) -> None:
        self._requests, self._controls, self._state = requests, controls, state
        self._record, self._journal, self._clock = record, session.journal, clock
        self._snap, self._renew = snap, renew
        self._others: dict[str, Callable[[Mapping[str, Any]], Change]] = {"set_preview": _no_preview}
        self._waiting: deque[Order] = deque()
        self._early: list[dict[str, Any]] | None = []
        self._closed = False

    def submit(self, order: Order) -> None:
        """Hand in an order; from any thread. It is answered whatever happens."""
        if self._requests.tell(lambda: self._receive(order)):
            return
        if order.command != "safe":
            self._answer(order, Answer(False, "no session is running yet, or any more", code="not_running"))
        elif self._closed:
            self._answer(order, Answer(True, ENDING))
        else:
            self._requests.safe(_reason(order))
            self._answer(order, Answer(True, "the session about to begin ends before its first frame"))

    def also(self, command: str, prepare: Callable[[Mapping[str, Any]], Change]) -> None:
        """Have somebody else check a command and make its change: one that is no business of the loop's decisions."""
        self._others[command] = prepare

    @property
    def waiting(self) -> bool:
        """Whether there is anything to `carry_out`."""
        return bool(self._waiting)

    def begin(self) -> None:
        """Write down what was ordered before the journal had its first record."""
        early, self._early = self._early or [], None
        for fields in early:
            self._journal.append("command_received", **fields)

    def close(self) -> None:
        """Refuse whatever waits and whatever is still to come."""
        self._closed = True
        while self._waiting:
            self._refuse(self._waiting.popleft(), ENDING, "ending")

    async def carry_out(self, last: Frame | None) -> None:
        """Carry out what waits; between two frames.

        Raises
        ------
        JournalError
            An order could not be written down; it did not take effect.
        """
        while self._waiting:
            order = self._waiting.popleft()
            try:
                await self._one(order, last)
            except ParfocalError as error:
                order.answer(Answer(False, f"it could not be written down: {error}", code="journal"))
                raise
            except asyncio.CancelledError:
                order.answer(Answer(False, ENDING, code="ending"))
                raise

    # -- in the event loop's thread -------------------------------------------------------------------------------

    def _receive(self, order: Order) -> None:
        if self._closed and order.command == "safe":
            self._answer(order, Answer(True, ENDING))  # asked for what is being done
        elif self._closed:
            self._refuse(order, ENDING, "ending")
        elif order.command in IMMEDIATE:
            self._at_once(order)
        elif len(self._waiting) >= MOST_WAITING:
            self._refuse(order, f"{MOST_WAITING} orders wait already; ask again in a moment", "busy")
        else:
            self._waiting.append(order)
            self._requests.wake()

    def _at_once(self, order: Order) -> None:
        reason = _reason(order)
        paused = bool(self._requests.pause_reason)
        text = {
            "pause": f"paused already: {self._requests.pause_reason}" if paused else "paused after the frame at hand",
            "resume": "going on" if paused else "was not paused",
            "stop": "stops after the frame at hand",
            "safe": "the microscope is being made safe",
        }[order.command]
        try:
            self._write(order, accepted=True, reason=text)
        except ParfocalError as error:
            log.error("order.not_written", command=order.command, who=order.who, error=str(error))
            if order.command not in ("stop", "safe"):  # these two are never refused, least of all when things go wrong
                order.answer(Answer(False, f"it could not be written down: {error}", code="journal"))
                return
        order.answer(Answer(True, text))
        match order.command:
            case "pause" if not paused:
                self._requests.pause(reason)
            case "resume":
                self._requests.resume()
            case "stop":
                self._requests.stop(reason)
            case "safe":
                self._requests.safe(reason)

    async def _one(self, order: Order, last: Frame | None) -> None:
        try:
            if order.command == "snap":
                await self._take_one(order)
                return
            others = self._others.get(order.command)
            if others is not None:
                change = others(order.arguments)
            else:
                change = await self._alive(self._controls.prepare(order.command, order.arguments, last))
        except ParfocalError as error:
            self._write(order, accepted=False, reason=str(error))
            self._answer(order, Answer(False, str(error), code="refused"))
            return
        self._write(order, accepted=True, reason=change.text)
        change.commit()
        self._answer(order, Answer(True, change.text, change.detail))

    async def _take_one(self, order: Order) -> None:
        if self._state.state is not State.PAUSED:
            raise ParfocalError("one frame is taken only while paused: pause first")
        self._write(order, accepted=True, reason="one frame")
        try:
            detail = await self._alive(self._snap(order.who))
        except ParfocalError as error:
            self._answer(order, Answer(False, str(error), code="snap_failed"))
            return
        self._answer(order, Answer(True, f"frame {detail['index']}", detail))

    async def _alive(self, work: Awaitable[_T]) -> _T:
        """Wait for something that may take long, and say meanwhile that the loop is alive."""
        self._renew()
        with kept_alive(self._renew, RENEW_EVERY_S):
            return await work

    def _refuse(self, order: Order, reason: str, code: str) -> None:
        if not self._closed:
            self._write(order, accepted=False, reason=reason)
        self._answer(order, Answer(False, reason, code=code))

    def _answer(self, order: Order, answer: Answer) -> None:
        order.answer(answer)  # first: somebody waits for it
        log.info(
            "order", who=order.sender, role=order.role, command=order.command, accepted=answer.accepted,
            reason=answer.reason,
        )  # fmt: skip

    def _write(self, order: Order, *, accepted: bool, reason: str) -> None:
        """Write an order down, behind all that was noted before it."""
        fields: dict[str, Any] = {
            "who": order.who, "role": order.role, "via": order.via, "command": order.command,
            "arguments": dict(order.arguments), "accepted": accepted, "reason": reason, "time_s": self._clock.now(),
        }  # fmt: skip
        if self._early is not None:
            self._early.append(fields)
            return
        self._record.flush()
        self._journal.append("command_received", **fields)


def _reason(order: Order) -> str:
    said = str(order.arguments.get("reason", "")).strip()
    return f"{said or order.command} ({order.sender})"


def _no_preview(arguments: Mapping[str, Any]) -> Change:
    raise ControlError("this run has no preview that could be set")
