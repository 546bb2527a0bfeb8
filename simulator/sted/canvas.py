"""One big sample, field by field: each is drawn when it is first seen, and stays as bleached as it was left."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.simulator.sted.dyes import DYES, Dye
from parfocal.simulator.sted.kernels import reach_px
from parfocal.simulator.sted.sample import StedSample
from parfocal.simulator.sted.settings import StedOptics
from parfocal.simulator.sted.structures import make_structure

_SLACK_UM = 0.002  # a position may be the sum of many steps
_Piece = tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]


class StedCanvas:
    """A sample of `fields` x `fields` fields that the same light never reaches twice.

    Positions are those of the middle of the scanned field; the middles of the fields lie at multiples of `pitch_um`
    from 0. Any position between them can be looked at as well, and sees parts of up to four fields.

    Parameters
    ----------
    structure : str
        See `structures.STRUCTURES`.
    shape : (height, width)
        Of a scan, in pixels.
    fields : int
        How many fields there are along each side.
    pixel_um, density, seed
        See `structures.make_structure`; each field has a seed of its own made from `seed` and its place.
    dye, optics
        See `StedSample`.
    """

    def __init__(
        self,
        structure: str,
        shape: tuple[int, int],
        *,
        fields: int = 16,
        pixel_um: float = 0.02,
        density: float = 1.0,
        seed: int = 0,
        dye: Dye = DYES["robust"],
        optics: StedOptics | None = None,
    ) -> None:
        if fields < 1:
            raise UsageError(f"sted canvas: there must be at least one field (got {fields!r})")
        self.structure, self.shape, self.fields = structure, shape, fields
        self.pixel_um, self.density, self.seed = pixel_um, density, seed
        self.dye, self.optics = dye, optics if optics is not None else StedOptics()
        self._whole = (shape[0] + 2 * reach_px(pixel_um), shape[1] + 2 * reach_px(pixel_um))
        # An even number of pixels, so that the middle of a field lies between two of them; some round length in um.
        self._pitch_px = 10 * math.ceil(max(self._whole) / 10)
        self._tiles: dict[tuple[int, int], tuple[NDArray[np.uint16], NDArray[np.uint16]]] = {}

    @property
    def pitch_um(self) -> float:
        """From the middle of one field to that of the next."""
        return self._pitch_px * self.pixel_um

    @property
    def extent_um(self) -> float:
        """The largest position in either direction; the smallest is 0."""
        return (self.fields - 1) * self.pitch_um

    @property
    def seen(self) -> int:
        """How many fields have been looked at."""
        return len(self._tiles)

    def sample(self, y_um: float, x_um: float) -> StedSample:
        """Return what lies under a scan at this position, in the state it was left in; a copy, see `put_back`.

        Raises
        ------
        UsageError
            The position lies outside 0..`extent_um`.
        """
        fresh, now = np.zeros(self._whole, dtype=np.int32), np.zeros(self._whole, dtype=np.int32)
        for place, here, there in self._pieces(y_um, x_um):
            tile = self._tile(place)
            fresh[here], now[here] = tile[0][there], tile[1][there]
        sample = StedSample(fresh, pixel_um=self.pixel_um, dye=self.dye, optics=self.optics)
        sample.molecules = now
        return sample

    def put_back(self, sample: StedSample, y_um: float, x_um: float) -> None:
        """Keep what a scan has left of the sample taken at this position."""
        for place, here, there in self._pieces(y_um, x_um):
            self._tile(place)[1][there] = sample.molecules[here]

    def _pieces(self, y_um: float, x_um: float) -> Iterator[_Piece]:
        """Yield the fields under a scan: which one, where in the scan, where in the field."""
        for name, value in (("y_um", y_um), ("x_um", x_um)):
            if not -_SLACK_UM <= value <= self.extent_um + _SLACK_UM:  # NaN fails this too
                raise UsageError(f"sted canvas: {name} must lie in 0..{self.extent_um:g} (got {value!r})")
        rows, columns = (list(self._spans(value, size)) for value, size in zip((y_um, x_um), self._whole, strict=True))
        for row, here_y, there_y in rows:
            for column, here_x, there_x in columns:
                yield (row, column), (here_y, here_x), (there_y, there_x)

    def _spans(self, middle_um: float, size: int) -> Iterator[tuple[int, slice, slice]]:
        pitch = self._pitch_px
        begin = round(middle_um / self.pixel_um) - size // 2 + pitch // 2  # counted from the first field's first pixel
        for tile in range(max(0, begin // pitch), min(self.fields - 1, (begin + size - 1) // pitch) + 1):
            first, last = max(begin, tile * pitch), min(begin + size, (tile + 1) * pitch)
            yield tile, slice(first - begin, last - begin), slice(first - tile * pitch, last - tile * pitch)

    def _tile(self, place: tuple[int, int]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        if place not in self._tiles:
            seed = int(np.random.SeedSequence([self.seed, *place]).generate_state(1)[0])
            side = (self._pitch_px, self._pitch_px)
            drawn = make_structure(self.structure, side, pixel_um=self.pixel_um, seed=seed, density=self.density)
            if drawn.max() > np.iinfo(np.uint16).max:
                raise UsageError(f"sted canvas: density {self.density:g} puts too many molecules on one pixel")
            self._tiles[place] = (drawn.astype(np.uint16), drawn.astype(np.uint16))
        return self._tiles[place]
