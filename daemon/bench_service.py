"""What the service stands, and what it costs the loop: commands, fifty subscribers, strangers who flood it.

The loop runs here, at 100 frames/s; whoever talks to it runs in a process of its own (`bench_service_peers`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parfocal.daemon.choice import PolicyChoice
from parfocal.daemon.compose import policy_maker
from parfocal.daemon.config import load_config
from parfocal.daemon.config_models import ServiceSection
from parfocal.daemon.decide import Decider
from parfocal.daemon.logs import logs_to
from parfocal.daemon.loop import Loop
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.service.auth import AllowList, User
from parfocal.daemon.service.keys import daemon_key, new_key
from parfocal.daemon.service.server import Service
from parfocal.daemon.session import Session
from parfocal.daemon.summary import Step, Summary, percentile
from parfocal.daemon.terms import Deadlines

Row = list[Any]
FRAMES_PER_S, SIDE_PX = 100.0, 512
SUBSCRIBERS, STOPPED = 50, 10
COMMANDS, MESSAGES, SECONDS = 1000, 100_000, 20.0
ROLES = {"ann": "operate", "bob": "observe", "eve": "operate"}
"""Eve has a key, and is not on the list."""

FIXED = ("limits={z_um: {lower: -200, upper: 200}}", "start={}", "microscope.interval_ms=0", "session.record=none")


@dataclass
class Running:
    """A loop at its pace, with a service; what it took for every frame."""

    loop: Loop
    service: Service | None
    latencies_ms: deque[float] = field(default_factory=deque)
    summary: Summary | None = None

    def p99_ms(self) -> float:
        """Return the loop's latency so far, and begin to count anew."""
        taken, self.latencies_ms = self.latencies_ms, deque()
        return percentile(taken, 99)


def service(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the service's numbers, then those of the record."""
    from parfocal.daemon import bench_record

    seconds, messages = float(getattr(options, "seconds", SECONDS)), int(getattr(options, "messages", MESSAGES))
    rows = [commands(), subscribers(seconds), strangers(messages)]
    rows += bench_record.rows(seed=options.seed)
    notes = [
        f"the loop runs at {FRAMES_PER_S:g} frames/s of {SIDE_PX}\u00b2 in this process, everybody else in others",
        "loop latency: from a frame in memory to its decision, without the network, in ms",
    ]
    return {"title": "Service", "columns": ["what", "measured", "to reach"], "rows": rows, "notes": notes}


def commands(count: int = COMMANDS) -> Row:
    """Command round trips while the loop runs: questions, and limits that are set between two frames."""
    with running() as live:
        found = peer("talk", address_of(live), publish_of(live), "", str(count))
    frames = live.summary.frames if live.summary is not None else 0
    said = "; ".join(f"{name}: p50 {took['p50']:.2f}, p99 {took['p99']:.2f} ms" for name, took in found.items())
    what = f"command round trip, loopback, at {FRAMES_PER_S:g} frames/s ({count} each, {frames} frames)"
    return [what, said, "p99 \u2264 5 ms"]


def subscribers(seconds: float = SECONDS) -> Row:
    """The loop's latency without a service, with one nobody listens to, and with fifty subscribers, ten stopped."""
    with running(with_service=False) as live:
        time.sleep(seconds)
        alone_ms = live.p99_ms()
    with running() as live:
        time.sleep(1.0)
        live.p99_ms()
        time.sleep(seconds)
        before_ms = live.p99_ms()
        with peers("stopped", address_of(live), publish_of(live), "", str(STOPPED)) as stopped:
            stopped.send_signal(signal.SIGSTOP)
            with peers("listen", address_of(live), publish_of(live), "", str(SUBSCRIBERS - STOPPED)) as living:
                live.p99_ms()
                time.sleep(seconds)
                during_ms = live.p99_ms()
                living.stdin.close()  # type: ignore[union-attr]
                found = json.loads(_line(living))
            stopped.send_signal(signal.SIGCONT)
        lost = live.service.lost_events if live.service is not None else 0
    said = (
        f"loop p99 {before_ms:.2f} \u2192 {during_ms:.2f} ms (no service at all: {alone_ms:.2f}); "
        f"{found['missed']} of {found['steps']} decisions missed by the {found['listeners']} living, "
        f"{lost} dropped before"
    )
    what = f"{SUBSCRIBERS} subscribers, {STOPPED} of them stopped, {seconds:g} s"
    return [what, said, "p99 changes by \u2264 1 ms, none of the living misses one"]


def strangers(messages: int = MESSAGES) -> Row:
    """Everybody who should be refused, and what the loop feels of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = {who: new_key(folder, who, role)[1] for who, role in ROLES.items()}
        server = daemon_key(folder)
        users = {keys[who].public: User(who, keys[who].role) for who in ("ann", "bob")}
        allowed = AllowList(server.public.encode(), server.secret.encode(), users)
        with running(allowed=allowed) as live:
            time.sleep(2.0)
            live.p99_ms()
            time.sleep(5.0)
            before_ms = live.p99_ms()
            began = time.monotonic()
            found = peer("flood", address_of(live), publish_of(live), str(folder), str(messages), timeout_s=900.0)
            took_s, during_ms = time.monotonic() - began, live.p99_ms()
            survived = live.loop.state.state.value == "running"
    refused = ", ".join(f"{count} {code}" for code, count in sorted(found["refused"].items()))
    said = (
        f"{found['accepted']} accepted of {found['sent']} (refused: {refused}); "
        f"loop {'went on' if survived else 'DID NOT GO ON'}, p99 {before_ms:.2f} \u2192 {during_ms:.2f} ms "
        f"during {took_s:.0f} s of it"
    )
    return [
        "strangers: no key, wrong key, wrong role, replayed, stale, oversized, malformed",
        said,
        "all refused, loop as before",
    ]


@contextmanager
def running(*, with_service: bool = True, allowed: AllowList | None = None) -> Iterator[Running]:
    """Run a loop in a thread until the block is left."""
    from parfocal.daemon.bench_record import Carousel, Teller

    with tempfile.TemporaryDirectory() as folder, logs_to(level=logging.CRITICAL):
        config = load_config(None, FIXED)
        choice = PolicyChoice(config, policy_maker)
        microscope = Carousel(ServingClock(), 1.0 / FRAMES_PER_S, SIDE_PX)
        made = Service(ServiceSection(bind="tcp://127.0.0.1:*"), allowed) if with_service else None

        def note(step: Step) -> None:
            if step.latency_ms >= 0:
                live.latencies_ms.append(step.latency_ms)

        loop = Loop(
            microscope,
            Decider(Teller(microscope), choice),
            Session.create(config, Path(folder) / "session"),
            deadlines=Deadlines(frame_s=30.0, command_s=10.0),
            listeners=[note] if made is None else [note, made.listen],
            onlooker=made,
            choice=choice,
        )
        live = Running(loop, made)
        if made is not None:
            made.attach(loop.orders.submit)
        thread = threading.Thread(target=_run, args=(live,), name="loop")
        thread.start()
        try:
            while loop.state.state.value == "idle" and thread.is_alive():
                time.sleep(0.01)
            yield live
        finally:
            loop.request_stop("measured")
            thread.join()
            if made is not None:
                made.close()


def _run(live: Running) -> None:
    live.summary = asyncio.run(live.loop.run())


def address_of(live: Running) -> str:
    """Where commands go."""
    return live.service.address if live.service is not None else ""


def publish_of(live: Running) -> str:
    """Where events come from."""
    return live.service.publish if live.service is not None else ""


def peer(*arguments: str, timeout_s: float = 300.0) -> Any:
    """Run somebody who talks to the service, and return what they found."""
    done = subprocess.run(  # noqa: S603 - our own module
        _command(*arguments), stdout=subprocess.PIPE, check=True, timeout=timeout_s, env=_environment()
    )
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def peers(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run somebody beside the block; they have said that they are ready when it begins."""
    process = subprocess.Popen(  # noqa: S603 - our own module
        _command(*arguments), stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=_environment()
    )
    try:
        if _line(process).strip() != b'"ready"':
            raise RuntimeError("a peer of the bench did not start")
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _line(process: subprocess.Popen[bytes]) -> bytes:
    return process.stdout.readline() if process.stdout is not None else b""


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "parfocal.daemon.bench_service_peers", *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
