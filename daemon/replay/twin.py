"""A configuration of the simulated microscope made from a session: its optics, drift, camera, light and terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parfocal.daemon.replay.choices import options_for
from parfocal.daemon.replay.decisions import ReplayError
from parfocal.daemon.replay.estimates import Assumptions, CameraEstimate, camera_of, drift_of, foci, light_of
from parfocal.daemon.replay.reader import SessionReader

EFFICIENCY = 0.8
SIMULATED = ("z_um", "exposure_ms", "excitation_power")
LARGEST_PX, SMALLEST_PX = 1024, 64
PHOTONS, BACKGROUND = 1000.0, 10.0
KEPT = ("specimen", "density", "bleaching", "aberration", "size_px", "excitation_power", "auto_beam")
"""What the configuration of a simulated session says and no frame shows; drift, light and noise are estimated anew."""


@dataclass(frozen=True)
class Twin:
    """A configuration as plain data, what it rests on, and what had to be assumed."""

    config: dict[str, Any]
    estimates: dict[str, Any]
    assumptions: list[str]


def twin_of(reader: SessionReader, *, seed: int, max_frames: int | None = None) -> Twin:
    """Make a simulated microscope like that of a session.

    Parameters
    ----------
    reader : SessionReader
    seed : int
        Of the specimen, the camera's noise and the drift's walk.
    max_frames : int, optional
        Run no longer than this; by default as long as the session.

    Raises
    ------
    ReplayError
        The optics are not known, or nothing was recorded.
    """
    assumed = Assumptions()
    frames = list(reader.journal.of("frame"))
    if not frames:
        raise ReplayError(f"{reader.folder}: the journal holds no frame, so there is nothing to be simulated")
    if "na" not in reader.optics:
        raise ReplayError(
            f"{reader.folder}: the optics of the session are not known (objective.na and emission_nm were not given): "
            "no simulator can be made from it"
        )
    microscope, estimates = _microscope(reader, frames, seed, assumed)
    config: dict[str, Any] = {key: reader.config[key] for key in ("scoring", "quality") if key in reader.config}
    config["scoring"] = {**config.get("scoring", {}), "process": False}
    config |= {
        "microscope": microscope,
        "limits": _limits(reader, assumed),
        "policy": _policy(reader),
        "session": {"record": "none", "max_frames": min(len(frames), max_frames or len(frames))},
    }
    z_um = frames[0]["settings"].get("z_um")
    if z_um is not None:
        config["start"] = {"z_um": float(z_um)}
    return Twin(config, estimates, assumed.lines)


def _policy(reader: SessionReader) -> dict[str, Any]:
    """Return the recorded policy with the options it really had."""
    made = next(reader.journal.of("policy"), None)
    if made is None:
        return dict(reader.config.get("policy", {}))
    return {**made.get("options", {}), "name": made["policy"]}


def other_policy(twin: Twin, name: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the twin's configuration with another policy, or other options."""
    was = dict(twin.config["policy"])
    before = str(was.pop("name"))
    kept = options_for(name or before, before, was)
    return {**twin.config, "policy": {**kept, **options, "name": name or before}}


def _microscope(
    reader: SessionReader, frames: list[dict[str, Any]], seed: int, assumed: Assumptions
) -> tuple[dict[str, Any], dict[str, Any]]:
    optics, was = reader.optics, reader.config.get("microscope", {})
    exposure_ms = float(np.median([1000.0 * (r["end_s"] - r["start_s"]) for r in frames]))
    starts = np.diff([r["start_s"] for r in frames])
    interval_ms = 1000.0 * float(np.median(starts)) if len(starts) else 0.0
    own = dict(was.get("simulation", {})) if reader.simulated and was.get("driver") == "simulated" else {}
    simulation: dict[str, Any] = {key: own[key] for key in KEPT if key in own}
    if not own:
        assumed.add("the specimen: nuclei, for no record says what was on the slide (--set microscope.simulation...)")
    simulation["size_px"] = int(own.get("size_px", _size_px(reader, assumed)))
    light, camera, estimates = _light(reader, own, exposure_ms, assumed)
    simulation |= light | {"camera": camera}
    drift = drift_of(*foci(reader))
    if drift is None:
        assumed.add("no drift: the focus was not seen often enough to tell one")
    z_um = float(frames[0]["settings"].get("z_um", 0.0))
    focus_um = drift.focus_um if drift is not None else z_um
    if drift is None:
        assumed.add(f"the focus lies where the session began, z = {focus_um:.2f} um")
    else:
        simulation["drift"] = {
            "rate_um_per_min": round(drift.rate_um_per_min, 6),
            "random_walk_um_per_sqrt_min": round(drift.walk_um_per_sqrt_min, 6),
        }
        estimates["drift"] = vars(drift)
    simulation |= {"focus_um": focus_um, "start_um": z_um, "stage": _stage(reader)}
    microscope = {
        "driver": "simulated",
        "objective": {key: optics[key] for key in ("na", "immersion_index", "magnification")},
        "emission_nm": round(1000.0 * optics["emission_um"], 6),
        "pixel_um": float(optics.get("pixel_um") or reader.frames.pixel_um or 0.0) or None,
        "exposure_ms": round(exposure_ms, 6),
        "interval_ms": round(max(interval_ms, 0.0), 3),
        "seed": seed,
        "simulation": simulation,
    }
    return {key: value for key, value in microscope.items() if value is not None}, estimates


def _light(
    reader: SessionReader, own: Mapping[str, Any], exposure_ms: float, assumed: Assumptions
) -> tuple[dict[str, float], dict[str, Any], dict[str, Any]]:
    """Return photons, the camera's options, and the estimates behind them."""
    estimates: dict[str, Any] = {}
    camera = camera_of(reader)
    if camera is None:
        camera = CameraEstimate(2.0, 100.0, 1.4, 0)
        assumed.add(
            "the camera: 2 counts an electron, offset 100, read noise 1.4 electrons; two recorded frames in a row of "
            "the same place (session.record: all) would tell"
        )
    else:
        estimates["camera"] = vars(camera)
    light = light_of(reader, camera.gain, camera.offset)
    options = {
        "gain_counts_per_electron": round(camera.gain, 6),
        "offset_counts": round(camera.offset, 6),
        "read_noise_electrons": round(camera.read_noise, 6),
        "quantum_efficiency": EFFICIENCY,
    }
    if light is None:
        assumed.add(f"the light: {PHOTONS:g} photons on the brightest pixel, for no frames were recorded")
        photons = float(own.get("photons", PHOTONS)), float(own.get("background_photons", BACKGROUND))
    else:
        estimates["light"] = vars(light)
        photons = light.peak_electrons / EFFICIENCY, light.background_electrons / EFFICIENCY
    estimates["exposure_ms"] = exposure_ms
    return {"photons": round(photons[0], 3), "background_photons": round(photons[1], 3)}, options, estimates


def _size_px(reader: SessionReader, assumed: Assumptions) -> int:
    _, height, width = reader.frames.shape
    if not height:
        assumed.add("frames of 512 px: none were recorded")
        return 512
    size = max(SMALLEST_PX, min(height, width, LARGEST_PX))
    if (height, width) != (size, size):
        assumed.add(f"a square field of {size} px (the frames are {width} by {height})")
    return size


def _stage(reader: SessionReader) -> dict[str, float]:
    """Return the travel of the stage as the device states it, where it states one."""
    parameter = (reader.journal.header.get("parameters") or {}).get("z_um", {})
    bounds = {"lower_um": parameter.get("lower"), "upper_um": parameter.get("upper")}
    limits = (reader.journal.header.get("limits") or {}).get("z_um", {})
    for key, name in (("lower_um", "lower"), ("upper_um", "upper")):
        value = bounds[key]
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            bounds[key] = limits.get(name)
    return {key: float(value) for key, value in bounds.items() if value is not None}


def _limits(reader: SessionReader, assumed: Assumptions) -> dict[str, Any]:
    """Return the limits of the session, as far as the simulator has such parameters."""
    given = dict(reader.config.get("limits", {}))
    kept = {key: given[key] for key in (*SIMULATED, "beam_lease_s") if key in given}
    if "dose" in given and reader.simulated:
        kept["dose"] = given["dose"]
    elif "dose" in given:
        assumed.add("no dose budget: the session's is in the units of its own lamp")
    return kept
