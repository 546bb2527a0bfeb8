"""While frames are decided on the interpreter is steady; afterwards it is as it was."""

from __future__ import annotations

import gc
import sys

import pytest

from parfocal.daemon.steady import TURN_S, steady


def test_it_is_steady_within_and_as_before_afterwards() -> None:
    before = sys.getswitchinterval()
    with steady():
        assert sys.getswitchinterval() == pytest.approx(min(before, TURN_S))
        assert gc.get_freeze_count() > 0
        assert gc.isenabled()
    assert sys.getswitchinterval() == before
    assert gc.get_freeze_count() == 0


def test_it_is_as_before_also_after_an_error() -> None:
    before = sys.getswitchinterval()
    with pytest.raises(ValueError, match="inside"), steady():
        raise ValueError("inside")
    assert (sys.getswitchinterval(), gc.get_freeze_count()) == (before, 0)
