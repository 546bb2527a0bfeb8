"""Scalar image formation: pupil, point spread function, and the imager that blurs a specimen with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, special

from parfocal.simulator.zernike import zernike

FloatImage = NDArray[np.float32]
PIXELS_PER_LEVEL = 3.0
"""Blur diameter of one defocus level, in pixels (Yang 2018: levels of about 3 px, 0..10 for 3..30 px)."""
CORE_SHARE = 0.3
"""Share of the light whose spread is the width of a blur: what a network trained on any aperture tells apart best."""
V_STEP = 0.75
RADIAL_V_MAX = 760.0
"""How far the tables of `RadialTransfer` reach, in ``v = 2 pi NA r / lambda``."""
RADIAL_FROM_PX = 100
"""Windows larger than this are dearer by Fourier transform of the pupil than by two Hankel transforms."""


@dataclass(frozen=True)
class Optics:
    """An objective and camera as they look from the sample.

    Parameters
    ----------
    na, immersion_index : float
        Numerical aperture and refractive index of the immersion medium; ``na < immersion_index``.
    emission_um, pixel_um : float
        Vacuum wavelength, and camera pixel at the sample.
    sample_index, depth_um : float
        Gibson-Lanni aberration: how deep the focus lies in a medium of this index. Zero depth: none.
    zernike_waves : mapping of (n, m) to float
        Further aberrations, rms waves, OSA/ANSI normalised; ``{(4, 0): 0.1}`` is primary spherical.

    Raises
    ------
    ValueError
        If an aperture, index, wavelength or pixel is not physical.
    """

    na: float = 0.75
    immersion_index: float = 1.0
    emission_um: float = 0.52
    pixel_um: float = 0.325
    magnification: float = 20.0
    sample_index: float = 1.33
    depth_um: float = 0.0
    zernike_waves: Mapping[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("na", "immersion_index", "emission_um", "pixel_um", "magnification", "sample_index"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a positive number (got {getattr(self, name)!r})")
        if self.na >= self.immersion_index:
            raise ValueError(
                f"na must be below the immersion index {self.immersion_index:g} (got {self.na:g}); "
                "an immersion objective needs its immersion_index"
            )
        if not (np.isfinite(self.depth_um) and self.depth_um >= 0):
            raise ValueError(f"depth_um must be zero or more (got {self.depth_um!r})")

    @staticmethod
    def from_options(options: Mapping[str, Any]) -> Optics:
        """Optics from plain JSON; unknown keys are left alone, ``zernike_waves`` has keys like ``"4,0"``."""
        names = ("na", "immersion_index", "emission_um", "pixel_um", "magnification", "sample_index", "depth_um")
        values = {name: float(options[name]) for name in names if options.get(name) is not None}
        waves = {}
        for key, value in dict(options.get("zernike_waves") or {}).items():
            n, m = (int(part) for part in str(key).strip("()").split(","))
            waves[n, m] = float(value)
        return Optics(**values, zernike_waves=waves)

    @property
    def depth_of_field_um(self) -> float:
        """Wave-optical plus geometrical depth of field, ``lambda n / NA^2 + n e / (M NA)``."""
        n = self.immersion_index
        return self.emission_um * n / self.na**2 + n * self.pixel_um / self.na

    @property
    def cutoff_per_px(self) -> float:
        """Incoherent cut-off ``2 NA / lambda`` in cycles per camera pixel."""
        return 2.0 * self.na / self.emission_um * self.pixel_um

    @property
    def blur_px_per_um(self) -> float:
        """Diameter in pixels of the even disc with the core of the blur, for one um of defocus.

        A ray at ``sin(theta) = rho NA / n`` lands ``z tan(theta)`` off the axis, so a share q of the light of an evenly
        filled pupil lands within ``z s sqrt(q) / sqrt(1 - q s^2)``, ``s = NA / n``, and an even disc of diameter d
        holds it within ``sqrt(q) d / 2``; q is `CORE_SHARE`. At low aperture this is the paraxial ``2 NA / n``
        whatever q; at high aperture it is far less than the marginal ray's, whose wide and dim skirt no image shows.
        """
        s = self.na / self.immersion_index
        return float(2.0 * s / np.sqrt(1.0 - CORE_SHARE * s**2)) / self.pixel_um

    def blur_diameter_px(self, defocus_um: float) -> float:
        """Effective diameter of the blur disc, see `blur_px_per_um`."""
        return abs(defocus_um) * self.blur_px_per_um

    def marginal_blur_px(self, defocus_um: float) -> float:
        """Diameter that the outermost rays reach, ``2 z tan(alpha)``: what a window must hold."""
        return abs(defocus_um) * 2.0 * float(np.tan(np.arcsin(self.na / self.immersion_index))) / self.pixel_um

    def level(self, defocus_um: float) -> int:
        """The paper's defocus level, 0..10."""
        return int(min(10, round(self.blur_diameter_px(defocus_um) / PIXELS_PER_LEVEL)))

    @property
    def spherical_waves(self) -> float:
        """Primary spherical aberration in rms waves: the Zernike term plus that of the depth."""
        nodes = np.sqrt((np.arange(256) + 0.5) / 256)
        z40 = zernike(4, 0, nodes, nodes)
        depth = float(np.mean(depth_path_um(self, nodes) * z40)) / self.emission_um
        return depth + float(self.zernike_waves.get((4, 0), 0.0))

    @property
    def rotationally_symmetric(self) -> bool:
        """Whether every aberration is a function of the pupil radius alone."""
        return all(m == 0 or value == 0 for (_, m), value in self.zernike_waves.items())


def defocus_path_um(optics: Optics, rho: NDArray[Any]) -> NDArray[Any]:
    """Optical path of one um of defocus at pupil radius `rho` (0..1), relative to the axis: ``n (cos - 1)``."""
    n = optics.immersion_index
    return np.asarray(np.sqrt(n**2 - (optics.na * rho) ** 2) - n)


def depth_path_um(optics: Optics, rho: NDArray[Any]) -> NDArray[Any]:
    """Optical path by Gibson-Lanni's index mismatch, balanced so that zero defocus is the best focus.

    Only the part of the pupil that propagates in the sample (``rho <= n_s / NA``) counts. The defocus with the least
    rms wavefront error over the pupil is taken out, so that a stage at ``z = focus`` is in focus at any depth.
    """
    if optics.depth_um == 0:
        return np.zeros_like(rho)
    path = _depth_unbalanced(optics, rho)
    nodes = np.sqrt((np.arange(256) + 0.5) / 256) * min(
        1.0, 0.999 * optics.sample_index / optics.na
    )  # equal areas of the pupil
    basis = np.stack([np.ones_like(nodes), defocus_path_um(optics, nodes)], axis=1)
    fit, *_ = np.linalg.lstsq(basis, _depth_unbalanced(optics, nodes), rcond=None)
    return np.asarray(path - fit[0] - fit[1] * defocus_path_um(optics, rho))


def _depth_unbalanced(optics: Optics, rho: NDArray[Any]) -> NDArray[Any]:
    ns, ni = optics.sample_index, optics.immersion_index
    in_sample = np.sqrt(np.maximum(ns**2 - (optics.na * rho) ** 2, 0.0))
    in_immersion = np.sqrt(ni**2 - (optics.na * rho) ** 2)
    # The paraxial part is removed by the immersion giving way, d n_i / n_s of it (Gibson & Lanni 1991).
    return np.asarray(optics.depth_um * (in_sample - ni / ns * in_immersion))


def pupil_amplitude(optics: Optics, rho: NDArray[Any]) -> NDArray[Any]:
    """1 where light propagates in the sample, 0 beyond ``n_s / NA``; all of the pupil where no depth is given."""
    if optics.depth_um == 0:
        return np.ones_like(rho)
    return np.asarray((rho * optics.na < optics.sample_index).astype(np.float32))


def pupil_phase(optics: Optics, rho: NDArray[Any], theta: NDArray[Any], defocus_um: float) -> NDArray[Any]:
    """Phase over the pupil in radians: defocus, depth and Zernike terms."""
    path = defocus_um * defocus_path_um(optics, rho) + depth_path_um(optics, rho)
    phase = 2.0 * np.pi / optics.emission_um * path
    for (n, m), waves in optics.zernike_waves.items():
        if waves:
            phase = phase + 2.0 * np.pi * waves * zernike(n, m, rho, theta)
    return np.asarray(phase)


def oversampling(optics: Optics) -> int:
    """Fine samples per camera pixel, so that the intensity is sampled at ``lambda / (4 NA)`` or finer."""
    return max(1, int(np.ceil(optics.pixel_um * 4.0 * optics.na / optics.emission_um - 1e-9)))


@lru_cache(maxsize=16)
def _pupil_grid(size: int, over: int, radius_bins: float) -> tuple[FloatImage, FloatImage, FloatImage]:
    """Pupil radius, angle and amplitude on the part of a `size * over` grid that the pupil covers."""
    fine = size * over
    half = min(int(np.ceil(radius_bins)) + 1, fine // 2 - 1)
    index = np.arange(-half, half + 1)
    fy, fx = np.meshgrid(index, index, indexing="ij")
    radius = np.hypot(fy, fx)
    # A soft edge one bin wide counts a bin by the share of it that lies inside the aperture.
    amplitude = np.clip(radius_bins - radius + 0.5, 0.0, 1.0)
    rho = np.minimum(radius / radius_bins, 1.0)
    return rho.astype(np.float32), np.arctan2(fy, fx).astype(np.float32), amplitude.astype(np.float32)


def psf(optics: Optics, defocus_um: float, size_px: int) -> FloatImage:
    """Point spread function on the camera's pixels, by Fourier transform of the pupil.

    Parameters
    ----------
    optics : Optics
    defocus_um : float
        z of the stage minus z of the focus.
    size_px : int
        Side of the square returned; light beyond it wraps around, so ask for at least the blur diameter.

    Returns
    -------
    ndarray of float32, shape (size_px, size_px)
        Integrated over each pixel, centred on pixel ``size_px // 2``, sum 1.
    """
    over = oversampling(optics)
    fine = size_px * over
    radius_bins = optics.na / optics.emission_um * size_px * optics.pixel_um
    rho, theta, amplitude = _pupil_grid(size_px, over, float(radius_bins))
    half = rho.shape[0] // 2
    phase = pupil_phase(optics, rho, theta, defocus_um).astype(np.float32)
    # Shift so that a pixel's fine samples lie symmetrically about its centre, then bin.
    ramp = np.exp(-2j * np.pi * np.arange(-half, half + 1) * (size_px // 2 * over + (over - 1) / 2) / fine)
    ramp = ramp.astype(np.complex64)
    pupil = np.zeros((fine, 2 * half + 1), dtype=np.complex64)
    pupil[np.arange(-half, half + 1)] = (
        amplitude * pupil_amplitude(optics, rho) * np.exp(1j * phase) * ramp[:, None] * ramp[None, :]
    )
    # Only the pupil's columns hold anything: transform those along y first, then every row along x.
    columns = np.zeros((fine, fine), dtype=np.complex64)
    columns[:, np.arange(-half, half + 1)] = fft.ifft(pupil, axis=0, overwrite_x=True, workers=-1)
    field_ = fft.ifft(columns, axis=1, overwrite_x=True, workers=-1)
    intensity = field_.real**2 + field_.imag**2
    binned = _over_pixels(_over_pixels(intensity, over).T, over).T
    return np.asarray(binned / binned.sum(), dtype=np.float32)


def _over_pixels(fine: NDArray[Any], over: int) -> NDArray[Any]:
    """Integral along the first axis over pixels of `over` samples.

    The midpoint rule alone leaves a well-sampled pixel without its own blur; the first two end corrections of Euler
    and Maclaurin, with differences for derivatives, bring it to better than a percent.
    """
    last = np.arange(over - 1, fine.shape[0], over)
    before, left, right, after = (fine[(last + step) % fine.shape[0]] for step in (-1, 0, 1, 2))
    w1, w2 = np.float32(77 / 1440), np.float32(-17 / 5760)
    end = w1 * (right - left) + w2 * (right - before + after - left)
    inside = fine.reshape(-1, over, fine.shape[1]).sum(axis=1)
    return np.asarray(inside + end - np.roll(end, 1, axis=0))


def psf_size_px(optics: Optics, defocus_um: float) -> int:
    """A window that holds the blur disc and its rings: a fast FFT length, at least 32 px."""
    aberration_um = 0.0
    if optics.depth_um:
        slope = np.gradient(depth_path_um(optics, np.linspace(0, 1, 65)), 1 / 64)
        aberration_um = float(np.max(np.abs(slope))) / optics.na
    rms_waves = sum(abs(value) * (n + 1) ** 1.5 for (n, _), value in optics.zernike_waves.items())
    aberration_um = 2.0 * (aberration_um + rms_waves * optics.emission_um / optics.na)
    diffraction_px = 12.0 * optics.emission_um / optics.na / optics.pixel_um
    needed = 1.15 * optics.marginal_blur_px(defocus_um) + aberration_um / optics.pixel_um + diffraction_px
    size = fft.next_fast_len(max(32, int(np.ceil(needed))))
    return int(size + size % 2)


class Imager:
    """Blurs specimens of one shape with one optics, quickly, at any defocus.

    Parameters
    ----------
    optics : Optics
    shape : (height, width)
    boundary : {"periodic", "mirror"}
        What lies outside the specimen: the specimen again (procedural ones are drawn to tile), or its mirror image.

    Notes
    -----
    The transform of the last specimen is kept, so a time-lapse of one field costs one PSF and two FFTs a frame. It is
    known by its identity: an array changed in place is not noticed, so give a new one.
    """

    def __init__(self, optics: Optics, shape: tuple[int, int], *, boundary: str = "periodic") -> None:
        if boundary not in ("periodic", "mirror"):
            raise ValueError(f"boundary must be 'periodic' or 'mirror' (got {boundary!r})")
        self.optics = optics
        self.shape = shape
        self._pad = (max(shape) // 4 if boundary == "mirror" else 0,) * 2
        self._canvas = tuple(
            fft.next_fast_len(side + 2 * pad, real=True) if pad else side
            for side, pad in zip(shape, self._pad, strict=True)
        )
        self._specimen: FloatImage | None = None
        self._spectrum: NDArray[np.complex64] | None = None
        self._lookup: tuple[NDArray[np.intp], FloatImage, FloatImage] | None = None

    def image(self, specimen: FloatImage, defocus_um: float) -> FloatImage:
        """Blurred specimen, shape as given; the light is conserved but for what leaves the field.

        Raises
        ------
        ValueError
            If the specimen's shape is not the imager's, or the defocus is not finite.
        """
        if specimen.shape != self.shape:
            raise ValueError(f"specimen of shape {specimen.shape}, expected {self.shape}")
        if not np.isfinite(defocus_um):
            raise ValueError(f"defocus_um is not finite: {defocus_um!r}")
        spectrum = self._specimen_spectrum(specimen)
        blurred = fft.irfft2(spectrum * self.transfer(defocus_um), s=self._canvas, workers=-1)
        top, left = self._pad
        height, width = self.shape
        return np.asarray(np.maximum(blurred[top : top + height, left : left + width], 0.0), dtype=np.float32)

    def transfer(self, defocus_um: float) -> NDArray[np.complex64]:
        """Optical transfer function, pixel included, on the canvas's rfft2 grid."""
        size = min(psf_size_px(self.optics, defocus_um), *(side - side % 2 for side in self._canvas))
        if size > RADIAL_FROM_PX and self._radial_holds(defocus_um):
            return self._radial_transfer(defocus_um)
        kernel = psf(self.optics, defocus_um, size)
        canvas = np.zeros(self._canvas, dtype=np.float32)
        canvas[:size, :size] = kernel
        canvas = np.roll(canvas, (-(size // 2), -(size // 2)), axis=(0, 1))
        return np.asarray(fft.rfft2(canvas, workers=-1), dtype=np.complex64)

    def _radial_holds(self, defocus_um: float) -> bool:
        """Whether two Hankel transforms give the same as the pupil's Fourier transform, which grows with the blur."""
        reach_v = np.pi * self.optics.cutoff_per_px * self.optics.marginal_blur_px(defocus_um) / 2.0
        return self.optics.rotationally_symmetric and bool(reach_v < 0.85 * RADIAL_V_MAX)

    def _radial_transfer(self, defocus_um: float) -> NDArray[np.complex64]:
        radial = _radial()
        lit = pupil_amplitude(self.optics, radial.rho)[None]
        curve = radial(radial.phase(self.optics, defocus_um)[None], lit)[0]
        if self._lookup is None:
            fy, fx = fft.fftfreq(self._canvas[0])[:, None], fft.rfftfreq(self._canvas[1])[None, :]
            s = np.minimum(np.hypot(fy, fx) * 2.0 / self.optics.cutoff_per_px, 2.0)
            at = np.interp(s, radial.s, np.arange(radial.s.size)).astype(np.float32)
            low = np.minimum(at.astype(np.intp), radial.s.size - 2)
            self._lookup = (low, at - low, (np.sinc(fy) * np.sinc(fx)).astype(np.float32))
        low, part, pixel = self._lookup
        return np.asarray((curve[low] * (1 - part) + curve[low + 1] * part) * pixel, dtype=np.complex64)

    def _specimen_spectrum(self, specimen: FloatImage) -> NDArray[np.complex64]:
        if self._spectrum is None or self._specimen is not specimen:
            top, left = self._pad
            extra = [side - have - pad for side, have, pad in zip(self._canvas, self.shape, self._pad, strict=True)]
            padded = np.pad(specimen, ((top, extra[0]), (left, extra[1])), mode="symmetric") if top else specimen
            self._spectrum = np.asarray(fft.rfft2(np.asarray(padded, dtype=np.float32), workers=-1), dtype=np.complex64)
            self._specimen = specimen
        return self._spectrum


class RadialTransfer:
    """Optical transfer functions of many rotationally symmetric pupils at once, by two Hankel transforms.

    In the dimensionless units ``v = 2 pi NA r / lambda`` and ``s = f lambda / NA`` (0..2) the kernels of both
    transforms are the same for every optics, so a batch of pupils costs two matrix products (Goodman,
    Introduction to Fourier Optics, sec. 2.1.5 and 6.3).
    """

    def __init__(self, *, v_max: float = RADIAL_V_MAX, pupil_samples: int = 640, frequency_samples: int = 257) -> None:
        # Not numpy's leggauss: its dense eigenvalues took 5 s where several threads shared a busy machine.
        nodes, weights = special.roots_legendre(pupil_samples)
        self.rho = 0.5 * (nodes + 1.0)
        v = np.arange(0.0, v_max, V_STEP) + V_STEP / 2
        self._weights = (0.5 * weights * self.rho).astype(np.float32)
        self.s = 2.0 * np.linspace(0.0, 1.0, frequency_samples) ** 2  # dense where a wide blur has its structure
        self._to_field = (special.j0(np.outer(self.rho, v)) * (0.5 * weights * self.rho)[:, None]).astype(np.float32)
        taper = np.clip((v_max - v) / (0.1 * v_max), 0.0, 1.0)
        self._to_transfer = (special.j0(np.outer(v, self.s)) * (v * taper)[:, None]).astype(np.float32)

    def __call__(self, phase: NDArray[Any], amplitude: NDArray[Any] | None = None) -> FloatImage:
        """Transfer functions (n, frequency_samples) at `s` of pupil phases (n, pupil_samples) at `rho`.

        `amplitude`, of the same shape, is 1 where absent.
        """
        lit = np.ones_like(phase) if amplitude is None else amplitude
        cosine, sine = (lit * np.cos(phase)).astype(np.float32), (lit * np.sin(phase)).astype(np.float32)
        transfer = ((cosine @ self._to_field) ** 2 + (sine @ self._to_field) ** 2) @ self._to_transfer
        # The midpoint rule starts half a step off the axis; Euler and Maclaurin's first term puts the rest right.
        on_axis = (cosine @ self._weights) ** 2 + (sine @ self._weights) ** 2
        transfer = transfer * V_STEP - V_STEP**2 / 24.0 * on_axis[:, None]
        return np.asarray(transfer / transfer[:, :1], dtype=np.float32)

    def phase(self, optics: Optics, defocus_um: float) -> NDArray[Any]:
        """Phase of `optics` at this object's pupil nodes; only its rotationally symmetric part."""
        symmetric = {key: value for key, value in optics.zernike_waves.items() if key[1] == 0}
        return pupil_phase(replace(optics, zernike_waves=symmetric), self.rho, np.zeros_like(self.rho), defocus_um)


@lru_cache(maxsize=1)
def _radial() -> RadialTransfer:
    """The tables, made once in a process."""
    return RadialTransfer(frequency_samples=1025)
