"""Those who talk to the service while it is measured: a client, subscribers, and strangers of every kind."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import zmq

from parfocal.daemon.client import Client, NoAnswerError
from parfocal.daemon.service.keys import KeyFile, read_key
from parfocal.daemon.service.messages import MAX_COMMAND_BYTES, Pause, Request, encode
from parfocal.daemon.summary import percentile

PAUSE_S = 0.005
AT_ONCE = 200
"""Requests of the flood that wait for their answers; then the sender waits too, as TCP would make it."""


def talk(address: str, publish: str, keys: str, count: int) -> None:
    """Measure round trips of a question and of a command that waits for the frame at hand."""
    found: dict[str, deque[float]] = {"status": deque(), "set": deque(), "resume": deque()}
    with Client(address, publish=publish) as client:
        for number in range(count):
            began = time.perf_counter()
            client.status()
            found["status"].append(1000.0 * (time.perf_counter() - began))
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            client.set_limit("z_um", "upper", 100.0 + number % 50)
            found["set"].append(1000.0 * (time.perf_counter() - began))
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            client.resume()
            found["resume"].append(1000.0 * (time.perf_counter() - began))
            time.sleep(PAUSE_S)
    _say({name: {"p50": percentile(took, 50), "p99": percentile(took, 99)} for name, took in found.items()})


def listen(address: str, publish: str, keys: str, count: int) -> None:
    """Subscribe so many times, count what every one of them missed until the input is closed."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socks = [_subscriber(context, publish) for _ in range(count)]
    seen: dict[Any, list[int]] = {sock: [] for sock in socks}
    poller = zmq.Poller()
    for sock in (*socks, sys.stdin.fileno()):
        poller.register(sock, zmq.POLLIN)
    ready = False
    while True:
        found = dict(poller.poll())
        for sock in found:
            if sock in seen:
                seen[sock].append(int(msgpack.unpackb(sock.recv_multipart()[-1])["n"]))
        if not ready and all(seen.values()):
            ready = True
            _say("ready")
        if sys.stdin.fileno() in found:
            break
    missed = sum(numbers[-1] - numbers[0] + 1 - len(numbers) for numbers in seen.values())
    _say({"listeners": count, "steps": sum(len(numbers) for numbers in seen.values()), "missed": missed})
    context.destroy(linger=0)


def stopped(address: str, publish: str, keys: str, count: int) -> None:
    """Subscribe so many times, and read nothing; whoever started this stops it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socks = [_subscriber(context, publish, topic=b"") for _ in range(count)]
    for sock in socks:
        sock.recv_multipart()
    _say("ready")
    sys.stdin.read()
    context.destroy(linger=0)


def flood(address: str, publish: str, keys: str, count: int) -> None:
    """Come without a key, with a wrong one, in too small a role, with old requests, with garbage; count what passes."""
    folder = Path(keys)
    accepted = sum(_kept_out(address, key) for key in (None, folder / "eve.secret.json") for _ in range(3))
    sent = 6
    rng = random.Random(1)  # noqa: S311 - noise, the same every time
    for name in ("bob", "ann"):
        key = read_key(folder / f"{name}.secret.json", secret=True)
        answers = _flooded(address, key, count // 2, rng)
        sent += count // 2
        accepted += answers["done"]
    with Client(address, key=folder / "ann.secret.json", timeout_s=60.0) as ann:
        health = ann.status().health
        time.sleep(1.5)
        health = ann.status().health
    _say({"sent": sent, "accepted": accepted, "refused": health.refused if health is not None else {}})


def _kept_out(address: str, key: Path | None) -> int:
    with Client(address, key=key, timeout_s=1.0) as client:
        try:
            client.pause()
        except NoAnswerError:
            return 0
    return 1


def _flooded(address: str, key: KeyFile, count: int, rng: random.Random) -> Counter[str]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.curve_publickey, sock.curve_secretkey = key.public.encode(), key.secret.encode()
    sock.curve_serverkey = key.server.encode()
    sock.connect(address)
    old = encode(Request(client="f" * 32, seq=1, sent_s=time.time() - 3600.0, command=Pause()))
    mine = 0
    answers: Counter[str] = Counter()
    for number in range(count):
        data = _noise(old, rng)
        if key.role == "observe" and number % 5 == 0:  # in good form, from somebody who may only look; then once more
            mine += number % 2
            data = encode(Request(client="0" * 32, seq=max(mine, 1), sent_s=time.time(), command=Pause()))
        sock.send(data)
        while sock.poll(0 if number - sum(answers.values()) < AT_ONCE else 60_000):
            answers[msgpack.unpackb(sock.recv())["kind"]] += 1
            if number - sum(answers.values()) < AT_ONCE // 2:
                break
    while sum(answers.values()) < count and sock.poll(30_000):
        answers[msgpack.unpackb(sock.recv())["kind"]] += 1
    context.destroy(linger=0)
    return answers


def _noise(valid: bytes, rng: random.Random) -> bytes:
    match rng.randrange(5):
        case 0:
            return rng.randbytes(rng.randrange(300))
        case 1:
            return valid[: rng.randrange(len(valid))]
        case 2:
            damaged = bytearray(valid)
            for _ in range(rng.randrange(1, 6)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            return bytes(damaged)
        case 3 if rng.random() < 0.02:
            return b"\0" * (MAX_COMMAND_BYTES + 1)
        case _:
            return valid


def _subscriber(context: zmq.Context[zmq.Socket[bytes]], publish: str, topic: bytes = b"step") -> zmq.Socket[bytes]:
    sock = context.socket(zmq.SUB)
    sock.setsockopt(zmq.RCVHWM, 10_000)
    sock.setsockopt(zmq.SUBSCRIBE, topic)
    sock.connect(publish)
    return sock


def _say(found: Any) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


ROLES: dict[str, Callable[[str, str, str, int], None]] = {
    "talk": talk,
    "listen": listen,
    "stopped": stopped,
    "flood": flood,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
