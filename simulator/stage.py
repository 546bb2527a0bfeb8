"""A z stage: where it is at any time after a command, with speed, settling, backlash, steps and hard limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from parfocal import ParfocalError, UsageError

_SETTLE_TIME_CONSTANTS = 8.0  # exp(-8): what is left of the lag when the stage calls itself settled


class StageLimitError(ParfocalError):
    """A move to a place that the stage cannot or must not reach; nothing has moved."""

    exit_code = 4


@dataclass(frozen=True)
class StageParameters:
    """What is known of a stage; the defaults are those of a motorised focus drive.

    Parameters
    ----------
    lower_um, upper_um : float
        Ends of the travel.
    speed_um_per_s : float
        Speed of the ramp.
    settle_ms : float
        From the end of the ramp until the stage rests.
    backlash_um : float
        Play between the encoder and the sample: the sample stays while the encoder takes up the play.
    quantum_um : float
        Smallest step; targets are rounded to whole steps.

    Raises
    ------
    UsageError
        If a value is not physical.
    """

    lower_um: float = -100.0
    upper_um: float = 100.0
    speed_um_per_s: float = 1000.0
    settle_ms: float = 20.0
    backlash_um: float = 0.0
    quantum_um: float = 0.01

    def __post_init__(self) -> None:
        for name in ("lower_um", "upper_um", "speed_um_per_s", "settle_ms", "backlash_um", "quantum_um"):
            if not math.isfinite(getattr(self, name)):
                raise UsageError(f"stage: {name} must be finite (got {getattr(self, name)!r})")
        if self.upper_um <= self.lower_um:
            raise UsageError(f"stage: upper_um {self.upper_um:g} must lie above lower_um {self.lower_um:g}")
        if self.speed_um_per_s <= 0:
            raise UsageError(f"stage: speed_um_per_s must be positive (got {self.speed_um_per_s:g})")
        for name in ("settle_ms", "backlash_um", "quantum_um"):
            if getattr(self, name) < 0:
                raise UsageError(f"stage: {name} must not be negative (got {getattr(self, name):g})")
        if math.ceil(self._steps(self.lower_um) - 1e-9) > math.floor(self._steps(self.upper_um) + 1e-9):
            raise UsageError(f"stage: no whole step of {self.quantum_um:g} um lies between lower_um and upper_um")

    def quantised(self, z_um: float) -> float:
        """Return the nearest place inside the limits that the stage can hold."""
        if self.quantum_um == 0:
            return z_um
        first = math.ceil(self._steps(self.lower_um) - 1e-9)
        last = math.floor(self._steps(self.upper_um) + 1e-9)
        steps = min(max(round(self._steps(z_um)), first), last)
        return min(max(steps * self.quantum_um, self.lower_um), self.upper_um)

    def _steps(self, z_um: float) -> float:
        return z_um / self.quantum_um if self.quantum_um else z_um


class ZStage:
    """One stage. Times are seconds on any clock, and must not go back from one command to the next.

    A move is a ramp at constant speed, followed by the mechanics with a lag of first order, so the stage comes to rest
    exponentially and never overshoots; `settle_ms` after the ramp it rests exactly at its target.

    Parameters
    ----------
    parameters : StageParameters
    start_um : float
        Where it stands at first; the play is centred there.
    """

    def __init__(self, parameters: StageParameters, start_um: float = 0.0) -> None:
        self.parameters = parameters
        self._check(start_um)
        self._origin_um = self._target_um = parameters.quantised(start_um)
        self._sample_um = self._target_um
        self._began_s = -math.inf
        self._rest_s = -math.inf

    @property
    def target_um(self) -> float:
        """Where the last command sends the stage, in whole steps."""
        return self._target_um

    @property
    def rests_at_s(self) -> float:
        """When the last move has settled; minus infinity if there was none."""
        return self._rest_s

    def move_to(self, z_um: float, t_s: float) -> float:
        """Start a move at `t_s`, from wherever the stage is then; return when it will have settled.

        Raises
        ------
        StageLimitError
            If the target is not finite or outside the limits: nothing moves.
        UsageError
            If `t_s` lies before the last command.
        """
        self._check(z_um)
        self._begin(self.parameters.quantised(z_um), t_s)
        distance = abs(self._target_um - self._origin_um)
        if distance == 0:
            self._rest_s = t_s
        else:
            self._rest_s = t_s + distance / self.parameters.speed_um_per_s + self.parameters.settle_ms / 1000.0
        return self._rest_s

    def stop(self, t_s: float) -> None:
        """Stay where the stage is at `t_s`, between two steps if need be."""
        self._begin(self.position_um(t_s), t_s)
        self._rest_s = t_s

    def busy(self, t_s: float) -> bool:
        """Whether the stage is still moving or settling at `t_s`."""
        return t_s < self._rest_s

    def position_um(self, t_s: float) -> float:
        """Return what the encoder reads at `t_s`, which must not lie before the last command."""
        self._check_time(t_s)
        if t_s >= self._rest_s:
            return self._target_um
        elapsed = t_s - self._began_s
        away = self._target_um - self._origin_um
        ramp_s = abs(away) / self.parameters.speed_um_per_s
        tau_s = self.parameters.settle_ms / 1000.0 / _SETTLE_TIME_CONSTANTS
        if elapsed <= ramp_s:
            travelled = elapsed - tau_s * _rise(elapsed, tau_s)
        else:
            left = math.exp(-(elapsed - ramp_s) / tau_s) if tau_s > 0 else 0.0
            travelled = ramp_s - tau_s * _rise(ramp_s, tau_s) * left
        way = math.copysign(min(max(travelled, 0.0) * self.parameters.speed_um_per_s, abs(away)), away)
        low, high = sorted((self._origin_um, self._target_um))
        return min(max(self._origin_um + way, low), high)

    def sample_um(self, t_s: float) -> float:
        """Return where the sample really is at `t_s`: the encoder's position with the play of the drive in between."""
        # The classical play operator; a move is monotone, so its present end alone decides.
        encoder, half = self.position_um(t_s), self.parameters.backlash_um / 2.0
        return min(encoder + half, max(encoder - half, self._sample_um))

    def _begin(self, target_um: float, t_s: float) -> None:
        origin, sample = self.position_um(t_s), self.sample_um(t_s)
        self._origin_um, self._sample_um, self._target_um, self._began_s = origin, sample, target_um, t_s

    def _check_time(self, t_s: float) -> None:
        if not t_s >= self._began_s:
            raise UsageError(f"stage: time {t_s!r} s lies before its last command at {self._began_s!r} s")

    def _check(self, z_um: float) -> None:
        lower, upper = self.parameters.lower_um, self.parameters.upper_um
        if not lower <= z_um <= upper:  # NaN fails this too
            raise StageLimitError(f"stage: {z_um:g} um is outside {lower:g}..{upper:g} um; nothing moved")


def _rise(elapsed_s: float, tau_s: float) -> float:
    """How far a lag of first order has come after `elapsed_s`, 0..1."""
    return -math.expm1(-elapsed_s / tau_s) if tau_s > 0 else 0.0
