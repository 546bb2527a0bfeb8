from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from parfocal.simulator.zernike import zernike

TERMS = [(n, m) for n in range(7) for m in range(-n, n + 1, 2)]


def test_terms_are_orthonormal_over_the_disc() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(12)  # exact for radial polynomials up to degree 12 + 1
    rho, radial_weight = 0.5 * (nodes + 1), 0.5 * weights
    theta = np.arange(32) * 2 * np.pi / 32  # exact for trigonometric polynomials up to order 31
    R, T = np.meshgrid(rho, theta, indexing="ij")
    area = 2.0 * (radial_weight * rho)[:, None] / 32  # of a unit-area disc
    values = np.stack([zernike(n, m, R, T).ravel() for n, m in TERMS])
    gram = (values * area.repeat(32, axis=1).ravel()) @ values.T
    np.testing.assert_allclose(gram, np.eye(len(TERMS)), atol=1e-10)


@pytest.mark.parametrize(
    ("n", "m", "rho", "theta", "expected"),
    [
        (0, 0, 0.3, 1.0, 1.0),
        (1, 1, 0.5, 0.0, 1.0),
        (1, -1, 0.5, np.pi / 2, 1.0),
        (2, 0, 0.5, 0.0, sqrt(3) * (2 * 0.25 - 1)),
        (2, 2, 1.0, 0.0, sqrt(6)),
        (2, -2, 1.0, np.pi / 4, sqrt(6)),
        (3, 1, 0.5, 0.0, sqrt(8) * (3 * 0.125 - 2 * 0.5)),
        (4, 0, 0.0, 0.0, sqrt(5)),
        (4, 0, 0.5, 0.0, sqrt(5) * (6 / 16 - 6 / 4 + 1)),
        (6, 0, 1.0, 0.0, sqrt(7)),
    ],
)
def test_known_values(n: int, m: int, rho: float, theta: float, expected: float) -> None:
    assert float(zernike(n, m, np.array(rho), np.array(theta))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(-1, 0), (2, 1), (1, 3), (3, -5), (4, -1)])
def test_a_polynomial_that_does_not_exist_is_refused(n: int, m: int) -> None:
    with pytest.raises(ValueError, match="no Zernike polynomial"):
        zernike(n, m, np.zeros(1), np.zeros(1))
