"""Lasers and other properties that an event sets: through the guard where they are declared, read back in any case."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from parfocal.daemon.guard import Guard, GuardState
from parfocal.daemon.mda.ledger import Book
from parfocal.drivers.base import HardwareError
from parfocal.drivers.mm_instrument import Instrument
from parfocal.drivers.mm_options import PropertyOptions
from parfocal.policies.base import Change
from parfocal.simulator.clock import Clock


class LightError(HardwareError):
    """A laser, or another property of an event, was refused or did not take its value: its frame must not be taken."""


class Light:
    """What the properties of events go through.

    pymmcore-plus writes them and only logs what fails, so that a frame can be taken with the laser at its old power.
    Here a property that is declared in ``microscope.properties`` is judged by the guard, journalled, set and read back;
    any other is read back after the event was set up.

    Parameters
    ----------
    core : CMMCorePlus
    instrument : Instrument
    guard : Guard
    book : Book
    clock : Clock
    declared : mapping
        The configuration's ``microscope.properties``.
    """

    def __init__(
        self,
        core: Any,
        instrument: Instrument,
        guard: Guard,
        book: Book,
        clock: Clock,
        declared: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._core, self._instrument, self._guard, self._book, self._clock = core, instrument, guard, book, clock
        options = {name: PropertyOptions.model_validate(dict(given)) for name, given in declared.items()}
        self._names = {(given.device, given.property): name for name, given in options.items()}

    def set(self, event: Any, settings: dict[str, float]) -> list[tuple[str, str, Any]] | None:
        """Set what is declared of an event's properties and of its channel; return the properties that are left.

        Raises
        ------
        LightError
            One was refused, or reads back as something else.
        """
        wanted: dict[str, float] = {}
        rest: list[tuple[str, str, Any]] = []
        for device, name, value in event.properties or ():
            if (device, name) in self._names:
                wanted[self._names[(device, name)]] = _number(device, name, value)
            else:
                rest.append((device, name, value))
        preset = {self._names[key]: _number(*key, value) for key, value in self._preset(event) if key in self._names}
        for name, value in {**preset, **wanted}.items():
            self._set(name, value, settings)
        return rest if event.properties is not None else None

    def verify(self, properties: Iterable[tuple[str, str, Any]] | None) -> None:
        """Read back properties that were written by others; raises `LightError` for one that did not take its value."""
        for device, name, value in properties or ():
            if name == "Position" or not self._core.hasProperty(device, name):
                continue
            got = self._core.getProperty(device, name)
            if not _same(got, value):
                raise LightError(f"property {name!r} of device {device!r} was set to {value!r} and reads {got!r}")

    def _preset(self, event: Any) -> list[tuple[tuple[str, str], Any]]:
        """The single settings behind an event's channel."""
        channel = event.channel
        if channel is None or not self._names:
            return []
        if channel.config not in self._core.getAvailableConfigs(channel.group):
            return []
        data = self._core.getConfigData(channel.group, channel.config)
        return [((row[0], row[1]), row[2]) for row in data]

    def _set(self, name: str, value: float, settings: dict[str, float]) -> None:
        if settings.get(name) == value:
            return
        now = self._clock.now()
        action = Change({name: value}, "the acquisition's own event")
        verdict = self._guard.check(action, GuardState(settings, now))
        self._book.judged(None, action, verdict)
        if not verdict.accepted:
            raise LightError(f"{name} = {value:g} was refused: {verdict.reason}")
        self._book.command(None, verdict.settings)
        sent = time.perf_counter()
        settings[name] = math.nan  # until it is read back nobody knows
        got = self._instrument.set(name, value)
        self._guard.commit(name, value, got, self._clock.now())
        settings[name] = got
        self._book.readback(name, value, got, self._clock.now(), sent)


def _number(device: str, name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise LightError(f"property {name!r} of device {device!r}: {value!r} is not a number") from None


def _same(got: Any, wanted: Any) -> bool:
    try:
        return math.isclose(float(got), float(wanted), rel_tol=1e-4, abs_tol=1e-6)
    except (TypeError, ValueError):
        return str(got) == str(wanted)
