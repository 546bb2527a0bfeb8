"""The recorded frames of a session, read one at a time; a frame that never reached the disk is missing, not black."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class FrameStore:
    """The frames in a session's ``frames.ome.zarr``.

    Parameters
    ----------
    path : Path
        The OME-Zarr image; it need not be there.

    Attributes
    ----------
    problem : str
        Why none can be read; empty if they can.
    pixel_um : float or None
        Size of a pixel.
    shape : (frames, height, width)
    """

    def __init__(self, path: Path) -> None:
        self.path, self.problem = path, ""
        self.pixel_um: float | None = None
        self.shape = (0, 0, 0)
        self._array: Any = None
        self._by_frame = False
        try:
            self._describe()
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            why = "there is no such folder" if not path.exists() else f"{type(error).__name__}: {error}"
            self.problem = f"{path}: recorded frames cannot be read ({why})"

    def __len__(self) -> int:
        return self.shape[0]

    def _describe(self) -> None:
        group = json.loads((self.path / "zarr.json").read_text(encoding="utf-8"))
        array = json.loads((self.path / "0" / "zarr.json").read_text(encoding="utf-8"))
        count, height, width = (int(size) for size in array["shape"])
        self.shape = (count, height, width)
        chunks = array["chunk_grid"]["configuration"]["chunk_shape"]
        self._by_frame = list(chunks) == [1, height, width] and array["chunk_key_encoding"]["name"] == "default"
        scale = group["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
        self.pixel_um = float(scale[-1])

    def holds(self, place: int) -> bool:
        """Whether the frame at a place reached the disk; a killed recorder leaves the last ones declared but empty."""
        if self.problem or not 0 <= place < self.shape[0]:
            return False
        return not self._by_frame or (self.path / "0" / "c" / str(place) / "0" / "0").is_file()

    def read(self, place: int) -> NDArray[Any] | None:
        """Read one frame, shape (height, width); `None` if it is not there or cannot be read."""
        if not self.holds(place):
            return None
        try:
            if self._array is None:
                self._array = _opened(self.path / "0")
            return np.asarray(self._array[place].read().result())
        except (ValueError, OSError):  # a chunk cut short
            return None


def _opened(path: Path) -> Any:
    import tensorstore

    return tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, open=True, read=True
    ).result()
