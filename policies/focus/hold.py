"""The policy that never moves: the control in every comparison, and a recorder of focus without a hand on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parfocal.policies.base import Action, Hold, Observation, PolicyError
from parfocal.policies.options import FocusOptions, parse_options


class HoldPolicy:
    """Holds, whatever it is told."""

    name = "focus.hold"
    reads: tuple[str, ...] = ()

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = parse_options(FocusOptions, self.name, options)
        self._frames = 0

    def tell(self, observation: Observation) -> None:
        """Count."""
        self._frames += 1

    def ask(self) -> Action:
        """Hold."""
        return Hold(f"policy {self.name} never moves ({self._frames} frames seen)", {"focused": 0.0})

    def checkpoint(self) -> dict[str, Any]:
        """Return the count."""
        return {"policy": self.name, "frames": self._frames}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        if checkpoint.get("policy") != self.name or not isinstance(checkpoint.get("frames"), int):
            raise PolicyError(f"a checkpoint of {checkpoint.get('policy')!r} is not one of {self.name!r}")
        self._frames = checkpoint["frames"]
