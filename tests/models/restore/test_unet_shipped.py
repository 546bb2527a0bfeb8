"""The U-Net that comes with parfocal restores what it was made for: weights of chance do not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Blur, Restoration, Verdict
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen

OPTICS = Optics()
SHAPE = (256, 256)
OFFSET, PHOTONS = 100.0, 2000.0
KINDS = ("mitochondria", "nuclei")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def light(kind: str, depths: float) -> NDArray[np.float32]:
    specimen = make_specimen(kind, SHAPE, pixel_um=OPTICS.pixel_um, seed=3)
    image = Imager(OPTICS, SHAPE).image(specimen, depths * OPTICS.depth_of_field_um)
    return np.asarray(OFFSET + PHOTONS * image, dtype=np.float32)


def exposed(expected: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.random.default_rng(3).poisson(expected).astype(np.uint16)


def restored(method: str, frame: NDArray[np.uint16], depths: float) -> Restoration:
    options = {"device": "cpu", "precision": "float32"} if method == "unet" else {}
    return make_restorer(method, options).restore(frame, Blur(OPTICS, depths * OPTICS.depth_of_field_um))


def error(image: NDArray[np.generic], truth: NDArray[np.float32]) -> float:
    """Of the image after the gain and offset that suit it best, so that neither earns anything."""
    shown, wanted = image.astype(np.float64).ravel(), truth.astype(np.float64).ravel()
    gain, offset = np.polyfit(shown, wanted, 1)
    return float(np.sqrt(np.mean((gain * shown + offset - wanted) ** 2)))


@pytest.mark.parametrize(("depths", "least_db"), [(2.0, 1.5), (4.0, 0.7)])
def test_it_gains_over_the_frame_itself_and_over_the_filter_it_starts_from(depths: float, least_db: float) -> None:
    over_frame, over_filter = [], []
    for kind in KINDS:
        truth, frame = light(kind, 0.0), exposed(light(kind, depths))
        made = restored("unet", frame, depths)
        assert made.verdict is Verdict.RESTORED, made.reason
        assert made.sd is not None
        assert float(np.mean(made.refused)) < 0.25
        reached = error(made.pixels, truth)
        over_frame.append(20 * np.log10(error(frame, truth) / reached))
        over_filter.append(20 * np.log10(error(restored("wiener", frame, depths).pixels, truth) / reached))
    assert min(over_frame) > least_db, over_frame
    assert min(over_filter) > 0.3, over_filter


def test_the_error_that_it_states_is_about_the_one_it_makes() -> None:
    truth, frame = light("nuclei", 0.0), exposed(light("nuclei", 2.0))
    made = restored("unet", frame, 2.0)
    assert made.sd is not None
    off = np.abs(made.pixels - truth)
    doubtful = made.sd > np.nanmedian(made.sd)
    assert off[doubtful].mean() > 1.3 * off[~doubtful].mean()
    assert 0.3 < float(np.sqrt(np.nanmean((off / made.sd) ** 2))) < 3.0


def test_an_empty_frame_is_refused_and_stays_as_it_is() -> None:
    frame = exposed(np.full(SHAPE, OFFSET, dtype=np.float32))
    made = restored("unet", frame, 2.0)
    assert made.verdict is Verdict.REFUSED
    assert made.reason
    assert np.array_equal(made.pixels, frame.astype(np.float32))
