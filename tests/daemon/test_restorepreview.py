"""The restored preview: the latest wins, nobody waits, and whatever fails in it is its own affair."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog

from parfocal.daemon import restorepreview as module
from parfocal.daemon.config_models import PreviewSection
from parfocal.daemon.controls import ControlError
from parfocal.daemon.restorechild import FrameRefusedError, Method, RestorerLostError, RestorerUnusableError
from parfocal.daemon.restored import RestoredFrame
from parfocal.daemon.restorepreview import MOST_FAILURES, RestoredPreview
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment, ImageError

OPTICS = {"na": 0.75, "immersion_index": 1.0, "emission_um": 0.52, "magnification": 20.0}
OUT = Assessment("defocus", 5.0, 0.4, detail={"in_um": 1.0})
ON = PreviewSection(restored="wiener", every_s=0.1)
PATIENCE_S = 20.0


class Process:
    """Stands for a restorer's process."""

    def __init__(self, method: Method) -> None:
        self.method = method
        self.asked: list[tuple[Any, Mapping[str, Any]]] = []
        self.faults: list[BaseException] = []
        self.begin: BaseException | None = None
        self.open, self.busy, self.killed = threading.Event(), threading.Event(), threading.Event()
        self.open.set()
        self.closed = False

    def wait_until_ready(self, timeout_s: float) -> None:
        if self.begin is not None:
            raise self.begin

    def restore(self, pixels: Any, pixel_um: float, told: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        self.asked.append((pixels, told))
        self.busy.set()
        while not self.open.wait(0.005):
            if self.killed.is_set():
                raise RestorerLostError("the restorer's process was killed by signal SIGKILL")
        if self.killed.is_set():
            raise RestorerLostError("the restorer's process died")
        if self.faults:
            raise self.faults.pop(0)
        image = {"width": 2, "height": 1, "factor": 32, "low": 0.0, "high": 9.0, "pixels": b"\0\1"}
        refused = {"rows": 1, "columns": 2, "cell_px": 32, "cells": b"\0\1"}
        return {"verdict": "restored", "reason": "1 of 2 squares refused", "image": image, "refused": refused}

    def kill(self) -> None:
        self.killed.set()

    def close(self) -> None:
        self.killed.set()
        self.closed = True


class Bench:
    """A preview with processes that can be told what to do, and what it showed."""

    def __init__(self) -> None:
        self.shown: list[RestoredFrame] = []
        self.processes: list[Process] = []
        self.facts: list[Mapping[str, Any]] = []
        self.orders: dict[str, Any] = {}
        self.each: Callable[[Process], None] = lambda process: None
        self.preview: RestoredPreview

    def make(self, section: PreviewSection = ON, optics: Mapping[str, Any] = OPTICS, **more: Any) -> RestoredPreview:
        self.preview = RestoredPreview(section, optics, make_child=self._process, longest_px=32, **more)
        self.preview.attach(SimpleNamespace(also=self.orders.__setitem__), [self.shown.append])  # type: ignore[arg-type]
        told = SimpleNamespace(facts=self.facts.append, state=lambda *_: None)
        assert self.preview.and_also(told) is self.preview
        self.preview.facts({"session": "s"})
        self.preview.begin()
        return self.preview

    def _process(self, method: Method) -> Process:
        self.processes.append(Process(method))
        self.each(self.processes[-1])
        return self.processes[-1]

    def see(self, index: int, said: Assessment | None = OUT, **more: Any) -> None:
        pixels = more.pop("pixels", np.zeros((64, 64), np.uint16))
        frame = Frame(pixels, index, {}, 0.0, 0.1, more.pop("pixel_um", 0.325), simulated=True)
        assessments = {} if said is None else {"defocus": said}
        step: Any = SimpleNamespace(frame=frame, assessments=more.pop("assessments", assessments))
        self.preview.listen(step)

    def until(self, holds: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := holds()):
            assert time.monotonic() < deadline, f"waited too long; shown {self.shown}"
            time.sleep(0.002)
        return found

    def busy(self) -> bool:
        """See a frame; whether the first process has one in hand."""
        self.see(0)
        return bool(self.processes) and self.processes[0].busy.is_set()

    def next(self, index: int, **more: Any) -> RestoredFrame:
        """See frames until one of them is shown."""
        before = len(self.shown)

        def seen() -> bool:
            self.see(index, **more)
            return len(self.shown) > before

        self.until(seen)
        return self.shown[before]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "BACKOFF_S", 0.0)
    made = Bench()
    with structlog.testing.capture_logs():
        yield made
        made.preview.close()
    thread = made.preview._thread
    assert thread is None or not thread.is_alive()
    assert all(process.closed for process in made.processes)


def test_a_frame_is_shown_restored_with_what_it_rests_on(bench: Bench) -> None:
    bench.make()
    shown = bench.next(7)
    assert (shown.index, shown.method, shown.verdict, shown.reason) == (
        7,
        "wiener",
        "restored",
        "1 of 2 squares refused",
    )
    assert (shown.defocus_um, shown.defocus_sd_um, shown.simulated, shown.refused_share) == (5.0, 0.4, True, 0.5)
    content = shown.content()
    assert (content["label"], content["width"], content["pixels"]) == ("computed", 2, b"\0\1")
    told = bench.processes[0].asked[0][1]
    assert (told["defocus_um"], told["sd_um"], told["longest_px"]) == (5.0, 0.4, 32)
    assert (told["optics"]["na"], told["optics"]["pixel_um"], told["optics"]["zernike_waves"]) == (0.75, 0.325, {})
    assert bench.facts[-1] == {"session": "s", "preview": {"restored": "wiener", "every_s": 0.1}}


def test_the_latest_wins_and_nobody_waits_for_a_slow_one(bench: Bench) -> None:
    bench.each = lambda process: process.open.clear()
    bench.make()
    bench.until(bench.busy)
    for index in range(1, 500):
        bench.see(index)  # comes back at once, or this test does not end
    assert bench.shown == []
    bench.processes[0].open.set()
    bench.until(lambda: len(bench.shown) == 2)
    assert [shown.index for shown in bench.shown] == [0, 499]


def test_no_more_often_than_asked_and_a_new_pace_holds_at_once(bench: Bench) -> None:
    preview = bench.make(PreviewSection(restored="wiener", every_s=3600.0))
    bench.next(0)
    for index in range(1, 50):
        bench.see(index)
        time.sleep(0.002)
    assert len(bench.shown) == 1
    preview.prepare({"key": "every_s", "value": 0.1}).commit()
    assert bench.next(50).index == 50
    assert len(bench.processes) == 1, "the process had no reason to be started again"


@pytest.mark.parametrize(
    ("said", "optics", "more", "why"),
    [
        (Assessment.abstain("defocus", "an empty field"), OPTICS, {}, "cannot be told: an empty field"),
        (Assessment("defocus", 5.0, 0.4, detail={"in_um": 0.0}), OPTICS, {}, "known in pixels only"),
        (OUT, {"pixel_um": 0.3}, {}, "the optics are not known"),
        (OUT, OPTICS, {"pixel_um": float("nan")}, "the optics cannot be"),
        (None, OPTICS, {}, "'defocus' did not look"),
    ],
)
def test_what_is_not_known_is_refused_with_its_reason(
    bench: Bench, said: Assessment | None, optics: Any, more: Any, why: str
) -> None:
    bench.make(optics=optics)
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    shown = bench.next(3, said=said, pixels=pixels, **more)
    assert shown.verdict == "refused" and why in shown.reason
    assert shown.image is not None and (shown.image["width"], shown.image["factor"]) == (32, 2)
    assert bench.processes[0].asked == [], "it was restored all the same"


def test_frames_that_nobody_scored_are_passed_over(bench: Bench) -> None:
    bench.make()
    bench.see(1, assessments=None)
    assert bench.next(2).index == 2


def test_a_frame_the_method_refuses_costs_that_frame_alone(bench: Bench) -> None:
    bench.each = lambda process: process.faults.extend([FrameRefusedError("too small"), ImageError("no image")])
    bench.make()
    colour = np.zeros((4, 4, 3), np.uint8)
    assert [(one.verdict, one.reason) for one in (bench.next(1), bench.next(2, pixels=colour), bench.next(3))] == [
        ("refused", "too small"), ("refused", "no image"), ("restored", "1 of 2 squares refused"),
    ]  # fmt: skip
    assert bench.shown[0].image is not None and bench.shown[1].image is None
    assert len(bench.processes) == 1


@pytest.mark.parametrize("error", [RestorerLostError("it stalled"), OSError("no pipe"), RuntimeError("a mistake")])
def test_a_lost_process_is_replaced(bench: Bench, error: Exception) -> None:
    bench.each = lambda process: process.faults.extend([error] if len(bench.processes) == 1 else [])
    bench.make()
    assert bench.next(1).verdict == "restored"
    assert len(bench.processes) == 2 and bench.processes[0].closed


def test_one_that_fails_over_and_over_is_switched_off_with_a_warning(bench: Bench) -> None:
    bench.each = lambda process: process.faults.append(RestorerLostError("it stalled"))
    preview = bench.make()
    with structlog.testing.capture_logs() as logs:
        shown = bench.next(1)
        bench.until(lambda: len(bench.facts) == 2)
    assert shown.verdict == "off" and "it stalled" in shown.reason
    assert len(bench.processes) == MOST_FAILURES + 1
    assert bench.facts[-1]["preview"]["restored"] == "off"
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"][-1] == "preview.switched_off"
    bench.see(2)
    assert preview._latest is None, "frames are kept for nobody"
    bench.each = lambda process: None
    preview.prepare({"key": "restored", "value": "wiener"}).commit()  # a person who knows better
    assert bench.next(3).verdict == "restored"


def test_one_that_can_never_work_is_not_tried_again(bench: Bench) -> None:
    def useless(process: Process) -> None:
        process.begin = RestorerUnusableError("no weights here")

    bench.each = useless
    bench.make()
    bench.until(lambda: bench.shown)
    assert [(one.verdict, one.reason) for one in bench.shown] == [("off", "no weights here")]
    assert len(bench.processes) == 1


def test_it_is_switched_while_the_session_runs(bench: Bench) -> None:
    preview = bench.make(PreviewSection())
    assert bench.orders["set_preview"] == preview.prepare
    assert bench.processes == [] and preview._thread is None, "switched off it costs something"
    change = preview.prepare({"key": "restored", "value": "richardson_lucy"})
    assert (change.text, change.detail) == ("preview.restored: richardson_lucy", {"value": "richardson_lucy"})
    assert bench.processes == [], "nothing is done before it is written down"
    change.commit()
    assert bench.next(1).method == "richardson_lucy"
    preview.prepare({"key": "restored", "value": "wiener"}).commit()
    assert bench.next(2).method == "wiener"
    assert [process.method.name for process in bench.processes] == ["richardson_lucy", "wiener"]
    preview.prepare({"key": "restored", "value": None}).commit()
    assert (bench.shown[-1].verdict, bench.shown[-1].reason) == ("off", "switched off")
    bench.until(lambda: all(process.closed for process in bench.processes))


def test_switching_does_not_wait_for_what_is_being_computed(bench: Bench) -> None:
    bench.each = lambda process: process.open.clear() if process.method.name == "wiener" else None
    preview = bench.make()
    bench.until(bench.busy)
    preview.prepare({"key": "restored", "value": "richardson_lucy"}).commit()
    assert bench.next(1).method == "richardson_lucy"
    assert [process.method.name for process in bench.processes] == ["wiener", "richardson_lucy"]
    assert not preview._failures, "being switched off counted as a failure"


def test_a_method_keeps_its_options_and_lends_them_to_no_other(bench: Bench) -> None:
    preview = bench.make(PreviewSection(restored="richardson_lucy", options={"iterations": 3}))
    preview.prepare({"key": "restored", "value": "wiener"}).commit()
    bench.until(lambda: bench.processes and bench.processes[-1].method.name == "wiener")
    preview.prepare({"key": "restored", "value": "richardson_lucy"}).commit()
    bench.until(lambda: bench.processes[-1].method.name == "richardson_lucy")
    options = {process.method.name: process.method.options for process in bench.processes}
    assert options == {"richardson_lucy": {"iterations": 3}, "wiener": {}}


def test_the_network_leaves_the_graphics_processor_to_the_scorer(bench: Bench) -> None:
    bench.make(PreviewSection(restored="unet", options={"precision": "float32"}))
    bench.until(lambda: bench.processes)
    assert bench.processes[0].method.options == {"device": "cpu", "precision": "float32"}


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("restored", "wienr", "preview.restored"),
        ("restored", 3.0, "preview.restored"),
        ("every_s", -1.0, "greater than or equal to 0.1"),
        ("every_s", "often", "preview.every_s"),
    ],
)
def test_what_cannot_be_set_is_refused(bench: Bench, key: str, value: Any, why: str) -> None:
    preview = bench.make()
    with pytest.raises(ControlError, match=why):
        preview.prepare({"key": key, "value": value})
    assert bench.next(1).verdict == "restored"


def test_without_the_network_it_cannot_be_switched_on(bench: Bench) -> None:
    preview = bench.make(PreviewSection(), scored=False)
    with pytest.raises(ControlError, match="the model 'defocus'"):
        preview.prepare({"key": "restored", "value": "wiener"})


def test_a_screen_that_breaks_breaks_no_other(bench: Bench) -> None:
    preview = bench.make(PreviewSection())

    def broken(shown: RestoredFrame) -> None:
        raise RuntimeError("no screen")

    preview.attach(SimpleNamespace(also=lambda *_: None), [broken, bench.shown.append])  # type: ignore[arg-type]
    preview.prepare({"key": "restored", "value": "wiener"}).commit()
    assert bench.next(1).verdict == "restored"


def test_the_end_does_not_wait_for_a_process_that_hangs(bench: Bench) -> None:
    bench.each = lambda process: process.open.clear()
    preview = bench.make()
    bench.until(bench.busy)
    preview.close()
    assert bench.shown == [] and bench.processes[0].closed
    preview.close()
    preview.prepare({"key": "restored", "value": "unet"}).commit()  # too late: nothing starts any more
    assert len(bench.processes) == 1
