"""The messages: what was sent is what is read, and nothing else ever gets further than a clear refusal."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon.service.errors import MessageError
from parfocal.daemon.service.messages import (
    MAX_COMMAND_BYTES,
    VERSION,
    Done,
    Pause,
    Refused,
    Request,
    Resume,
    Safe,
    SetLimit,
    SetOption,
    SetPolicy,
    Snap,
    Status,
    StatusReply,
    Stop,
    encode,
    read_reply,
    read_request,
    seq_of,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | finite | st.text(max_size=30)
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
reasons = st.text(max_size=100)
commands = st.one_of(
    st.builds(Status),
    st.builds(Pause, reason=reasons),
    st.builds(Resume),
    st.builds(Stop, reason=reasons),
    st.builds(Safe, reason=reasons),
    st.builds(Snap),
    st.builds(SetLimit, parameter=names, bound=st.sampled_from(["lower", "upper", "budget"]), value=st.none() | finite),
    st.builds(SetOption, option=names, value=plain),
    st.builds(SetPolicy, policy=names, options=st.dictionaries(names, plain, max_size=3)),
)
requests = st.builds(
    Request,
    client=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    seq=st.integers(1, 2**63 - 1),
    sent_s=finite,
    command=commands,
)
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=12,
)


def good(**changes: Any) -> dict[str, Any]:
    return {"version": 1, "client": "0" * 32, "seq": 1, "sent_s": 1.0, "command": {"kind": "status"}} | changes


@given(requests)
def test_a_request_is_read_as_it_was_written(request: Request) -> None:
    assert read_request(encode(request)) == request


@given(
    st.builds(Done, seq=st.integers(0, 9), text=reasons, state=names, detail=st.dictionaries(names, plain, max_size=3))
)
def test_an_answer_is_read_as_it_was_written(reply: Done) -> None:
    assert read_reply(encode(reply)) == reply


def test_the_other_answers() -> None:
    for reply in (
        Refused(seq=3, code="stale", reason="too old"),
        StatusReply(seq=3, state="running", you={"name": "me"}, events={"step": {"z_um": None}}),
    ):
        assert read_reply(encode(reply)) == reply


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(data: bytes) -> None:
    seq_of(data)
    for read in (read_request, read_reply):
        with pytest.raises(MessageError):
            read(data)


@given(junk)
def test_no_structure_does_harm(content: Any) -> None:
    try:
        data = msgpack.packb(content)
    except (OverflowError, ValueError):
        return
    with pytest.raises(MessageError):
        read_request(data)


@given(requests, st.data())
def test_a_request_that_was_cut_off_is_none(request: Request, data: st.DataObject) -> None:
    whole = encode(request)
    with pytest.raises(MessageError):
        read_request(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(requests, st.data())
def test_a_damaged_request_is_refused_or_another_request(request: Request, data: st.DataObject) -> None:
    whole = bytearray(encode(request))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        read = read_request(bytes(whole))
    except MessageError as error:
        assert error.code in ("malformed", "version")
    else:
        assert isinstance(read, Request)


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"version": 2}, "version", "speaks version 1"),
        ({"version": "1"}, "version", "speaks version 1"),
        ({"version": True}, "version", "speaks version 1"),
        ({"client": "me"}, "malformed", "client"),
        ({"seq": 0}, "malformed", "seq"),
        ({"seq": 1.5}, "malformed", "seq"),
        ({"sent_s": math.nan}, "malformed", "sent_s"),
        ({"sent_s": "now"}, "malformed", "sent_s"),
        ({"extra": 1}, "malformed", "extra"),
        ({"command": {"kind": "exec", "code": "import os"}}, "malformed", "command"),
        ({"command": {"kind": "pause", "reason": "x" * 301}}, "malformed", "reason"),
        (
            {"command": {"kind": "set_limit", "parameter": "z_um", "bound": "upper", "value": math.inf}},
            "malformed",
            "value",
        ),
        ({"command": {"kind": "set_limit", "parameter": "z_um", "bound": "uper", "value": 1.0}}, "malformed", "bound"),
        (
            {"command": {"kind": "set_limit", "parameter": "../z", "bound": "upper", "value": 1.0}},
            "malformed",
            "parameter",
        ),
        ({"command": None}, "malformed", "command"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], code: str, says: str) -> None:
    read_request(msgpack.packb(good()))
    with pytest.raises(MessageError, match=says) as caught:
        read_request(msgpack.packb(good(**changes)))
    assert caught.value.code == code
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a message"),
        (b"\x80\x04\x95K\x01.", "not a message"),  # the beginning of a pickle
        (msgpack.packb([1, 2]), "a list where a map was expected"),
        (msgpack.packb(good(command=msgpack.ExtType(4, b"boo"))), "not a message"),
        (b"\x91" * 5000, "not a message"),
        (b"\xdf\xff\xff\xff\xff" + b"\x01" * 10, "not a message"),
        (
            msgpack.packb(good(command={"kind": "set_option", "option": "a", "value": "x" * MAX_COMMAND_BYTES})),
            "the most",
        ),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(MessageError, match=says):
        read_request(data)


def test_the_number_of_an_unread_request_is_made_out_where_it_can_be() -> None:
    assert seq_of(msgpack.packb(good(version=9, seq=77))) == 77
    assert seq_of(msgpack.packb(good(seq=-5))) == 0
    assert seq_of(msgpack.packb(good(seq="7"))) == 0
    assert seq_of(b"\xff\xff") == 0


def test_the_version_is_in_every_message() -> None:
    for message in (Request(client="0" * 32, seq=1, sent_s=0.0, command=Status()), Done(seq=1, text="", state="idle")):
        assert msgpack.unpackb(encode(message))["version"] == VERSION
