"""The desk: whether a request is to be believed at all. Version, shape, age, order, role and haste, before anything."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from parfocal.daemon.service.auth import User
from parfocal.daemon.service.errors import RefusedError
from parfocal.daemon.service.messages import Request, read_request

log = structlog.get_logger()
MOST_CLIENTS = 10_000
COMMANDS_PER_S = 200.0
"""Of one sender, questions left out; a journal is not for machine guns."""

READING = frozenset({"status"})
"""A question changes nothing, so it is answered whatever clock it was asked by."""

UNTOLD = frozenset({"malformed", "version", "oversized", "stale", "repeated", "role", "too_fast", "unknown_key"})
"""Codes of what never became an order: nobody but the sender and the log is told of it."""

ALWAYS = "safe"
"""Never refused for its age, its number or the crowd: whoever may operate and wants the light off gets it."""


@dataclass
class _Client:
    last_seq: int
    seen_s: float


class Desk:
    """Judges requests.

    Parameters
    ----------
    max_age_s : float
        A request that was sent longer ago, or longer ahead, is refused.
    wall : callable
        Unix time in seconds; the clients' clocks are compared with it.
    monotonic : callable
        Seconds that never jump: for how long clients are remembered.
    """

    def __init__(
        self,
        max_age_s: float,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_age_s, self._wall, self._monotonic = max_age_s, wall, monotonic
        self._clients: OrderedDict[tuple[str, str], _Client] = OrderedDict()
        self._haste: dict[str, tuple[float, float]] = {}

    def judge(self, data: bytes, user: User) -> Request:
        """Return the request if it is to be carried out.

        Raises
        ------
        MessageError
            It is none.
        RefusedError
            ``stale``, ``repeated``, ``role``, ``too_fast`` or ``busy``; of ``safe`` only ``role``.
        """
        request = read_request(data)
        if request.command.kind == ALWAYS and user.role == "operate":
            self._in_any_case(request, user)
            return request
        age_s = self._wall() - request.sent_s
        if not abs(age_s) <= self._max_age_s and request.command.kind not in READING:
            when = f"{age_s:.1f} s ago" if age_s > 0 else f"{-age_s:.1f} s from now"
            raise RefusedError(
                "stale", f"sent {when}, {self._max_age_s:g} s is the most: too late, or the clocks disagree"
            )
        self._in_order(request, user)
        if user.role != "operate" and request.command.kind not in READING:
            raise RefusedError("role", f"{user.name} may {user.role}; {request.command.kind} needs the role operate")
        if request.command.kind not in READING:
            self._without_haste(user)
        return request

    def _in_any_case(self, request: Request, user: User) -> None:
        """Remember an order to make safe like any other; what would be wrong with any other is said in the log."""
        age_s = self._wall() - request.sent_s
        try:
            self._in_order(request, user)
        except RefusedError as error:
            log.warning("service.safe_all_the_same", who=user.name, code=error.code, reason=str(error))
        if not abs(age_s) <= self._max_age_s:
            log.warning("service.safe_all_the_same", who=user.name, code="stale", age_s=round(age_s, 1))

    def _in_order(self, request: Request, user: User) -> None:
        now = self._monotonic()
        # Twice the age: for as long as a copy of the request could still pass as fresh, whoever sent it is remembered.
        while self._clients:
            first, client = next(iter(self._clients.items()))
            if now - client.seen_s <= 2.0 * self._max_age_s + 1.0:
                break
            del self._clients[first]
        name = (user.name, request.client)
        known = self._clients.get(name)
        if known is None:
            if len(self._clients) >= MOST_CLIENTS:
                raise RefusedError("busy", f"{MOST_CLIENTS} clients came within {2 * self._max_age_s:g} s")
            self._clients[name] = _Client(request.seq, now)
            return
        if request.seq <= known.last_seq:
            raise RefusedError("repeated", f"request {request.seq} of this client was seen already")
        known.last_seq, known.seen_s = request.seq, now
        self._clients.move_to_end(name)

    def _without_haste(self, user: User) -> None:
        now = self._monotonic()
        left, since = self._haste.get(user.name, (COMMANDS_PER_S, now))
        left = min(left + (now - since) * COMMANDS_PER_S, COMMANDS_PER_S)
        if left < 1.0:
            raise RefusedError("too_fast", f"more than {COMMANDS_PER_S:g} commands a second")
        self._haste[user.name] = (left - 1.0, now)
