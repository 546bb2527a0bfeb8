"""What others ask of a running loop, from any thread: to stop, to be safe, to pause, to carry out an order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an order: accepted or refused, with a reason a person can read."""

    accepted: bool
    reason: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """A command that somebody sent.

    Parameters
    ----------
    who, role : str
        Who sent it, as far as that is known, and as what.
    command : str
        Its kind: ``pause``, ``set_limit``...
    arguments : mapping
        Plain JSON.
    answer : callable
        Called once, in the event loop's thread, with what became of it; must return at once.
    via : str
        What the sender's program calls itself.
    """

    who: str
    role: str
    command: str
    arguments: Mapping[str, Any]
    answer: Callable[[Answer], None]
    via: str = ""

    @property
    def sender(self) -> str:
        """Who and by what, for people."""
        return f"{self.who}, {self.via}" if self.via else self.who


class Requests:
    """The loop's letter box; whatever is put in wakes the loop.

    Parameters
    ----------
    wake_owner : callable
        Ends the wait for a frame.
    """

    def __init__(self, wake_owner: Callable[[], None]) -> None:
        self.stop_reason = self.safe_reason = self.pause_reason = ""
        self.task: asyncio.Task[Any] | None = None
        self._wake_owner = wake_owner
        self._events: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

    def begin(self) -> None:
        """Learn which event loop and task are to be woken; called from them."""
        self._events, self.task = asyncio.get_running_loop(), asyncio.current_task()
        if self.safe_reason:  # asked for before there was a loop to interrupt
            self.tell(self._interrupt)

    def stop(self, reason: str) -> None:
        """End in good order after the frame at hand."""
        self.stop_reason = self.stop_reason or reason
        self.tell(self.wake)

    def safe(self, reason: str) -> None:
        """Make the microscope safe at once, and end."""
        self.safe_reason = self.safe_reason or reason
        self.tell(self._interrupt)

    def pause(self, reason: str = "asked to pause") -> None:
        """Stop the camera and hold until `resume`."""
        self.pause_reason = reason
        self.tell(self.wake)

    def resume(self) -> None:
        """Go on after `pause`."""
        self.pause_reason = ""
        self.tell(self.wake)

    def tell(self, function: Callable[[], None]) -> bool:
        """Call a function in the event loop's thread, as soon as it waits for anything; return whether there is one."""
        events = self._events
        if events is None or events.is_closed():
            return False  # not running yet: `run` looks at the reasons first thing
        try:
            events.call_soon_threadsafe(function)
        except RuntimeError:
            log.info("loop.request_after_end")
            return False
        return True

    async def wait(self) -> None:
        """Wait until something was put in."""
        await self._woken.wait()
        self._woken.clear()

    def wake(self) -> None:
        """Make the loop look; in its own thread."""
        self._woken.set()
        self._wake_owner()

    def _interrupt(self) -> None:
        if self.task is not None:
            self.task.cancel()
