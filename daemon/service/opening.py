"""From a configuration to a service that listens: who may come in, where, and what is said when that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from parfocal.daemon.config_lines import ConfigError
from parfocal.daemon.config_models import ServiceSection
from parfocal.daemon.service.addresses import announced, from_here
from parfocal.daemon.service.auth import allow_list
from parfocal.daemon.service.errors import AddressTakenError, ServiceError
from parfocal.daemon.service.server import Service

if TYPE_CHECKING:
    from parfocal.daemon.config import Config


@contextmanager
def service_of(config: Config) -> Iterator[Service | None]:
    """Open the service that a configuration asks for, announce it, and close it at the end; `None`: it wants none.

    Without a ``service:`` section it listens on loopback, at the default address or, where that is taken, at any other.

    Raises
    ------
    ConfigError
        Keys that are of no use, or an address at which nothing can listen.
    AddressTakenError
        The address that somebody named is in use.
    """
    section = config.service if config.service is not None else ServiceSection()
    if not section.enabled:
        yield None
        return
    allowed = allow_list(config)
    named = section.model_fields_set & {"bind", "publish"}
    try:
        service = Service(section, allowed, asked=bool(named))
    except AddressTakenError as error:
        raise AddressTakenError(f"{config.where('service', 'bind')}: {error}") from None
    except ServiceError as error:
        raise ConfigError(f"{config.where('service', 'bind')}: {error}") from error
    server = allowed.public.decode() if allowed is not None else ""
    with ExitStack() as stack:
        stack.callback(service.close)
        facts = {"driver": config.microscope.driver, "session": config.session.name}
        stack.enter_context(announced(from_here(service.address), from_here(service.publish), server, **facts))
        yield service
