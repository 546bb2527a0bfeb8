"""Zernike polynomials, OSA/ANSI normalised: unit rms over the unit disc."""

from __future__ import annotations

from math import factorial, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray


def zernike(n: int, m: int, rho: NDArray[Any], theta: NDArray[Any]) -> NDArray[Any]:
    """Value of ``Z_n^m`` at polar pupil coordinates (Thibos et al. 2002, OSA standard).

    Raises
    ------
    ValueError
        If there is no such polynomial: ``|m| <= n`` and ``n - |m|`` even.
    """
    if n < 0 or abs(m) > n or (n - abs(m)) % 2:
        raise ValueError(f"there is no Zernike polynomial (n={n}, m={m})")
    radial = np.zeros_like(rho)
    for k in range((n - abs(m)) // 2 + 1):
        numerator = (-1) ** k * factorial(n - k)
        denominator = factorial(k) * factorial((n + abs(m)) // 2 - k) * factorial((n - abs(m)) // 2 - k)
        radial = radial + numerator / denominator * rho ** (n - 2 * k)
    norm = sqrt(n + 1) if m == 0 else sqrt(2 * (n + 1))
    if m == 0:
        return np.asarray(norm * radial)
    return np.asarray(norm * radial * (np.cos(m * theta) if m > 0 else np.sin(-m * theta)))
