"""An sCMOS camera: expected photons in, counts out, with every noise a pixel adds on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from parfocal import UsageError
from parfocal.simulator import poisson

FloatImage = NDArray[np.float32]
CountImage = NDArray[np.uint16]

_BLOCK_PX = 32768  # a block's arrays stay in the cache; the blocks, not the threads, own the random streams


@dataclass(frozen=True)
class CameraParameters:
    """What is known of a camera; the defaults are those of a scientific CMOS camera in its 16-bit mode.

    Parameters
    ----------
    quantum_efficiency : float
        Electrons per photon, 0..1.
    gain_counts_per_electron : float
        Counts for each electron.
    offset_counts : float
        Counts of a pixel that saw nothing.
    read_noise_electrons : float
        Median over the pixels of each pixel's own standard deviation.
    read_noise_spread : float
        Standard deviation of the logarithm of that standard deviation: the lognormal tail of sCMOS read noise.
    dark_electrons_per_s : float
        Dark current of an ordinary pixel.
    hot_pixel_fraction, hot_electrons_per_s : float
        Share of pixels with a much larger dark current, and the mean of it (exponentially distributed).
    vignetting : float
        Share of the light that is missing in the corners of the field; falls off with the square of the radius.
    full_well_electrons : float
        Where a pixel clips before it is digitised. By default above the converter's range, so that a saturated pixel
        reads the same count every time; a smaller well adds its read noise to what it clipped.
    bit_depth : int
        Where the converter clips, 8..16.

    Raises
    ------
    UsageError
        If a value is not physical.
    """

    quantum_efficiency: float = 0.8
    gain_counts_per_electron: float = 2.0
    offset_counts: float = 100.0
    read_noise_electrons: float = 1.4
    read_noise_spread: float = 0.25
    dark_electrons_per_s: float = 0.5
    hot_pixel_fraction: float = 1e-4
    hot_electrons_per_s: float = 1000.0
    vignetting: float = 0.1
    full_well_electrons: float = 40000.0
    bit_depth: int = 16

    def __post_init__(self) -> None:
        ranges = {
            "quantum_efficiency": (0.0, 1.0),
            "gain_counts_per_electron": (1e-6, 1e6),
            "offset_counts": (0.0, 65535.0),
            "read_noise_electrons": (0.0, 1e4),
            "read_noise_spread": (0.0, 3.0),
            "dark_electrons_per_s": (0.0, 1e6),
            "hot_pixel_fraction": (0.0, 1.0),
            "hot_electrons_per_s": (0.0, 1e9),
            "vignetting": (0.0, 1.0),
            "full_well_electrons": (1.0, 1e9),
            "bit_depth": (8, 16),
        }
        for name, (lower, upper) in ranges.items():
            value = getattr(self, name)
            if not lower <= value <= upper:  # NaN fails this too
                raise UsageError(f"camera: {name} must lie in {lower:g}..{upper:g} (got {value!r})")

    @property
    def saturation_counts(self) -> float:
        """The count at which this camera clips: the converter's or the full well's, whichever comes first."""
        well = np.floor(self.full_well_electrons * self.gain_counts_per_electron + self.offset_counts + 0.5)
        return float(min(2**self.bit_depth - 1, well))


class Camera:
    """Turns expected photons into counts.

    Two cameras made with the same parameters, shape and seed give the same frames for the same sequence of calls,
    whatever the number of threads.

    Parameters
    ----------
    parameters : CameraParameters
    shape : (height, width)
        Of the frames, in pixels.
    seed : int
        Of the pixel-to-pixel pattern (read noise, hot pixels) and of the noise.
    threads : int
        At most this many blocks of rows are worked on at once.
    """

    def __init__(
        self, parameters: CameraParameters, shape: tuple[int, int], *, seed: int = 0, threads: int = 2
    ) -> None:
        if min(shape) < 1:
            raise UsageError(f"camera: a frame of {shape[1]}x{shape[0]} px cannot be made")
        if threads < 1:
            raise UsageError(f"camera: threads must be at least 1 (got {threads})")
        self.parameters = parameters
        self.shape = shape
        self._threads = threads
        pattern, noise = np.random.SeedSequence(seed).spawn(2)
        generator = np.random.Generator(np.random.SFC64(pattern))
        self._read_noise = self._read_noise_map(generator)
        self._dark_rate = self._dark_rate_map(generator)
        self._efficiency = (parameters.quantum_efficiency * flat_field(shape, parameters.vignetting)).astype(np.float32)
        rows = max(1, _BLOCK_PX // shape[1])
        self._blocks = [slice(top, min(top + rows, shape[0])) for top in range(0, shape[0], rows)]
        self._generators = [np.random.Generator(np.random.SFC64(child)) for child in noise.spawn(len(self._blocks))]

    @property
    def hot_pixels(self) -> NDArray[np.bool_]:
        """Where the hot pixels are, shape of a frame."""
        return np.asarray(self._dark_rate > self.parameters.dark_electrons_per_s)

    @property
    def read_noise_electrons(self) -> FloatImage:
        """Standard deviation of each pixel's read noise, shape of a frame."""
        return self._read_noise.copy()

    def expose(self, photons: FloatImage, exposure_ms: float) -> CountImage:
        """Take one frame.

        Parameters
        ----------
        photons : ndarray of float32, shape (height, width)
            Photons expected on each pixel during the exposure.
        exposure_ms : float
            Length of the exposure; sets the dark current's share.

        Returns
        -------
        ndarray of uint16, shape (height, width)
            Counts, clipped at `CameraParameters.saturation_counts` as the camera itself would.

        Raises
        ------
        UsageError
            The shape is not this camera's, an expectation is negative or not finite, or the exposure is not positive.
        """
        if photons.shape != self.shape:
            raise UsageError(f"camera: photons of shape {photons.shape}, but the camera has {self.shape}")
        if not (np.isfinite(exposure_ms) and exposure_ms > 0):
            raise UsageError(f"camera: exposure_ms must be a positive number (got {exposure_ms!r})")
        lowest, highest = float(np.min(photons)), float(np.max(photons))
        if not (lowest >= 0.0 and np.isfinite(highest)):
            raise UsageError(f"camera: expected photons must be finite and not negative (got {lowest:g}..{highest:g})")
        photons = np.ascontiguousarray(photons, dtype=np.float32)
        counts = np.empty(self.shape, dtype=np.uint16)

        def work(number: int) -> None:
            counts[self._blocks[number]] = self._expose_block(number, photons, exposure_ms / 1000.0)

        if self._threads == 1 or len(self._blocks) == 1:
            for number in range(len(self._blocks)):
                work(number)
        else:
            list(_pool(self._threads).map(work, range(len(self._blocks))))
        return counts

    def _expose_block(self, number: int, photons: FloatImage, exposure_s: float) -> CountImage:
        """Count the electrons of one block of rows: shot and dark noise together, well, read noise, gain, clip."""
        rows, generator, parameters = self._blocks[number], self._generators[number], self.parameters
        mean = photons[rows] * self._efficiency[rows]
        mean += self._dark_rate[rows] * np.float32(exposure_s)
        electrons = poisson.draw(mean.ravel(), generator).reshape(mean.shape)
        np.minimum(electrons, np.float32(parameters.full_well_electrons), out=electrons)
        codes = generator.integers(0, 65536, size=mean.shape, dtype=np.uint16)
        electrons += _normal_table().take(codes) * self._read_noise[rows]
        electrons *= np.float32(parameters.gain_counts_per_electron)
        electrons += np.float32(parameters.offset_counts + 0.5)  # the cast below rounds down
        np.clip(electrons, 0.0, np.float32(parameters.saturation_counts), out=electrons)
        return electrons.astype(np.uint16)

    def _read_noise_map(self, generator: np.random.Generator) -> FloatImage:
        spread = self.parameters.read_noise_spread * generator.standard_normal(self.shape)
        return np.asarray(self.parameters.read_noise_electrons * np.exp(spread), dtype=np.float32)

    def _dark_rate_map(self, generator: np.random.Generator) -> FloatImage:
        hot = generator.random(self.shape) < self.parameters.hot_pixel_fraction
        excess = self.parameters.hot_electrons_per_s * generator.standard_exponential(self.shape)
        return np.asarray(self.parameters.dark_electrons_per_s + hot * excess, dtype=np.float32)


def flat_field(shape: tuple[int, int], vignetting: float) -> NDArray[Any]:
    """Return the illumination: 1 at the centre of the field, ``1 - vignetting`` in its corners, quadratic between."""
    y = (np.arange(shape[0]) - (shape[0] - 1) / 2) / max(1, shape[0])
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2) / max(1, shape[1])
    squared = (y**2)[:, None] + (x**2)[None, :]
    return np.asarray(1.0 - vignetting * squared / max(float(squared.max()), 1e-12))


@cache
def _normal_table() -> FloatImage:
    """Return normal quantiles of 65536 equal cells, so that 16 random bits make a normal variate of unit variance.

    The table ends at 4.3 standard deviations, which at the scale of read noise is below what a count resolves; the
    shot noise does not use it.
    """
    quantiles = ndtri((np.arange(65536) + 0.5) / 65536)
    return np.asarray(quantiles / quantiles.std(), dtype=np.float32)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Worker threads shared by all cameras; numpy lets go of the interpreter while it draws and computes."""
    return ThreadPoolExecutor(max_workers=threads, thread_name_prefix="parfocal-camera")
