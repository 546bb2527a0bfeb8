"""A search for the focus, frame by frame, where an event or a call asks for one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from parfocal.daemon.guard import SafetyTripError
from parfocal.daemon.mda.follower import Told
from parfocal.daemon.mda.plan import Place
from parfocal.daemon.mda.run import SeatRun
from parfocal.drivers.base import HardwareError
from parfocal.policies.base import Change, Finish
from parfocal.policies.focus.follow import SEARCH

log = structlog.get_logger()

CANCELLED = "cancelled"
MOST_DOUBTS = 6
"""So many unusable or refused frames in a row end a search."""


@dataclass
class Found:
    """What came of a search: whether there is a focus, why (not), and (z, value) of every frame."""

    succeeded: bool = False
    reason: str = ""
    scores: list[tuple[float, float]] = field(default_factory=list)


def search(run: SeatRun, cancelled: Callable[[], bool] = lambda: False) -> Found:
    """Search the focus where the stage is, and stay there.

    A search that fails, is refused or cancelled leaves the stage where it was. `cancelled` is asked before each frame.
    """
    found, begun = Found(), run.begin_search()
    if begun is None:
        found.reason = "no event was set up"
        return found
    place, number = begun
    home_um = run.settings["z_um"]
    try:
        found.reason = _look(run, place, number, found, cancelled)
    except (HardwareError, SafetyTripError) as error:
        run.book.error(error)
        found.reason = str(error)
    if found.succeeded:
        run.end_search()
    else:
        run.move(place, home_um - place.planned_um, f"back: {found.reason}", {})
        log.warning("mda.search_failed", reason=found.reason)
    return found


def _look(run: SeatRun, place: Place, number: int, found: Found, cancelled: Callable[[], bool]) -> str:
    """Expose, ask, move, until it is over; the answer is why it is."""
    doubts = 0
    for _ in range(run.options.autofocus_frames):
        if cancelled():
            return CANCELLED
        if why := run.paused() or run.follower.given_up or ("the dose budget is spent" if run.dose.exhausted else ""):
            return why
        frame = run.snap(place, **{SEARCH: float(number)})
        told = run.follower.decide(frame, run.dose.spent)
        action = told.action
        found.scores.append((frame.settings["z_um"], _value(told)))
        moved = False
        if isinstance(action, (Change, Finish)) and action.settings:
            moved = run.move(place, action.settings["z_um"] - place.planned_um, action.reason, action.detail)
            doubts += not moved
        elif told.assessments is None or action.detail.get("found") != 1.0:
            doubts += 1
        if action.detail.get("focused") == 1.0 and (moved or not isinstance(action, Change)):
            found.succeeded = True
            return action.reason
        doubts = 0 if moved else doubts
        if doubts >= MOST_DOUBTS:
            return run.refusal or action.reason
    return f"no focus within {run.options.autofocus_frames} frames"


def _value(told: Told) -> float:
    if not told.assessments:
        return math.nan
    return float(next(iter(told.assessments.values())).value)
