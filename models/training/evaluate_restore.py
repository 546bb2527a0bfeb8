"""Every method of restoring on the very same frames: what became of each, and how near it came to the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.base import ImageError, ModelError
from parfocal.models.restore import METHODS, make_restorer
from parfocal.models.restore.base import Blur, Restoration, RestoreError, Restorer, Verdict
from parfocal.models.restore.gate import spread
from parfocal.models.training.restore_cases import RestoreCase
from parfocal.models.training.restore_measures import likeness, sd_honesty
from parfocal.models.training.restore_structures import Count, structures
from parfocal.simulator.optics import Optics

IDENTITY = "identity"
Estimate = Callable[[NDArray[Any], Optics], Blur]
"""From a frame and its optics to the blur; raises `RestoreError` where it is not known."""


@dataclass(frozen=True)
class Row:
    """One method on one frame.

    Parameters
    ----------
    method, kind, verdict, reason : str
    depths, photons : float
    known : bool
        Whether the blur was; if not, the frame counts as refused.
    squares_refused : float
        Share of the frame that was left as it was.
    measures : mapping
        Of `likeness` and `sd_honesty`.
    structures : mapping
        Of `structures`.
    """

    method: str
    kind: str
    depths: float
    photons: float
    verdict: Verdict
    reason: str
    known: bool
    squares_refused: float
    measures: Mapping[str, float] = field(default_factory=dict)
    structures: Mapping[str, Count] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether nothing restored is shown of this frame because it was refused."""
        return self.verdict is Verdict.REFUSED


@dataclass(frozen=True)
class Peers:
    """Methods that are here, and why the others are not."""

    here: Mapping[str, Restorer]
    absent: Mapping[str, str]


def peers(methods: Sequence[str] | None = None, cards: Mapping[str, Path] | None = None,
          options: Mapping[str, Any] | None = None) -> Peers:  # fmt: skip
    """Make the methods of a table; identity is always one of them.

    Parameters
    ----------
    methods : sequence of str, optional
        All of them where absent.
    cards : mapping of method to Path, optional
        Weights other than the packaged ones.
    options : mapping, optional
        Of the methods with weights: device, threads...

    Raises
    ------
    RestoreError
        A method that there is not.
    """
    here: dict[str, Restorer] = {}
    absent: dict[str, str] = {}
    for name in dict.fromkeys((IDENTITY, *(methods or METHODS))):
        card = (cards or {}).get(name)
        told = {**(dict(options or {}) if name in WEIGHED else {}), **({"card": str(card)} if card else {})}
        try:
            here[name] = make_restorer(name, told)
        except RestoreError:
            raise
        except (ModelError, ModuleNotFoundError) as error:
            absent[name] = str(error)
    return Peers(here, absent)


WEIGHED = frozenset({"unet", "comi"})
"""Methods that need weights."""


def estimator() -> Estimate:
    """The shipped defocus model, as a user has it."""
    from parfocal.models.restore.estimate import BlurEstimator

    made = BlurEstimator({"threads": 1, "device": "cpu"})
    return made.blur


def truly(case: RestoreCase) -> Blur:
    """The blur as it is, with the sd of a stage that knows its place well."""
    return Blur(case.optics, case.defocus_um, 0.02 * abs(case.defocus_um))


def run(cases: Iterable[RestoreCase], restorers: Mapping[str, Restorer], estimate: Estimate | None = None
        ) -> list[Row]:  # fmt: skip
    """Rows of all methods over the cases, in their order; `estimate` None: the blur is told as it is."""
    rows: list[Row] = []
    for case in cases:
        known = (truly(case), "") if estimate is None else blur_or_reason(case.frame, case.optics, estimate)
        rows += judged(case, {name: attempt(one, case.frame, *known) for name, one in restorers.items()})
    return rows


def blur_or_reason(frame: NDArray[Any], optics: Optics, estimate: Estimate) -> tuple[Blur | None, str]:
    """What is believed of a frame's blur, or why nothing is."""
    try:
        return estimate(frame, optics), ""
    except (RestoreError, ImageError) as error:
        return None, str(error)


def attempt(restorer: Restorer, frame: NDArray[Any], blur: Blur | None, reason: str) -> Restoration:
    """What a method makes of a frame; an error with its reason is a refusal, and so is a blur that is not known."""
    pixels = np.asarray(frame, dtype=np.float32)
    none = np.ones((1, 1), dtype=bool)
    if restorer.name == IDENTITY:
        return Restoration(IDENTITY, Verdict.RESTORED, "", pixels, None, ~none, blur)
    if blur is None:
        return Restoration(restorer.name, Verdict.REFUSED, reason, pixels, None, none, None)
    try:
        return restorer.restore(frame, blur)
    except (RestoreError, ImageError) as error:
        return Restoration(restorer.name, Verdict.REFUSED, str(error), pixels, None, none, blur)


def judged(case: RestoreCase, results: Mapping[str, Restoration]) -> list[Row]:
    """One row a method; those that refused have no measures, because they show nothing."""
    shown = {name: one.pixels for name, one in results.items() if one.verdict is not Verdict.REFUSED}
    alike = likeness(shown, case.truth)
    counted = structures(shown, case.truth, case.noise_sd, case.defects, case.kind)
    rows = []
    for name, one in results.items():
        known, share = one.blur is not None or name == IDENTITY, float(one.refused.mean())
        measures = {**alike[name], **_honesty(one, case)} if name in shown else {}
        about = (name, case.kind, case.depths, case.photons, one.verdict, one.reason)
        rows.append(Row(*about, known, share, measures, counted.get(name, {})))
    return rows


def _honesty(one: Restoration, case: RestoreCase) -> dict[str, float]:
    if one.sd is None:
        return {}
    return sd_honesty(one.sd, one.pixels - case.truth, ~spread(one.refused, case.truth.shape))
