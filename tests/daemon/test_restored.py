"""What was restored on its way to people: configuration, terminal, service, page, metrics; always called computed."""

from __future__ import annotations

import io
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from daemon_doubles import Bench, Follow
from rich.console import Console
from typer.testing import CliRunner

from parfocal.daemon.check import checked
from parfocal.daemon.cli import app
from parfocal.daemon.client import Client, RefusedError
from parfocal.daemon.config import ConfigError, load_config
from parfocal.daemon.manners.metrics import Metrics
from parfocal.daemon.manners.opening import Manners
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.restored import RestoredFrame, said_of
from parfocal.daemon.restorepreview import RestoredPreview, preview_of
from parfocal.daemon.service.errors import MessageError
from parfocal.daemon.service.eventmodels import Restored, event_of, read_event
from parfocal.daemon.service.events import restored_event
from parfocal.daemon.service.messages import encode
from parfocal.daemon.summary import Step
from parfocal.daemon.view import RunFacts, RunView
from parfocal.daemon.web.state import Picture
from parfocal.daemon.web.tabs import Tabs
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment
from parfocal.policies.base import Hold

LiveMaker = Callable[..., Any]
IMAGE = {"width": 2, "height": 2, "factor": 16, "low": -3.0, "high": 90.0, "pixels": bytes(range(4)), "patch_map": None}
SQUARES = {"rows": 1, "columns": 3, "cell_px": 32, "cells": b"\0\1\0"}
SHOWN = RestoredFrame(
    "wiener", "restored", "1 of 3 squares refused", 12, 5.0, 0.4, IMAGE, SQUARES, took_ms=40.0, simulated=True
)
REFUSED = RestoredFrame("wiener", "refused", "the defocus cannot be told: an empty field", 13, image=IMAGE)
GONE = RestoredFrame("wiener", "off", "the restorer's process died")


def read(shown: RestoredFrame, number: int = 1) -> Restored:
    event = read_event(encode(restored_event(number, 2.0, shown.content())))
    assert isinstance(event, Restored)
    return event


# -- the configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "restored"),
    [("preview.restored=off", "off"), ("preview.restored=unet", "unet"), ("preview={restored: off}", "off")],
)
def test_a_method_or_off_is_asked_for_in_plain_words(setting: str, restored: str) -> None:
    preview = load_config(None, [setting]).preview
    assert preview is not None and (preview.restored, preview.every_s) == (restored, 1.0)


def test_without_the_section_nothing_is_computed() -> None:
    config = load_config(None)
    assert config.preview is None
    with preview_of(config) as preview:
        preview.attach(SimpleNamespace(also=lambda *_: None), [])  # type: ignore[arg-type]
        preview.begin()
        assert preview._thread is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["preview.restored=wienr"], "preview.restored: should be 'off', 'unet', 'wiener' or 'richardson_lucy'"),
        (["preview.restored=true"], "preview.restored"),
        (["preview.every_s=0"], "preview.every_s"),
        (["preview.every=1"], "did you mean 'every_s'"),
        (["preview.restored=wiener", "scoring.models=[sharpness]", "policy.name=focus.hold"], "'defocus'"),
        (["preview.restored=wiener", "preview.options={iterations: 3}"], "knows no option 'iterations'"),
        (["preview.restored=richardson_lucy", "preview.options={iterations: 0}"], "whole number from 1 on"),
    ],
)
def test_what_is_wrong_with_it_is_found_before_the_run(settings: list[str], expected: str) -> None:
    problems = checked(None, settings).problems
    assert len(problems) == 1 and expected in problems[0] and "preview" in problems[0]


def test_a_run_does_not_begin_without_the_network_it_needs() -> None:
    from parfocal.daemon.check import refuse_unusable

    wrong = ["preview.restored=wiener", "scoring.models=[sharpness]", "policy.name=focus.hold"]
    with pytest.raises(ConfigError, match="reads the model 'defocus'"):
        refuse_unusable(load_config(None, wrong))


def test_a_card_of_its_own_is_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("microscope: {driver: simulated}\npreview: {restored: unet, options: {card: cards/restore.json}}\n")
    preview = load_config(path).preview
    assert preview is not None
    assert preview.options["card"] == str(tmp_path / "cards/restore.json")


# -- the terminal -------------------------------------------------------------------------------------------------


def drawn(*shown: RestoredFrame, policy: str = "focus.belief") -> str:
    view = RunView(RunFacts("simulated", policy, True, folder="s", dof_um=1.1))
    frame = Frame(np.zeros((1, 1)), 3, {"z_um": 1.0}, 0.3, 0.31, 0.3, truth={"defocus_um": -0.25})
    said = {"defocus": Assessment("defocus", 0.4, 0.2)}
    view.listen(Step(frame, said, Hold("held"), None, False, "running", 4, 3, 0, 0, 0, 0, 1.0, 0.0, 5.0, 0.4))
    for one in shown:
        view.restored(one)
    console = Console(file=io.StringIO(), width=100, height=30, color_system=None, legacy_windows=False)
    console.print(view, end="")
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("policy", ["focus.belief", "sted.supervised"])
def test_the_terminal_says_what_became_of_it(policy: str) -> None:
    assert "restored (computed" not in drawn(policy=policy)
    line = "restored (computed, wiener)  restored, 1 of 3 squares refused  from 5.00 um off  frame 12"
    assert line in drawn(SHOWN, policy=policy)
    text = drawn(SHOWN, REFUSED, policy=policy)
    assert "refused: the defocus cannot be told: an empty field  frame 13" in text and "squares" not in text
    assert "off: the restorer's process died" in drawn(GONE, policy=policy)
    assert len(drawn(SHOWN, policy=policy).splitlines()) <= 30


def test_in_focus_is_said_as_it_is() -> None:
    assert said_of(RestoredFrame("unet", "in_focus", "in focus: nothing to restore")) == "in focus: nothing to restore"
    assert said_of(RestoredFrame("unet", "restored")) == "restored"


# -- the service --------------------------------------------------------------------------------------------------


def test_an_event_holds_the_image_the_squares_and_its_label() -> None:
    event = read(SHOWN)
    assert (event.kind, event.label, event.index, event.verdict) == ("restored", "computed", 12, "restored")
    assert (event.width, event.height, event.factor, event.pixels) == (2, 2, 16, bytes(range(4)))
    assert event.refused is not None
    assert (event.refused.rows, event.refused.columns, event.refused.cells) == (1, 3, b"\0\1\0")
    gone = read(GONE)
    assert (gone.verdict, gone.width, gone.pixels, gone.refused, gone.index) == ("off", 0, b"", None, None)


def test_an_event_that_does_not_say_that_it_is_computed_is_none() -> None:
    content = restored_event(1, 2.0, SHOWN.content())
    with pytest.raises(MessageError):
        event_of({**content, "label": "data"})


def test_it_is_published_to_those_who_want_it_and_is_in_no_status(live: LiveMaker) -> None:
    running = live(microscope=Bench(ServingClock(), exposure_ms=2))
    running.until("running")
    with Client(running.service.address, publish=running.service.publish) as scope:
        with scope.events("restored") as events:
            until = time.monotonic() + 20.0
            while not running.service._sockets.wants(b"restored"):
                assert time.monotonic() < until
                time.sleep(0.005)
            running.service.restored(SHOWN)
            event = next(events)
            assert event.kind == "restored" and event.pixels == bytes(range(4))
            running.service.restored(GONE)
            assert next(events).n == 2
        assert "restored" not in scope.status().to_json()


def test_it_is_switched_by_a_command_that_is_written_down(live: LiveMaker) -> None:
    running = live(microscope=Bench(ServingClock(), exposure_ms=2), policy=Follow(within_um=1e9))
    running.until("running")
    there = ["--address", running.service.address]
    with Client(running.service.address, publish=running.service.publish) as scope:
        with pytest.raises(RefusedError, match="no preview that could be set"):
            scope.set_preview("restored", "wiener")
        preview = RestoredPreview(preview_section(), {}, scored=True, make_child=never)
        preview.attach(running.loop.orders, [])
        with pytest.raises(RefusedError, match="should be"):
            scope.set_preview("restored", "wienr")
        with pytest.raises(RefusedError, match="key"):
            scope.set_preview("colour", "red")
        assert scope.set_preview("every_s", 2).detail == {"value": 2.0}
        assert scope.set_preview("every_s", None).text == "preview.every_s: 1.0"
        found = CliRunner().invoke(app, ["set", "preview.restored=off", "preview.every_s=0.5", *there])
        assert (found.exit_code, found.stdout.split()) == (0, ["preview.restored:", "off", "preview.every_s:", "0.5"])
        wrong = CliRunner().invoke(app, ["set", "preview.colour=red", *there])
        assert wrong.exit_code == 2 and "preview.restored" in wrong.stderr
    running.finish()
    assert [(one["arguments"], one["accepted"]) for one in running.records("command_received")] == [
        ({"key": "restored", "value": "wiener"}, False),
        ({"key": "restored", "value": "wienr"}, False),
        ({"key": "every_s", "value": 2.0}, True),
        ({"key": "every_s", "value": None}, True),
        ({"key": "restored", "value": "off"}, True),
        ({"key": "every_s", "value": 0.5}, True),
    ]


def preview_section() -> Any:
    from parfocal.daemon.config_models import PreviewSection

    return PreviewSection()


def never(method: Any) -> Any:
    raise AssertionError("it was switched on")


# -- the page -----------------------------------------------------------------------------------------------------


def test_a_browser_is_sent_header_pixels_and_squares() -> None:
    picture = Picture(lambda: 0.0, lambda: 2.0)
    assert picture.take(read(SHOWN)) == {}
    assert picture.preview is None, "it took the place of the live image"
    data = picture.restored
    assert data is not None
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    assert (header["kind"], header["label"], header["verdict"], header["index"]) == (
        "restored", "computed", "restored", 12,
    )  # fmt: skip
    assert header["refused"] == {"rows": 1, "columns": 3, "cell_px": 32}
    assert data[4 + length :] == bytes(range(4)) + b"\0\1\0"
    picture.take(read(GONE))
    assert picture.restored is not None and b'"off"' in picture.restored


def test_a_page_gets_the_latest_of_both_images_also_when_it_comes_late() -> None:
    tabs = Tabs(lambda: {"reset": True})
    tab = tabs.join("observe", b"live", b"restored 1")
    assert tab is not None
    assert tab.collect(lambda: 0.0, "observe")[1:] == [b"live", b"restored 1"]
    for number in range(2, 9):
        tabs.put_preview(b"restored %d" % number, "restored")
    tabs.put_preview(b"live 2")
    assert sorted(tab.collect(lambda: 0.0, "observe")) == [b"live 2", b"restored 8"]
    assert tab.collect(lambda: 0.0, "observe") == []


# -- the metrics --------------------------------------------------------------------------------------------------


def test_restored_and_refused_previews_are_counted() -> None:
    metrics = Metrics()

    def counted() -> dict[str, float]:
        return {
            sample.labels["verdict"]: sample.value
            for family in metrics.collect()
            for sample in family.samples
            if sample.name == "parfocal_restored_previews_total"
        }

    assert counted() == {}
    manners = Manners([metrics])
    for shown in (SHOWN, SHOWN, REFUSED):
        manners.restored(shown)
    assert counted() == {"restored": 2, "refused": 1}
