from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import fft, ndimage

from parfocal import UsageError
from parfocal.simulator.sted.structures import STRUCTURES, make_structure

SHAPE = (160, 160)


def drawn(kind: str, seed: int = 0, density: float = 1.0, pixel_um: float = 0.02) -> np.ndarray:
    return make_structure(kind, SHAPE, pixel_um=pixel_um, seed=seed, density=density)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_same_seed_same_molecules_other_seed_others(kind: str) -> None:
    assert drawn(kind).dtype == np.int32
    assert drawn(kind).min() >= 0
    np.testing.assert_array_equal(drawn(kind, 4), drawn(kind, 4))
    assert not np.array_equal(drawn(kind, 4), drawn(kind, 5))


@pytest.mark.parametrize("kind", STRUCTURES)
def test_density_is_the_number_of_molecules(kind: str) -> None:
    usual, dense = (sum(int(drawn(kind, n, density).sum()) for n in range(12)) for density in (1.0, 3.0))
    assert dense / usual == pytest.approx(3.0, rel=0.35)
    assert not drawn(kind, density=0.0).any()


@pytest.mark.parametrize("kind", [kind for kind in STRUCTURES if kind != "empty"])
def test_every_field_has_structure_and_background(kind: str) -> None:
    empty = max(int(drawn("empty", n).sum()) for n in range(5))
    for seed in range(15):
        field = drawn(kind, seed)
        assert field.sum() > 20 * empty
        assert (ndimage.uniform_filter(field.astype(float), 9) < 0.1).mean() > 0.1


def test_molecules_are_per_pixel_so_their_sum_does_not_depend_on_the_pixel() -> None:
    fine = make_structure("clusters", (320, 320), pixel_um=0.01, seed=3)
    coarse = make_structure("clusters", (160, 160), pixel_um=0.02, seed=3)
    np.testing.assert_array_equal(fine.reshape(160, 2, 160, 2).sum(axis=(1, 3)), coarse)


def test_actin_rings_repeat_every_190_nm() -> None:
    peaks = []
    for seed in range(8):
        image = make_structure("actin_rings", (256, 256), pixel_um=0.02, seed=seed).astype(float)
        image = ndimage.gaussian_filter(np.minimum(image, np.percentile(image, 99)), 1.5)
        power = np.abs(fft.fftshift(fft.fft2(image - image.mean()))) ** 2
        radius = np.hypot(*np.meshgrid(*[np.arange(-128, 128)] * 2)) / (256 * 0.02)  # cycles per um
        ring = [power[(radius >= f - 0.1) & (radius < f + 0.1)].max() * f**2 for f in np.arange(4.0, 7.0, 0.1)]
        peaks.append(1 / np.arange(4.0, 7.0, 0.1)[int(np.argmax(ring))])
    assert np.median(peaks) == pytest.approx(0.190, abs=0.006)


def test_a_structure_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no structure 'filament'; did you mean 'filaments'\?"):
        drawn("filament")
    for density in (-1.0, math.nan, 1e6):
        with pytest.raises(UsageError, match="density"):
            drawn("clusters", density=density)
    with pytest.raises(UsageError, match="pixel_um"):
        drawn("clusters", pixel_um=0.0)
