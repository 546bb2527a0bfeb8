"""The quality networks that come with parfocal judge procedural frames as anybody would: weights of chance do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models import make_model
from parfocal.models.artefacts import ARTEFACTS
from parfocal.models.base import Assessment
from parfocal.models.training.degradations import MixedNoise, degrade, gaussian_blur, scaled
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen

SIDE_PX = 256
GROUND = 0.1
"""Even light over the field, as the medium sends it: without any, a vignette would show on the objects only."""
SPECIMENS = (("filaments", 1), ("mitochondria", 1), ("nuclei", 2))
SIGMAS_PX = (0.7, 1.2, 1.8, 2.6, 4.0)
NETWORKS = [("student", "mm"), ("student", "frc"), ("paper", "mm"), ("paper", "frc")]
Told = Mapping[str, list[Assessment]]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def clean(kind: str, seed: int) -> NDArray[np.float32]:
    shape = (SIDE_PX, SIDE_PX)
    light = Imager(Optics(), shape).image(make_specimen(kind, shape, pixel_um=0.325, seed=seed), 0.0)
    return np.asarray(light / light.max() + GROUND, dtype=np.float32)


def counts(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.round(np.maximum(image, 0.0) * 2000 + 100).astype(np.uint16)


@cache
def frames() -> dict[str, list[NDArray[np.uint16]]]:
    """By name: each artefact at its worst, five levels of blur with the reference's noise, and half a frame blurred."""
    made: dict[str, list[NDArray[np.uint16]]] = {}
    for kind, seed in SPECIMENS:
        image = clean(kind, seed)
        for artefact in ARTEFACTS:
            shown = degrade(image, artefact, np.random.default_rng(seed), level=1.0)
            made.setdefault(artefact, []).append(counts(shown))
        for sigma in SIGMAS_PX:
            shown = MixedNoise().on(gaussian_blur(scaled(image), sigma), np.random.default_rng(seed))
            made.setdefault(f"sigma {sigma}", []).append(counts(shown))
        half = made["reference"][-1].copy()
        half[:, SIDE_PX // 2 :] = made[f"sigma {SIGMAS_PX[-1]}"][-1][:, SIDE_PX // 2 :]
        made.setdefault("half", []).append(half)
    return made


@cache
def told(network: str, target: str) -> Told:
    """What a network says of all frames; the paper's networks, an order slower, of fewer: one specimen, one noise."""
    model = make_model("quality", {"network": network, "target": target, "device": "cpu", "threads": 1})
    few, left_out = (len(SPECIMENS), ()) if network == "student" else (1, ("blur", "dark", "readout"))
    shown = {name: some[:few] for name, some in frames().items() if name not in left_out}
    return {name: model.assess(np.stack(some), 0.325) for name, some in shown.items()}


def mean(some: list[Assessment]) -> float:
    assert not any(one.abstained for one in some)
    return float(np.mean([one.value for one in some]))


@pytest.mark.parametrize(("network", "target"), NETWORKS)
def test_a_reference_is_worth_more_than_what_became_of_it(network: str, target: str) -> None:
    said = told(network, target)
    best = mean(said["reference"])
    least = 0.3 if target == "mm" else 0.1
    for artefact in ("blur", "dark", "readout", "shot"):
        assert artefact not in said or mean(said[artefact]) < best - least, artefact
    assert mean(said["vignetting"]) < best - (0.15 if target == "mm" else 0.02)


@pytest.mark.parametrize(("network", "target"), NETWORKS)
def test_the_more_blur_the_less_it_is_worth(network: str, target: str) -> None:
    said = [mean(told(network, target)[f"sigma {sigma}"]) for sigma in SIGMAS_PX]
    assert all(sharper > blurred for sharper, blurred in pairwise(said)), said
    assert said[0] > said[-1] + 0.2


@pytest.mark.parametrize(("network", "target"), NETWORKS)
def test_the_map_shows_which_half_is_blurred(network: str, target: str) -> None:
    more = []
    for one in told(network, target)["half"]:
        assert one.patch_map is not None
        sharp, blurred = one.patch_map.value[:, :3], one.patch_map.value[:, 5:]
        more.append(float(sharp.mean() - blurred.mean()))
    assert min(more) > 0.02
    assert np.mean(more) > 0.1


@pytest.mark.parametrize("target", ["mm", "frc"])
@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_the_artefact_is_named(target: str, artefact: str) -> None:
    named = [ARTEFACTS[int(one.detail["artefact"])] for one in told("student", target)[artefact]]
    assert named.count(artefact) >= 2, named


@pytest.mark.parametrize("target", ["mm", "frc"])
def test_a_good_frame_is_called_good_and_a_blurred_one_bad(target: str) -> None:
    good, bad = (mean(told("student", target)[name]) for name in ("reference", "blur"))
    assert good > (0.6 if target == "mm" else 0.35)
    assert bad < (0.2 if target == "mm" else 0.3)
