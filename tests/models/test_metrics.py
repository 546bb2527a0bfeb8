"""Every classical metric against a plain float64 formulation, and what each promises (gain, offset, focus)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage as ndi
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from parfocal.models.base import ImageError, ModelError
from parfocal.models.metrics import METRICS, measure, planes
from parfocal.models.metrics.planes import Planes, convolve3, median3, repeat_edges

Image = NDArray[np.float64]
Reference = Callable[[Image], float]


def sobel(image: Image) -> tuple[Image, Image]:
    return ndi.sobel(image, axis=1, mode="nearest"), ndi.sobel(image, axis=0, mode="nearest")


def gradient(image: Image) -> Image:
    return np.hypot(*sobel(image))


def power(image: Image) -> tuple[Image, Image]:
    frequency = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])[None, :])
    return np.abs(np.fft.fft2(image)) ** 2, frequency


def band(image: Image, lower: float, upper: float) -> float:
    density, f = power(image)
    return float(density[(f > lower) & (f < upper)].sum())


def band_fraction(image: Image) -> float:
    return band(image, 0.03, 0.16) / (power(image - image.mean())[0].sum())


def plls(image: Image) -> float:
    density, f = power(image - image.mean())
    edges = np.linspace(0, 0.5, 65)
    inside = f < 0.5
    number = np.histogram(f[inside], edges)[0][1:]
    sums = np.histogram(f[inside], edges, weights=density[inside])[0][1:]
    centres = ((edges[1:] + edges[:-1]) / 2)[1:]
    ok = number > 0
    return float(np.polyfit(np.log(centres[ok]), np.log(sums[ok] / number[ok]), 1)[0])


def dcts(image: Image) -> float:
    r0 = min(image.shape) // 6
    F = scipy.fft.dctn(image, norm="ortho")
    q = np.abs(F) / np.linalg.norm(F)
    y, x = np.indices(F.shape)
    q = q[(x + y < r0) & (q > 0)]
    return float(-2 / r0**2 * np.sum(q * np.log2(q)))


def vollath_f4(image: Image) -> float:
    def one(i: Image) -> float:
        return float((i[:, :-2] * i[:, 1:-1]).sum() - (i[:, :-2] * i[:, 2:]).sum())

    return one(image) + one(image.T)


def volath(image: Image) -> float:
    w = image.shape[1]
    first = sum(float((image[:, i] * image[:, i + 1]).sum()) for i in range(1, w - 1))
    return first - sum(float((image[:, i] * image[:, i + 2]).sum()) for i in range(w - 2))


def volath5(image: Image) -> float:
    return float((image[:, :-1] * image[:, 1:]).sum() - image[:, 1:].size * image.mean() ** 2)


def sml(image: Image) -> float:
    def one(i: Image) -> float:
        return float(np.abs(2 * i[:, 1:-1] - i[:, :-2] - i[:, 2:]).sum())

    return one(image) + one(image.T)


def brenner(image: Image) -> float:
    return float(((image[:, 2:] - image[:, :-2]) ** 2).sum() + ((image[2:] - image[:-2]) ** 2).sum())


def sharp_edges(image: Image) -> float:
    kernel = np.array([[-1, -1, -1], [-1, 12, -1], [-1, -1, -1]]) / 4
    return float(gradient(ndi.correlate(image, kernel, mode="nearest")).mean() / image.mean())


def redondo(image: Image) -> float:
    h, w = image.shape
    result = 0.0
    for y in range(1, h - 1):
        for x in range(1, w - 1):
            around = image[y, x - 1] + image[y, x + 1] + image[y - 1, x] + image[y + 1, x]
            result += (around - 4 * image[y, x - 1]) ** 2
    return result


FALLING = np.array([[2, 1, 0], [1, 0, -1], [0, -1, -2]])
RISING = np.array([[0, 1, 2], [-1, 0, 1], [-2, -1, 0]])


def median_edges(image: Image) -> float:
    smooth = ndi.median_filter(image, 3, mode="nearest")
    return float(
        np.hypot(ndi.correlate(smooth, FALLING, mode="nearest"), ndi.correlate(smooth, RISING, mode="nearest")).sum()
    )


def jaf(image: Image) -> float:
    plane = ndi.correlate(ndi.median_filter(image, 3, mode="nearest"), FALLING, mode="nearest")
    h, w = image.shape
    top, left = int(0.4 * h), int(0.4 * w)
    return float((plane[top : top + int(0.2 * h), left : left + int(0.2 * w)] ** 2).sum())


def fft_bandpass(image: Image) -> float:
    side = 1
    while side < max(image.shape):
        side *= 2
    padded = np.full((side, side), image.mean())
    padded[: image.shape[0], : image.shape[1]] = image
    density = np.maximum(np.abs(np.fft.fft2(padded - image.mean())) ** 2, 1)
    index = np.rint(np.fft.fftfreq(side) * side)
    radius = np.hypot(index[:, None], index[None, :])
    inner, outer = round(0.025 * side / 2), round(0.14 * side / 2)
    return float(np.log(density[(radius > inner) & (radius <= outer)]).mean())


def local_focus_score(image: Image) -> float:
    h, w = (n // 20 for n in image.shape)
    tiles = [image[20 * r : 20 * r + 20, 20 * c : 20 * c + 20] for r in range(h) for c in range(w)]
    return float(np.median([t.var() / t.mean() if t.mean() > 0 else 0.0 for t in tiles]))


def entropy(image: Image) -> float:
    share = np.histogram(image, 256, (image.min(), image.max()))[0] / image.size
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


REFERENCES: dict[str, Reference] = {
    "brenner": brenner,
    "tenengrad": lambda i: float((gradient(i) ** 2).sum()),
    "edges": lambda i: float(gradient(i).mean() / i.mean()),
    "edge_spread": lambda i: float(gradient(i).std() / i.mean()),
    "vollath_f4": vollath_f4,
    "vollath_f5": lambda i: volath5(i) + volath5(i.T),
    "correlation": lambda i: float(np.corrcoef(i[:, :-8].ravel(), i[:, 8:].ravel())[0, 1]),
    "variance": lambda i: float(i.var()),
    "normalized_variance": lambda i: float(i.var() / i.mean()),
    "normalized_variance_squared": lambda i: float(i.var() / i.mean() ** 2),
    "focus_score": lambda i: float(i.var() / i.mean()),
    "local_focus_score": local_focus_score,
    "entropy": entropy,
    "laplacian_energy": lambda i: float((ndi.laplace(i, mode="nearest") ** 2).sum()),
    "sum_modified_laplacian": sml,
    "log_variance": lambda i: float(ndi.gaussian_laplace(i, 1.5, mode="nearest").var()),
    "midband": lambda i: band(i, 0.0625, 0.125),
    "band_fraction": band_fraction,
    "plls": plls,
    "dcts": dcts,
    "std_dev": lambda i: float(i.std() / i.mean()),
    "mean": lambda i: float(i.mean()),
    "sharp_edges": sharp_edges,
    "redondo": redondo,
    "volath": volath,
    "volath5": volath5,
    "median_edges": median_edges,
    "fft_bandpass": fft_bandpass,
    "jaf": jaf,
}


def beads(shape: tuple[int, int], sigma_px: float, seed: int = 1, number: int = 40) -> Image:
    """Round beads, smooth enough to be sampled, blurred further; the light is conserved."""
    rng = np.random.default_rng(seed)
    field = np.zeros(shape)
    field[rng.integers(12, shape[0] - 12, number), rng.integers(12, shape[1] - 12, number)] = 1
    return np.asarray(ndi.gaussian_filter(field, np.hypot(1.6, sigma_px))) * 40000 + 100


def images() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    y, x = np.indices((90, 101))
    return {
        "noise": rng.integers(0, 65536, (64, 97)).astype(np.uint16),
        "beads": rng.poisson(beads((96, 80), 1.0)).astype(np.uint16),
        "stripes": (30000 + 20000 * np.sin(0.5 * x + 0.2 * y)).astype(np.float32),
        "bright": (1e6 + rng.normal(0, 3, (70, 64))).astype(np.float64),
        "bytes": rng.integers(0, 256, (48, 48), dtype=np.uint8),
    }


IMAGES = images()


def test_every_metric_has_a_reference() -> None:
    assert set(REFERENCES) == set(METRICS)


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", METRICS)
def test_metric_equals_the_plain_formula(name: str, kind: str) -> None:
    image = IMAGES[kind]
    reference = REFERENCES[name](image.astype(np.float64))
    # float32 filters of a float64 image round at 1e6 * 6e-8; integer counts are exact.
    rtol = 0.05 if kind == "bright" else 2e-5
    assert float(METRICS[name](image)[0]) == pytest.approx(reference, rel=rtol)


def test_cancelling_sums_keep_float64() -> None:
    image = (60000 + np.random.default_rng(3).integers(0, 3, (256, 256))).astype(np.uint16)
    for name in ("vollath_f4", "vollath_f5", "variance", "volath5"):
        assert float(METRICS[name](image)[0]) == pytest.approx(REFERENCES[name](image.astype(np.float64)), rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_batch_gives_what_its_images_give(name: str) -> None:
    batch = np.random.default_rng(2).integers(0, 5000, (3, 60, 72)).astype(np.uint16)
    together = METRICS[name](batch)
    assert together.shape == (3,)
    assert together.dtype == torch.float64
    alone = [float(METRICS[name](image)[0]) for image in batch]
    assert together.tolist() == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_strips_leave_no_seam(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = IMAGES["beads"]
    whole = float(METRICS[name](image)[0])
    monkeypatch.setattr(planes, "STRIP_PIXELS", 1)
    for rows in (16, 17, 95):
        monkeypatch.setattr(planes, "MIN_STRIP_ROWS", rows)
        assert float(METRICS[name](image)[0]) == pytest.approx(whole, rel=1e-6)


GAIN_POWER = {
    "brenner": 2, "tenengrad": 2, "vollath_f4": 2, "vollath_f5": 2, "variance": 2, "laplacian_energy": 2,
    "log_variance": 2, "midband": 2, "redondo": 2, "volath": 2, "volath5": 2, "jaf": 2,
    "sum_modified_laplacian": 1, "median_edges": 1, "mean": 1, "normalized_variance": 1, "focus_score": 1,
    "local_focus_score": 1,
    "edges": 0, "edge_spread": 0, "normalized_variance_squared": 0, "entropy": 0, "band_fraction": 0, "plls": 0,
    "dcts": 0, "std_dev": 0, "sharp_edges": 0, "correlation": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", GAIN_POWER)
def test_gain_scales_as_promised(name: str) -> None:
    image = IMAGES["beads"]
    before, after = (float(METRICS[name](image.astype(np.float64) * gain)[0]) for gain in (1, 4))
    assert after == pytest.approx(before * 4.0 ** GAIN_POWER[name], rel=1e-4)


@pytest.mark.parametrize(
    "name",
    ["brenner", "tenengrad", "laplacian_energy", "sum_modified_laplacian", "log_variance", "midband", "band_fraction",
     "variance", "median_edges", "jaf", "entropy", "plls", "correlation", "fft_bandpass"],
)  # fmt: skip
def test_an_offset_changes_nothing(name: str) -> None:
    image = IMAGES["beads"].astype(np.int32)
    assert float(METRICS[name](image + 1000)[0]) == pytest.approx(float(METRICS[name](image)[0]), rel=1e-4)


@pytest.mark.parametrize("noise", [0.0, 5.0])
@pytest.mark.parametrize(
    "name", ["brenner", "tenengrad", "log_variance", "midband", "edges", "edge_spread", "vollath_f4", "median_edges"]
)
def test_sound_metrics_are_largest_in_focus(name: str, noise: float) -> None:
    rng = np.random.default_rng(5)
    blurs = [6.0, 3.0, 1.5, 0.0, 1.5, 3.0, 6.0]
    stack = np.stack([beads((192, 192), blur) for blur in blurs]) + noise * rng.normal(size=(7, 192, 192))
    scores = METRICS[name](stack.astype(np.float32)).tolist()
    assert int(np.argmax(scores)) == 3
    assert scores[3] > scores[2] > scores[1] > scores[0]


def test_jaf_looks_only_at_the_centre() -> None:
    image = np.full((100, 100), 500, np.uint16)
    image[:35] = np.random.default_rng(0).integers(0, 60000, (35, 100))
    assert float(METRICS["jaf"](image)[0]) == 0
    image[45:55, 45:55] = 900
    assert float(METRICS["jaf"](image)[0]) > 0


def test_a_dark_frame_is_undefined_where_divided_by_the_mean_and_finite_elsewhere() -> None:
    dark = np.zeros((64, 64), np.uint16)
    undefined = {name for name, value in measure(dark, METRICS).items() if not torch.isfinite(value[0])}
    assert undefined == {
        "edges", "edge_spread", "sharp_edges", "std_dev", "normalized_variance", "normalized_variance_squared",
        "focus_score", "correlation", "band_fraction", "plls", "dcts",
    }  # fmt: skip


@given(arrays(np.uint16, st.tuples(st.integers(3, 9), st.integers(3, 9)), elements=st.integers(0, 9)))
@settings(max_examples=60, deadline=None)
def test_median_of_nine(image: NDArray[np.uint16]) -> None:
    ours = median3(torch.from_numpy(image.astype(np.float32))[None])[0].numpy()
    assert np.array_equal(ours, ndi.median_filter(image.astype(np.float32), 3, mode="nearest"))


def test_convolve_is_a_correlation_with_repeated_edges() -> None:
    image = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    kernel = np.arange(9.0).reshape(3, 3)
    ours = convolve3(torch.from_numpy(image)[None], tuple(kernel.ravel()))[0].numpy()
    assert np.allclose(ours, ndi.correlate(image, kernel, mode="nearest"), atol=1e-4)
    assert repeat_edges(torch.from_numpy(image)[None], 2).shape == (1, 11, 13)


def test_measure_shares_planes_and_refuses_unknown_names() -> None:
    shared = Planes(IMAGES["beads"])
    together = measure(shared, ["edges", "tenengrad"])
    assert float(together["tenengrad"][0]) == float(METRICS["tenengrad"](IMAGES["beads"])[0])
    with pytest.raises(ModelError, match="did you mean 'tenengrad'"):
        measure(shared, ["tenengrat"])


def test_bad_images_are_refused() -> None:
    with pytest.raises(ImageError, match="NaN"):
        METRICS["edges"](np.full((64, 64), np.nan))
    with pytest.raises(ImageError, match="too small"):
        METRICS["edges"](np.zeros((8, 64)))


def test_read_only_big_endian_and_strided_frames_are_taken_as_they_are() -> None:
    image = IMAGES["beads"]
    reference = float(METRICS["edges"](image)[0])
    frozen = image.copy()
    frozen.setflags(write=False)
    wide = np.zeros((96, 160), np.uint16)
    wide[:, ::2] = image
    for variant in (frozen, image.astype(">u2"), wide[:, ::2]):
        assert float(METRICS["edges"](variant)[0]) == reference
