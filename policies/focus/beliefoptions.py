"""What ``focus.belief`` can be told."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from parfocal.policies.focus.response import ResponseTable
from parfocal.policies.options import FocusOptions


class BeliefOptions(FocusOptions):
    """Options of ``focus.belief``; lengths in um or, with ``_dof``, in depths of field.

    Parameters
    ----------
    dof_um : float
        Depth of field (required).
    range_um : float
        The focus is sought within the start +- this.
    model : str
        Whose assessment is read.
    response : table, optional
        A measured response (`parfocal calibrate`); the likelihood then comes from it instead of the distribution.
    confidence : float
        Probability of being within half a depth of field at which the search ends.
    correct_gain : float
        While tracking, least rise of the probability of being in the field that is worth a move.
    lead_dof, cross_dof, cross_sd_dof : float
        How a focus is kept, see `Tracking`.
    bias_spread : float
        How far off a field's own error is to be expected, in units of the spread that the model states.
    floor : float
        Chance that a look is simply wrong.
    correlation_dof, correlation_s : float
        While searching, a second look within this distance and time of another counts for little.
    drift_rate_um_per_min, drift_rate_walk_um_per_min, drift_walk_um, jump_per_min : float
        The focus's own motion, see `Drift`.
    near_dof, far : float
        What a look is expected to bring: sd at focus, and its share of the defocus far from it.
    travel_nats_per_um : float
        Price of travel while searching.
    max_frames_search : int
        After so many frames without a focus the search ends in holding.
    lost_after : int
        So many frames in a row against the belief end the tracking.
    min_certainty : float
        Frames below this certainty are not acted on.
    abstain_report : int
        A run of this many unusable frames is pointed out.
    """

    range_um: float = Field(default=40.0, gt=0, le=5000)
    model: str = "defocus"
    response: ResponseTable | None = None
    confidence: float = Field(default=0.85, gt=0.5, lt=1)
    correct_gain: float = Field(default=0.1, gt=0, lt=1)
    lead_dof: float = Field(default=0.35, ge=0, le=0.5)
    cross_dof: float = Field(default=0.2, ge=0, le=0.5)
    cross_sd_dof: float = Field(default=0.2, gt=0)
    bias_spread: float = Field(default=1.1, gt=0, le=10)
    floor: float = Field(default=0.02, ge=1e-6, lt=0.5)
    correlation_dof: float = Field(default=0.5, gt=0)
    correlation_s: float = Field(default=15.0, gt=0)
    drift_rate_um_per_min: float = Field(default=1.0, gt=0)
    drift_rate_walk_um_per_min: float = Field(default=0.1, ge=0)
    drift_walk_um: float = Field(default=0.1, ge=0)
    jump_per_min: float = Field(default=1e-3, ge=0, lt=1)
    near_dof: float = Field(default=0.18, gt=0)
    far: float = Field(default=0.08, gt=0)
    travel_nats_per_um: float = Field(default=0.01, ge=0)
    max_frames_search: int = Field(default=30, ge=2)
    lost_after: int = Field(default=3, ge=1)
    min_certainty: float = Field(default=0.0, ge=0, le=1)
    abstain_report: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.dof_um is None:
            raise ValueError("dof_um (the depth of field in um) is required")
        if self.range_um < 2.0 * self.dof_um:
            raise ValueError(f"range_um ({self.range_um:g}) must be at least two depths of field ({self.dof_um:g} um)")
        return self
