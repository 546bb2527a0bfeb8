"""A field of a sample: fluorescent molecules by pixel, which bleach where light was."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.simulator.sted.dyes import DYES, Dye
from parfocal.simulator.sted.kernels import reach_px
from parfocal.simulator.sted.settings import StedOptics
from parfocal.simulator.sted.structures import make_structure

MoleculeImage = NDArray[np.int32]


class StedSample:
    """Molecules in the focal plane, and what of them is left.

    Parameters
    ----------
    molecules : ndarray of integers, shape (height + 2 * margin, width + 2 * margin)
        Molecules in each pixel. The scanned field lies in the middle; the beams reach `margin` pixels beyond it.
    pixel_um : float
        Size of a pixel.
    dye : Dye
    optics : StedOptics
        Of the microscope that looks at it.

    Attributes
    ----------
    molecules : ndarray of int32
        What is left now.
    fresh : ndarray of int32
        What there was at first.

    Raises
    ------
    UsageError
        Numbers of molecules that are negative or not whole, or a field that is too small.
    """

    def __init__(
        self,
        molecules: NDArray[Any],
        *,
        pixel_um: float,
        dye: Dye = DYES["robust"],
        optics: StedOptics | None = None,
    ) -> None:
        if not 0.005 <= pixel_um <= 0.1:
            raise UsageError(f"sted sample: pixel_um must lie in 0.005..0.1 (got {pixel_um!r})")
        self.pixel_um = pixel_um
        self.margin_px = reach_px(pixel_um)
        whole = np.asarray(molecules)
        smallest = 2 * self.margin_px + 8
        if whole.ndim != 2 or min(whole.shape) < smallest:
            raise UsageError(
                f"sted sample: molecules must be an image of at least {smallest}x{smallest} px, {self.margin_px} px of "
                f"margin on each side included (got shape {whole.shape})"
            )
        if not np.issubdtype(whole.dtype, np.integer) or whole.min() < 0:
            raise UsageError(f"sted sample: molecules come in whole numbers, zero or more (got {whole.dtype})")
        self.dye = dye
        self.optics = optics if optics is not None else StedOptics()
        self.fresh: MoleculeImage = whole.astype(np.int32)
        self.molecules: MoleculeImage = self.fresh.copy()

    @classmethod
    def make(
        cls,
        kind: str,
        shape: tuple[int, int],
        *,
        pixel_um: float = 0.02,
        seed: int = 0,
        density: float = 1.0,
        dye: Dye = DYES["robust"],
        optics: StedOptics | None = None,
    ) -> StedSample:
        """Draw a structure, see `structures.make_structure`, around and in a field of `shape` (height, width)."""
        margin = reach_px(pixel_um)
        whole = (shape[0] + 2 * margin, shape[1] + 2 * margin)
        drawn = make_structure(kind, whole, pixel_um=pixel_um, seed=seed, density=density)
        return cls(drawn, pixel_um=pixel_um, dye=dye, optics=optics)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the field that is scanned."""
        return self.fresh.shape[0] - 2 * self.margin_px, self.fresh.shape[1] - 2 * self.margin_px

    def field(self, image: NDArray[Any]) -> NDArray[Any]:
        """Cut the margin off an image of the whole sample."""
        margin = self.margin_px
        return image[margin:-margin, margin:-margin]

    @property
    def bleached(self) -> float:
        """Share of the field's molecules that are gone; 0 where there never were any."""
        total = int(self.field(self.fresh).sum())
        return 1.0 - int(self.field(self.molecules).sum()) / total if total else 0.0

    def copy(self) -> StedSample:
        """Return a sample of its own in the same state."""
        twin = StedSample(self.fresh, pixel_um=self.pixel_um, dye=self.dye, optics=self.optics)
        twin.molecules = self.molecules.copy()
        return twin
