"""`parfocal.attach`: a seat in a core that a program already has, and the handle to it."""

from __future__ import annotations

import atexit
import contextlib
import html
import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from parfocal import UsageError
from parfocal.daemon.compose import driver_options, scorer_for
from parfocal.daemon.config import Config
from parfocal.daemon.decide import Scoring
from parfocal.daemon.mda.engine import ClosedLoopEngine
from parfocal.daemon.mda.follower import Told
from parfocal.daemon.mda.ledger import Tally
from parfocal.daemon.mda.manners import SeatManners
from parfocal.daemon.mda.options import AttachOptions, follow_options, make_config, split_options
from parfocal.daemon.mda.run import SeatRun
from parfocal.daemon.summary import Summary
from parfocal.drivers.base import DeviceNotFoundError
from parfocal.drivers.mm_instrument import Instrument
from parfocal.drivers.mm_options import parse
from parfocal.policies.focus.follow import FollowPolicy
from parfocal.simulator.clock import RealClock

log = structlog.get_logger()


@dataclass(frozen=True)
class AttachStatus:
    """What the seat does at the moment; numbers are those of the acquisition at hand, or of the last one.

    `state` is ``idle`` (no acquisition runs), ``following``, ``holding`` (`why` says why), ``paused``, ``failed``
    (`why`; the acquisition goes on as planned) or ``detached``.
    """

    state: str
    why: str
    session: str
    simulated: bool
    events: int
    corrected: int
    held: int
    refused: int
    skipped: int
    looks: int
    searches: int
    frames: int
    scored: int
    dropped: int
    correction_um: float
    focus_um: float
    focus_sd_um: float
    drift_um_per_min: float
    dose: float
    dose_unit: str
    added_ms: float

    def __str__(self) -> str:
        lines = [f"parfocal: {self.state}{f' ({self.why})' if self.why else ''}"]
        if self.simulated:
            lines[0] += ", SIMULATED"
        if self.session:
            lines.append(
                f"  {self.corrected} of {self.events} events corrected, {self.held} held, {self.refused} refused, "
                f"{self.skipped} skipped; {self.scored} of {self.frames} frames looked at ({self.dropped} dropped), "
                f"{self.looks} of them extra looks; dose {self.dose:g} {self.dose_unit}"
            )
            lines.append(
                f"  focus {self.focus_um:+.2f} ± {self.focus_sd_um:.2f} um from the plan, drift "
                f"{self.drift_um_per_min:+.2f} um/min, correction {self.correction_um:+.2f} um, "
                f"{self.added_ms:.1f} ms an event"
            )
            lines.append(f"  session {self.session}")
        return "\n".join(lines)


class Attachment:
    """The handle that `attach` returns; as a context manager it detaches at the end.

    Parameters
    ----------
    core : CMMCorePlus
    config : Config
    options : AttachOptions
    scorer : Scoring
        Started.
    """

    def __init__(self, core: Any, config: Config, options: AttachOptions, scorer: Scoring) -> None:
        self.core, self.config, self.options = core, config, options
        self._scorer, self._clock = scorer, RealClock()
        self._paused = ""
        self._last: SeatRun | None = None
        self._last_told: Told | None = None
        self._lock = threading.Lock()
        self._manners = SeatManners(config, scorer)
        previous = core.mda.engine
        try:
            self.engine = ClosedLoopEngine(core, self._make_run, **_like(previous))
            self._previous = core.register_mda_engine(self.engine) or previous
        except BaseException:
            self._manners.close()
            raise
        self.attached = True
        atexit.register(self._at_exit)

    def _make_run(self) -> SeatRun:
        run = self._last = SeatRun(
            self.core, self.config, self.options, self._scorer, self._clock, paused=lambda: self._paused,
            on_told=self._note, on_end=self._ended,
        )  # fmt: skip
        self._manners.began(run)
        return run

    def _note(self, told: Told) -> None:
        self._last_told = told
        if self._last is not None:
            self._manners.told(self._last, told)

    def _ended(self, summary: Summary) -> None:
        if self._last is not None:
            self._manners.ended(self._last, summary)

    def pause(self, reason: str = "paused by hand") -> None:
        """Hold the correction in force, and take no frames of our own, until `resume`."""
        self._paused = reason or "paused"

    def resume(self) -> None:
        """Follow the focus again."""
        self._paused = ""

    def detach(self) -> None:
        """Put the engine back that was there before, and let the scorer go. Idempotent.

        Raises
        ------
        UsageError
            An acquisition runs: cancel it, or wait for it.
        """
        with self._lock:
            if not self.attached:
                return
            if self.core.mda.engine is self.engine:
                if self.core.mda.is_running():
                    raise UsageError("parfocal cannot be detached while an acquisition (MDA) runs: cancel it first")
                if self._previous is not None:
                    self.core.register_mda_engine(self._previous)
            else:
                log.warning("mda.engine_replaced", engine=type(self.core.mda.engine).__name__)
            self.attached = False
        self._manners.close()
        self._scorer.close()
        atexit.unregister(self._at_exit)

    def status(self) -> AttachStatus:
        """Say what is being done."""
        run, running = self._last, bool(self.core.mda.is_running())
        state, why = self._state(run, running)
        if run is None:
            nothing = dict.fromkeys(Tally.COUNTS, 0)
            return AttachStatus(
                state, why, "", False, **nothing, correction_um=0.0, focus_um=math.nan, focus_sd_um=math.nan,
                drift_um_per_min=math.nan, dose=0.0, dose_unit="", added_ms=math.nan,
            )  # fmt: skip
        tally, correction = run.tally, run.correction
        forecast = run.follower.outlook.memory.at(correction.place.position if correction else 0, self._clock.now())
        counts = {name: int(getattr(tally, name)) for name in Tally.COUNTS}
        added = sorted(tally.added_ms)
        return AttachStatus(
            state, why, str(run.session.folder), run.instrument.simulated, **counts,
            correction_um=correction.um if correction else 0.0, focus_um=forecast.focus_um, focus_sd_um=forecast.sd_um,
            drift_um_per_min=60.0 * forecast.rate_um_per_s, dose=run.dose.spent, dose_unit=run.dose.unit,
            added_ms=added[len(added) // 2] if added else math.nan,
        )  # fmt: skip

    def _state(self, run: SeatRun | None, running: bool) -> tuple[str, str]:
        if not self.attached:
            return "detached", ""
        if self.engine.trouble:
            return "failed", self.engine.trouble
        if self._paused:
            return "paused", self._paused
        if run is None or not running:
            return "idle", run.refusal if run is not None else ""
        if why := run.follower.given_up or run.refusal or run.follower.outlook.doubt:
            return "holding", why
        correction = run.correction
        if correction is not None and correction.reason.startswith("held"):
            return "holding", correction.reason.removeprefix("held: ")
        return "following", ""

    def __repr__(self) -> str:
        return str(self.status())

    def _repr_html_(self) -> str:
        status = self.status()
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key.replace('_', ' '))}</th>"
            f"<td style='text-align:left'>{html.escape(_shown(value))}</td></tr>"
            for key, value in asdict(status).items()
        )
        banner = "<b>SIMULATED</b>" if status.simulated else ""
        return f"<div><b>parfocal</b> {html.escape(status.state)} {banner}<table>{rows}</table></div>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.detach()

    def _at_exit(self) -> None:
        """Leave no process behind, and no core that calls back into an interpreter that is gone."""
        with contextlib.suppress(Exception):
            if self.core.mda.is_running():
                self.core.mda.cancel()
            self._manners.close()
            self._scorer.close()
        with contextlib.suppress(Exception):
            from pymmcore_plus import CMMCorePlus

            core: Any = self.core
            plain: Any = super(CMMCorePlus, core)
            plain.registerCallback(None)


def attach(
    core: Any = None, config: Config | Mapping[str, Any] | str | Path | None = None, **options: Any
) -> Attachment:
    """Keep the acquisitions of a Micro-Manager core in focus, from inside it.

    Parameters
    ----------
    core : CMMCorePlus, optional
        With its devices loaded; by default ``CMMCorePlus.instance()``, which is the one of napari-micromanager and of
        pymmcore-gui.
    config : Config, mapping, path, optional
        As for ``parfocal run``, without ``microscope.system_config``. What the microscope's optics are must be known
        from here or from `options`.
    **options
        See `parfocal.daemon.mda.options.AttachOptions`; and ``na``, ``immersion_index``, ``magnification``,
        ``emission_nm``, ``pixel_um``, ``drift_um_per_min``, ``range_um``, ``session``, ``process``, which stand for
        keys of the configuration.

    Returns
    -------
    Attachment
        The handle: ``status()``, ``pause()``, ``resume()``, ``detach()``.

    Raises
    ------
    ConfigError, UsageError, DeviceNotFoundError
        Something is missing or wrong; nothing has been changed then.
    """
    own, short = split_options(options)
    made = make_config(config, short)
    if core is None:
        from pymmcore_plus import CMMCorePlus

        core = CMMCorePlus.instance()
    _refuse(core, made)
    instrument = Instrument(core, parse(driver_options(made), core), RealClock())
    FollowPolicy(follow_options(made, instrument.pixel_um))
    scorer = scorer_for(made)
    try:
        scorer.start()
        return Attachment(core, made, own, scorer)
    except BaseException:
        scorer.close()
        raise


def _refuse(core: Any, config: Config) -> None:
    """Refuse a core that cannot be sat in; nothing has been touched then."""
    if config.microscope.system_config is not None:
        raise UsageError("parfocal.attach: the core is there already: remove microscope.system_config")
    if len(core.getLoadedDevices()) <= 1:
        raise DeviceNotFoundError("parfocal.attach: this core has no devices: load its configuration first")
    if core.mda.is_running():
        raise UsageError("parfocal.attach: an acquisition (MDA) is running in this core: wait until it has ended")
    if isinstance(core.mda.engine, ClosedLoopEngine):
        raise UsageError("parfocal.attach: parfocal is attached to this core already: detach it first")


def _like(engine: Any) -> dict[str, Any]:
    """Options of the engine that is replaced, as far as they concern ours."""
    names = ("force_set_xy_position", "restore_initial_state", "timeout_base", "timeout_multiplier",
             "timeout_first_frame", "timeout_action")  # fmt: skip
    return {name: getattr(engine, name) for name in names if hasattr(engine, name)}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "not known" if math.isnan(value) else f"{value:.4g}"
    return str(value)
