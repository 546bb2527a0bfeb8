"""Measuring an objective: a short guarded sweep through focus, and the response of the network that it shows.

The sweep is a session like any other: a script takes the place of the policy, so that guard, journal, signals and view
are those of `parfocal run`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parfocal import ParfocalError, UsageError
from parfocal.policies.base import Action, Change, Finish, Hold, Observation, PolicyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parfocal.daemon.config import Config
    from parfocal.policies.focus.response import Response

SCHEMA = "parfocal.calibration/1"
MODEL = "defocus"
ARRIVED_STEPS = 0.25
"""A stage that is within this share of a step of where it was sent is there."""

MOST_PLANES = 500
BLUR, BLUR_SD = "blur_px", "blur_sd_px"
BETWEEN_FIELDS = 0.08
"""How much the network's number differs between fields of one kind of sample, as a share of its own sd.

Simulated fields gave 0.006 to 0.63, mostly 0.05 to 0.4; the value was chosen on Micro-Manager's demo camera. One sweep
cannot show it. The rest of the sd is between kinds of samples, which the sweep settles."""


class CalibrationError(ParfocalError):
    """The sweep could not be made as asked, or shows no focus; nothing is stored."""

    exit_code = 4


@dataclass(frozen=True)
class Sweep:
    """What to sweep.

    Parameters
    ----------
    range_um, step_um : float
        Length, half of it to each side of where the stage is, and distance of the planes.
    repeats : int
        Assessed frames a plane.
    go : bool
        End at the focus found instead of where the stage was.
    """

    range_um: float
    step_um: float
    repeats: int = 3
    go: bool = False

    def check(self) -> None:
        """Refuse a sweep that could not be fitted; raises `UsageError`."""
        if not (math.isfinite(self.range_um) and math.isfinite(self.step_um) and self.step_um > 0):
            raise UsageError(f"a sweep of {self.range_um} um in steps of {self.step_um} um makes no sense")
        if not 8 <= self.planes <= MOST_PLANES:
            raise UsageError(
                f"a sweep of {self.range_um:g} um in steps of {self.step_um:g} um has {self.planes} planes; "
                f"8 to {MOST_PLANES} are needed: change --range-um or --step-um"
            )

    @property
    def planes(self) -> int:
        """How many planes."""
        return int(self.range_um / self.step_um + 1e-9) + 1


@dataclass
class Measured:
    """What the sweep saw, an entry an assessed frame; abstentions are NaN.

    The number is the blur in pixels where the model says one: it has a size on both sides of the focus, and needs no
    optics. Else it is the magnitude of the value.
    """

    z_um: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    sds: list[float] = field(default_factory=list)
    signs: list[float] = field(default_factory=list)
    plane: list[int] = field(default_factory=list)
    source: str = "value"
    sign_source: str = "sign"

    def add(self, observation: Observation, plane: int) -> None:
        """Take in one frame."""
        said = observation.assessments[MODEL]
        if not self.z_um:
            self.source = BLUR if BLUR in said.detail else "value"
            # A probability of being above the focus says something only where the optics tell the sides apart.
            self.sign_source = "positive" if "sign" not in said.detail and said.detail.get("signed") == 1.0 else "sign"
        number = said.detail.get(BLUR, math.nan) if self.source == BLUR else abs(said.value)
        sd = said.detail.get(BLUR_SD, math.nan) if self.source == BLUR else said.sd
        self.z_um.append(observation.settings["z_um"])
        self.values.append(math.nan if said.abstained else number)
        self.sds.append(sd)
        self.signs.append(said.detail.get(self.sign_source, math.nan))
        self.plane.append(plane)

    def fit(self) -> Response:
        """Fit the response to the means of the planes; raises `PolicyError` if the sweep shows no focus."""
        from parfocal.policies.focus.response import fit_response

        columns = [np.asarray(column) for column in (self.z_um, self.values, self.sds, self.signs)]
        good = np.isfinite(columns[1])
        planes = [np.flatnonzero(good & (np.asarray(self.plane) == plane)) for plane in sorted(set(self.plane))]
        planes = [plane for plane in planes if len(plane)]
        z, value, own, sign = ([float(column[plane].mean()) for plane in planes] for column in columns)
        signed = bool(np.isfinite(sign).all()) and bool(sign)
        known = np.where(np.isfinite(own), own, 0.0)
        spread = np.hypot(BETWEEN_FIELDS * known, self._within(columns[1], planes))
        return fit_response(
            z, value, spread, signs=sign if signed else None, source=self.source, sign_source=self.sign_source
        )

    @staticmethod
    def _within(values: NDArray[np.float64], planes: Sequence[NDArray[np.intp]]) -> NDArray[np.float64]:
        """Spread of one frame about the mean of its plane, half of it that of all planes: few frames tell little."""
        variance = np.asarray([values[plane].var(ddof=1) if len(plane) > 1 else 0.0 for plane in planes])
        return np.sqrt(0.5 * variance + 0.5 * variance.mean()) if len(planes) else variance


class SweepScript:
    """Takes the place of the policy: bottom to top in equal steps, then back. Bottom first, against backlash.

    Parameters
    ----------
    sweep : Sweep
        What was asked for.
    lower_um, upper_um, max_step_um : float
        Limits of the stage; a sweep that would leave them is refused before it starts.
    """

    name = "calibrate.sweep"
    reads: tuple[str, ...] = (MODEL,)

    def __init__(self, sweep: Sweep, lower_um: float, upper_um: float, max_step_um: float) -> None:
        self._sweep = sweep
        self._lower_um, self._upper_um, self._max_step_um = lower_um, upper_um, max_step_um
        self._z_um = self._home_um = math.nan
        self._targets: list[float] = []
        self._seen = 0
        self._end_um: float | None = None
        self.measured = Measured()
        self.response: Response | None = None
        self.problem = ""

    def tell(self, observation: Observation) -> None:
        """Take in one frame: the first says where the stage is, those at a plane of the sweep are kept."""
        if MODEL not in observation.assessments:
            self.problem = f"the sweep needs {MODEL!r} in scoring.models"
            return
        self._z_um = observation.settings["z_um"]
        if math.isnan(self._home_um):
            self._plan()
        elif self._targets and self._at(self._targets[0]):
            self.measured.add(observation, self._sweep.planes - len(self._targets))
            self._seen += 1
            if self._seen >= self._sweep.repeats:
                self._targets.pop(0)
                self._seen = 0

    def ask(self) -> Action:
        """Go on: to the next plane, or back."""
        if self.problem and math.isnan(self._home_um):
            return Finish({}, self.problem)
        if self._targets:
            left = len(self._targets)
            if self._at(self._targets[0]):
                return Hold(f"plane {self._sweep.planes - left + 1} of {self._sweep.planes}: one more frame")
            return self._towards(self._targets[0], f"plane {self._sweep.planes - left + 1} of {self._sweep.planes}")
        if self._end_um is None:
            self._end_um = self._conclude()
        if self._at(self._end_um):
            return Finish({}, f"the sweep is done: {self.problem or self._found()}")
        return self._towards(self._end_um, self.problem or self._found())

    def checkpoint(self) -> dict[str, Any]:
        """Return what was measured; a sweep is not continued."""
        return {"measured": asdict(self.measured)}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse: a sweep that was interrupted is made again."""
        raise PolicyError("a calibration sweep cannot be continued; make it again")

    def _plan(self) -> None:
        half_um = self._sweep.step_um * (self._sweep.planes - 1) / 2
        low_um, high_um = self._z_um - half_um, self._z_um + half_um
        if low_um < self._lower_um or high_um > self._upper_um:
            self.problem = (
                f"a sweep of {2 * half_um:g} um about z = {self._z_um:.2f} um would leave the limits "
                f"{self._lower_um:g}..{self._upper_um:g} um: move the stage, or shorten --range-um"
            )
            return
        self._home_um = self._z_um
        self._targets = [low_um + self._sweep.step_um * plane for plane in range(self._sweep.planes)]

    def _conclude(self) -> float:
        try:
            self.response = self.measured.fit()
        except PolicyError as error:
            self.problem = str(error)
            return self._home_um
        return self.response.z0_um if self._sweep.go else self._home_um

    def _found(self) -> str:
        assert self.response is not None  # noqa: S101 - `_conclude` left either a response or a problem
        z_um = round(self.response.z0_um, 2) + 0.0  # no "-0.00"
        return f"focus at z = {z_um:.2f} um; {'going there' if self._sweep.go else 'going back'}"

    def _at(self, target_um: float) -> bool:
        return abs(self._z_um - target_um) <= ARRIVED_STEPS * self._sweep.step_um

    def _towards(self, target_um: float, why: str) -> Change:
        way_um = target_um - self._z_um
        if abs(way_um) > self._max_step_um:
            target_um = self._z_um + math.copysign(self._max_step_um * (1 - 1e-9), way_um)
        return Change({"z_um": target_um}, why)


def sweep_script(config: Config, sweep: Sweep) -> SweepScript:
    """Make the script, within the limits that the configuration gives z.

    Raises
    ------
    UsageError
        There are no limits: a sweep has to know how far the stage may go.
    """
    sweep.check()
    limit = config.limits.parameters.get("z_um")
    if limit is None or limit.lower is None or limit.upper is None:
        raise UsageError(
            f"{config.source}: a calibration needs limits.z_um with lower and upper, so that it cannot crash"
        )
    return SweepScript(sweep, limit.lower, limit.upper, limit.max_step if limit.max_step is not None else math.inf)


def calibration_overrides(sweep: Sweep, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that make a session of a sweep: its name, its end, a frame rate it can live with."""
    longest = sweep.planes * sweep.repeats * 5 + 200
    own = [
        "session.name=calibration",
        "session.max_seconds=null",
        f"session.max_frames={longest}",
        "session.until_focused=false",
        "microscope.interval_ms=100",
        "policy.calibration=null",
    ]
    return [*own, *overrides]


def content(
    config: Config,
    script: SweepScript,
    models: Mapping[str, Any],
    *,
    simulated: bool,
    pixel_um: float | None = None,
) -> dict[str, Any]:
    """Return what is stored: the response for `policy.calibration`, and all that says where it came from.

    `pixel_um` is that of the frames.

    Raises
    ------
    CalibrationError
        The sweep was not finished or shows no focus.
    """
    from parfocal.daemon.compose import optics_told

    if script.response is None:
        raise CalibrationError(f"no calibration: {script.problem or 'the sweep was not finished'}")
    measured = asdict(script.measured)
    return {
        "schema": SCHEMA,
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "driver": config.microscope.driver,
        "simulated": simulated,
        "optics": optics_told(config, MODEL),
        "pixel_um": pixel_um,
        "model": models.get(MODEL, {}),
        "vertex_um": script.response.to_json()["z0_um"],
        "dof_um": round(script.response.dof_um, 4),
        "measured": {
            name: [_known(value) for value in column] for name, column in measured.items() if isinstance(column, list)
        },
        "response": script.response.to_json(),
    }


def store(path: Path, content: Mapping[str, Any]) -> None:
    """Write a calibration so that it is whole or not there; raises `CalibrationError`."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line a key: the columns stay readable, and two calibrations can be compared with `diff`.
        lines = (f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in content.items())
        part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise CalibrationError(f"{path}: the calibration cannot be written: {error.strerror or error}") from error


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
