"""Keeping a focus that has been found: stay, correct, or step across to tell on which side the focus is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from parfocal.policies.focus.density import Vector, windowed
from parfocal.policies.focus.grid import Estimate, FocusGrid
from parfocal.policies.focus.looks import information, most_information, sample_belief
from parfocal.policies.focus.response import Response

# How far beyond the next frame staying in the field is looked after.
_AHEAD_S = (0.0, 10.0)
_HORIZON_MIN = 1.0
# To lie ahead of a drift tells more later; of the probability of being in the field at the next frame it costs this.
_COST_OF_LEAD = 0.01
# The less sure of the field, the more a look's information is worth: nats to probability.
_WORTH_OF_NAT = 2.0
# Places beside the expected focus that a correction may go to, in depths of field.
_BESIDE_DOF = np.arange(-4, 5) * 0.125


@dataclass(frozen=True)
class Tracking:
    """How a focus is kept.

    Parameters
    ----------
    dof_um : float
        Depth of field.
    gain : float
        Least rise of the probability of being in the field that is worth a move.
    lead_dof : float
        How far ahead of a drifting focus the stage is put at most: the drift then carries the focus through the
        field, from one side to the other, and so tells where it is without a move of its own.
    cross_dof, cross_sd_dof : float
        When the focus is known worse than ``cross_sd_dof``, the stage steps to the other side of it, by
        ``cross_dof``: |defocus| is flat at the focus, and only two looks on either side tell where between it lies.
    cross_frames, cross_s : float
        Least distance between two such steps.
    """

    dof_um: float
    gain: float
    lead_dof: float
    cross_dof: float
    cross_sd_dof: float
    cross_frames: int = 2
    cross_s: float = 10.0


@dataclass(frozen=True)
class Correction:
    """Where to go, and whether it is to tell the side rather than to correct."""

    z_um: float
    crosses: bool


def expected_z(estimate: Estimate, wait_s: float) -> float:
    """Focus after `wait_s`, the drift included."""
    return estimate.mean_um + estimate.rate_um_per_min * wait_s / 60.0


def led_z(estimate: Estimate, wait_s: float, tracking: Tracking) -> float:
    """Where a stage is best put for a while: ahead of a drifting focus."""
    limit = tracking.lead_dof * tracking.dof_um
    return expected_z(estimate, wait_s) + min(limit, max(-limit, _HORIZON_MIN * estimate.rate_um_per_min))


def correction(
    grid: FocusGrid,
    estimate: Estimate,
    now_um: float,
    wait_s: float,
    may_cross: bool,
    tracking: Tracking,
    news: Callable[[Vector], Vector],
    response: Response,
) -> Correction | None:
    """Decide on a move within the field; None to stay.

    Parameters
    ----------
    grid, estimate
        The belief and its main mode.
    now_um, wait_s : float
        Where the stage is, and the time to the next frame.
    may_cross : bool
        Whether the last crossing is long enough ago.
    news : callable
        Share of a look's information at some positions that is new.
    """
    dof, middle = tracking.dof_um, expected_z(estimate, wait_s)
    if may_cross and estimate.sd_um > tracking.cross_sd_dof * dof:
        return Correction(middle - math.copysign(tracking.cross_dof * dof, now_um - middle), True)
    places = np.empty(1 + len(_BESIDE_DOF))
    places[0], places[1:] = now_um, middle + _BESIDE_DOF * dof
    half = max(1, round(0.5 * dof / grid.step))
    z, shares = grid.ahead(estimate.mean_um, 3.0 * dof, *(wait_s + ahead for ahead in _AHEAD_S))
    share, near = shares[0], windowed(shares, half)
    worth = inside = np.interp(places, z, near.sum(axis=0) / len(_AHEAD_S))
    doubt = _WORTH_OF_NAT * (1.0 - float(inside.max()))
    if doubt > 0.02:
        foci, new = sample_belief(z, share, 48), doubt * news(places)
        if float((inside + new * most_information(places, foci, response)).max()) - inside[0] <= tracking.gain:
            return None
        worth = inside + new * information(places, foci, response)
    best = int(np.argmax(worth))
    if worth[best] - worth[0] <= tracking.gain:
        return None
    target = float(places[best])
    steps = np.linspace(target, led_z(estimate, wait_s, tracking), 9)
    likely = np.interp(steps, z, near[0])
    led = float(steps[np.flatnonzero(likely >= likely.max() - _COST_OF_LEAD)[-1]])
    further = (led - now_um) * (target - now_um) > 0.0 and abs(led - now_um) > abs(target - now_um)
    return Correction(led if further else target, False)
