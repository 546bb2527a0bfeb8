"""Colours of patch maps: hue for the value, colourfulness for the certainty, and the lightness left to the image.

OKLab (B. Ottosson, "A perceptual color space for image processing", 2020) is what makes a step of hue, chroma or
lightness look equally large wherever it is made.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

HUE_LOW, HUE_HIGH = 268.0, 430.0
"""Degrees, from blue through purple to orange: along this arc OKLab's blue-yellow axis, the one that people with a
red-green deficiency see, only ever rises. Through green it would not tell them the middle from the ends."""

CHROMA = 0.15
"""Of a patch that is sure, where a screen can show it: bright and dark colours are paler."""

DARK, BRIGHT = 0.40, 0.94
"""Lightness of the image's darkest and brightest pixels: black and white have no room for a hue."""

LIGHTNESSES, HUES, CHROMAS = 128, 64, 16

_LMS_OF_LAB = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
)
_RGB_OF_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def coloured(lightness: NDArray[Any], code: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Mix a lightness with the colours of values.

    Parameters
    ----------
    lightness : ndarray of float, shape (...)
        Of the image, 0 to 1.
    code : ndarray of int32, shape (...)
        Of the colours, see `colour_code`.

    Returns
    -------
    ndarray of uint8, shape (..., 3)
        sRGB.
    """
    at = _step(lightness, LIGHTNESSES) * (HUES * CHROMAS) + code
    colours: NDArray[np.uint8] = _table().reshape(-1, 3).take(at, axis=0)
    return colours


def colour_code(share: NDArray[Any], certainty: NDArray[Any]) -> NDArray[np.int32]:
    """Code the colour of a value, apart from the lightness: for a few patches rather than for all their pixels.

    Parameters
    ----------
    share : ndarray of float, shape (...)
        Place of the value on its scale, 0 (blue) to 1 (orange).
    certainty : ndarray of float, shape (...)
        0 leaves it grey, 1 is fully coloured.
    """
    return _step(share, HUES) * CHROMAS + _step(certainty, CHROMAS)


def _step(part: NDArray[Any], count: int) -> NDArray[np.int32]:
    nearest: NDArray[np.int32] = (np.clip(part, 0.0, 1.0) * (count - 1) + 0.5).astype(np.int32)
    return nearest


@cache
def _table() -> NDArray[np.uint8]:
    """Every colour there is, shape (lightnesses, hues, chromas, 3)."""
    light = np.linspace(DARK, BRIGHT, LIGHTNESSES)[:, None]
    angle = np.deg2rad(np.linspace(HUE_LOW, HUE_HIGH, HUES))[None, :]
    room = np.full((LIGHTNESSES, HUES), CHROMA)
    for _ in range(24):  # by steps of 6 % into what a screen can show
        rgb = linear_rgb(light, room, angle)
        outside = ((rgb < 0.0) | (rgb > 1.0)).any(axis=-1)
        room = np.where(outside, 0.94 * room, room)
    chroma = room[..., None] * np.linspace(0.0, 1.0, CHROMAS)
    rgb = np.clip(linear_rgb(light[..., None], chroma, angle[..., None]), 0.0, 1.0)
    encoded = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return np.round(255.0 * encoded).astype(np.uint8)


def linear_rgb(lightness: Any, chroma: Any, angle: Any) -> NDArray[np.float64]:
    """Convert OKLCh (`angle` in radians) to linear sRGB, shape (..., 3); outside of 0 to 1 where no screen goes."""
    lab = np.stack(np.broadcast_arrays(lightness, chroma * np.cos(angle), chroma * np.sin(angle)), axis=-1)
    rgb: NDArray[np.float64] = ((lab @ _LMS_OF_LAB.T) ** 3) @ _RGB_OF_LMS.T
    return rgb
