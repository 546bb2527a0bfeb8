"""A frame's blur as the defocus model tells it: what the restorers start from when nobody knows better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.base import Assessment
from parfocal.models.restore.base import Blur, RestoreError
from parfocal.simulator.optics import Optics

KEPT = 4
"""Models held at a time, one for each optics: the oldest makes room."""


class NotEstimatedError(RestoreError):
    """The blur of a frame is not known: unknown optics, or the defocus model abstains."""


class BlurEstimator:
    """Runs the shipped defocus model, one for every optics met.

    Parameters
    ----------
    options : mapping
        Of the defocus model, beside the optics (``device``, ``threads``, ``card``...).
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._options = {"patch_map": False, **dict(options or {})}
        self._models: dict[tuple[tuple[str, Any], ...], Any] = {}

    def blur(self, frame: NDArray[Any], optics: Optics | None) -> Blur:
        """Estimate; raises `NotEstimatedError` with the reason where there is no saying."""
        if optics is None:
            raise NotEstimatedError("the optics are not known: give --na, --emission-nm and --pixel-um, or --config")
        model = self._model(optics)
        return blur_of(model.assess(np.asarray(frame), optics.pixel_um)[0], optics)

    def _model(self, optics: Optics) -> Any:
        from parfocal.models import make_model

        told = {
            "na": optics.na, "immersion_index": optics.immersion_index, "emission_um": optics.emission_um,
            "sample_index": optics.sample_index, "depth_um": optics.depth_um, "pixel_um": optics.pixel_um,
            "zernike_waves": {f"{n},{m}": waves for (n, m), waves in optics.zernike_waves.items()},
        }  # fmt: skip
        key = tuple(sorted((name, str(value)) for name, value in told.items()))
        if key not in self._models:
            while len(self._models) >= KEPT:
                self._models.pop(next(iter(self._models)))
            self._models[key] = make_model("defocus", {**self._options, **told})
        return self._models[key]


def blur_of(said: Assessment, optics: Optics) -> Blur:
    """The blur that an assessment of the defocus model stands for; raises `NotEstimatedError` if it abstained."""
    if said.abstained:
        raise NotEstimatedError(f"the defocus cannot be told: {said.reason}")
    if said.detail.get("in_um") != 1.0:
        raise NotEstimatedError("the defocus is known in pixels only: the optics are not known")
    return Blur(optics, said.value, said.sd)
