"""Restoring out-of-focus frames: for people to look at, never for a score, a policy or the raw record."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from parfocal import did_you_mean
from parfocal.models.restore.base import RestoreError, Restorer

METHODS = {
    "unet": "parfocal.models.restore.unet:make",
    "wiener": "parfocal.models.restore.classic:make_wiener",
    "richardson_lucy": "parfocal.models.restore.classic:make_richardson_lucy",
    "comi": "parfocal.models.restore.comi:make",
    "identity": "parfocal.models.restore.classic:make_identity",
}
"""Every method and its factory; imported when asked for."""


def make_restorer(method: str, options: Mapping[str, Any] | None = None) -> Restorer:
    """Make a restorer by the name of its method.

    Raises
    ------
    RestoreError
        Unknown method, or an option that it does not take.
    ModelError
        Weights that are missing or not those of the card.
    """
    if method not in METHODS:
        raise RestoreError(f"unknown method {method!r}{did_you_mean(method, METHODS)}; there are {', '.join(METHODS)}")
    module, _, factory = METHODS[method].partition(":")
    made: Restorer = getattr(importlib.import_module(module), factory)(dict(options or {}))
    return made


def refuse_options(method: str, options: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise `RestoreError` for an option that a method does not take."""
    unknown = sorted(set(options) - known)
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise RestoreError(
            f"method {method!r} knows no option {unknown[0]!r}{did_you_mean(unknown[0], known)}; {takes}"
        )
