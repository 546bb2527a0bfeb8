"""What `parfocal doctor` looks at: versions, accelerator, Micro-Manager, models, limits, disk, clock."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from parfocal import ParfocalError

if TYPE_CHECKING:
    from parfocal.daemon.config import Config

Status = Literal["ok", "note", "fail"]
PACKAGES = (
    "numpy", "scipy", "torch", "pydantic", "tifffile", "ome-writers", "pyzmq", "useq-schema", "pymmcore-plus",
    "prometheus-client",
)  # fmt: skip
FSYNCS = 20
SLOW_FSYNC_MS = 50.0
LITTLE_ROOM_BYTES = 1_000_000_000
SLEEPS = 20
COARSE_SLEEP_MS = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Parameters
    ----------
    group, name : str
        What was looked at.
    status : {"ok", "note", "fail"}
        ``note``: works, but a person should know. ``fail``: `parfocal run` with this configuration will not work.
    detail : str
        What was found, and what to do about it.
    exit_code : int
        Of a failure: what the process ends with.
    """

    group: str
    name: str
    status: Status
    detail: str
    exit_code: int = 0

    def to_json(self) -> dict[str, str]:
        """As plain JSON."""
        return {"group": self.group, "name": self.name, "status": self.status, "detail": self.detail}


def examine(config: Config) -> Iterator[Finding]:
    """Look at everything a run with this configuration rests on; one look that breaks does not stop the others."""
    looks: tuple[tuple[str, Callable[[Config], Iterator[Finding]]], ...] = (
        ("versions", _versions),
        ("compute", _compute),
        ("micro-manager", _micro_manager),
        ("models", _models),
        ("limits", _limits),
        ("instrument", _instrument),
        ("disk", _disk),
        ("clock", _clock),
    )
    for group, look in looks:
        try:
            yield from look(config)
        except ParfocalError as error:
            yield Finding(group, "error", "fail", str(error), error.exit_code)
        except (ImportError, OSError, RuntimeError) as error:
            yield Finding(group, "error", "fail", f"{type(error).__name__}: {error}", 4)


def _versions(config: Config) -> Iterator[Finding]:
    import platform

    import parfocal

    yield Finding("versions", "parfocal", "ok", f"{parfocal.__version__} in {Path(parfocal.__file__).parent}")
    yield Finding("versions", "python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for package in PACKAGES:
        try:
            yield Finding("versions", package, "ok", version(package))
        except PackageNotFoundError:
            yield Finding("versions", package, "fail", "not installed: install parfocal again", 3)


def _compute(config: Config) -> Iterator[Finding]:
    import torch

    yield Finding("compute", "threads", "ok", f"torch uses {torch.get_num_threads()} of {os.cpu_count()} processors")
    capabilities = torch.cpu.get_capabilities()
    fast = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    where = "in this processor's hardware" if fast else "not in this processor's hardware: float32 is used"
    yield Finding("compute", "bfloat16", "ok", where)
    if torch.cuda.is_available():
        yield Finding("compute", "cuda", "ok", f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}")
    elif config.scoring.device == "cuda":
        yield Finding("compute", "cuda", "fail", "scoring.device is cuda, but torch sees no CUDA device", 4)
    else:
        yield Finding("compute", "cuda", "ok", "none: networks run on the processor")


def _micro_manager(config: Config) -> Iterator[Finding]:
    from pymmcore_plus import find_micromanager

    yield Finding("micro-manager", "pymmcore", "ok", version("pymmcore"))
    where, driver = find_micromanager(), config.microscope.driver
    if where:
        yield Finding("micro-manager", "adapters", "ok", str(where))
    elif driver == "micromanager":
        yield Finding("micro-manager", "adapters", "fail", "no Micro-Manager found: run `mmcore install`", 4)
    else:
        yield Finding("micro-manager", "adapters", "ok", f"none found; the driver {driver} needs none")
    file = config.microscope.system_config
    if file is not None and Path(file).is_file():
        yield Finding("micro-manager", "system_config", "ok", file)
    elif file is not None:
        yield Finding("micro-manager", "system_config", "fail", f"{file}: no such file", 3)


def _models(config: Config) -> Iterator[Finding]:
    from parfocal.models.cards import PACKAGED, load_card, read_weights, weights_path

    cards = sorted(PACKAGED.glob("*.json"))
    if not cards:
        yield Finding("models", "cards", "fail", f"no model card in {PACKAGED}: the installation is not whole", 3)
    for path in cards:
        try:
            card = load_card(path)
            size = len(read_weights(card, weights_path(card, path)))
        except ParfocalError as error:
            yield Finding("models", path.stem, "fail", str(error), error.exit_code)
            continue
        facts = f"version {card.version}, {card.architecture}, {size / 1e6:.2f} MB"
        yield Finding("models", card.name, "ok", f"{facts}, sha256 {card.weights_sha256[:12]} verified")


def _limits(config: Config) -> Iterator[Finding]:
    from parfocal.daemon.facility import facility_source

    limits = config.limits.parameters
    if "z_um" not in limits:
        yield Finding("limits", "z_um", "note", "none configured: the device's own range is all there is")
    for name, limit in limits.items():
        bounds = ", ".join(f"{key} {value:g}" for key, value in limit.model_dump(exclude_none=True).items())
        yield Finding("limits", name, "ok", bounds)
    dose = config.limits.dose
    yield Finding("limits", "dose", "ok", f"budget {dose.budget:g} {dose.unit}".strip() if dose else "no budget")
    facility = facility_source()
    yield Finding("limits", "facility", "ok", facility.name if facility else "no facility file on this machine")


def _instrument(config: Config) -> Iterator[Finding]:
    from parfocal.daemon.lock import InstanceError, InstanceLock
    from parfocal.daemon.running import lock_key

    with InstanceLock(lock_key(config)) as lock:
        try:
            lock.acquire()
        except InstanceError as error:
            yield Finding("instrument", config.microscope.driver, "note", str(error))
        else:
            yield Finding("instrument", config.microscope.driver, "ok", "free")


def _disk(config: Config) -> Iterator[Finding]:
    wanted = Path(config.session.folder).absolute()
    folder = next(parent for parent in (wanted, *wanted.parents) if parent.is_dir())
    if not os.access(folder, os.W_OK):
        yield Finding("disk", "folder", "fail", f"{folder} is not writable; name another session.folder", 4)
        return
    free = shutil.disk_usage(folder).free
    status: Status = "ok" if free > LITTLE_ROOM_BYTES else "note"
    yield Finding("disk", "room", status, f"{free / 1e9:.1f} GB free in {folder}")
    median_ms, worst_ms = fsync_ms(folder)
    status = "ok" if median_ms < SLOW_FSYNC_MS else "note"
    why = "" if status == "ok" else "; every command waits for one: record to a local disk"
    yield Finding("disk", "fsync", status, f"median {median_ms:.2f} ms, worst {worst_ms:.2f} ms of {FSYNCS}{why}")


def try_alert(config: Config) -> Iterator[Finding]:
    """Send a message to the webhook of the alerts; the only look that anybody else notices."""
    from parfocal.daemon.manners.alerts import message
    from parfocal.daemon.manners.webhook import Webhook, WebhookError, webhook_url

    if config.alerts is None:
        yield Finding("alerts", "webhook", "fail", "the configuration has no section alerts", 3)
        return
    try:
        webhook = Webhook(webhook_url(config), timeout_s=config.alerts.timeout_s)
        webhook.deliver(message("test", "test", "TEST: alerts arrive", name=config.alerts.name, about={}))
    except ParfocalError as error:
        yield Finding("alerts", "webhook", "fail", str(error), error.exit_code)
    except WebhookError as error:
        yield Finding("alerts", "webhook", "fail", f"a test message was not taken: {error}", 1)
    else:
        yield Finding("alerts", "webhook", "ok", f"{webhook.host} took a test message: look whether it is there")


def fsync_ms(folder: Path) -> tuple[float, float]:
    """Measure how long a record takes to reach the disk: median and worst, in ms."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".parfocal-") as file:
        for _ in range(FSYNCS):
            start = time.perf_counter()
            file.write(b"x" * 200)
            file.flush()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), max(times)


def _clock(config: Config) -> Iterator[Finding]:
    info = time.get_clock_info("monotonic")
    status: Status = "ok" if info.monotonic else "fail"
    yield Finding("clock", "monotonic", status, f"resolution {info.resolution * 1e9:.0f} ns", 4)
    late = []
    for _ in range(SLEEPS):
        start = time.perf_counter()
        time.sleep(0.001)
        late.append((time.perf_counter() - start) * 1e3 - 1.0)
    status = "ok" if statistics.median(late) < COARSE_SLEEP_MS else "note"
    lateness = f"late by {statistics.median(late):.2f} ms, at worst {max(late):.2f} ms"
    yield Finding("clock", "sleep", status, f"1 ms is {lateness}")
    # Instrument computers off the network lose their date, and the record's time stamps rest on it.
    status = "ok" if time.time() > Path(__file__).stat().st_mtime else "note"
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    yield Finding("clock", "date", status, now if status == "ok" else f"{now} is before parfocal was installed: set it")
