"""Arguments of the commands that train and measure: whole numbers, and paths that must be there, told at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from parfocal import UsageError

FIELDS_HELP = "folder of real in-focus fields (TIFF, grey PNG): a folder a source, or the images themselves"


def count(text: str) -> int:
    """A whole number from 1 on, as an argument's ``type``; raises `argparse.ArgumentTypeError`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on (got {text})")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0, as an argument's ``type``; raises `argparse.ArgumentTypeError`."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0 (got {text})")
    return value


def need_folder(option: str, path: Path | None) -> None:
    """Raise `UsageError` if a folder was named that is not there."""
    if path is not None and not path.is_dir():
        raise UsageError(f"{option} {path}: there is no such folder")


def need_file(option: str, path: Path | None) -> None:
    """Raise `UsageError` if a file was named that is not there."""
    if path is not None and not path.is_file():
        raise UsageError(f"{option} {path}: there is no such file")
