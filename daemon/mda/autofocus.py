"""A software autofocus of the shape that pymmcore-plus is to get: one callable, and one result."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from parfocal import ParfocalError
from parfocal.daemon.compose import optics_options, scorer_for
from parfocal.daemon.config import Config, ConfigError
from parfocal.daemon.decide import Scoring
from parfocal.daemon.mda.options import AttachOptions, make_config, split_options
from parfocal.daemon.mda.run import SeatRun
from parfocal.daemon.mda.search import CANCELLED, Found, search
from parfocal.simulator.clock import RealClock

NAME = "parfocal"


class AutofocusCancelled(ParfocalError):  # noqa: N818 - the name that the interface gives it
    """Somebody cancelled the search; the stage is back where it was."""


@dataclass
class AutofocusSettings:
    """What a form asks for. The optics turn blur into um: nothing stands in for them where nobody says what they are.

    Parameters
    ----------
    na, immersion_index, magnification, emission_nm : float, optional
        The optics, unless the configuration says them, or has a calibration.
    pixel_um : float
        At the sample; 0 asks the core.
    range_um : float
        The focus is sought within the present z +- this.
    max_frames : int
        A search that has not ended after so many frames has failed.
    session : str
        Folder in which the searches are recorded.
    process : bool
        Whether the network runs in a process of its own.
    """

    na: float | None = None
    immersion_index: float | None = None
    magnification: float | None = None
    emission_nm: float | None = None
    pixel_um: float = 0.0
    range_um: float = 40.0
    max_frames: int = 40
    session: str = "sessions"
    process: bool = True


@dataclass(frozen=True)
class AutofocusResult:
    """What came of it, with the fields of ``pymmcore_plus.autofocus.AutofocusResult``; to abstain is not to succeed."""

    kind: Literal["hardware", "software"]
    method: str
    focus_device: str
    z_before: float
    z_after: float
    succeeded: bool
    message: str = ""
    scores: tuple[tuple[float, float], ...] = ()
    n_images: int = 0


class SoftwareAutofocus:
    """Finds the focus with the defocus network and the belief policy; an instance is the callable to register.

    The scorer is started with the first search and kept: loading a network takes seconds.

    Parameters
    ----------
    config : mapping or path, optional
        Beyond what `AutofocusSettings` say: limits, models, calibration.
    """

    description = "parfocal: a network tells the defocus, a belief about the focus decides where to look"

    def __init__(self, config: Any = None) -> None:
        self._config = config
        self._scorer: Scoring | None = None
        self._made_for: Any = None

    def __call__(
        self,
        core: Any,
        focus_device: str | None = None,
        settings: AutofocusSettings | None = None,
        *,
        should_cancel: Callable[[], bool] | None = None,
    ) -> AutofocusResult:
        """Search the focus from where the stage is.

        Live mode is stopped first, and a hardware autofocus that is locked is switched off and left off. Unless the
        focus is found the stage is left where it was.

        Raises
        ------
        AutofocusCancelled
            `should_cancel` said so, which is asked before every image.
        ParfocalError
            The settings or the microscope are no good, or nobody says what the optics are; nothing has moved.
        """
        settings = settings or AutofocusSettings()
        cancel = should_cancel or (lambda: False)
        if focus_device and focus_device != core.getFocusDevice():
            core.setFocusDevice(focus_device)
        if cancel():
            raise _cancelled("before the first image")
        config = self._configured(settings)
        self._settle(core)
        run = self._run(core, settings, config)
        found = Found()
        try:
            run.stand()
            before_um = run.settings["z_um"]
            found = search(run, cancel)
            after_um = run.settings["z_um"]
        finally:
            run.end("" if found.reason else "failed")
        scores, images = tuple(found.scores), len(found.scores)
        if found.reason == CANCELLED:
            raise _cancelled(f"after {images} images")
        device = core.getFocusDevice()
        return AutofocusResult(
            "software", NAME, device, before_um, after_um, found.succeeded, found.reason, scores, images
        )

    def close(self) -> None:
        """Let the scorer go. Idempotent."""
        scorer, self._scorer, self._made_for = self._scorer, None, None
        if scorer is not None:
            scorer.close()

    def _settle(self, core: Any) -> None:
        if core.isSequenceRunning():
            core.stopSequenceAcquisition()
        if core.getAutoFocusDevice() and core.isContinuousFocusEnabled():
            core.enableContinuousFocus(False)

    def _configured(self, settings: AutofocusSettings) -> Config:
        given = asdict(settings) | {"pixel_um": settings.pixel_um or None}
        _, short = split_options({key: value for key, value in given.items() if key != "max_frames"})
        config = make_config(self._config, short)
        if "na" not in optics_options(config) and config.policy.calibration is None:
            raise ConfigError(
                f"{NAME} autofocus: the optics are not known, so blur cannot be turned into um: give na and "
                "emission_nm in AutofocusSettings, or a configuration with them or with policy.calibration"
            )
        return config

    def _run(self, core: Any, settings: AutofocusSettings, config: Config) -> SeatRun:
        options = AttachOptions(
            max_correction_um=settings.range_um * 1.1, autofocus_frames=settings.max_frames, looks="never"
        )
        key = config.scoring.model_dump_json(), config.microscope.model_dump_json()
        if self._scorer is None or key != self._made_for:
            self.close()
            scorer = scorer_for(config)
            scorer.start()
            self._scorer, self._made_for = scorer, key
        return SeatRun(core, config, options, self._scorer, RealClock())


def register(config: Any = None) -> SoftwareAutofocus:
    """Register parfocal with ``pymmcore_plus.autofocus``, where this pymmcore-plus has it; return the callable.

    Raises
    ------
    ParfocalError
        This pymmcore-plus has no software autofocus yet: call what `SoftwareAutofocus` makes directly.
    """
    try:
        module = importlib.import_module("pymmcore_plus.autofocus")
        enter = module.register_software_autofocus
    except (ImportError, AttributeError) as error:
        raise ParfocalError(
            "this pymmcore-plus has no software-autofocus interface yet: use SoftwareAutofocus()(core), or "
            'useq.CustomAction(name="parfocal.autofocus") with parfocal.attach'
        ) from error
    method = SoftwareAutofocus(config)
    enter(NAME, method, AutofocusSettings, description=method.description)
    return method


def _cancelled(where: str) -> Exception:
    """Return the interface's own exception, where there is one."""
    try:
        kind = importlib.import_module("pymmcore_plus.autofocus").AutofocusCancelled
    except (ImportError, AttributeError):
        kind = AutofocusCancelled
    error: Exception = kind(f"autofocus cancelled {where}; the stage is back where it was")
    return error
