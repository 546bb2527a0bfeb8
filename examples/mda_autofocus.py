"""Software autofocus, as an action of a plan and as a function call; on parfocal's simulated devices.

The focus lies 12 um from where the stage stands, and 8 um on the other side at the second position.
"""

from __future__ import annotations

import useq
from pymmcore_plus.experimental.unicore import UniMMCore

import parfocal
from parfocal.daemon.mda.autofocus import AutofocusSettings, SoftwareAutofocus
from parfocal.drivers.mmdevices import config_path, configure_world

# The network in this program itself: enough for an example. By default it has a process of its own.
OPTICS = AutofocusSettings(na=0.75, magnification=20, emission_nm=520, process=False)
FIND = useq.CustomAction(name="parfocal.autofocus")
PLAN = [
    useq.MDAEvent(index={"t": 0, "p": 0}, z_pos=0.0, action=FIND),
    useq.MDAEvent(index={"t": 0, "p": 0}, z_pos=0.0),
    useq.MDAEvent(index={"t": 1, "p": 0}, z_pos=0.0),
]


def main() -> None:
    """Focus by a call, then inside a plan."""
    core = UniMMCore()
    core.loadSystemConfiguration(config_path())
    configure_world({"simulation": {"size_px": 256, "photons": 1000, "focus_um": 12.0}})

    autofocus = SoftwareAutofocus()
    result = autofocus(core, settings=OPTICS)
    autofocus.close()
    print(f"by a call: {result.z_before:.2f} -> {result.z_after:.2f} um, {result.n_images} images: {result.message}")

    configure_world({"simulation": {"size_px": 256, "photons": 1000, "focus_um": -8.0}})
    with parfocal.attach(core, na=0.75, magnification=20, emission_nm=520, process=False) as seat:
        core.mda.events.frameReady.connect(
            lambda _image, event, meta: print(f"in the plan: t{event.index['t']}, focus at {core.getPosition():.2f} um")
        )
        core.mda.run(PLAN)
        print(seat)


if __name__ == "__main__":
    main()
