"""The desk: nothing old, nothing twice, nothing from those who may only look, nobody in too much of a hurry."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon.service import desk as module
from parfocal.daemon.service.auth import User
from parfocal.daemon.service.desk import COMMANDS_PER_S, Desk
from parfocal.daemon.service.errors import MessageError, RefusedError
from parfocal.daemon.service.messages import Message, Pause, Request, Safe, Snap, Status, encode

OPERATOR, OBSERVER = User("ann", "operate"), User("bob", "observe")


class Times:
    def __init__(self) -> None:
        self.wall, self.monotonic = 1e9, 50.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def make_desk(max_age_s: float = 10.0) -> tuple[Desk, Times]:
    times = Times()
    return Desk(max_age_s, wall=lambda: times.wall, monotonic=lambda: times.monotonic), times


def request(seq: int = 1, sent_s: float = 1e9, command: Message | None = None, client: str = "a" * 32) -> bytes:
    return encode(Request(client=client, seq=seq, sent_s=sent_s, command=command or Pause()))  # type: ignore[arg-type]


def refused(desk: Desk, data: bytes, user: User = OPERATOR) -> str:
    with pytest.raises(RefusedError) as caught:
        desk.judge(data, user)
    return caught.value.code


def test_a_new_request_passes() -> None:
    desk, _ = make_desk()
    assert desk.judge(request(), OPERATOR).command == Pause()


def test_garbage_is_a_message_error() -> None:
    desk, _ = make_desk()
    with pytest.raises(MessageError):
        desk.judge(b"garbage", OPERATOR)


@pytest.mark.parametrize("sent_s", [1e9 - 10.1, 1e9 + 10.1, 0.0, 1e300, -1e300])
def test_what_is_too_old_or_from_the_future_is_refused(sent_s: float) -> None:
    desk, _ = make_desk()
    assert refused(desk, request(sent_s=sent_s)) == "stale"


@pytest.mark.parametrize("sent_s", [1e9 - 3600.0, 1e9 + 3600.0, 0.0, 1e300])
def test_making_safe_is_never_refused_for_its_age_and_only_to_who_may_not(sent_s: float) -> None:
    desk, _ = make_desk()
    late = request(sent_s=sent_s, command=Safe())
    assert desk.judge(late, OPERATOR).command == Safe()
    assert desk.judge(late, OPERATOR).command == Safe(), "nor because it was heard before"
    with pytest.raises(RefusedError) as caught:
        desk.judge(late, OBSERVER)
    assert caught.value.code in ("role", "stale")


def test_a_crowd_keeps_nobody_from_making_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CLIENTS", 1)
    desk, _ = make_desk()
    desk.judge(request(client="a" * 32), OPERATOR)
    assert refused(desk, request(client="b" * 32)) == "busy"
    assert desk.judge(request(client="b" * 32, command=Safe()), OPERATOR).command == Safe()


def test_a_question_is_answered_whatever_clock_it_was_asked_by() -> None:
    desk, _ = make_desk()
    assert desk.judge(request(sent_s=0.0, command=Status()), OBSERVER).command == Status()


def test_a_clock_that_jumps_is_said_to_disagree() -> None:
    desk, times = make_desk()
    times.wall += 3600.0
    with pytest.raises(RefusedError, match="clocks disagree"):
        desk.judge(request(), OPERATOR)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_of_one_client_only_rising_numbers_pass_and_each_once(numbers: list[int]) -> None:
    desk, _ = make_desk()
    passed = []
    for number in numbers:
        try:
            passed.append(desk.judge(request(number, command=Status()), OPERATOR).seq)
        except RefusedError as error:
            assert error.code == "repeated"
    assert passed == sorted(set(passed))
    assert passed[0] == numbers[0]


def test_a_recorded_request_never_passes_a_second_time_however_long_one_waits() -> None:
    desk, times = make_desk(max_age_s=10.0)
    recorded = request()
    desk.judge(recorded, OPERATOR)
    codes = []
    for _ in range(100):
        times.pass_by(0.5)
        desk_says = refused(desk, recorded)
        codes.append(desk_says)
        with pytest.raises(RefusedError):  # and a stranger who uses it under another client's cover neither
            desk.judge(recorded, OPERATOR)
    assert set(codes) == {"repeated", "stale"}


def test_clients_do_not_get_in_each_others_way() -> None:
    desk, _ = make_desk()
    desk.judge(request(9, client="a" * 32), OPERATOR)
    desk.judge(request(1, client="b" * 32), OPERATOR)
    desk.judge(request(1, client="a" * 32, command=Status()), OBSERVER)  # another person's count is another count


def test_who_may_only_look_may_ask_and_nothing_else() -> None:
    desk, _ = make_desk()
    assert desk.judge(request(1, command=Status()), OBSERVER).seq == 1
    for number, command in enumerate((Pause(), Safe(), Snap()), start=2):
        assert refused(desk, request(number, command=command), OBSERVER) == "role"


def test_a_machine_gun_is_slowed_down_but_never_kept_from_making_safe() -> None:
    desk, times = make_desk()
    for number in range(1, int(COMMANDS_PER_S) + 1):
        desk.judge(request(number), OPERATOR)
    assert refused(desk, request(1000)) == "too_fast"
    assert desk.judge(request(1001, command=Safe()), OPERATOR).seq == 1001
    assert desk.judge(request(1002, command=Status()), OPERATOR).seq == 1002
    times.pass_by(1.0)
    assert desk.judge(request(1003, sent_s=times.wall), OPERATOR).seq == 1003


def test_memory_for_clients_is_bounded_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CLIENTS", 5)
    desk, times = make_desk()
    for number in range(5):
        desk.judge(request(client=f"{number:032x}", command=Status()), OPERATOR)
    assert refused(desk, request(client=f"{99:032x}", command=Status())) == "busy"
    times.pass_by(30.0)
    desk.judge(request(client=f"{99:032x}", sent_s=times.wall, command=Status()), OPERATOR)
    assert len(desk._clients) == 1
