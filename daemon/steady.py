"""A steadier interpreter while frames are decided on: short collections of garbage, threads that take turns sooner."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TURN_S = 0.0005
"""A thread that computes in Python lets another have its turn after so long; Python's own 5 ms are a late command."""


@contextmanager
def steady() -> Iterator[None]:
    """Within, full collections leave out what exists already, most of it imported modules, which takes them 100 ms."""
    before = sys.getswitchinterval()
    gc.freeze()
    sys.setswitchinterval(min(before, TURN_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()
