"""parfocal: keeps a microscope in focus, frame by frame, and can say afterwards why it did what it did."""

from __future__ import annotations

__version__ = "0.1.0"


class ParfocalError(Exception):
    """Root of every error parfocal raises on purpose; `exit_code` is what the command line ends with."""

    exit_code: int = 1


class UsageError(ParfocalError):
    """The caller asked for something that makes no sense: a bad argument, an unknown name, an unreadable file."""

    exit_code = 2
