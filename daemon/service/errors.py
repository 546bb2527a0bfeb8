"""What can go wrong between a daemon and those who talk to it."""

from __future__ import annotations

from parfocal import ParfocalError


class ServiceError(ParfocalError):
    """Talking to a daemon did not work."""


class NoAnswerError(ServiceError):
    """Nobody answered in time, or there is no daemon to ask."""

    exit_code = 75


class RefusedError(ServiceError):
    """The daemon answered, and refused; `code` is for programs, the message for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class MessageError(ServiceError):
    """A message that is none of the protocol: garbage, cut off, too large, or of another version."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class KeyFileError(ServiceError):
    """A key file that cannot be read, written or used."""

    exit_code = 3


class AddressTakenError(ServiceError):
    """The address that the configuration names is in use by another program."""

    exit_code = 75
