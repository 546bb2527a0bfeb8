"""What lies under the objective: procedural specimens that tile, and any image used as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

FloatImage = NDArray[np.float32]
Shape = tuple[int, int]


def make_specimen(kind: str, shape: Shape, *, pixel_um: float, seed: int, density: float = 1.0) -> FloatImage:
    """Draw a specimen.

    Parameters
    ----------
    kind : str
        One of `SPECIMENS`.
    shape : (height, width)
    pixel_um : float
        Size of a pixel at the sample: structures keep their size in um.
    seed : int
    density : float
        1 is a usual field; 0.1 is sparse, 3 is dense.

    Returns
    -------
    ndarray of float32, shape (height, width)
        Fluorophore density, 0..1, without any optics; opposite edges fit together.

    Raises
    ------
    ValueError
        If there is no such specimen, or a number makes no sense.
    """
    if kind not in _DRAW:
        raise ValueError(f"there is no specimen {kind!r}: choose from {', '.join(SPECIMENS)}")
    if density < 0 or pixel_um <= 0:
        raise ValueError(f"density must be >= 0 and pixel_um > 0 (got {density!r}, {pixel_um!r})")
    image = _DRAW[kind](shape, pixel_um, np.random.default_rng(seed), density)
    return _scaled(image)


def specimen_from_image(image: NDArray[Any], shape: Shape) -> FloatImage:
    """Use an image as the specimen: its darkest percentile is no dye, its brightest is 1; mirrored to fill `shape`.

    Raises
    ------
    ValueError
        If the image is not two-dimensional, not finite, or holds one value only.
    """
    array = np.asarray(image, dtype=np.float32)
    if array.ndim != 2:
        raise ValueError(
            f"a specimen image must have two dimensions (got shape {array.shape}); pick one channel and plane"
        )
    if not np.isfinite(array).all():
        raise ValueError("the specimen image holds NaN or infinite pixels")
    low, high = np.percentile(array, (1.0, 99.9))
    if high <= low:
        raise ValueError("the specimen image holds one value only")
    array = np.clip((array - np.float32(low)) / np.float32(high - low), 0.0, None)
    short = [max(0, want - have) for want, have in zip(shape, array.shape, strict=True)]
    if any(short):
        array = np.pad(array, [(0, extra) for extra in short], mode="symmetric")
    top, left = ((have - want) // 2 for want, have in zip(shape, array.shape, strict=True))
    return np.ascontiguousarray(array[top : top + shape[0], left : left + shape[1]])


def _scaled(image: NDArray[Any]) -> FloatImage:
    """Scale so that the brightest structure is 1; a few brighter pixels do not set the scale."""
    image = np.maximum(image, 0.0)
    lit = image[image > 0.02 * image.max()] if image.max() > 0 else image
    top = float(np.percentile(lit, 99.0)) if lit.size else 0.0
    return np.asarray(np.minimum(image / top, 1.5) / 1.5 if top > 0 else image, dtype=np.float32)


def _smooth(image: NDArray[Any], sigma_px: float) -> NDArray[Any]:
    """Blur with a Gaussian on the torus."""
    fy = fft.fftfreq(image.shape[0])[:, None]
    fx = fft.rfftfreq(image.shape[1])[None, :]
    gauss = np.exp(-2.0 * (np.pi * sigma_px) ** 2 * (fy**2 + fx**2)).astype(np.float32)
    return np.asarray(fft.irfft2(fft.rfft2(image.astype(np.float32)) * gauss, s=image.shape))


def _fractal(shape: Shape, exponent: float, rng: np.random.Generator) -> NDArray[Any]:
    """Noise of power spectrum ``f^-exponent``, zero mean, unit sd."""
    fy, fx = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :]
    f2 = fy**2 + fx**2
    f2[0, 0] = np.inf
    noise = fft.irfft2(fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * f2 ** (-exponent / 4), s=shape)
    return np.asarray(noise / noise.std())


def _splat(canvas: NDArray[Any], y: NDArray[Any], x: NDArray[Any], weight: NDArray[Any] | float) -> None:
    """Add points at sub-pixel positions, bilinearly, on the torus."""
    height, width = canvas.shape
    y0, x0 = np.floor(y), np.floor(x)
    fy, fx = y - y0, x - x0
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            index = ((y0 + dy).astype(int) % height) * width + (x0 + dx).astype(int) % width
            canvas += np.bincount(index, weights=wy * wx * weight, minlength=canvas.size).reshape(canvas.shape)


def _number(rng: np.random.Generator, per_1000_um2: float, shape: Shape, pixel_um: float, density: float) -> int:
    area = shape[0] * shape[1] * pixel_um**2
    return max(1, int(rng.poisson(per_1000_um2 * density * area / 1000.0))) if density > 0 else 0


def _walks(
    shape: Shape, pixel_um: float, rng: np.random.Generator, count: int, length_um: float, stiff_um: float
) -> NDArray[Any]:
    """Worm-like chains: `count` of them, of that length and persistence length, drawn every half pixel."""
    canvas = np.zeros(shape)
    if count == 0:
        return canvas
    step_px = 0.5
    steps = max(4, int(length_um / pixel_um / step_px))
    turn = rng.standard_normal((count, steps)) * np.sqrt(step_px * pixel_um / stiff_um)
    heading = rng.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(turn, axis=1)
    y = rng.uniform(0, shape[0], (count, 1)) + np.cumsum(np.sin(heading), axis=1) * step_px
    x = rng.uniform(0, shape[1], (count, 1)) + np.cumsum(np.cos(heading), axis=1) * step_px
    shown = np.arange(steps)[None, :] < steps * rng.uniform(0.3, 1.0, (count, 1))
    weight = np.broadcast_to(rng.lognormal(0.0, 0.4, (count, 1)), y.shape)
    _splat(canvas, y[shown], x[shown], weight[shown])
    return canvas


def _filaments(shape: Shape, pixel_um: float, rng: np.random.Generator, density: float) -> NDArray[Any]:
    count = _number(rng, rng.uniform(4.0, 30.0), shape, pixel_um, density)
    return _walks(shape, pixel_um, rng, count, rng.uniform(15.0, 60.0), rng.uniform(5.0, 60.0))


def _mitochondria(shape: Shape, pixel_um: float, rng: np.random.Generator, density: float) -> NDArray[Any]:
    count = _number(rng, rng.uniform(8.0, 50.0), shape, pixel_um, density)
    thin = _walks(shape, pixel_um, rng, count, rng.uniform(2.0, 8.0), rng.uniform(1.0, 4.0))
    return _smooth(thin, rng.uniform(0.12, 0.25) / pixel_um)


def _puncta(shape: Shape, pixel_um: float, rng: np.random.Generator, density: float) -> NDArray[Any]:
    canvas = np.zeros(shape)
    count = _number(rng, rng.uniform(3.0, 40.0), shape, pixel_um, density)
    y, x = (rng.uniform(0, side, count) for side in shape)
    _splat(canvas, y, x, rng.lognormal(0.0, 0.6, count))
    return canvas


def _beads(shape: Shape, pixel_um: float, rng: np.random.Generator, density: float) -> NDArray[Any]:
    centres = np.zeros(shape)
    count = _number(rng, rng.uniform(0.5, 6.0), shape, pixel_um, density)
    y, x = (rng.uniform(0, side, count) for side in shape)
    _splat(centres, y, x, rng.normal(1.0, 0.08, count).clip(0.5))
    radius_px = rng.choice([0.1, 0.25, 0.5, 1.0, 2.0]) / pixel_um
    half = int(np.ceil(radius_px)) + 1
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    # Projected sphere: chord length through the ball.
    ball = np.sqrt(np.maximum(radius_px**2 - yy**2 - xx**2, 0.0)) if radius_px > 1 else (np.hypot(yy, xx) < 0.5) * 1.0
    return np.asarray(ndimage.convolve(centres, ball, mode="wrap") if radius_px <= 6 else _fft_convolve(centres, ball))


def _fft_convolve(image: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
    """Convolve on the torus; a kernel larger than the image wraps around it."""
    half = kernel.shape[0] // 2
    spread = np.zeros(image.shape)
    rows = np.arange(-half, half + 1) % image.shape[0]
    columns = np.arange(-half, half + 1) % image.shape[1]
    np.add.at(spread, (rows[:, None], columns[None, :]), kernel)
    return np.asarray(fft.irfft2(fft.rfft2(image) * fft.rfft2(spread), s=image.shape))


def _nuclei(shape: Shape, pixel_um: float, rng: np.random.Generator, density: float) -> NDArray[Any]:
    canvas = np.zeros(shape)
    chromatin = 0.5 + 0.5 * np.tanh(_fractal(shape, rng.uniform(1.5, 2.5), rng))
    mean_radius_um = rng.uniform(4.0, 8.0)
    for _ in range(_number(rng, 60.0 / mean_radius_um**2, shape, pixel_um, density)):
        _add_nucleus(canvas, mean_radius_um * rng.lognormal(0.0, 0.15) / pixel_um, rng)
    texture = rng.uniform(0.2, 0.9)
    return np.asarray(canvas * (1.0 - texture + texture * chromatin))


def _add_nucleus(canvas: NDArray[Any], radius_px: float, rng: np.random.Generator) -> None:
    stretch, angle = rng.uniform(0.7, 1.0), rng.uniform(0, np.pi)
    half = min(int(np.ceil(radius_px * 1.1)) + 2, min(canvas.shape) // 2 - 1)
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    u = (xx * np.cos(angle) + yy * np.sin(angle)) / radius_px
    v = (yy * np.cos(angle) - xx * np.sin(angle)) / (radius_px * stretch)
    around = np.arctan2(v, u)
    wobble = 1.0 + 0.06 * np.cos(3 * around + rng.uniform(0, 6.3)) + 0.04 * np.cos(5 * around + rng.uniform(0, 6.3))
    # A flattened ball: thicker in the middle, with an edge of about a pixel.
    edge = np.clip((wobble - np.hypot(u, v)) * radius_px + 0.5, 0.0, 1.0)
    body = edge * (0.75 + 0.25 * np.sqrt(np.maximum(1.0 - (np.hypot(u, v) / wobble) ** 2, 0.0)))
    y, x = rng.integers(0, canvas.shape[0]), rng.integers(0, canvas.shape[1])
    rows = (y + np.arange(-half, half + 1)) % canvas.shape[0]
    columns = (x + np.arange(-half, half + 1)) % canvas.shape[1]
    canvas[np.ix_(rows, columns)] += body * rng.lognormal(0.0, 0.3)


def _tissue(shape: Shape, pixel_um: float, rng: np.random.Generator, density: float) -> NDArray[Any]:
    rough = _fractal(shape, rng.uniform(1.2, 2.6), rng)
    return np.asarray(np.maximum(rough + rng.uniform(-0.5, 2.0) + np.log(max(density, 1e-6)), 0.0))


def _empty(shape: Shape, pixel_um: float, rng: np.random.Generator, density: float) -> NDArray[Any]:
    del pixel_um, rng, density
    return np.zeros(shape)


_DRAW: dict[str, Callable[[Shape, float, np.random.Generator, float], NDArray[Any]]] = {
    "nuclei": _nuclei,
    "filaments": _filaments,
    "puncta": _puncta,
    "mitochondria": _mitochondria,
    "beads": _beads,
    "tissue": _tissue,
    "empty": _empty,
}
SPECIMENS: tuple[str, ...] = tuple(_DRAW)
