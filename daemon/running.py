"""One run from the command line: lock, signals, a presentation that fits where the output goes, and the summary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from parfocal.daemon.check import refuse_unusable, warnings_of
from parfocal.daemon.config import load_config
from parfocal.daemon.lock import InstanceLock, instrument_key
from parfocal.daemon.logs import about_session
from parfocal.daemon.presenters import Presenter, make_presenter
from parfocal.daemon.signals import StopRequest, handled_signals
from parfocal.daemon.view import RunFacts

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.daemon.loop import Listener, Loop, Onlooker
    from parfocal.daemon.manners.opening import Manners
    from parfocal.daemon.restorepreview import RestoredPreview
    from parfocal.daemon.service.server import Service
    from parfocal.daemon.summary import Summary

log = structlog.get_logger()
SIMULATED = ("simulated", "simulated_sted")
WITHOUT_A_BODY = ("simulated", "simulated_sted", "recorded")
"""Drivers of instruments that exist once a run, not once a room: what two such runs share is where they record."""


def run_session(
    config_path: Path | None,
    overrides: Sequence[str] = (),
    *,
    session_folder: Path | None = None,
    shadow: bool = False,
    as_json: bool = False,
) -> int:
    """Run one session to its end and say how it went.

    Parameters
    ----------
    config_path : Path, optional
        The packaged configuration when absent.
    overrides : sequence of str
        ``KEY=VALUE``.
    session_folder : Path, optional
        The folder of this session itself; a new one under ``session.folder`` when absent.
    shadow : bool
        Decide and record, command nothing.
    as_json : bool
        One JSON object on stdout at the end, everything else on stderr.

    Returns
    -------
    int
        What the process ends with.

    Raises
    ------
    ParfocalError
        Whatever keeps the session from starting.
    """
    config = load_config(config_path, overrides)
    refuse_unusable(config)
    folder = session_folder.absolute() if session_folder is not None else None

    def build(listeners: Sequence[Listener], onlooker: Onlooker | None) -> Loop:
        from parfocal.daemon import compose

        return compose.build(config, session_folder=folder, shadow=shadow, listeners=listeners, onlooker=onlooker)

    presenter = make_presenter(run_facts(config, shadow=shadow), as_json=as_json)
    return run_locked(config, folder, build, presenter, presenter.finish).exit_code


def run_locked(
    config: Config,
    session_folder: Path | None,
    build: Callable[[Sequence[Listener], Onlooker | None], Loop],
    presenter: Presenter,
    finish: Callable[[Summary, Path], None],
) -> Summary:
    """Take the instrument, run what `build` makes under signals and in view, `finish`, let the instrument go.

    Whoever wants to watch or to command meanwhile is served as the configuration's ``service:`` and ``web:`` say.
    """
    from parfocal.daemon.manners.opening import manners_of
    from parfocal.daemon.report.after import report_after
    from parfocal.daemon.restorepreview import preview_of
    from parfocal.daemon.service.opening import service_of
    from parfocal.daemon.web.process import page_of

    with InstanceLock(lock_key(config, session_folder)) as lock:
        lock.acquire(driver=config.microscope.driver)
        with (
            service_of(config) as service,
            page_of(config, service) as page,
            manners_of(config) as manners,
            preview_of(config) as preview,
            ExitStack() as view,
        ):
            view.enter_context(presenter.shown())
            if page is not None:
                presenter.served(page.address, page.link)
            listeners = [presenter.listen, preview.listen] + ([service.listen] if service is not None else [])
            loop = build([*listeners, *manners.listeners], preview.and_also(manners.and_also(service)))
            manners.attach(loop)
            screens = [presenter.restored, manners.restored] + ([service.restored] if service is not None else [])
            preview.attach(loop.orders, screens)
            folder = loop.session.folder
            lock.describe(session=str(folder))
            _announce(config, loop, presenter, service, manners)
            with handled_signals(*_requests(loop, presenter)), about_session(folder.name):
                summary = _to_its_end(loop, preview, manners, service, view)
                report_after(folder)
                # Still under the signals' handlers: an impatient second Ctrl-C must not cost the summary.
                finish(summary, folder)
                if service is not None:
                    service.close()
    return summary


def _to_its_end(
    loop: Loop, preview: RestoredPreview, manners: Manners, service: Service | None, view: ExitStack
) -> Summary:
    """Run the loop, with the preview beside it, tell whoever watches how it ended, and close the view."""
    preview.begin()
    summary = asyncio.run(loop.run())
    preview.close()
    manners.end(summary)
    if service is not None:
        service.end(summary)
    view.close()
    return summary


def _announce(config: Config, loop: Loop, presenter: Presenter, service: Service | None, manners: Manners) -> None:
    """Say that it begins and what to be warned of, let the service give orders, name the addresses."""
    presenter.built(loop.session.folder)
    for warning in warnings_of(config):
        log.warning(warning)
    if service is not None:
        service.attach(loop.orders.submit)
        log.info("service", address=service.address, publish=service.publish)
    if manners.address is not None:
        log.info("metrics", address=manners.address)


def lock_key(config: Config, session_folder: Path | None = None) -> str:
    """Name the instrument that a configuration drives, for its lock."""
    microscope = config.microscope
    if microscope.driver in WITHOUT_A_BODY:
        identity = str(session_folder or Path(config.session.folder).absolute())
    else:
        identity = microscope.system_config or microscope.path or ""
    return instrument_key(microscope.driver, str(Path(identity).resolve()) if identity else "")


def run_facts(config: Config, *, shadow: bool = False) -> RunFacts:
    """Gather what the presentation can say before the first frame; raises `ConfigError` for a useless calibration."""
    from parfocal.daemon.compose import depth_of_field_um

    return RunFacts(
        driver=config.microscope.driver,
        policy=config.policy.name,
        simulated=config.microscope.driver in SIMULATED,
        shadow=shadow,
        folder=config.session.folder,
        max_frames=config.session.max_frames,
        max_seconds=config.session.max_seconds,
        dof_um=depth_of_field_um(config),
        quality_below=config.quality.below if config.quality is not None else None,
        quality_above=config.quality.above if config.quality is not None else None,
    )


def _requests(loop: Loop, presenter: Presenter) -> tuple[StopRequest, StopRequest]:
    def stop(reason: str) -> None:
        presenter.say_stopping(reason)
        loop.request_stop(reason)

    def safe(reason: str) -> None:
        presenter.say_stopping(reason)
        loop.request_safe(reason)

    return stop, safe
