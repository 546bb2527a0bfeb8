"""parfocal: keeps a microscope in focus, frame by frame, and can say afterwards why it did what it did."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Find `parfocal.attach`, which is imported when it is asked for: it needs pymmcore-plus, all else does not."""
    if name != "attach":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module("parfocal.daemon.mda.attach").attach


class ParfocalError(Exception):
    """Root of every error parfocal raises on purpose; `exit_code` is what the command line ends with."""

    exit_code: int = 1


class UsageError(ParfocalError):
    """The caller asked for something that makes no sense: a bad argument, an unknown name, an unreadable file."""

    exit_code = 2


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of `known`, whatever its case, or nothing if none is near.

    To be put behind what is wrong with a name, by every room alike.
    """
    import difflib

    by_folded = {word.casefold(): word for word in known}
    folded = name.casefold()
    near = difflib.get_close_matches(folded, list(by_folded), n=1, cutoff=0.6)
    if not near and len(folded) > 2:  # a part of a longer name, as range is of search_range_um
        longer = [word for word in by_folded if folded in word.replace(".", "_").split("_")]
        near = difflib.get_close_matches(folded, longer, n=1, cutoff=0.0)
    return f"; did you mean {by_folded[near[0]]!r}?" if near else ""
