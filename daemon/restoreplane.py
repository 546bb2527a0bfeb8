"""One plane restored: optics from whoever knows them, blur estimated or told, and a refusal that says why."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.daemon.fileoptics import DRY, PartialOptics
from parfocal.daemon.imagefiles import Plane
from parfocal.daemon.restoreoptics import optics_of
from parfocal.daemon.restorerecord import weights_of
from parfocal.daemon.restorerows import RestoreJob
from parfocal.models.base import ImageError
from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import MAX_PIXELS, Blur, FloatImage, Restoration, RestoreError, Verdict, check_frame
from parfocal.models.restore.estimate import BlurEstimator
from parfocal.simulator.optics import Optics

JPEG = (
    "JPEG: 8 bits and a compression that removes what is faint and fine, so that neither blur nor noise is in it any "
    "more; restore the file that the microscope wrote"
)


class PlaneRestorer:
    """Restores planes one after the other.

    Parameters
    ----------
    job : RestoreJob

    Attributes
    ----------
    notes : set of str
        What was assumed.

    Raises
    ------
    RestoreError
        Unknown method.
    ModelError
        The method's weights are missing or not those of its card.
    UsageError
        Optics that no microscope has.
    """

    def __init__(self, job: RestoreJob) -> None:
        job.given.check("the optics given")
        self.notes: set[str] = set()
        self._job = job
        self._restorer = make_restorer(job.method, job.options)
        self._estimator = BlurEstimator(job.defocus_options)

    def weights(self) -> dict[str, Any]:
        """Which networks restore and estimate, for the record."""
        return {"model": weights_of(getattr(self._restorer, "card", None)), "defocus_model": self._defocus_model()}

    def _defocus_model(self) -> dict[str, Any] | None:
        if self._job.defocus_um is not None:
            return None
        from parfocal.models import make_model

        return weights_of(make_model("defocus", dict(self._job.defocus_options)).card)

    def restore(self, frame: NDArray[Any], plane: Plane, job: RestoreJob) -> Restoration:
        """Restore a plane; one of which the optics or the blur are not known is refused.

        Parameters
        ----------
        frame : ndarray, shape (height, width)
        plane : Plane
        job : RestoreJob
            That of its file, which may know more optics than the one of all files.

        Raises
        ------
        ModelError
            The defocus model cannot be made: that concerns every plane.
        """
        optics: Optics | None = None
        blur: Blur | None = None
        try:
            check_frame(frame)
            optics = self.optics(plane.optics, job)
            blur = self._blur(frame, optics)
            return self._restorer.restore(frame, blur)
        except (RestoreError, ImageError, UsageError) as error:
            return refusal(self._job.method, frame, str(error), blur)

    def optics(self, said: PartialOptics, job: RestoreJob) -> Optics:
        """Optics of a plane, from the options, else the file, else its session, else the configuration.

        Raises
        ------
        RestoreError
            Not all of them are known.
        UsageError
            They are none that a microscope can have.
        """
        partial = job.optics(said)
        filled = partial.with_dry_index()
        if filled != partial:
            self.notes.add(DRY)
        if filled.missing():
            raise RestoreError(f"the optics are not known, and the blur follows from them: give {filled.asked_for()}")
        filled.check("the optics")
        return optics_of({**filled.known(), **job.aberrations})

    def _blur(self, frame: NDArray[Any], optics: Optics) -> Blur:
        if self._job.defocus_um is not None:
            return Blur(optics, self._job.defocus_um, self._job.defocus_sd_um)
        return self._estimator.blur(frame, optics)


def refusal(method: str, frame: NDArray[Any], reason: str, blur: Blur | None) -> Restoration:
    """The frame itself, whatever its numbers, and why."""
    from parfocal.models.restore.base import unchanged

    pixels: FloatImage = np.asarray(frame, dtype=np.float32)
    return unchanged(method, Verdict.REFUSED, reason, pixels, blur)


def unfit(plane: Plane) -> str:
    """Why a plane need not even be read; empty if it is to be."""
    if plane.lossy:
        return JPEG.replace("JPEG", f"{plane.lossy} inside the file", 1)
    if plane.shape is not None and plane.shape[0] * plane.shape[1] > MAX_PIXELS:
        height, width = plane.shape
        return (
            f"image of {width}x{height} px is too large to restore at once: cut it into pieces of at most "
            f"{MAX_PIXELS // 1_000_000} megapixels"
        )
    return ""
