"""`parfocal bench restore`: one row a method, work counted as it is, and what is absent said."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from typing import Any

import pytest
import torch

from parfocal.daemon import bench, bench_restore
from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Blur
from parfocal.models.training import evaluate_restore
from parfocal.models.training.evaluate_restore import Peers
from parfocal.models.training.restore_report import Plan

HELD = dict.fromkeys(bench_restore.COLUMNS, 0.5) | {"gain": 1.25, "refused": 0.0}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    plans: list[Plan] = []

    def measured(made: Peers, plan: Plan) -> dict[str, Any]:
        plans.append(plan)
        goal = {"what": "gain", "reach": ">= 5", "found": 4.0, "reached": False}
        return {
            "setting": {"what": "procedural", "fields": 1, "size_px": 96},
            "held out": {"table": {"identity": HELD, "affine identity": HELD, "wiener": HELD}},
            "true blur": {"table": {"wiener": HELD}},
            "refusals": {"all": {"frames": 9, "methods": {"wiener": {"refused": 0.75}}}},
            "series": [{"series": "one", "method": "wiener", "planes": 3, "refused": 1, "gain": 0.5, "worst": 0.25,
                        "spectrum_db": 1.0, "spectrum_db_raw": 4.0}],
            "goals": {"wiener": [goal], "unet": [goal]},
        }  # fmt: skip

    here = {name: make_restorer(name) for name in ("identity", "wiener")}
    monkeypatch.setattr(bench_restore, "measure", measured)
    monkeypatch.setattr(bench_restore, "peers", lambda **_: Peers(here, {"comi": "none is packaged"}))
    monkeypatch.setattr(evaluate_restore, "estimator", lambda: lambda frame, optics: Blur(optics, float(frame.mean())))
    monkeypatch.setattr(bench_restore, "SIDE_PX", 128)
    monkeypatch.setattr(bench_restore, "REPEATS", 1)
    found = bench_restore.restore(Namespace(fields=None, stacks=None, comi=None, seed=6))
    assert plans == [Plan(None, None, seed=6)]
    return found


def test_every_method_has_a_row_with_its_work_and_time(table: dict[str, Any]) -> None:
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    json.dumps(table)
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    assert rows["wiener"]["gain over affine identity, dB"] == 1.25
    assert rows["wiener"]["refused of what should be"] == 0.75
    assert 0.0 < rows["wiener"]["GMAC"] < 1.0
    assert rows["wiener"]["ms"] > 0.0
    assert rows["identity"]["GMAC"] == 0.0
    assert rows["affine identity"]["GMAC"] is None
    assert rows["comi: no weights"]["PSNR"] is None
    assert rows["the blur, by the defocus model"]["ms processor"] > 0.0
    if not torch.cuda.is_available():
        assert not any(" on " in name for name in rows)


def test_what_is_not_in_a_row_is_in_the_notes(table: dict[str, Any]) -> None:
    notes = table["notes"]
    assert "comi is absent: none is packaged" in notes
    assert "refused of 9 frames (all): wiener 0.75" in notes
    assert "blur told as it is: wiener gains 1.25 dB, refuses 0.000" in notes
    assert "one, wiener: 1 of 3 planes refused; gain 0.50 dB, worst 0.25; spectrum 1.0 dB off, raw 4.0" in notes
    assert "unet, gain: 4.000 (asked >= 5), short" in notes
    assert not any(note.startswith("wiener, gain") for note in notes)
    assert not any("times as much" in note for note in notes)


def test_the_work_of_two_networks_is_compared_where_both_are_here() -> None:
    rows = [["unet", 4.0, 1.0, 1.0], ["comi", 200.0, 1.0, 1.0]]
    assert bench_restore._less_work(rows) == ["the CycleGAN works 50.0 times as much as the U-Net"]


def test_work_is_counted_by_what_is_run() -> None:
    image = torch.zeros(1, 3, 32, 32)
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    with torch.inference_mode():
        assert bench_restore.work_gmac(lambda: convolution(image)) == pytest.approx(32 * 32 * 3 * 8 * 9 / 1e9)
    transform = 1.25 * 64 * 64 * math.log2(64 * 64) / 1e9
    both = bench_restore.work_gmac(lambda: torch.fft.irfft2(torch.fft.rfft2(torch.zeros(64, 64)), s=(64, 64)))
    assert both == pytest.approx(2 * transform, rel=1e-3)


def test_the_bench_has_the_table() -> None:
    assert "restore" in bench._tables()
