"""`parfocal set` and `parfocal status`: names looked at before anything is sent, numbers one can tell apart."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from parfocal.daemon.cli import app
from parfocal.daemon.client import Client, RefusedError
from parfocal.daemon.service.clientview import assessment_text

LiveMaker = Callable[..., Any]


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


def test_names_of_several_settings_are_looked_at_before_the_first_is_sent(live: LiveMaker) -> None:
    running = live()
    running.until("running")
    there = ["--address", running.service.address]
    for wrong, says in [
        ("policy.nam=3", "policy focus.belief: unknown option 'nam', did you mean 'name'?"),
        ("limits.z_um.uper=3", "limits.z_um has no 'uper'; did you mean 'upper'?"),
        ("limits.zz_um.upper=3", "no parameter 'zz_um' with limits"),
        ("limits.dose.upper=3", "limits.dose has no 'upper'; it has budget"),
    ]:
        result = invoke("set", "limits.z_um.upper=50", "policy.name=focus.belief", wrong, *there)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        assert f"set {wrong}: {says}" in result.stderr
        assert "nothing was changed" in result.stderr
    assert running.records("command_received") == []
    result = invoke("set", "limits.z_um.upper=50", "limits.z_um.upper=5000", "limits.z_um.max_step=5", *there)
    assert (result.exit_code, result.stdout) == (1, "limits.z_um.upper: 50\n")
    assert "in effect: limits.z_um.upper=50; not tried: limits.z_um.max_step=5" in result.stderr


def test_an_order_that_is_not_carried_out_is_no_strangers_message(live: LiveMaker) -> None:
    running = live()
    running.until("running")
    with Client(running.service.address) as scope:
        with pytest.raises(RefusedError, match="only while paused"):
            scope.snap()
        deadline = time.monotonic() + 20
        while not (health := scope.status().health) or not health.refused:
            assert time.monotonic() < deadline
        rows = dict(scope.status().rows())
    assert rows["refused"] == "1 order"
    assert "turned away" not in rows


def test_belief_and_network_have_names_units_and_spreads_of_their_own(live: LiveMaker) -> None:
    running = live()
    running.until("running")
    with Client(running.service.address) as scope:
        deadline, text = time.monotonic() + 20, ""
        while "\nmodel defocus" not in text:
            assert time.monotonic() < deadline, text
            text = str(scope.status())
        scope.pause()
    assert re.search(r"^belief +defocus [+-]\d+\.\d\d ± 0\.5 um$", text, re.MULTILINE), text
    assert re.search(r"^model defocus +[+-]\d[\d.]* ± 0\.5 um$", text, re.MULTILINE), text
    running.until("paused")
    assert "model defocus: -10 ± 0.5 um\n" in invoke("snap", "--address", running.service.address).stdout


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"value": 0.6, "sd": 0.05, "signed": False, "detail": {}}, "0.6 ± 0.05 um, of either side"),
        ({"value": 0.6, "sd": 0.05, "signed": True, "detail": {"in_um": 1.0}}, "+0.6 ± 0.05 um"),
        ({"value": 7.0, "sd": None, "signed": False, "detail": {"in_um": 0.0}}, "7 px, of either side"),
    ],
)
def test_a_defocus_in_words(said: dict[str, Any], text: str) -> None:
    assert assessment_text("defocus", said) == text
