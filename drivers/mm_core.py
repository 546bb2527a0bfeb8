"""A Micro-Manager core as parfocal needs it: made, loaded, checked, waited for, with errors that name the device."""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from parfocal.drivers.base import DeviceNotFoundError, DeviceTimeoutError, HardwareError
from parfocal.simulator.clock import Clock

log = structlog.get_logger()

POLL_S = 0.0005
_PY_PREFIX = "#py "
_DEVICE_LINE = re.compile(r"\b(?:py)?Device,\s*([^,'\"]+),")


def needs_python_devices(config: Path) -> bool:
    """Whether the file has ``#py`` lines.

    A plain ``CMMCorePlus`` takes them for comments and would open a microscope without those devices, silently.
    """
    with config.open(encoding="utf-8", errors="replace") as lines:
        return any(line.lstrip().startswith(_PY_PREFIX) for line in lines)


def find_config(config: Path) -> Path:
    """Return the file itself, or, for a bare name, the one of that name beside the device adapters.

    Raises
    ------
    DeviceNotFoundError
        There is no such file.
    """
    if config.is_file():
        return config.resolve()
    if config.parent == Path():
        from pymmcore_plus import find_micromanager

        folder = find_micromanager()
        if folder and (beside := Path(folder) / config).is_file():
            log.info("micromanager.config_beside_adapters", path=str(beside))
            return beside
    raise DeviceNotFoundError(
        f"no Micro-Manager configuration at {config}: set microscope.system_config to the .cfg of this microscope"
    )


def load_core(config: Path) -> Any:
    """Load a ``.cfg`` into a new core; one that knows Python devices if, and only if, the file has some.

    Pitfall 10: UniMMCore is experimental, so it is chosen here and nowhere else.

    Raises
    ------
    DeviceNotFoundError
        No file, no adapter, or a device that does not load or does not initialise; the message names it.
    """
    try:
        from pymmcore_plus import CMMCorePlus
        from pymmcore_plus._pymmcore import BACKEND
    except ImportError as error:
        raise DeviceNotFoundError(f"pymmcore-plus cannot be imported ({error}): pip install pymmcore-plus") from error
    path = find_config(config)
    if needs_python_devices(path):
        from pymmcore_plus.experimental.unicore import UniMMCore

        core: Any = UniMMCore()
    else:
        core = CMMCorePlus()
    # pymmcore-plus uses pymmcore-nano instead of pymmcore whenever it can be imported, and does not say so.
    log.info("micromanager.core", backend=BACKEND, core=type(core).__name__, version=core.getVersionInfo())
    if BACKEND != "pymmcore":
        log.warning("micromanager.backend_untested", backend=BACKEND, tested="pymmcore")
    with _initialisation_failures() as failures:
        try:
            core.loadSystemConfiguration(path)
        except Exception as error:
            release_core(core)
            raise DeviceNotFoundError(_load_message(path, str(error))) from error
    try:
        _check_initialised(core, path, failures)
    except DeviceNotFoundError:
        release_core(core)
        raise
    return core


def release_core(core: Any) -> None:
    """Unload the devices of a core of our own and end its notifications.

    MMCore delivers events from a thread of its own. If one is still on its way when the interpreter ends, the process
    aborts ("FATAL: exception not rethrown"), as often as not when it ends right after the last command.
    """
    from pymmcore_plus import CMMCorePlus

    try:
        core.unloadAllDevices()
    finally:
        super(CMMCorePlus, core).registerCallback(None)


@contextmanager
def _initialisation_failures() -> Iterator[list[str]]:
    """Collect why Python devices did not initialise: UniMMCore only writes that to its log."""
    failures: list[str] = []

    class _Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                failures.append(f"{record.getMessage()}: {record.exc_info[1]}")

    handler = _Collect(level=logging.ERROR)
    logger = logging.getLogger("pymmcore_plus")
    logger.addHandler(handler)
    try:
        yield failures
    finally:
        logger.removeHandler(handler)


def _check_initialised(core: Any, path: Path, failures: list[str]) -> None:
    for label in core.getLoadedDevices():
        if label == "Core":
            continue
        state = core.getDeviceInitializationState(label)
        if state.name != "InitializedSuccessfully":
            reason = next((failure for failure in failures if repr(label) in failure), f"its state is {state.name}")
            raise DeviceNotFoundError(
                f"{path}: device {label!r} did not initialise: {_one_line(reason)}; "
                "is it switched on, connected, and initialised by the file (Property,Core,Initialize,1)?"
            )


def _load_message(path: Path, error: str) -> str:
    found = _DEVICE_LINE.search(error)
    what = f"device {found.group(1)!r} did not load" if found else "it did not load"
    return f"{path}: {what}: {_one_line(error)}"


def _one_line(text: str, limit: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


@contextmanager
def translated(what: str, kind: type[HardwareError]) -> Iterator[None]:
    """Turn whatever the core or a Python device raises into one of our errors, saying what was being done."""
    try:
        yield
    except HardwareError:
        raise
    except Exception as error:
        raise kind(f"{what}: {_one_line(str(error)) or type(error).__name__}") from error


def wait_for_device(core: Any, label: str, timeout_s: float, clock: Clock) -> None:
    """Wait until one device is no longer busy, against its own deadline.

    Never ``waitForSystem`` or ``waitForConfig``: they add the time-outs of all devices, and the latter swallows them.
    ``waitForDevice`` has one deadline for every device and polls Python devices each 10 ms only. A call that does not
    come back from the adapter cannot be interrupted from here: the watchdog for that lives outside this thread.

    Raises
    ------
    DeviceTimeoutError
        Still busy at the deadline.
    """
    deadline = clock.now() + timeout_s
    with translated(f"asking device {label!r} whether it is busy", HardwareError):
        while core.deviceBusy(label):
            if clock.now() >= deadline:
                raise DeviceTimeoutError(
                    f"device {label!r} is still busy after {timeout_s * 1000:g} ms; look at the device, or raise "
                    f"microscope.timeouts_ms.{label}"
                )
            clock.sleep(POLL_S)


def read_number(core: Any, device: str, name: str) -> float:
    """Read a property as a float.

    Pitfall 4: ``getProperty`` gives text for C++ devices and native numbers for Python ones.

    Raises
    ------
    HardwareError
        It cannot be read, or is not a finite number.
    """
    with translated(f"reading property {name!r} of device {device!r}", HardwareError):
        value = core.getProperty(device, name)
        number = float(value)
    if not math.isfinite(number):
        raise HardwareError(f"property {name!r} of device {device!r} reads {value!r}, not a finite number")
    return number


def write_property(core: Any, device: str, name: str, value: str) -> None:
    """Write a property and read it back; numbers agree to a millionth, anything else exactly.

    Raises
    ------
    DeviceNotFoundError
        No such device or property.
    HardwareError
        It refused the value, or reads back as something else.
    """
    require_property(core, device, name)
    with translated(f"setting property {name!r} of device {device!r} to {value!r}", HardwareError):
        core.setProperty(device, name, value)
        got = core.getProperty(device, name)
    if not _same(got, value):
        raise HardwareError(f"property {name!r} of device {device!r} was set to {value!r} but reads {got!r}")


def require_property(core: Any, device: str, name: str) -> None:
    """Refuse a device or a property that the core does not have.

    Raises
    ------
    DeviceNotFoundError
        The message lists what there is.
    """
    loaded = [label for label in core.getLoadedDevices() if label != "Core"]
    if device not in (*loaded, "Core"):
        raise DeviceNotFoundError(f"no device {device!r} in this microscope; it has {', '.join(loaded) or 'none'}")
    if not core.hasProperty(device, name):
        names = ", ".join(core.getDevicePropertyNames(device))
        raise DeviceNotFoundError(f"device {device!r} has no property {name!r}; it has {names or 'none'}")


def property_limits(core: Any, device: str, name: str) -> tuple[float, float] | None:
    """Read the device's own limits of a property, or None if it has none."""
    with translated(f"reading the limits of property {name!r} of device {device!r}", HardwareError):
        if not (core.hasProperty(device, name) and core.hasPropertyLimits(device, name)):
            return None
        return float(core.getPropertyLowerLimit(device, name)), float(core.getPropertyUpperLimit(device, name))


def is_python_device(core: Any, label: str) -> bool:
    """Whether `label` is written in Python."""
    check = getattr(core, "isPyDevice", None)
    return bool(label) and check is not None and bool(check(label))


def acquisition_threads(camera: str) -> list[threading.Thread]:
    """Live acquisition threads of a camera written in Python.

    Pitfall 5: ``stopSequenceAcquisition`` joins such a thread for two seconds and then forgets it; with the next start
    two threads would fill one buffer. So we look for ourselves.
    """
    return [
        thread
        for thread in threading.enumerate()
        if type(thread).__name__ == "AcquisitionThread" and getattr(thread, "label", None) == camera
    ]


def _same(got: Any, wanted: str) -> bool:
    try:
        return math.isclose(float(got), float(wanted), rel_tol=1e-6, abs_tol=1e-9)
    except (TypeError, ValueError):
        return str(got) == wanted
