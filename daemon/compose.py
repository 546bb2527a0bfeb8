"""From a configuration to a loop: microscope, scorer, policy and session, checked before anything moves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from parfocal import UsageError, did_you_mean
from parfocal.daemon.calibration import read_calibration
from parfocal.daemon.choice import PolicyChoice
from parfocal.daemon.config import Config, ConfigError
from parfocal.daemon.decide import Decider, PolicyMaker, Scoring
from parfocal.daemon.located import located, unknown_option
from parfocal.daemon.loop import Listener, Loop, Onlooker
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.session import Session
from parfocal.daemon.stedterms import sted_options, within_detector
from parfocal.daemon.terms import Deadlines, Ending
from parfocal.drivers import driver_names, make_microscope
from parfocal.drivers.base import Frame, Microscope, ParameterError
from parfocal.models import ModelSpec, available_models
from parfocal.models.scoring import InlineScorer, ProcessScorer
from parfocal.policies import make_policy, policy_names
from parfocal.policies.base import Policy, PolicyOptionError, PolicyPluginError, reads_of
from parfocal.policies.quality_gate import GatedPolicy, GateTerms
from parfocal.simulator.clock import Clock
from parfocal.simulator.optics import Optics

# Of the microscope section, not the driver's.
LOOP_KEYS = frozenset({"driver", "frozen_after", "interval_ms", "on_request"})
DEADLINE_KEYS = frozenset({"timeout_ms", "timeouts_ms"})
WITHOUT_DEADLINES = frozenset({"simulated", "simulated_sted", "recorded"})
ONLY_FORECASTS = "focus.follow"
BELIEVES = frozenset({"focus.belief", "focus.follow", "focus.supervised"})
TAKES_OPTICS = frozenset({"defocus"})
TAKES_RUNTIME = frozenset({"defocus", "quality"})  # models that run on a choice of backends and devices
OPTICAL_OPTIONS = frozenset(
    {"na", "immersion_index", "magnification", "emission_um", "pixel_um", "sample_index", "depth_um", "zernike_waves",
     "spherical_waves"}
)  # fmt: skip
SIMULATED_EMISSION_NM = 520.0  # what the simulated microscope has where nothing else is said


def build(
    config: Config,
    *,
    clock: Clock | None = None,
    session_folder: Path | None = None,
    shadow: bool = False,
    listeners: Sequence[Listener] = (),
    onlooker: Onlooker | None = None,
) -> Loop:
    """Make a loop that is ready to `run`.

    Parameters
    ----------
    config : Config
    clock : Clock, optional
        A virtual one runs in lockstep: a frame is taken when the one before has been dealt with. Default: real time.
    session_folder : Path, optional
        Exactly this folder; it must be empty or not exist. Default: a new one in ``session.folder``.
    shadow : bool
        Decide and record, command nothing.
    listeners, onlooker
        See `Loop`.

    Raises
    ------
    ConfigError
        A driver, model or policy does not take what the configuration says.
    ParfocalError
        Whatever else keeps the parts from being made. No folder has been made then.
    """
    choice = PolicyChoice(config, policy_maker)
    scorer = scorer_for(config)
    microscope = microscope_for(config, clock)
    session = Session.create(config, session_folder, about=about(config, microscope, shadow))
    return Loop(
        microscope,
        Decider(scorer, choice, timeout_s=config.scoring.timeout_ms / 1000.0),
        session,
        ending=ending_of(config),
        deadlines=deadlines_of(config),
        shadow=shadow,
        listeners=listeners,
        onlooker=onlooker,
        choice=choice,
    )


def microscope_for(config: Config, clock: Clock | None = None) -> Microscope:
    """Make the microscope, not opened; raises `ConfigError` or `DeviceNotFoundError`."""
    check_driver(config)
    try:
        return make_microscope(config.microscope.driver, driver_options(config), clock=clock or ServingClock())
    except (ParameterError, UsageError) as error:
        raise located(config, "microscope", error) from error


def check_driver(config: Config) -> None:
    """Raise `ConfigError` for a driver nobody has."""
    driver, known = config.microscope.driver, driver_names()
    if driver not in known:
        here = config.where("microscope", "driver")
        raise ConfigError(f"{here}: unknown driver (got {driver!r}){_hint(driver, known)}")


def driver_options(config: Config) -> dict[str, Any]:
    """Return what the driver is told of the microscope: the keys that were given, and the objective."""
    section = config.microscope
    given = section.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    skipped = LOOP_KEYS if section.driver not in WITHOUT_DEADLINES else LOOP_KEYS | DEADLINE_KEYS
    options = {key: value for key, value in given.items() if key not in skipped}
    options["objective"] = section.objective.model_dump(mode="json")
    return options


def optics_options(config: Config, pixel_um: float | None = None) -> dict[str, float]:
    """Return the optics as models and policies take them, as far as they are known.

    Without ``na`` and all that goes with it where nobody gave it: the objective that the configuration assumes is that
    of the simulated microscope, and no statement about a real one. Without ``pixel_um`` where nobody knows it yet.

    Raises
    ------
    ConfigError
        The NA is given, but not the wavelength that goes with it.
    """
    section = config.microscope
    options: dict[str, float] = {}
    if section.driver == "simulated" or "na" in section.objective.model_fields_set:
        emission_nm = section.emission_nm or (SIMULATED_EMISSION_NM if section.driver == "simulated" else None)
        if emission_nm is None:
            raise ConfigError(
                f"{config.where('microscope', 'objective', 'na')}: the NA alone does not say how far the focus is: "
                "give microscope.emission_nm, the light that is imaged, as well"
            )
        options = {
            "na": section.objective.na,
            "immersion_index": section.objective.immersion_index,
            "magnification": section.objective.magnification,
            "emission_um": emission_nm / 1000.0,
        }
    pixel_um = section.pixel_um or pixel_um
    if pixel_um is not None:
        options["pixel_um"] = pixel_um
    return options


def optics_told(config: Config, model: str) -> dict[str, Any]:
    """Return what a model is told of the optics, by the microscope's section and by its own options."""
    told: dict[str, Any] = dict(optics_options(config)) if model in TAKES_OPTICS else {}
    given = config.scoring.options.get(model, {})
    return told | {name: value for name, value in given.items() if name in OPTICAL_OPTIONS}


def depth_of_field_um(config: Config, pixel_um: float | None = None) -> float | None:
    """Return the depth of field: the one the user gives, that of the optics, or that seen in the calibration."""
    given = config.policy.options.get("dof_um")
    if given is not None:
        return float(given)
    optics = optics_options(config, pixel_um)
    if "na" in optics:
        return Optics.from_options(optics).depth_of_field_um
    return None if config.policy.calibration is None else read_calibration(config).dof_um


def model_specs(config: Config) -> list[ModelSpec]:
    """Name every model with its options: the optics for those that know what to do with them, then the user's own."""
    specs = []
    for name in config.scoring.models:
        options: dict[str, Any] = {}
        if name in TAKES_OPTICS:
            options |= optics_options(config)
        if name in TAKES_RUNTIME:
            options |= {"backend": config.scoring.backend, "device": config.scoring.device}
        specs.append(ModelSpec(name, options | config.scoring.options.get(name, {})))
    return specs


def scorer_for(config: Config) -> Scoring:
    """Make the scorer, not started; raises `ConfigError` for a model nobody has."""
    check_models(config)
    specs = model_specs(config)
    # One thread an operation: models share out tiles instead, because threads that wait for each other after every
    # layer stand still as soon as the machine has anything else to do.
    return ProcessScorer(specs, threads=1) if config.scoring.process else InlineScorer(specs)


def check_models(config: Config) -> None:
    """Raise `ConfigError` for models nobody has."""
    known = available_models()
    problems = [
        f"{config.where('scoring', 'models', number)}: unknown model (got {name!r}){_hint(name, known)}"
        for number, name in enumerate(config.scoring.models)
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)


def policy_options(config: Config, pixel_um: float | None = None) -> dict[str, Any]:
    """Return the policy's options: the user's, and from limits and optics what the user did not say."""
    if config.policy.name.startswith("sted."):
        return sted_options(config, depth_of_field_um(config, pixel_um))
    options: dict[str, Any] = {}
    limit = config.limits.parameters.get("z_um")
    if limit is not None:
        bounds = {"lower_um": limit.lower, "upper_um": limit.upper, "max_step_um": limit.max_step}
        options |= {name: value for name, value in bounds.items() if value is not None}
    dof_um = depth_of_field_um(config, pixel_um)
    if dof_um is not None:
        options["dof_um"] = dof_um
    if config.policy.calibration is not None:
        calibration = read_calibration(config)
        calibration.check(config, optics_told(config, calibration.model), pixel_um)
        options["response"] = calibration.response
    elif _believes(config) and "na" not in optics_options(config):
        raise ConfigError(
            f"{config.where('microscope', 'objective')}: the optics are not known, so blur cannot be turned into um: "
            "give objective.na and emission_nm, or measure with `parfocal calibrate` and give policy.calibration"
        )
    return options | config.policy.options


def policy_maker(config: Config) -> PolicyMaker:
    """Return what makes the policy once a frame has told the pixel size; every option is checked here and now.

    Raises
    ------
    ConfigError
        The policy, or one of its options, is unknown or of no use.
    """

    def make(frame: Frame | None) -> tuple[Policy, dict[str, Any]]:
        policy, options = policy_for(config, frame)
        check_reads(config, policy)
        if config.quality is not None:
            policy = GatedPolicy(policy, GateTerms(**config.quality.model_dump()))
        return policy, options

    make(None)
    return make


def policy_for(config: Config, frame: Frame | None) -> tuple[Policy, dict[str, Any]]:
    """Make the bare policy, with the options it was made of; raises `ConfigError`."""
    if config.policy.name == ONLY_FORECASTS:
        raise ConfigError(
            f"{config.where('policy', 'name')}: {ONLY_FORECASTS} moves nothing: it forecasts the focus for "
            "parfocal.attach, inside an acquisition (docs/how-to/beside-an-acquisition.md); to keep a microscope in "
            "focus from here, take focus.belief"
        )
    options = policy_options(config, frame.pixel_um if frame else None)
    if frame is not None and config.policy.name.startswith("sted."):
        options = within_detector(config, options, frame)
    try:
        return make_policy(config.policy.name, options), options
    except (PolicyOptionError, PolicyPluginError) as error:
        raise located(config, "policy", error) from error


def check_policy_names(config: Config) -> None:
    """Raise `ConfigError` for a policy nobody has, and for options it does not know; of values nothing is said.

    For where something that the policy's options rest on cannot be read.
    """
    name, given = config.policy.name, config.policy.options
    if name not in policy_names():
        raise ConfigError(f"{config.where('policy', 'name')}: there is no policy {name!r}{_hint(name, policy_names())}")
    try:
        make_policy(name, {"dof_um": 1.0} | given)
    except PolicyOptionError as error:
        strange = [problem for problem in error.problems if unknown_option(problem) in given]
        if strange:
            raise located(config, "policy", PolicyOptionError(str(error), strange)) from error
    except PolicyPluginError as error:
        raise located(config, "policy", error) from error


def check_reads(config: Config, policy: Policy) -> None:
    """Raise `ConfigError` where policy or quality gate read a model that nobody runs."""
    _check_scored(config, reads_of(policy), ("policy",))
    if config.quality is not None:
        _check_scored(config, (config.quality.model,), ("quality", "model"))


def check_preview(config: Config) -> None:
    """Raise `ConfigError` for a restored preview without the network that says how far a frame is out of focus."""
    if config.preview is not None and config.preview.restored != "off":
        _check_scored(config, ("defocus",), ("preview", "restored"))


def _believes(config: Config) -> bool:
    """Whether the policy turns blur into um, for which it takes the optics or a calibration."""
    name, prefer = config.policy.name, config.policy.options.get("prefer")
    return name in BELIEVES or (name == "focus.quality" and prefer == "defocus")


def _check_scored(config: Config, models: Sequence[str], path: tuple[str, ...]) -> None:
    """Raise `ConfigError` for a model that somebody reads and nobody runs: all they would ever see is no answer."""
    for model in models:
        if model not in config.scoring.models:
            running = ", ".join(config.scoring.models)
            raise ConfigError(
                f"{config.where(*path)}: reads the model {model!r}, which is not among scoring.models ({running}); "
                "add it there, or name another"
            )


def ending_of(config: Config) -> Ending:
    """Return when the session ends by itself."""
    section = config.session
    return Ending(section.max_frames, section.max_seconds, section.until_focused, section.focused_frames)


def deadlines_of(config: Config) -> Deadlines:
    """Return the loop's deadlines: what a device may take, and half as long again for the way there."""
    section = config.microscope
    longest_ms = max([section.timeout_ms, *section.timeouts_ms.values()])
    camera_ms = section.timeouts_ms.get("camera", section.timeout_ms)
    return Deadlines(
        frame_s=camera_ms / 1000.0,
        command_s=1.5 * longest_ms / 1000.0,
        score_s=config.scoring.timeout_ms / 1000.0,
    )


def about(config: Config, microscope: Microscope, shadow: bool) -> dict[str, Any]:
    """Return what session.json says of this run beyond versions."""
    return {
        "driver": config.microscope.driver,
        "microscope": microscope.name,
        "simulated": microscope.simulated,
        "shadow": shadow,
        "models": [spec.to_json() for spec in model_specs(config)],
        "policy": config.policy.model_dump(mode="json", exclude_none=True),
        "optics": optics_options(config) or "not known",
    }


def _hint(name: str, known: Collection[str]) -> str:
    return did_you_mean(name, known) or f"; there are {', '.join(sorted(known))}"
