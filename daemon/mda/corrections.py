"""What the correction of an event should be: a forecast for the middle of its exposure, or what is in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from parfocal.daemon.mda.follower import Outlook
from parfocal.daemon.mda.plan import Place
from parfocal.policies.focus.follow import FollowPolicy
from parfocal.policies.focus.memory import Forecast

DEADBAND_DOF = 0.03
"""A correction that differs by less from the one in force is that one: a quarter of what the focus is known to."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A correction, why, and what it rests on; `held` if nothing new may rest on that."""

    um: float
    reason: str
    forecast: Forecast
    held: bool = False


@dataclass(frozen=True, slots=True)
class Correction:
    """What is added to the plan's z for one event, where that leads, and why.

    With `sent` the stage is the seat's to place; with `stands` it was sent there before, which is only verified.
    """

    place: Place
    um: float
    target_um: float
    sd_um: float
    reason: str
    sent: bool
    stands: bool = False


class Corrections:
    """Remembers which correction each position has, and says which it should have.

    Parameters
    ----------
    policy : FollowPolicy
    outlook : callable
        What is known of the focus at the moment.
    paused : callable
        Why nothing new is to be done, or an empty string.
    """

    def __init__(self, policy: FollowPolicy, outlook: Callable[[], Outlook], paused: Callable[[], str]) -> None:
        self._policy, self._outlook, self._paused = policy, outlook, paused
        self._held_um: dict[int, float] = {}
        self._line: tuple[int, float, float, float, str] | None = None

    def wish(self, place: Place, at_s: float, *, ahead: bool = False) -> Wish:
        """Say what the correction at a place should be at a time; `ahead` of its event nothing is settled by that."""
        outlook = self._outlook()
        forecast = outlook.memory.at(place.position, at_s)
        held = self.held(place.position)
        doubt = self._paused() or outlook.doubt
        if not doubt and not self._policy.trusted(forecast):
            doubt = f"the focus is known to ±{forecast.sd_um:.2f} um only"
        if doubt:
            return Wish(held, f"held: {doubt}", forecast, held=True)
        line = self._line
        if line is not None and line[0] == place.visit:
            # Within one visit the correction only follows the drift: a stack is never torn by what is learned in it.
            um, reason = line[2] + line[3] * (at_s - line[1]), line[4]
        else:
            um = forecast.focus_um
            reason = (
                f"focus {forecast.focus_um:+.2f} ± {forecast.sd_um:.2f} um from the plan, "
                f"drift {60.0 * forecast.rate_um_per_s:+.2f} um/min"
            )
            if not ahead:
                self._line = place.visit, at_s, um, forecast.rate_um_per_s, reason
        if abs(um - held) < DEADBAND_DOF * self._policy.dof:
            um = held
        return Wish(um, reason, forecast)

    def held(self, position: int) -> float:
        """Return the correction in force, moved on to another position by what is remembered of both."""
        if position in self._held_um or not self._held_um:
            return self._held_um.get(position, 0.0)
        last = next(reversed(self._held_um))
        memory = self._outlook().memory
        return self._held_um[last] - memory.offset_um(last) + memory.offset_um(position)

    def hold(self, position: int, um: float) -> None:
        """Take a correction for the one in force; it is the latest then."""
        self._held_um.pop(position, None)
        self._held_um[position] = um

    def remembered(self) -> dict[int, float]:
        """Return a copy of what is in force where, to go back to."""
        return dict(self._held_um)

    def remember(self, held_um: Mapping[int, float]) -> None:
        """Go back to what was in force."""
        self._held_um = dict(held_um)

    def anew(self) -> None:
        """Have what was just found count at once, in the visit at hand."""
        self._line = None
