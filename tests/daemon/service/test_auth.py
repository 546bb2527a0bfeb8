"""The gate: who is not on the list does not come in, with whatever key, to neither socket."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils import z85

from parfocal.daemon.client import Client, NoAnswerError, RefusedError
from parfocal.daemon.config import ConfigError, load_config
from parfocal.daemon.service.auth import AllowList, Gate, User, allow_list
from parfocal.daemon.service.keys import KeyFile, new_key, public_path, write_key

pytestmark = pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq has no CURVE")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, role in (("ann", "operate"), ("bob", "observe"), ("eve", "operate")):
        new_key(tmp_path / "keys", name, role)
    return tmp_path / "keys"


def config_with(tmp_path: Path, service: str) -> Any:
    path = tmp_path / "scope.yaml"
    path.write_text(f"microscope: {{driver: simulated}}\nservice:\n  {service}\n")
    return load_config(path)


ALLOWED = "{bind: 'tcp://127.0.0.1:*', keys: keys, allow: {ann: operate, bob: observe}}"


@pytest.fixture
def allowed(tmp_path: Path, folder: Path) -> AllowList:
    found = allow_list(config_with(tmp_path, ALLOWED))
    assert found is not None
    return found


def test_the_list_has_who_is_allowed_and_nobody_else(allowed: AllowList, folder: Path) -> None:
    assert sorted(user.name for user in allowed.users.values()) == ["ann", "bob"]
    assert allow_list(load_config(None)) is None


@pytest.mark.parametrize(
    ("service", "says"),
    [
        ("{bind: 'tcp://*:5570'}", "must be a loopback address"),
        ("{publish: 'tcp://192.168.1.5:5571'}", "must be a loopback address"),
        ("{bind: 'tcp://*:5570', keys: keys}", "only work together"),
        ("{bind: 'tcp://*:5570', allow: {ann: operate}}", "only work together"),
        ("{allow: {ann: king}, keys: keys}", "service.allow.ann"),
        ("{bind: 'ipc://@abstract'}", "must read tcp://"),
        ("{bind: 'tcp://127.0.0.1:65535'}", "no port after 65535"),
        ("{bind: 'tcp://127.0.0.1:70000'}", "must read tcp://"),
        ("{bind: 'tcp://127.0.0.1:1', publish: 'tcp://127.0.0.1:1'}", "cannot be the same"),
        ("{max_age_s: 0}", "service.max_age_s"),
    ],
)
def test_what_would_let_strangers_in_is_refused_with_file_and_line(
    tmp_path: Path, folder: Path, service: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_with(tmp_path, service)
    assert says in str(caught.value)
    assert re.match(rf"{re.escape(str(tmp_path))}/scope\.yaml:[23] service", caught.value.problems[0])


def test_keys_that_are_of_no_use_are_configuration_errors(tmp_path: Path, folder: Path) -> None:
    write_key(public_path(folder, "twin"), KeyFile("twin", "operate", read_public(folder, "ann")))
    bad = "{keys: keys, allow: {ann: operate, bob: operate, twin: observe, nobody: observe}}"
    with pytest.raises(ConfigError) as caught:
        allow_list(config_with(tmp_path, bad))
    said = caught.value.problems
    assert len(said) == 3
    assert "scope.yaml:3 service.allow.bob: the key was made to observe, not to operate" in said[0]
    assert "is that of ann" in said[1]
    assert "there is no such key" in said[2]
    with pytest.raises(ConfigError, match=r"scope.yaml:3 service.keys: .*parfocal keys new"):
        allow_list(config_with(tmp_path, "{keys: elsewhere, allow: {ann: operate}}"))


def read_public(folder: Path, name: str) -> str:
    from parfocal.daemon.service.keys import read_key

    return read_key(public_path(folder, name), secret=False).public


def test_a_key_made_to_operate_can_be_allowed_less(tmp_path: Path, folder: Path) -> None:
    found = allow_list(config_with(tmp_path, "{keys: keys, allow: {ann: observe}}"))
    assert found is not None
    assert [user.role for user in found.users.values()] == ["observe"]


def zap(allowed: AllowList, *frames: bytes) -> tuple[list[bytes], list[str]]:
    refused: list[str] = []
    gate = Gate(allowed, lambda code, who, reason: refused.append(code))
    return gate.answer(frames), refused


def test_the_gate_answers_as_zap_asks(allowed: AllowList) -> None:
    public, _ = zmq.curve_keypair()
    known = z85.decode(next(iter(allowed.users)).encode())
    head = (b"1.0", b"42", b"parfocal", b"10.0.0.9", b"")
    answer, refused = zap(allowed, *head, b"CURVE", known)
    assert (answer[:3], refused) == ([b"1.0", b"42", b"200"], [])
    assert allowed.by_key(answer[4].decode()) is not None
    for frames, code in (
        ((*head, b"CURVE", z85.decode(public)), "unknown_key"),
        ((*head, b"NULL"), "no_key"),
        ((*head, b"PLAIN", b"user", b"password"), "no_key"),
        ((*head, b"CURVE", known[:-1]), "no_key"),
        ((b"2.0", *head[1:], b"CURVE", known), "no_key"),
    ):
        answer, refused = zap(allowed, *frames)
        assert answer[2] == b"400"
        assert refused == [code]
    assert zap(allowed, b"1.0")[0][2] == b"400"
    assert Gate(allowed, lambda *_: None).user(object()) is None


LiveMaker = Callable[..., Any]


def section(tmp_path: Path) -> Any:
    return config_with(tmp_path, ALLOWED).service


def test_with_the_right_key_one_may_do_what_the_list_says(
    live: LiveMaker, tmp_path: Path, folder: Path, allowed: AllowList
) -> None:
    running = live(section=section(tmp_path), allowed=allowed)
    running.until("running")
    with Client(running.service.address, publish=running.service.publish, key=folder / "bob.secret.json") as bob:
        assert (bob.status().name, bob.status().role) == ("bob", "observe")
        assert next(iter(bob.events("step"))).kind == "step"
        for verb in (bob.pause, bob.safe, bob.stop, bob.resume, bob.snap):
            with pytest.raises(RefusedError, match="bob may observe"):
                verb()
    with Client(running.service.address, key=folder / "ann.secret.json") as ann:
        ann.pause("lunch")
        running.until("paused")
        ann.resume()
    running.finish()
    said = running.records("command_received")
    assert [(r["who"], r["role"], r["command"]) for r in said] == [
        ("ann", "operate", "pause"),
        ("ann", "operate", "resume"),
    ]


def test_strangers_stay_outside(live: LiveMaker, tmp_path: Path, folder: Path, allowed: AllowList) -> None:
    running = live(section=section(tmp_path), allowed=allowed)
    running.until("running")
    address, publish = running.service.address, running.service.publish
    with Client(address, publish=publish, key=folder / "eve.secret.json", timeout_s=5.0) as eve:
        with pytest.raises(NoAnswerError, match="does not let the key 'eve' in"):
            eve.status()
        with pytest.raises(NoAnswerError, match="nothing was published"):
            next(eve.events(silence_s=0.5))
    with Client(address, publish=publish, timeout_s=0.5) as nobody:
        with pytest.raises(NoAnswerError):
            nobody.status()
        with pytest.raises(NoAnswerError, match="nothing was published"):
            next(nobody.events(silence_s=0.5))
    new_key(tmp_path / "other", "ann", "operate")  # of another daemon
    with (
        Client(address, key=tmp_path / "other" / "ann.secret.json", timeout_s=0.5) as other,
        pytest.raises(NoAnswerError),
    ):
        other.pause()
    with Client(address, key=folder / "ann.secret.json") as ann:
        deadline = time.monotonic() + 10
        while "unknown_key" not in (refused := ann.status().health.refused):  # type: ignore[union-attr]
            assert time.monotonic() < deadline, refused
            time.sleep(0.1)
    assert running.finish().outcome == "stopped"
    assert running.records("command_received") == []


def test_users_are_told_apart_by_name_and_role() -> None:
    assert User("a", "observe") != User("a", "operate")
