"""A multi-position time-lapse that stays in focus: three lines more than without.

Runs on parfocal's own simulated devices, whose sample drifts by 10 um a minute. On a microscope of yours, load your own
configuration instead, and give the optics of your objective.
"""

from __future__ import annotations

from typing import Any

import useq
from pymmcore_plus.experimental.unicore import UniMMCore

import parfocal
from parfocal.drivers.mmdevices import config_path, configure_world

PLAN = useq.MDASequence(
    axis_order="tpcz",
    time_plan={"interval": 1.0, "loops": 10},
    stage_positions=[{"z": 0.0, "name": "A1"}, {"z": 0.0, "name": "A2"}],
    channels=["GFP"],
    z_plan={"range": 4.0, "step": 2.0},
)


def show(_image: Any, event: useq.MDAEvent, meta: Any) -> None:
    """Print one line a stack."""
    if event.index["z"] != 1:
        return
    seat = meta["parfocal"]
    z_um = seat["planned_z_um"] + seat["correction_um"]
    where = f"planned {seat['planned_z_um']:+.2f} um, at {z_um:+.2f} um"
    print(f"t{event.index['t']} {event.pos_name}: {where}: {seat['reason']}")


def main() -> None:
    """Run the plan."""
    core = UniMMCore()
    core.loadSystemConfiguration(config_path())
    core.defineConfig("Channel", "GFP", "SimLight", "PowerPct", 100)
    configure_world({"simulation": {"size_px": 256, "photons": 1000, "drift": {"rate_um_per_min": 10}}})
    core.mda.events.frameReady.connect(show)

    with parfocal.attach(core, na=0.75, magnification=20, emission_nm=520, drift_um_per_min=10) as seat:
        core.mda.run(PLAN)
        print(seat)


if __name__ == "__main__":
    main()
