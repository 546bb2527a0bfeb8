from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.simulator.specimens import SPECIMENS, make_specimen, specimen_from_image

LIT = tuple(kind for kind in SPECIMENS if kind != "empty")


def test_the_specimens_promised_are_there() -> None:
    assert {"nuclei", "filaments", "puncta", "mitochondria", "beads", "empty"} <= set(SPECIMENS)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(SPECIMENS),
    st.tuples(st.integers(32, 120), st.integers(32, 120)),
    st.floats(0.05, 2.0),
    st.integers(0, 2**31),
    st.floats(0.0, 3.0),
)
def test_values_lie_in_0_to_1_and_a_seed_says_it_all(
    kind: str, shape: tuple[int, int], pixel_um: float, seed: int, density: float
) -> None:
    image = make_specimen(kind, shape, pixel_um=pixel_um, seed=seed, density=density)
    assert image.shape == shape
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert image.min() >= 0.0
    assert image.max() <= 1.0
    np.testing.assert_array_equal(image, make_specimen(kind, shape, pixel_um=pixel_um, seed=seed, density=density))


@pytest.mark.parametrize("kind", LIT)
def test_another_seed_is_another_specimen(kind: str) -> None:
    first, second = (make_specimen(kind, (128, 128), pixel_um=0.3, seed=seed) for seed in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("kind", LIT)
def test_structures_are_bright(kind: str) -> None:
    # The brightest percent of what is lit sets the scale, so some of it is always well above the dark.
    assert all(make_specimen(kind, (192, 192), pixel_um=0.3, seed=seed).max() > 0.5 for seed in range(4))


@pytest.mark.parametrize("kind", LIT)
def test_opposite_edges_fit_together(kind: str) -> None:
    # Over seeds, the step across the seam is like every other step; a specimen that does not tile has a larger one.
    seam, inside = [], []
    for seed in range(12):
        image = make_specimen(kind, (96, 96), pixel_um=0.4, seed=seed)
        for array in (image, image.T):
            seam.append(float(np.abs(array[0] - array[-1]).mean()))
            inside.append(float(np.abs(np.diff(array, axis=0)).mean()))
    assert float(np.mean(seam)) < 1.5 * float(np.mean(inside))
    assert float(np.mean(seam)) > 0.4 * float(np.mean(inside))


@pytest.mark.parametrize(
    ("kind", "pixel_um", "density"), [("nuclei", 0.4, 0.7), ("beads", 0.4, 3.0), ("beads", 0.2, 6.0)]
)
def test_a_body_on_the_edge_goes_on_at_the_other(kind: str, pixel_um: float, density: float) -> None:
    crossing, broken = 0, 0
    for seed in range(12):
        image = make_specimen(kind, (128, 128), pixel_um=pixel_um, seed=seed, density=density)
        lit = ndimage.binary_opening(np.pad(image > 0.1, 8, mode="wrap"), np.ones((3, 3)))[8:-8, 8:-8]
        crossing += int(np.sum(lit[0] & lit[-1]))
        broken += int(np.sum(lit[0] ^ lit[-1]))
    # What is lit on one side only is the slanting outline of a body: a pixel or two a crossing.
    assert crossing > 20
    assert broken < 0.7 * crossing


@pytest.mark.parametrize("kind", LIT)
def test_density_fills_the_field(kind: str) -> None:
    shares = [
        np.mean([(make_specimen(kind, (128, 128), pixel_um=0.5, seed=s, density=d) > 0.05).mean() for s in range(5)])
        for d in (0.1, 0.5, 3.0)
    ]
    assert shares[0] < 0.7 * shares[1]
    assert shares[1] < 0.7 * shares[2]


@pytest.mark.parametrize("kind", ["nuclei", "filaments", "puncta", "mitochondria", "beads"])
def test_no_density_is_an_empty_field(kind: str) -> None:
    assert make_specimen(kind, (64, 64), pixel_um=0.3, seed=1, density=0.0).max() == 0.0


def test_empty_is_empty_at_any_density() -> None:
    assert make_specimen("empty", (64, 80), pixel_um=0.3, seed=1, density=3.0).max() == 0.0


def width_um(image: NDArray[np.float32], pixel_um: float) -> float:
    """Lag at which the autocorrelation along a row falls to one half, in um."""
    power = np.abs(np.fft.fft(image - image.mean(), axis=1)) ** 2
    correlation = np.fft.ifft(power, axis=1).real.mean(axis=0)
    correlation = correlation / correlation[0]
    below = int(np.argmax(correlation < 0.5))
    part = (correlation[below - 1] - 0.5) / (correlation[below - 1] - correlation[below])
    return float((below - 1 + part) * pixel_um)


def test_nuclei_keep_their_size_in_um_when_the_pixel_changes() -> None:
    radius_um = {}
    for pixel_um, side in ((0.25, 320), (0.5, 160)):
        found = []
        for seed in range(8):
            lit = make_specimen("nuclei", (side, side), pixel_um=pixel_um, seed=seed, density=0.3) > 0.02
            labels, count = ndimage.label(ndimage.binary_closing(lit, iterations=2))
            areas = ndimage.sum_labels(lit, labels, range(1, count + 1)) * pixel_um**2
            found += [math.sqrt(area / math.pi) for area in areas if area > 5]
        radius_um[pixel_um] = float(np.median(found))
    assert 3.0 < radius_um[0.25] < 9.0  # drawn with a mean of 4..8 um, one axis shortened
    assert radius_um[0.5] == pytest.approx(radius_um[0.25], rel=0.35)


def test_beads_keep_their_diameter_in_um_when_the_pixel_changes() -> None:
    # Fields of the same extent draw the same beads: only their sampling differs.
    widths = []
    for seed in range(20):
        fine = make_specimen("beads", (400, 400), pixel_um=0.1, seed=seed)
        coarse = make_specimen("beads", (200, 200), pixel_um=0.2, seed=seed)
        if fine.max() > 0 and width_um(fine, 0.1) > 0.4:  # resolved by both
            widths.append((width_um(fine, 0.1), width_um(coarse, 0.2)))
    assert len(widths) >= 4
    np.testing.assert_allclose([w for w, _ in widths], [w for _, w in widths], rtol=0.2)


@pytest.mark.parametrize("kind", ["mitochondria", "filaments"])
def test_strands_keep_their_share_of_the_field_in_um(kind: str) -> None:
    # Length of strand per area does not depend on the pixel: the share lit grows with the width of one pixel at most.
    lengths = {}
    for pixel_um, side in ((0.2, 256), (0.4, 128)):
        shares = [
            (make_specimen(kind, (side, side), pixel_um=pixel_um, seed=s, density=0.3) > 0.02).mean() for s in range(10)
        ]
        lengths[pixel_um] = float(np.mean(shares)) / pixel_um
    assert 0.4 < lengths[0.4] / lengths[0.2] < 2.0


@pytest.mark.parametrize(
    ("kind", "values"),
    [("cells", {}), ("nuclei", {"density": -1.0}), ("nuclei", {"pixel_um": 0.0}), ("nuclei", {"pixel_um": -0.2})],
)
def test_what_cannot_be_drawn_is_refused(kind: str, values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"no specimen|must be|density"):
        make_specimen(kind, (64, 64), **{"pixel_um": 0.3, "seed": 1, **values})  # type: ignore[arg-type]


# --- an image as specimen ------------------------------------------------------------------------------------------


def test_image_is_scaled_cropped_about_its_middle_and_left_in_order() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint16) * 50 + 1000, (120, 1))
    got = specimen_from_image(ramp, (60, 100))
    assert got.shape == (60, 100)
    assert got.dtype == np.float32
    assert got.min() >= 0.0
    np.testing.assert_allclose(got[0], (np.arange(50, 150) - 2) / (199 - 2), atol=0.01)


def test_gain_and_offset_of_the_camera_leave_no_trace() -> None:
    image = np.random.default_rng(1).random((80, 80))
    np.testing.assert_allclose(
        specimen_from_image(image, (80, 80)), specimen_from_image(image * 4000 + 300, (80, 80)), atol=1e-4
    )


def test_a_small_image_is_mirrored_to_fill_the_shape() -> None:
    image = np.random.default_rng(2).random((40, 64)).astype(np.float32)
    got = specimen_from_image(image, (100, 64))
    assert got.shape == (100, 64)
    np.testing.assert_array_equal(got[40:80], got[:40][::-1])


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 64, 64)), "two dimensions"),
        (np.full((64, 64), np.nan), "NaN"),
        (np.full((64, 64), 7.0), "one value"),
    ],
)
def test_an_image_that_is_no_specimen_is_refused(image: NDArray[np.float64], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        specimen_from_image(image, (64, 64))
