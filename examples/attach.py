"""Autofocus in a Micro-Manager core that your own program already has, with guard, journal and safe state around it.

A configuration without `system_config` describes the optics, the limits and the policy; the core is yours. It must not
be running an acquisition (MDA) while parfocal moves the stage: an event with a z of its own would undo the move.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from parfocal.daemon.compose import about, deadlines_of, driver_options, policy_maker, scorer_for
from parfocal.daemon.config import Config, load_config
from parfocal.daemon.decide import Decider
from parfocal.daemon.loop import Loop
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.session import Session
from parfocal.daemon.summary import Summary
from parfocal.daemon.terms import Ending
from parfocal.drivers.micromanager import MicroManagerMicroscope


def focus(core: Any, config: Config) -> Summary:
    """Find the focus with the devices that `core` has selected, and hand them back.

    Parameters
    ----------
    core : CMMCorePlus
        With a camera and a focus drive, idle or live.
    config : Config
        Driver ``micromanager``, without ``system_config``.
    """
    microscope = MicroManagerMicroscope.attach(core, driver_options(config), ServingClock())
    loop = Loop(
        microscope,
        Decider(scorer_for(config), policy_maker(config), timeout_s=config.scoring.timeout_ms / 1000.0),
        Session.create(config, about=about(config, microscope, shadow=False)),
        ending=Ending(max_frames=config.session.max_frames, until_focused=True),
        deadlines=deadlines_of(config),
    )
    return asyncio.run(loop.run())


def main() -> None:
    """Focus parfocal's own simulated devices in a core of this program's."""
    from pymmcore_plus.experimental.unicore import UniMMCore

    from parfocal.drivers.mmdevices import config_path, configure_world

    core = UniMMCore()
    core.loadSystemConfiguration(config_path())
    configure_world({"simulation": {"focus_um": 12.0, "photons": 1000}})
    summary = focus(core, load_config(Path(__file__).with_name("attach.yaml")))
    print(f"{summary.outcome} after {summary.frames} frames: z = {core.getPosition():.2f} um (the focus is at 12)")


if __name__ == "__main__":
    main()
