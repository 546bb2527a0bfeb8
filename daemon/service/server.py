"""The service's own thread: commands in, answers and events out; nothing it does can hold up the loop."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog
import zmq

from parfocal.daemon.config_models import ServiceSection
from parfocal.daemon.requests import Answer, Order
from parfocal.daemon.service import events
from parfocal.daemon.service.auth import ANYBODY, AllowList, Gate, User
from parfocal.daemon.service.desk import ALWAYS, Desk
from parfocal.daemon.service.errors import MessageError, RefusedError
from parfocal.daemon.service.health import Health
from parfocal.daemon.service.messages import Done, Refused, Request, StatusReply, encode, seq_of
from parfocal.daemon.service.previews import preview
from parfocal.daemon.service.refusals import Refusals
from parfocal.daemon.service.sockets import Sockets, open_sockets

if TYPE_CHECKING:
    from parfocal.daemon.restored import RestoredFrame
    from parfocal.daemon.states import State
    from parfocal.daemon.summary import Step, Summary

log = structlog.get_logger()
MOST_STEPS, MOST_REST = 4096, 4096
"""What waits for the thread; more, and the oldest steps go, which shows as a gap in their numbers."""

PREVIEW_EVERY_S, HEALTH_EVERY_S, HELLO_EVERY_S = 0.2, 1.0, 5.0
AT_ONCE, REFUSED_PER_S, BREATH_S = 16, 1500.0, 0.002
"""Requests taken in one go; and so many that are refused a second. As soon as more were, nothing is listened to for a
breath, and not for longer: a flood shall cost whoever sends it time, and neither the loop nor somebody else."""

MOST_PENDING = 64
FAREWELL_S = 0.4
TALKED_LATELY_S = 10.0
MOST_FAILURES = 100
Envelope = list[bytes]
Submit = Callable[[Order], None]


class Service:
    """Lets others talk to a loop, and watch it.

    `listen`, `facts` and `state` are called in the event loop's thread and cost it next to nothing; `attach`, `end` and
    `close` by whoever runs the session.

    Parameters
    ----------
    section : ServiceSection
    allowed : AllowList, optional
        Who may come in; without one, everybody on this computer.
    asked : bool
        Whether somebody named the address; if not, another one will do where it is taken.

    Raises
    ------
    AddressTakenError, ServiceError
        The address cannot be had.
    """

    def __init__(self, section: ServiceSection, allowed: AllowList | None = None, *, asked: bool = True) -> None:
        self._section, self._allowed = section, allowed
        self._sockets: Sockets = open_sockets(section, allowed, asked=asked)
        self.address, self.publish = self._sockets.address, self._sockets.publish
        self._steps: deque[tuple[int, events.Note]] = deque()
        self._rest: deque[tuple[int, str, Any]] = deque(maxlen=MOST_REST)
        self._order = self._step_number = self.lost_events = 0
        self._image: tuple[Any, Any, int] | None = None
        self._restored: RestoredFrame | None = None
        self._last_note: events.Note | None = None
        self._numbers: dict[str, int] = {}
        self._latest: dict[str, dict[str, Any]] = {}
        self._facts: Mapping[str, Any] = {}
        self._submit: Submit | None = None
        self._early_safe: deque[Order] = deque()
        self._state = "idle"
        self._refusals, self._health = Refusals(), Health()
        self._desk = Desk(section.max_age_s)
        self._gate = Gate(allowed, self._refusals.note) if allowed is not None else None
        self._pending = 0
        self._due = {"health": 0.0, "hello": 0.0, "preview": 0.0}
        self._talked_s = -float("inf")
        self._owed_s, self._paid_s = 0.0, time.monotonic()
        self._awake = self._closing = False
        self._close_at_s = float("inf")
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)
        self._thread.start()

    # -- from the event loop's thread, and from whoever runs the session ------------------------------------------

    def attach(self, submit: Submit) -> None:
        """Say where commands go; until then they are refused, but for `safe`, which waits for the session."""
        self._submit = submit
        self._hand_in_early()

    def listen(self, step: Step) -> None:
        """Take in a step; cheap, and never waits."""
        self._step_number += 1
        self._order += 1
        if len(self._steps) >= MOST_STEPS:
            self._steps.popleft()
            self.lost_events += 1
        self._steps.append((self._order, events.note(step, self._step_number, time.time())))
        self._image = (step.frame.pixels, step.assessments, step.frame.index)
        self._wake()

    def restored(self, shown: RestoredFrame) -> None:
        """Take in a restored preview, from any thread; of several that wait the latest is published."""
        self._restored = shown
        self._wake(always=True)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Take in what holds for the session."""
        self._put("facts", facts)

    def state(self, old: State, new: State, reason: str, time_s: float) -> None:
        """Take in a change of state."""
        self._put("state", (old.value, new.value, reason, time_s, time.time()))

    def end(self, summary: Summary) -> None:
        """Publish how it ended."""
        self._put("end", summary)

    def close(self) -> None:
        """Say farewell to whoever is there, and end the thread. Idempotent."""
        now = time.monotonic()
        if not self._closing:
            anybody = now - self._talked_s < TALKED_LATELY_S or any(self._sockets.wanted.values())
            self._close_at_s = now + (FAREWELL_S if anybody else 0.0)
            self._closing = True
            self._wake(always=True)
        self._thread.join(5.0)
        if self._thread.is_alive():
            log.error("service.hangs")

    def _put(self, kind: str, content: Any) -> None:
        self._order += 1
        self._rest.append((self._order, kind, content))
        self._wake()

    def _wake(self, *, always: bool = False) -> None:
        if always or not self._awake:
            self._awake = True
            self._sockets.wake()

    # -- the service's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        sockets, failures = self._sockets, 0
        poller = zmq.Poller()
        for sock in (sockets.wake_in, sockets.commands, sockets.events, sockets.gate):
            if sock is not None:
                poller.register(sock, zmq.POLLIN)
        while not (self._closing and time.monotonic() >= self._close_at_s and not (self._steps or self._rest)):
            try:
                self._round(poller)
            except Exception as error:  # noqa: BLE001 - whoever sends what nobody thought of must not end the service
                failures += 1
                log.error("service.failed", error=str(error), kind=type(error).__name__, times=failures)
                if failures >= MOST_FAILURES:
                    log.critical("service.gave_up", times=failures)
                    break
                time.sleep(0.01)
        self._refusals.tick()
        sockets.close()

    def _round(self, poller: zmq.Poller) -> None:
        sockets = self._sockets
        now = time.monotonic()
        wait_s = min(min(self._due.values()) - now, self._close_at_s - now, 1.0)
        if self._image is None or not sockets.wants(b"preview"):
            wait_s = min(min(self._due["health"], self._due["hello"]) - now, self._close_at_s - now, 1.0)
        ready = dict(poller.poll(math.ceil(max(1000.0 * wait_s, 0.0))))
        if sockets.wake_in.fileno() in ready:
            sockets.woken()
        self._awake = False  # before looking: what comes from now on wakes again
        self._pay()
        if sockets.events in ready:
            self._take_subscriptions()
        self._pass_on_restored()
        self._pass_on()
        if sockets.gate in ready:
            self._ask_gate()
        if sockets.commands in ready:
            self._take_requests()
        self._tick()
        if self._out_of_breath:
            time.sleep(self._owed_s)

    def _pay(self) -> None:
        """Let time pass: it pays for what was refused."""
        now = time.monotonic()
        self._owed_s, self._paid_s = max(self._owed_s - (now - self._paid_s), 0.0), now

    @property
    def _out_of_breath(self) -> bool:
        """Whether so much was refused that a breath is due: who sends more waits until then."""
        return self._owed_s >= BREATH_S

    def _take_subscriptions(self) -> None:
        for _ in range(AT_ONCE):
            for _ in range(self._sockets.subscriptions(1)):
                self._owed_s += 1.0 / REFUSED_PER_S
                self._refusals.note("no_subscription", "somebody", "a message to the events' socket that is none")
            if self._out_of_breath:
                break

    def _ask_gate(self) -> None:
        gate = self._sockets.gate
        if gate is None or self._gate is None:
            return
        for _ in range(AT_ONCE):
            try:
                parts = gate.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            envelope, request = parts[:2], parts[2:]
            gate.send_multipart(envelope + self._gate.answer(request), zmq.NOBLOCK)

    def _take_requests(self) -> None:
        """Take in what was sent, at least one: every sender gets a turn, whoever else floods (ZeroMQ queues fairly)."""
        for _ in range(AT_ONCE):
            try:
                frames = self._sockets.commands.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            if not self._one_request(frames):
                self._owed_s += 1.0 / REFUSED_PER_S
            if self._out_of_breath:
                break

    def _one_request(self, frames: list[Any]) -> bool:
        user: User | None = ANYBODY
        if self._gate is not None:
            user = self._gate.user(frames[-1])
        who = "a stranger" if user is None else user.name
        data = bytes(frames[-1].buffer)
        envelope = [bytes(frame.buffer) for frame in frames[:-1]]
        try:
            if len(frames) > 3:
                raise MessageError("malformed", f"a message in {len(frames) - 1} parts; a request has one")
            if user is None:
                raise RefusedError("unknown_key", "this key is not on the list")
            request = self._desk.judge(data, user)
        except (MessageError, RefusedError) as error:
            self._refusals.note(error.code, who, str(error))
            if len(envelope) <= 2:
                self._reply(envelope, Refused(seq=seq_of(data), code=error.code, reason=str(error)))
            return False
        self._talked_s = time.monotonic()
        if request.command.kind == "status":
            self._reply(envelope, self._status(request, user))
        else:
            self._pass_in(envelope, request, user)
        return True

    def _status(self, request: Request, user: User) -> StatusReply:
        found = dict(self._latest)
        if self._last_note is not None:
            found["step"] = events.step_event(self._last_note)
        you = {"name": user.name, "role": user.role}
        return StatusReply(seq=request.seq, state=self._state, you=you, events=found)

    def _pass_in(self, envelope: Envelope, request: Request, user: User) -> None:
        submit, problem = self._submit, ("", "")
        if request.command.kind == ALWAYS:
            if submit is None:
                self._safe_before_it_begins(envelope, request, user)
                return
        elif submit is None:
            problem = ("not_running", "no session is running yet")
        elif self._pending >= MOST_PENDING:
            problem = ("busy", "too many commands wait already")
        if submit is None or problem[0]:
            self._refusals.note(problem[0], user.name, problem[1])
            self._reply(envelope, Refused(seq=request.seq, code=problem[0], reason=problem[1]))
            self._told(_order_of(request, user), Answer(False, problem[1], code=problem[0]))
            return
        self._pending += 1

        def answer(said: Answer) -> None:
            self._put("answer", (envelope, request.seq, order, said))

        order = _order_of(request, user, answer)
        submit(order)

    def _safe_before_it_begins(self, envelope: Envelope, request: Request, user: User) -> None:
        order = _order_of(request, user)
        self._early_safe.append(order)
        said = Answer(True, "no session is running yet; the one about to begin ends before its first frame")
        self._answered(envelope, request.seq, order, said)
        self._hand_in_early()  # should it have begun meanwhile

    def _hand_in_early(self) -> None:
        while self._submit is not None and self._early_safe:
            try:
                order = self._early_safe.popleft()
            except IndexError:  # the other thread was faster
                return
            self._submit(order)

    def _told(self, order: Order, said: Answer) -> None:
        """Tell everybody who ordered what, so that nobody wonders why the session is paused."""
        self._publish("order", events.order_event(self._next("order"), time.time(), order, said))

    def _answered(self, envelope: Envelope, seq: int, order: Order, said: Answer) -> None:
        self._told(order, said)
        if said.accepted:
            detail = events.plain(said.detail)
            self._reply(envelope, Done(seq=seq, text=said.reason, state=self._state, detail=detail))
        else:
            self._refusals.total[said.code or "refused"] += 1  # whoever refused it has logged it, with who asked
            self._reply(envelope, Refused(seq=seq, code=said.code or "refused", reason=said.reason))

    def _reply(self, envelope: Envelope, message: Done | Refused | StatusReply) -> None:
        try:
            self._sockets.commands.send_multipart([*envelope, encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # whoever asked is gone, or does not read
            log.debug("service.reply_lost", error=str(error))

    def _pass_on(self) -> None:
        """Publish what waits, in the order in which it happened."""
        steps, rest = self._steps, self._rest
        while steps or rest:
            if rest and (not steps or rest[0][0] < steps[0][0]):
                _, kind, content = rest.popleft()
                self._pass_on_rest(kind, content)
                continue
            try:
                _, noted = steps.popleft()
            except IndexError:  # the loop's thread took the oldest away
                continue
            self._last_note = noted
            self._health.note(noted)
            if self._sockets.wants(b"step"):
                self._publish("step", events.step_event(noted))

    def _pass_on_rest(self, kind: str, content: Any) -> None:
        now = time.time()
        match kind:
            case "answer":
                self._pending -= 1
                self._answered(*content)
            case "facts":
                self._facts = content
                self._hello()
            case "state":
                old, new, reason, time_s, sent_s = content
                self._state = new
                self._publish("state", events.state_event(self._next("state"), sent_s, old, new, reason, time_s))
            case "end":
                self._publish("end", events.end_event(self._next("end"), now, content))

    def _hello(self) -> None:
        self._publish("hello", events.hello_event(self._next("hello"), time.time(), self._facts))

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._due["health"]:
            self._due["health"] = now + HEALTH_EVERY_S
            self._refusals.tick()
            for where, why in self._sockets.failed_handshakes():
                self._refusals.note("handshake", where, why)
            counted = {"state": self._state, "lost_events": self.lost_events, "refused": dict(self._refusals.total)}
            content = counted | self._health.numbers()
            self._publish("health", events.health_event(self._next("health"), time.time(), content))
        if now >= self._due["hello"]:
            self._due["hello"] = now + HELLO_EVERY_S
            if self._facts:
                self._hello()
        if now >= self._due["preview"] and self._image is not None and self._sockets.wants(b"preview"):
            self._due["preview"] = now + PREVIEW_EVERY_S
            self._preview()

    def _preview(self) -> None:
        image, self._image = self._image, None
        if image is None or not self._section.preview_px:
            return
        made = preview(image[0], image[1], self._section.preview_px)
        if made is not None:
            self._publish("preview", events.preview_event(self._next("preview"), time.time(), image[2], made))

    def _pass_on_restored(self) -> None:
        shown, self._restored = self._restored, None
        if shown is not None and self._sockets.wants(b"restored"):
            number = self._next("restored")
            self._publish("restored", events.restored_event(number, time.time(), shown.content()))

    def _next(self, kind: str) -> int:
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return self._numbers[kind]

    def _publish(self, kind: str, content: dict[str, Any]) -> None:
        if kind not in ("preview", "restored", "step"):
            self._latest[kind] = content
        topic = kind.encode()
        if self._sockets.wants(topic):
            self._sockets.events.send_multipart([topic, encode(content)], zmq.NOBLOCK)


def _order_of(request: Request, user: User, answer: Callable[[Answer], None] = lambda _: None) -> Order:
    arguments = request.command.model_dump(exclude={"kind"})
    return Order(user.name, user.role, request.command.kind, arguments, answer, request.via)
