"""A stage, a drifting focus and a made-up network: what policies are measured in, without images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parfocal.models.base import Assessment, Distribution
from parfocal.policies.base import Action, Change, Finish, Observation, Policy

DOF = 1.36  # 20x/0.75 in air, 520 nm, 6.5 um camera pixel


def edges_score(defocus_um: float) -> float:
    """Draw a sharpness curve with one maximum and a long tail."""
    return 0.2 + 1.0 / (1.0 + (defocus_um / 2.0) ** 2)


@dataclass
class Network:
    """Says |defocus| with an error that belongs to the specimen, a little noise, and now and then nonsense.

    As measured on the real network: of two frames at one distance from the focus, on either side, the errors are
    nearly the same, and change smoothly with the distance; their size is what the distribution states. Within half a
    depth of field there is no blur to be seen.
    """

    seed: int
    signed: bool = False
    near_dof: float = 0.2
    far: float = 0.08
    noise: float = 0.15
    outliers: float = 0.01
    sign_right: float = 0.93
    reach_um: float = 32.0
    _rng: Any = field(init=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self.knots = np.linspace(0.0, 4.5, 8)
        self.bias = 0.7 * self._rng.standard_normal() + 0.7 * self._rng.standard_normal(len(self.knots))
        half = np.linspace(0.0, math.sqrt(self.reach_um), 41)[1:] ** 2
        self.grid = np.concatenate([-half[::-1], half])

    def mean(self, defocus_um: Any) -> Any:
        untold = 0.6 * DOF
        ratio = (np.abs(defocus_um) / untold) ** 4
        return untold * ((1.0 + ratio**2) ** 0.125 - 0.5 / (1.0 + ratio))

    def sd(self, defocus_um: Any) -> Any:
        return np.hypot(self.near_dof * DOF, self.far * defocus_um)

    def error(self, distance_um: float) -> float:
        """Say by how many of its standard deviations this frame misleads."""
        field_error = np.interp(math.asinh(distance_um / DOF), self.knots, self.bias)
        noise = self.noise * self._rng.standard_normal()
        return float(math.sqrt(1.0 - self.noise**2) * field_error + noise)

    def assess(self, defocus_um: float) -> Assessment:
        true = min(abs(defocus_um), self.reach_um)
        # Near focus it cannot say less than nothing: there its error shrinks with what it says.
        said = max(self.mean(true) + self.sd(true) * self.error(true), 0.4 * self.mean(true))
        if self._rng.random() < self.outliers:
            said = self.mean(self._rng.uniform(0.0, self.reach_um))
        spread = self.sd(self.grid)
        mass = np.exp(-0.5 * ((said - self.mean(self.grid)) / spread) ** 2) / spread * np.gradient(self.grid) + 1e-12
        if self.signed:
            right = self._rng.random() < self.sign_right
            told = math.copysign(1.0, defocus_um) * (1.0 if right else -1.0)
            # Near focus there is no sign to see.
            share = 0.5 + (self.sign_right - 0.5) * np.tanh(np.abs(self.grid) / DOF)
            mass = mass * np.where(self.grid * told > 0, share, 1.0 - share)
        mass = mass / mass.sum()
        distribution = Distribution(self.grid, mass, self.signed)
        return Assessment("defocus", distribution.mean_um(), distribution.sd_um(), distribution=distribution)


@dataclass
class Arena:
    """One stage under one policy; counts what the benchmark counts."""

    policy: Policy
    focus: Callable[[float], float]
    network: Network | None = None
    z_um: float = 0.0
    interval_s: float = 1.0
    noise: float = 0.0
    lower_um: float = -100.0
    upper_um: float = 100.0
    max_step_um: float = math.inf
    blank: bool = False
    time_s: float = 0.0
    frames: int = 0
    moves: int = 0
    travel_um: float = 0.0
    action: Action | None = None
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(12345)

    @property
    def defocus_um(self) -> float:
        return self.z_um - self.focus(self.time_s)

    def observe(self) -> Observation:
        assessments = {}
        if self.blank:
            assessments["defocus"] = Assessment.abstain("defocus", "empty field")
            assessments["sharpness"] = Assessment.abstain("sharpness", "empty field")
        else:
            if self.network is not None:
                assessments["defocus"] = self.network.assess(self.defocus_um)
            score = edges_score(self.defocus_um) * (1.0 + self.noise * self._rng.standard_normal())
            detail = {"edges": score, "jaf": score, "midband": score}
            assessments["sharpness"] = Assessment("sharpness", score, 0.0, detail=detail)
        return Observation(self.frames, {"z_um": self.z_um}, self.time_s, float(self.frames), assessments)

    def step(self) -> Action:
        """Take one frame, one decision, one move."""
        return self.step_with(self.observe())

    def step_with(self, observation: Observation) -> Action:
        """Take one decision on a frame, and its move."""
        self.policy.tell(observation)
        self.frames += 1
        self.action = action = self.policy.ask()
        self.log.append(action.reason)
        if isinstance(action, Change | Finish) and action.settings:
            target = action.settings["z_um"]
            assert math.isfinite(target), action
            assert self.lower_um <= target <= self.upper_um, action
            assert abs(target - self.z_um) <= self.max_step_um, action
            self.moves += isinstance(action, Change)
            self.travel_um += abs(target - self.z_um)
            self.z_um = target
        self.time_s += self.interval_s
        return action

    def until_focused(self, most: int = 60) -> bool:
        """Run until the policy has found the focus and gone there; False if it does not within `most`."""
        for _ in range(most):
            action = self.step()
            if action.detail.get("found", action.detail.get("focused")) == 1.0 or isinstance(action, Finish):
                return True
        return False
