"""From a configuration and the environment to the manners of one run; where nobody asked for any, they cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from parfocal.daemon.manners.alerts import alerts_of
from parfocal.daemon.manners.errors import MetricsError
from parfocal.daemon.manners.notify import manager_of

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.daemon.loop import Listener, Loop, Onlooker
    from parfocal.daemon.manners.metricspage import MetricsPage
    from parfocal.daemon.manners.part import Part
    from parfocal.daemon.manners.vitals import Vitals
    from parfocal.daemon.restored import RestoredFrame
    from parfocal.daemon.states import State
    from parfocal.daemon.summary import Step, Summary

log = structlog.get_logger()


class Manners:
    """The parts that a run has; it is their onlooker, and passes on to another one.

    Parameters
    ----------
    parts : sequence of Part
    page : MetricsPage, optional
        Where the metrics are served.
    """

    def __init__(self, parts: Sequence[Part], page: MetricsPage | None = None) -> None:
        self._parts = list(parts)
        self.address = page.address if page is not None else None
        self._also: Onlooker | None = None

    @property
    def listeners(self) -> list[Listener]:
        """Whom the loop tells of every frame."""
        from parfocal.daemon.manners.part import Part

        return [part.listen for part in self._parts if type(part).listen is not Part.listen]

    def and_also(self, onlooker: Onlooker | None) -> Onlooker | None:
        """Return whom the loop tells of facts and states: the parts, and another one after them."""
        if not self._parts:
            return onlooker
        self._also = onlooker
        return self

    def attach(self, loop: Loop) -> None:
        """Let the parts read the loop's vital signs."""
        self.read(loop.vitals)

    def read(self, vitals: Vitals) -> None:
        """Let the parts read these vital signs."""
        for part in self._parts:
            part.attach(vitals)

    def listen(self, step: Step) -> None:
        """Tell all of them; for whoever has no listeners of its own."""
        self._tell(lambda part: part.listen(step))

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Tell all of them."""
        self._tell(lambda part: part.facts(facts))
        if self._also is not None:
            self._also.facts(facts)

    def state(self, old: State, new: State, reason: str, time_s: float) -> None:
        """Tell all of them."""
        self._tell(lambda part: part.state(old, new, reason, time_s))
        if self._also is not None:
            self._also.state(old, new, reason, time_s)

    def restored(self, shown: RestoredFrame) -> None:
        """Tell all of them."""
        self._tell(lambda part: part.restored(shown))

    def end(self, summary: Summary) -> None:
        """Tell all of them."""
        self._tell(lambda part: part.end(summary))

    def failed(self, error: BaseException) -> None:
        """Tell all of them."""
        self._tell(lambda part: part.failed(error))

    def close(self) -> None:
        """Close all of them."""
        self._tell(lambda part: part.close())

    def _tell(self, how: Callable[[Part], None]) -> None:
        for part in self._parts:
            try:
                how(part)
            except Exception as error:  # noqa: BLE001 - manners never fail a run
                log.error("manners.failed", part=type(part).__name__, error=str(error))


@contextmanager
def manners_of(config: Config, *, managed: bool = True) -> Iterator[Manners]:
    """Serve metrics, tell the service manager, call people: as configuration and environment say, while inside.

    Parameters
    ----------
    config : Config
    managed : bool
        Whether the service manager of this process, if it has one, is ours to talk to.

    Raises
    ------
    ConfigError
        Alerts have nowhere to go.
    MetricsError, MetricsAddressTakenError
        The page of metrics cannot be served.
    """
    with ExitStack() as stack:
        wanted = (manager_of(config) if managed else None, alerts_of(config))
        parts: list[Part] = [part for part in wanted if part is not None]
        page: MetricsPage | None = None
        if config.metrics is not None:
            from parfocal.daemon.manners.metrics import Metrics
            from parfocal.daemon.manners.metricspage import MetricsPage

            metrics = Metrics()
            section = config.metrics
            try:
                page = MetricsPage(metrics.registry, section.bind, here_only=section.local)
            except MetricsError as error:
                raise type(error)(f"{config.where('metrics', 'bind')}: {error}") from None
            stack.callback(page.close)
            parts.append(metrics)
        manners = Manners(parts, page)
        stack.callback(manners.close)
        try:
            yield manners
        except BaseException as error:
            manners.failed(error)
            raise
