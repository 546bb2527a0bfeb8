"""What the numbers of a STED policy's actions say: its trials, with settings and objectives, and its recommendation."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

KEPT = 1000
SETTING, WISHED, RECOMMENDED = "trial_", "objective_", "recommended_"
OBJECTIVES = frozenset({"signal_ratio", "bleach", "resolution_nm", "pixel_us", "rate_mhz", "quality", "utility"})


class Trials:
    """Collects trials by their number."""

    def __init__(self) -> None:
        self.trials: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.recommended: dict[str, float] = {}

    def take(self, detail: Mapping[str, float | None], frame: int) -> dict[str, Any] | None:
        """Take in the detail of an action; return the trial if it is a new one or says more than before."""
        known = {name: value for name, value in detail.items() if value is not None}
        found = {n.removeprefix(RECOMMENDED): v for n, v in known.items() if n.startswith(RECOMMENDED)}
        if found:
            self.recommended = found
        settings = {n.removeprefix(SETTING): v for n, v in known.items() if n.startswith(SETTING)}
        objectives = {n.removeprefix(WISHED): v for n, v in known.items() if n in OBJECTIVES or n.startswith(WISHED)}
        if not settings and not objectives:
            return None
        number = int(known.get("images", frame))
        last = self.trials[-1] if self.trials else None
        if last is not None:
            if (last["settings"], last["objectives"]) == (settings, objectives):
                return None
            if last["id"] == number:
                last |= {"settings": settings, "objectives": objectives}
                return last
        trial = {"id": number, "frame": frame, "settings": settings, "objectives": objectives}
        self.trials.append(trial)
        return trial
