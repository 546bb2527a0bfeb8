"""Kinds of frames: what a look does not depend on, what the packaged judge says, and cards that are none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.base import ModelError
from parfocal.models.cards import PACKAGED
from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Blur, Verdict
from parfocal.models.restore.deconvolution import observe
from parfocal.models.restore.gate import Gate
from parfocal.models.restore.kinds import DRAWN, KINDS, LOOKS, MOVED, OWN, WHY, KindJudge, look, packaged_judge
from parfocal.models.restore.levels import Levels
from parfocal.simulator.optics import Imager
from tests.models.restore.test_deconvolution import OPTICS, frame_and_truth

SIDE = 256
DEPTH = OPTICS.depth_of_field_um


def exposed(light: NDArray[np.float32], depths: float, photons: float = 2000.0) -> NDArray[np.float32]:
    """A frame of what shines as `light`, 0..1, out of focus."""
    image = Imager(OPTICS, (SIDE, SIDE)).image(light.astype(np.float32), depths * DEPTH)
    counts = np.random.default_rng(1).poisson(np.maximum(image, 0.0) * photons + 40.0)
    return (2.0 * counts + 100.0).astype(np.float32)


def looked(frame: NDArray[np.float32], blur: Blur) -> torch.Tensor:
    return look(frame, observe(frame, blur), blur)


def refusal(frame: NDArray[np.float32], depths: float) -> str:
    blur = Blur(OPTICS, depths * DEPTH, 0.15 * depths * DEPTH)
    stop = Gate(judge=packaged_judge()).known("wiener", frame, observe(frame, blur), blur)
    return "" if stop is None else stop.reason


def test_a_look_does_not_depend_on_gain_and_offset() -> None:
    frame, _, blur = frame_and_truth("nuclei", 3.0, 2000.0)
    assert torch.allclose(looked(frame, blur), looked(3.0 * frame + 500.0, blur), atol=0.02)


def test_a_look_hardly_depends_on_how_the_camera_is_turned() -> None:
    frame, _, blur = frame_and_truth("filaments", 2.0, 2000.0)
    there = looked(frame, blur)
    for turned in (np.rot90(frame), frame[::-1], frame.T):
        assert (looked(np.ascontiguousarray(turned), blur) - there).abs().mean() < 0.1


@pytest.mark.parametrize("shape", [(64, 64), (64, 200), (131, 97)])
def test_every_size_has_a_look(shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).poisson(50.0, shape).astype(np.float32)
    found = looked(frame, Blur(OPTICS, 3.0, 0.1))
    assert found.shape == (LOOKS,) and bool(found.isfinite().all())


@pytest.mark.parametrize("kind", ["nuclei", "filaments", "puncta", "mitochondria", "beads"])
@pytest.mark.parametrize("depths", [1.5, 4.0])
def test_specimens_pass(kind: str, depths: float) -> None:
    frame, _, blur = frame_and_truth(kind, depths, 2000.0)
    assert Gate(judge=packaged_judge()).known("wiener", frame, observe(frame, blur), blur) is None


@pytest.mark.parametrize("period", [12.0, 24.0])
def test_bars_are_refused_as_drawn(period: float) -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    bars = np.cos(2.0 * np.pi * (0.8 * y + 0.6 * x) / period) > 0
    assert refusal(exposed(bars.astype(np.float32), 1.5), 1.5) == WHY[DRAWN]


def test_what_is_darker_than_its_ground_is_refused() -> None:
    from parfocal.simulator.specimens import make_specimen

    nuclei = make_specimen("nuclei", (SIDE, SIDE), pixel_um=OPTICS.pixel_um, seed=2)
    assert refusal(exposed(np.exp(-1.5 * nuclei), 2.0), 2.0)
    assert not refusal(exposed(nuclei, 2.0), 2.0)


def test_a_smear_is_refused_with_its_reason_by_every_method_alike() -> None:
    from parfocal.simulator.specimens import make_specimen

    specimen = make_specimen("puncta", (SIDE, SIDE), pixel_um=OPTICS.pixel_um, seed=4)
    moved = np.mean([np.roll(specimen, step, axis=1) for step in range(-12, 13)], axis=0)
    frame = exposed(moved, 0.0)
    assert refusal(frame, 2.5) == WHY[MOVED]
    done = make_restorer("wiener").restore(frame, Blur(OPTICS, 2.5 * DEPTH, 0.3 * DEPTH))
    assert (done.verdict, done.reason) == (Verdict.REFUSED, WHY[MOVED])
    assert np.array_equal(done.pixels, frame) and done.refused.all()
    assert done.detail["likely_moved"] > 0.5


def test_the_ground_is_told_from_the_noise() -> None:
    rng = np.random.default_rng(0)
    shape = (128, 128)
    dark, bright = np.full(shape, 20.0), np.full(shape, 2000.0)
    dark[32:96, 32:96], bright[32:96, 32:96] = 1000.0, 1500.0
    assert Levels.of(rng.poisson(dark).astype(np.float32)).ground < 0.1
    assert 0.7 < Levels.of(rng.poisson(bright).astype(np.float32)).ground < 2.5


def test_the_likeliest_of_the_other_kinds_is_the_reason() -> None:
    judge = replace(packaged_judge(), limit=0.6)
    likely = dict.fromkeys(KINDS, 0.0) | {OWN: 0.3, MOVED: 0.3, DRAWN: 0.4}
    assert judge.reason(likely) == WHY[DRAWN]
    assert judge.reason(likely | {OWN: 0.41}) == ""


def test_a_card_of_something_else_is_refused(tmp_path: Path) -> None:
    for name in ("restore_kinds.json", "restore_kinds.safetensors"):
        shutil.copy(PACKAGED / name, tmp_path / name)
    path = tmp_path / "restore_kinds.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    for changed in ({"input": {**card["input"], "kinds": ["own"]}}, {"measured": {}}):
        path.write_text(json.dumps({**card, **changed}), encoding="utf-8")
        with pytest.raises(ModelError, match=r"make it again|lacks 'limit'"):
            KindJudge.of_card(path)
