"""Wiener, Richardson-Lucy and doing nothing, behind the same gate as the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.restore import refuse_options
from parfocal.models.restore.base import Blur, Restoration, RestoreError, Verdict, check_frame, unchanged
from parfocal.models.restore.deconvolution import ITERATIONS, Observed, richardson_lucy, wiener
from parfocal.models.restore.gate import Gate
from parfocal.models.restore.kinds import packaged_judge


class FilterRestorer:
    """A method that is one function of the observed frame.

    Parameters
    ----------
    name : str
    run : callable
        From `Observed` to counts above background on the frame's pixels.
    """

    def __init__(self, name: str, run: Callable[[Observed], Tensor]) -> None:
        self.name = name
        self._run = run
        self._gate = Gate(judge=packaged_judge())

    def restore(self, frame: NDArray[Any], blur: Blur) -> Restoration:
        """See `Restorer`."""
        pixels = check_frame(frame)
        with torch.inference_mode():
            seen = self._gate.admit(self.name, frame, pixels, blur)
            if isinstance(seen, Restoration):
                return seen
            restored = (self._run(seen) + seen.levels.background).numpy()
        return self._gate.after(self.name, pixels, seen, restored, None, blur)


class IdentityRestorer:
    """The frame as it is: the row that every table starts with."""

    name = "identity"

    def restore(self, frame: NDArray[Any], blur: Blur) -> Restoration:
        """The frame itself, never refused."""
        return unchanged(self.name, Verdict.RESTORED, "", check_frame(frame), blur)


def make_wiener(options: Mapping[str, Any]) -> FilterRestorer:
    """Wiener's filter; takes no option."""
    refuse_options("wiener", options, frozenset())
    return FilterRestorer("wiener", wiener)


def make_richardson_lucy(options: Mapping[str, Any]) -> FilterRestorer:
    """Richardson-Lucy; option ``iterations``.

    Raises
    ------
    RestoreError
        An iteration count that is not a whole number from 1 on.
    """
    refuse_options("richardson_lucy", options, frozenset({"iterations"}))
    count = options.get("iterations", ITERATIONS)
    if not isinstance(count, int) or count < 1:
        raise RestoreError(f"iterations must be a whole number from 1 on (got {count!r})")
    return FilterRestorer("richardson_lucy", lambda seen: richardson_lucy(seen, count))


def make_identity(options: Mapping[str, Any]) -> IdentityRestorer:
    """Do nothing; takes no option."""
    refuse_options("identity", options, frozenset())
    return IdentityRestorer()
