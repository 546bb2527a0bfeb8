"""One move towards a place, in a step that the stage may take, never outside its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping

from parfocal.policies.base import Change, Hold
from parfocal.policies.options import FocusOptions


def step_towards(
    z_um: float, target_um: float, options: FocusOptions, reason: str, detail: Mapping[str, float]
) -> Change | Hold:
    """Go from `z_um` towards `target_um`; hold where even the first step would end outside the limits."""
    o = options
    target = min(max(target_um, o.lower_um), o.upper_um)
    first, note = target, ""
    if abs(target - z_um) > o.max_step_um:
        # A hair less than the whole: the difference of two rounded numbers must not be a step too large.
        first = z_um + math.copysign(o.max_step_um * (1.0 - 1e-9), target - z_um)
        note = f", by way of z={first:.2f} um (largest step {o.max_step_um:g} um)"
        if not o.lower_um <= first <= o.upper_um:
            return Hold(f"z={z_um:.2f} um lies outside the stage's limits, further than one step", dict(detail))
    return Change({"z_um": first}, f"{reason} z={target:.2f} um{note}", dict(detail))
