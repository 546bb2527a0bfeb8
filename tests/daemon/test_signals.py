"""The first signal asks to stop, the second to be safe at once, and handlers go back where they came from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from parfocal.daemon.signals import handled_signals, stop_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are sent with os.kill")


def test_first_stops_second_makes_safe() -> None:
    said: list[str] = []
    with handled_signals(lambda why: said.append(f"stop: {why}"), lambda why: said.append(f"safe: {why}")):
        os.kill(os.getpid(), signal.SIGTERM)
        assert said == ["stop: SIGTERM received"]
        os.kill(os.getpid(), signal.SIGINT)
    assert said[1] == "safe: second signal (SIGINT) received"


def test_third_signal_is_not_swallowed() -> None:
    with handled_signals(lambda why: None, lambda why: None) as ladder:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert ladder.count == 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_handlers_are_given_back() -> None:
    before = {number: signal.getsignal(number) for number in stop_signals()}
    with handled_signals(lambda why: None, lambda why: None):
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in stop_signals()} == before


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[object] = []

    def run() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with handled_signals(lambda why: None, lambda why: None):
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [True]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_signal_ignored_from_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled_signals(lambda why: None, lambda why: None) as ladder:
            os.kill(os.getpid(), signal.SIGHUP)
            assert ladder.count == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_at_the_very_end_a_signal_keeps_the_exit_code() -> None:
    code = "import os, signal\nfrom parfocal.daemon.signals import leave_on_signal\nleave_on_signal(3)\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}os.kill(os.getpid(), signal.SIGTERM)\nsignal.pause()"], check=False, timeout=60
    )
    assert done.returncode == 3
