"""Restored pixels never feed a score, a policy or the record: a session with the preview is the session without it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from daemon_doubles import Reader

from parfocal.daemon.config_models import PreviewSection
from parfocal.daemon.loop import Loop
from parfocal.daemon.replay.decisions import reproduce
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.report.page import render
from parfocal.daemon.requests import Answer, Order
from parfocal.daemon.restorechild import Method, RestoreChild
from parfocal.daemon.restored import RestoredFrame
from parfocal.daemon.restorepreview import RestoredPreview
from parfocal.models.base import Assessment

SessionMaker = Callable[..., Path]
FRAMES = 30
HOSTILE = """
from parfocal.models.restore.base import Restoration, Verdict, check_frame, cells_of
import numpy as np


class Restorer:
    name = "hostile"

    def restore(self, frame, blur):
        pixels = check_frame(frame)
        frame[:] = 0
        cells = np.ones(cells_of(frame.shape), bool)
        return Restoration("hostile", Verdict.RESTORED, "", pixels[::-1], None, cells, blur)


def make(method, options):
    return Restorer()
"""


class InUm(Reader):
    """A scorer that knows the optics."""

    def score(self, *args: Any, **keywords: Any) -> dict[str, Assessment]:
        said = super().score(*args, **keywords)["defocus"]
        detail = {"certainty": 0.9, "in_um": 1.0}
        return {"defocus": Assessment("defocus", said.value, said.sd, detail=detail, distribution=said.distribution)}


class Beside:
    """A restored preview beside a loop in virtual time; the loop is held at one frame until something was shown."""

    def __init__(self, optics: dict[str, float]) -> None:
        self.shown: list[RestoredFrame] = []
        self.answers: list[Answer] = []
        self.preview = RestoredPreview(
            PreviewSection(restored="wiener", every_s=0.1), optics,
            make_child=lambda method: RestoreChild(Method(method.name, {}, "parfocal_hostile_restorer:make")),
        )  # fmt: skip
        self._frames = 0

    def __call__(self, loop: Loop, step: Any) -> None:
        if not self._frames:
            self.preview.attach(loop.orders, [self.shown.append])
            self.preview.begin()
        self._frames += 1
        self.preview.listen(step)
        until = time.monotonic() + 60.0
        while self._frames == 10 and not any(one.verdict == "restored" for one in self.shown):
            assert time.monotonic() < until, self.shown
            self.preview.listen(step)
            time.sleep(0.01)
        if self._frames == 20:
            arguments = {"key": "every_s", "value": 0.2}
            loop.orders.submit(Order("somebody", "operate", "set_preview", arguments, self.answers.append))


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "parfocal_hostile_restorer.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    made = Beside({"na": 0.75, "immersion_index": 1.0, "emission_um": 0.52, "magnification": 20.0})
    yield made
    made.preview.close()


def test_decisions_and_recorded_pixels_are_the_same_with_and_without(record_session: SessionMaker, beside: Any) -> None:
    everything = ("session.record=all", "preview={restored: wiener, every_s: 0.1}")
    with_it = SessionReader(record_session(*everything, name="with", frames=FRAMES, scorer=InUm(), each=beside))
    without = SessionReader(record_session("session.record=all", name="without", frames=FRAMES, scorer=InUm()))
    assert [one.verdict for one in beside.shown].count("restored") >= 1
    assert [one.accepted for one in beside.answers] == [True]
    assert with_it.summary["decisions"] > 20
    assert with_it.summary["decisions_sha256"] == without.summary["decisions_sha256"]
    assert len(with_it.stored) == FRAMES and with_it.stored.keys() == without.stored.keys()
    for index, place in with_it.stored.items():
        mine, theirs = with_it.frames.read(place), without.frames.read(without.stored[index])
        assert mine is not None and theirs is not None
        np.testing.assert_array_equal(mine, theirs)
    said = [[(one["model"], one["value"]) for one in reader.journal.of("assessment")] for reader in (with_it, without)]
    assert said[0] == said[1]


def test_replay_and_report_take_no_notice(record_session: SessionMaker, beside: Any) -> None:
    folder = record_session("preview={restored: wiener, every_s: 0.1}", frames=FRAMES, scorer=InUm(), each=beside)
    reader = SessionReader(folder)
    assert [one["command"] for one in reader.journal.of("command_received")] == ["set_preview"]
    assert reproduce(reader).identical
    assert "set_preview" in render(reader)
    assert not [path for path in folder.rglob("*") if "restor" in path.name]


def test_nothing_is_taken_in_but_what_was_scored(beside: Any) -> None:
    beside.preview.listen(SimpleNamespace(frame=None, assessments=None))
    assert beside.preview._latest is None
