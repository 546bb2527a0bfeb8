"""One policy tuning one simulated STED sample: driver, measures, guard and policy, on a virtual clock, nothing written.

The loop's own journal, session folder and threads are left out: they decide nothing. What stands between a policy and
the light is the same: limits and guard, beam lease, the order in which settings are sent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parfocal import ParfocalError
from parfocal.daemon.bench_sted_truth import FEW, MANY, Place, Wanted, utility
from parfocal.daemon.config_models import Limit
from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.guard import BeamLease, Guard, GuardState, resolve_limits
from parfocal.drivers import make_microscope
from parfocal.drivers.base import Frame, Microscope
from parfocal.models import make_model
from parfocal.policies import make_policy
from parfocal.policies.base import Action, Change, Finish, Observation
from parfocal.policies.sted.base import StedPolicy
from parfocal.policies.sted.space import Settings
from parfocal.simulator.clock import VirtualClock

LIMITS = {"excitation_power": (0.0, 10.0), "depletion_power": (0.0, 300.0), "dwell_us": (1.0, 60.0)}
LEAST_UW = 0.1
"""Excitation of the dimmest trial: below, nothing shows in any frame, and a grid over the bounds would waste places."""
FRAMES_AN_IMAGE = 8
"""So many frames an image, and an episode that has not ended is an error; three are what it takes."""
FIELD_UM, FIELDS_UM = 3.6, 54.0
"""Distance between fields, and the side of the square in which they lie."""
PLACES = ("x_um", "y_um")
LEASE_S = 60.0
EARLIER = 5000
"""Seeds of earlier runs are so much larger: they are of other samples."""


@dataclass(frozen=True)
class Cell:
    """One episode to be run.

    Parameters
    ----------
    best : tuple of (name, value)
        Settings that regrets are counted from.
    warm : str
        What an earlier episode on a similar dye has learned, as JSON; empty: a cold start.
    """

    place: Place
    policy: str
    seed: int
    images: int
    best: tuple[tuple[str, float], ...]
    warm: str = ""


@dataclass
class Outcome:
    """What came of an episode.

    `regrets` of the images in order, `regret` of the recommendation; `stopped`, `stopped_regret`: after how many images
    it would have stopped by itself, and the regret of what it recommended then.
    """

    cell: Cell
    settings: Settings = field(default_factory=dict)
    utility: float = math.nan
    regrets: list[float] = field(default_factory=list)
    light: float = 0.0
    bleached: float = math.nan
    refused: int = 0
    stopped: int = 0
    stopped_utility: float = math.nan
    ended: str = ""


class BenchError(ParfocalError):
    """An episode of a benchmark did not come to an end."""

    exit_code = 1


def run_cell(cell: Cell) -> Outcome:
    """Run an episode, and judge what it tried and what it recommends on fresh fields."""
    options: dict[str, Any] = {}
    if cell.warm:
        options["warm_start"] = json.loads(cell.warm)
    episode = Episode(cell.place, cell.policy, cell.seed, cell.images, options)
    episode.run()
    policy, best = episode.policy, dict(cell.best)
    wanted = wanted_of(policy)
    top = utility(cell.place, best, wanted, FEW)
    tried = [{name: trial.settings[name] for name in policy.space.names} for trial in policy.trials]
    found = policy.recommendation().get("settings", {})
    made = Outcome(cell, dict(found), ended=episode.ended, light=episode.ledger.spent, refused=episode.guard.refused)
    known: dict[tuple[float, ...], float] = {}
    for settings in tried:
        key = tuple(settings.values())
        known[key] = known[key] if key in known else utility(cell.place, settings, wanted, FEW)
        made.regrets.append(top - known[key])
    made.bleached = math.fsum(episode.bleached) / len(episode.bleached) if episode.bleached else math.nan
    made.utility = utility(cell.place, found, wanted, MANY) if found else 0.0
    made.stopped, then = episode.would_have_stopped or (len(tried), found)
    made.stopped_utility = utility(cell.place, then, wanted, MANY) if then else 0.0
    return made


def learn(task: tuple[Place, int, int]) -> tuple[tuple[Place, int], str]:
    """Tune a dye that is similar to a place's, on another sample; return what was learned, as JSON."""
    place, seed, images = task
    earlier = Episode(similar(place), "sted.bayes", seed + EARLIER, images, {})
    earlier.run()
    return (place, seed), json.dumps(earlier.policy.learned(), allow_nan=False)


def wanted_of(policy: StedPolicy) -> Wanted:
    """What a policy's choices are judged by: its own preference and space."""
    o = policy.options
    return Wanted(policy.wish, policy.space, o.confocal_settings, o.max_rate_mhz)


def make_tuner(name: str, place: Place, seed: int, images: int, options: Mapping[str, Any]) -> StedPolicy:
    """Make the policy of an episode; it is not to end by itself, so that all of them take as many images."""
    bounds = {key: list(pair) for key, pair in LIMITS.items()} | {axis: [0.0, FIELDS_UM] for axis in PLACES}
    bounds["excitation_power"][0] = LEAST_UW
    given: dict[str, Any] = {"bounds": bounds, "max_images": images, "seed": seed, "field_um": FIELD_UM}
    given |= {"max_failures": max(3, images), **options}
    if name == "sted.bayes":
        given["stop_improvement"] = 0.0
    policy = make_policy(name, given)
    if not isinstance(policy, StedPolicy):
        raise BenchError(f"{name} is no policy that tunes STED settings")
    return policy


class Episode:
    """A microscope with a sample, a policy, and all that stands between them."""

    def __init__(self, place: Place, name: str, seed: int, images: int, options: Mapping[str, Any]) -> None:
        clock = VirtualClock()
        simulation = {"structure": place.structure, "dye": place.dye_option, "size_px": place.size_px}
        self.microscope: Microscope = make_microscope(
            "simulated_sted", {"seed": seed, "simulation": simulation}, clock=clock
        )
        self.policy = make_tuner(name, place, seed, images, options)
        self.measures = make_model("sted_measures", {"decorrelation": False})
        self.ledger, self._lease = DoseLedger(), BeamLease(LEASE_S)
        self._images = images
        limits, _ = resolve_limits(
            {key: Limit(lower=low, upper=high) for key, (low, high) in LIMITS.items()}, self.microscope.parameters
        )
        self.guard = Guard(limits, self.microscope.parameters, self._lease)
        self.bleached: list[float] = []
        self.ended = ""
        self.would_have_stopped: tuple[int, Settings] | None = None

    def run(self) -> None:
        """Frame, measures, policy, guard, settings, until the policy finishes; then the beams are off."""
        microscope = self.microscope
        microscope.open()
        try:
            for _ in range(FRAMES_AN_IMAGE * self._images + FRAMES_AN_IMAGE):
                frame = microscope.snap()
                self._note(frame)
                said = self.measures.assess(frame.pixels[None], frame.pixel_um)[0]
                told = {name: float(value) for name, value in frame.settings.items()}
                time_s = 0.5 * (frame.start_s + frame.end_s)
                self.policy.tell(Observation(frame.index, told, time_s, self.ledger.spent, {"sted_measures": said}))
                action = self.policy.ask()
                self._note_stop(action)
                self._obey(action, frame)
                if isinstance(action, Finish):
                    self.ended = action.reason
                    return
        finally:
            microscope.close()
        raise BenchError(f"{self.policy.name}: no end after {FRAMES_AN_IMAGE} frames an image")

    def _note(self, frame: Frame) -> None:
        self.ledger.add(frame.settings, 1000.0 * (frame.end_s - frame.start_s))
        if frame.settings["depletion_power"] > 0:
            self.bleached.append(float(frame.truth["bleached"]))

    def _obey(self, action: Action, frame: Frame) -> None:
        now = self.microscope.clock.now()
        self._lease.renew(now)
        verdict = self.guard.check(action, GuardState(frame.settings, now, frame.start_s, frame.start_s))
        if not verdict.accepted or not isinstance(action, (Change, Finish)):
            return
        before = frame.settings
        beams = {name for name, parameter in self.microscope.parameters.items() if parameter.kind == "beam"}
        order = sorted(verdict.settings, key=lambda name: _rank(name in beams, verdict.settings[name] - before[name]))
        for name in order:
            readback = self.microscope.set(name, verdict.settings[name])
            self.guard.commit(name, before[name], readback, self.microscope.clock.now())

    def _note_stop(self, action: Action) -> None:
        """Remember when it would have stopped by itself: what it tries does not depend on that."""
        options = self.policy.options
        least, few = type(options).model_fields.get("stop_improvement"), getattr(options, "min_images", 0)
        gain, images = action.detail.get("expected_improvement"), len(self.policy.trials)
        if self.would_have_stopped or least is None or gain is None or images < few or gain >= least.default:
            return
        self.would_have_stopped = (images, dict(self.policy.recommendation()["settings"]))


def _rank(beam: bool, change: float) -> int:
    """Beams that go down first, beams that go up last."""
    return 0 if not beam else (1 if change > 0 else -1)


def similar(place: Place) -> Place:
    """Return the same structure with a dye that is like this one: a batch of another day, a little worse."""
    from parfocal.simulator.sted.dyes import make_dye

    dye = make_dye(place.dye_option)
    changed = {
        "base": place.dye_option if isinstance(place.dye, str) else dict(place.dye)["base"],
        "k1": 1.3 * dye.k1, "bleach_yield": 1.3 * dye.bleach_yield, "quantum_yield": 0.85 * dye.quantum_yield,
    }  # fmt: skip
    return Place(place.structure, tuple(changed.items()), place.size_px)


def percentile(values: Sequence[float], percent: float) -> float:
    """Percentile, interpolated; NaN of nothing."""
    import numpy as np

    return float(np.percentile(values, percent)) if len(values) else math.nan
