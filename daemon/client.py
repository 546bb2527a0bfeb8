"""Talking to a running daemon: `Client` for scripts and notebooks, `AsyncClient` for event loops; one set of verbs.

Examples
--------
>>> from parfocal.daemon.client import Client
>>> with Client() as scope:  # the daemon of this computer; else Client("tcp://scope-pc:5570", key="me.secret.json")
...     scope.pause("changing the sample")
...     scope.resume()
...     for step in scope.events("step"):
...         print(step.index, step.z_um)
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import zmq
import zmq.asyncio

from parfocal.daemon.service.clientview import DaemonStatus
from parfocal.daemon.service.errors import MessageError, NoAnswerError, RefusedError, ServiceError
from parfocal.daemon.service.eventmodels import Event, read_event
from parfocal.daemon.service.link import Link, Missed
from parfocal.daemon.service.messages import (
    Done,
    Message,
    Pause,
    Refused,
    Resume,
    Safe,
    SetLimit,
    SetOption,
    SetPolicy,
    SetPreview,
    Snap,
    Status,
    StatusReply,
    Stop,
)

__all__ = [
    "AsyncClient",
    "Client",
    "DaemonStatus",
    "Event",
    "MessageError",
    "NoAnswerError",
    "RefusedError",
    "ServiceError",
]

_D = TypeVar("_D")
_S = TypeVar("_S")
SAFE_WITHIN_S = 15.0
LOOK_EVERY_S = 0.05
SAFE_STATES = ("safe", "ended")


class Verbs(Generic[_D, _S]):
    """The verbs, the same for both clients; the asynchronous one's are awaited.

    Parameters
    ----------
    address : str, optional
        Where the daemon listens; the one daemon of this computer when absent.
    key : Path or str, optional
        The secret key file, where the daemon asks for one.
    publish : str, optional
        Where it publishes its events; the next port when absent.
    timeout_s : float
        How long to wait for an answer.
    via : str
        What this program calls itself: shown to everybody, and in the journal, beside who sent a command.

    Raises
    ------
    NoAnswerError
        Nobody answered, or no daemon runs here.
    RefusedError
        The daemon refused, and says why; nothing was changed.
    KeyFileError
        The key cannot be used.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        key: Path | str | None = None,
        publish: str | None = None,
        timeout_s: float = 5.0,
        via: str = "",
    ) -> None:
        self._link = Link(address, key=key, publish=publish, via=via)
        self.address = self._link.address
        self.timeout_s = timeout_s

    @abstractmethod
    def _ask(self, command: Message) -> _D: ...

    @abstractmethod
    def status(self) -> _S:
        """Return what the daemon is doing: state, facts, the last step, health."""

    @abstractmethod
    def safe(self, reason: str = "") -> _D:
        """Make the microscope safe at once; returns when it is. Ends the session."""

    def pause(self, reason: str = "") -> _D:
        """Stop the camera and hold, after the frame at hand."""
        return self._ask(Pause(reason=reason))

    def resume(self) -> _D:
        """Go on after a pause."""
        return self._ask(Resume())

    def stop(self, reason: str = "") -> _D:
        """End the session in good order."""
        return self._ask(Stop(reason=reason))

    def snap(self) -> _D:
        """Take one frame while paused; what it is worth is in the answer's `detail`."""
        return self._ask(Snap())

    def set_limit(self, parameter: str, bound: str, value: float | None) -> _D:
        """Narrow a limit, or widen it again up to what the session began with (`None`: all the way).

        Parameters
        ----------
        parameter : str
            ``z_um``..., or ``dose``.
        bound : {"lower", "upper", "max_step", "max_rate", "max_travel", "budget"}
        value : float, optional
            In the parameter's own unit.
        """
        return self._ask(_made(SetLimit, parameter=parameter, bound=bound, value=value))

    def set_option(self, option: str, value: Any) -> _D:
        """Change an option of the policy, which then begins anew; `None`: its default."""
        return self._ask(_made(SetOption, option=option, value=value))

    def set_policy(self, policy: str, options: Mapping[str, Any] | None = None, **more: Any) -> _D:
        """Let another policy decide from the next frame on."""
        return self._ask(_made(SetPolicy, policy=policy, options={**(options or {}), **more}))

    def set_preview(self, key: str, value: str | float | None) -> _D:
        """Switch the restored preview on or off, or change how often one is computed; `None`: as configured.

        Parameters
        ----------
        key : {"restored", "every_s"}
        value : str or float, optional
            A method's name or ``off``; seconds.
        """
        return self._ask(_made(SetPreview, key=key, value=value))


class Client(Verbs[Done, DaemonStatus]):
    """Talks to a daemon; each call waits for the answer. For one thread at a time."""

    def __init__(
        self,
        address: str | None = None,
        *,
        key: Path | str | None = None,
        publish: str | None = None,
        timeout_s: float = 5.0,
        via: str = "",
    ) -> None:
        super().__init__(address, key=key, publish=publish, timeout_s=timeout_s, via=via)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._watching: list[Events] = []
        try:
            self._socket = self._link.commands(self._context)
            self._monitor = self._link.monitored(self._socket)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def status(self) -> DaemonStatus:
        """Return what the daemon is doing: state, facts, the last step, health."""
        return DaemonStatus.of(self.address, self._exchange(Status()))

    def safe(self, reason: str = "") -> Done:
        """Make the microscope safe at once, and wait until it is; raises `NoAnswerError` if that is not confirmed."""
        done = self._ask(Safe(reason=reason))
        until = time.monotonic() + SAFE_WITHIN_S
        while time.monotonic() < until:
            try:
                if self.status().state in SAFE_STATES:
                    return done.model_copy(update={"text": "the microscope is safe"})
            except NoAnswerError:
                break
            time.sleep(LOOK_EVERY_S)
        raise NoAnswerError(_not_confirmed(self.address))

    def events(self, *kinds: str, silence_s: float = 10.0) -> Events:
        """Return the events of these kinds as they come (all of them when none is named), until the session ends.

        Raises
        ------
        NoAnswerError
            While iterating: nothing at all for `silence_s`.
        """
        events = Events(self._link, self._context, kinds, silence_s)
        self._watching.append(events)
        return events

    def close(self) -> None:
        """Let go of the connection, and of the events that come over it. Idempotent."""
        for events in self._watching:
            events.close()
        self._context.destroy(linger=0)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _repr_html_(self) -> str:
        try:
            return self.status().html()
        except ServiceError as error:
            return DaemonStatus.html_of_error(self.address, str(error))

    def _ask(self, command: Message) -> Done:
        reply = self._exchange(command)
        if not isinstance(reply, Done):
            raise MessageError("malformed", f"{self.address}: an answer to another question ({reply.kind})")
        return reply

    def _exchange(self, command: Message) -> Done | StatusReply:
        request, seq = self._link.request(command)
        poller, until = zmq.Poller(), time.monotonic() + self.timeout_s
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        try:
            self._socket.send(request, zmq.NOBLOCK)
        except zmq.Again:
            raise self._link.no_answer(self.timeout_s) from None
        while (left_s := until - time.monotonic()) > 0:
            ready = dict(poller.poll(math.ceil(1000.0 * left_s)))
            if self._monitor in ready:
                self._link.noticed(self._monitor.recv_multipart())
                continue
            if self._socket in ready:
                reply = self._link.answer(self._socket.recv(), seq)
                if reply is not None:
                    return _accepted(reply)
        raise self._link.no_answer(self.timeout_s)


class Events(Iterator[Event]):
    """Events as they come; `missed` counts those that got lost because this side was too slow."""

    def __init__(
        self, link: Link, context: zmq.Context[zmq.Socket[bytes]], kinds: tuple[str, ...], silence_s: float
    ) -> None:
        self._kinds, self._silence_s, self._link = frozenset(kinds), silence_s, link
        self._missed, self._over = Missed(), False
        self._socket = link.events(context, kinds)

    @property
    def missed(self) -> int:
        """How many events of the kinds asked for got lost."""
        return self._missed.count

    def __next__(self) -> Event:
        while not self._over:
            if not self._socket.poll(int(1000.0 * self._silence_s)):
                self.close()
                raise self._link.silent(self._silence_s)
            event = read_event(self._socket.recv_multipart()[-1])
            self._missed.note(event)
            if event.kind == "end":
                self.close()
            if not self._kinds or event.kind in self._kinds:
                return event
        raise StopIteration

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._over = True
        self._socket.close(linger=0)

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(Verbs[Awaitable[Done], Awaitable[DaemonStatus]]):
    """Talks to a daemon from an event loop; every verb is awaited, one after the other."""

    def __init__(
        self,
        address: str | None = None,
        *,
        key: Path | str | None = None,
        publish: str | None = None,
        timeout_s: float = 5.0,
        via: str = "",
    ) -> None:
        super().__init__(address, key=key, publish=publish, timeout_s=timeout_s, via=via)
        self._context = zmq.asyncio.Context()
        self._turn = asyncio.Lock()
        try:
            self._socket = self._link.commands(self._context)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    async def status(self) -> DaemonStatus:
        """Return what the daemon is doing: state, facts, the last step, health."""
        return DaemonStatus.of(self.address, await self._exchange(Status()))

    async def safe(self, reason: str = "") -> Done:
        """Make the microscope safe at once, and wait until it is; raises `NoAnswerError` if that is not confirmed."""
        done = await self._ask(Safe(reason=reason))
        until = time.monotonic() + SAFE_WITHIN_S
        while time.monotonic() < until:
            try:
                if (await self.status()).state in SAFE_STATES:
                    return done.model_copy(update={"text": "the microscope is safe"})
            except NoAnswerError:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        raise NoAnswerError(_not_confirmed(self.address))

    async def events(self, *kinds: str, silence_s: float = 10.0) -> AsyncIterator[Event]:
        """Yield the events of these kinds as they come (all when none is named), until the session ends."""
        socket = self._link.events(self._context, kinds)
        try:
            while True:
                if not await socket.poll(int(1000.0 * silence_s)):
                    raise self._link.silent(silence_s)
                event = read_event((await socket.recv_multipart())[-1])
                if not kinds or event.kind in kinds:
                    yield event
                if event.kind == "end":
                    return
        finally:
            socket.close(linger=0)

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        self._context.destroy(linger=0)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, command: Message) -> Done:
        reply = await self._exchange(command)
        if not isinstance(reply, Done):
            raise MessageError("malformed", f"{self.address}: an answer to another question ({reply.kind})")
        return reply

    async def _exchange(self, command: Message) -> Done | StatusReply:
        async with self._turn:
            request, seq = self._link.request(command)
            try:
                async with asyncio.timeout(self.timeout_s):
                    await self._socket.send(request)
                    while True:
                        reply = self._link.answer(await self._socket.recv(), seq)
                        if reply is not None:
                            return _accepted(reply)
            except TimeoutError:
                raise self._link.no_answer(self.timeout_s) from None


def _accepted(reply: Done | Refused | StatusReply) -> Done | StatusReply:
    if isinstance(reply, Refused):
        raise RefusedError(reply.code, reply.reason)
    return reply


def _made(kind: type[Message], **fields: Any) -> Message:
    """Make a command; a mistake in it is one clear message, before anything is sent."""
    from pydantic import ValidationError

    if isinstance(fields.get("value"), int) and kind is SetLimit:
        fields["value"] = float(fields["value"])
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RefusedError("malformed", f"{where}: {first['msg']} (got {first['input']!r})") from None


def _not_confirmed(address: str) -> str:
    return (
        f"{address}: the daemon took the request, but did not confirm within {SAFE_WITHIN_S:g} s that the microscope "
        "is safe: look at the microscope, and switch the light off by hand if need be"
    )
