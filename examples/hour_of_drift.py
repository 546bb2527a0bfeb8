"""An hour of drift on a virtual clock: the loop of `parfocal run`, called from Python, in minutes of wall time."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from parfocal.daemon.compose import build, policy_options
from parfocal.daemon.config import load_config
from parfocal.daemon.summary import Step
from parfocal.simulator.clock import VirtualClock

CONFIG = Path(__file__).with_name("hour-of-drift.yaml")


def main(overrides: list[str]) -> None:
    """Run the session, and print how long the sample was within half a depth of field of the focus."""
    true_defocus_um: list[float] = []

    def listen(step: Step) -> None:
        true_defocus_um.append(step.frame.truth["defocus_um"])

    config = load_config(CONFIG, overrides)
    loop = build(config, clock=VirtualClock(), listeners=[listen])
    summary = asyncio.run(loop.run())
    print(json.dumps(summary.to_json(), indent=1))
    if summary.error:
        raise SystemExit(f"{summary.outcome}: {summary.error}")
    dof_um = policy_options(config)["dof_um"]
    after = true_defocus_um[10:]
    inside = sum(abs(defocus) <= dof_um / 2 for defocus in after) / len(after)
    print(f"within +-{dof_um / 2:.2f} um for {100 * inside:.1f} % of {len(after)} frames")


if __name__ == "__main__":
    main(sys.argv[1:])
