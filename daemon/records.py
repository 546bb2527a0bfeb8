"""How assessments, actions and frames are written in the journal, and read back bit for bit as the policy saw them."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment, Distribution, FloatArray
from parfocal.policies.base import Action, Change, Finish, Hold, Observation


def pack_array(array: FloatArray) -> dict[str, Any]:
    """Write an array as its very bits: dtype, shape, base64 of the little-endian values."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return {
        "dtype": little.dtype.str,
        "shape": list(little.shape),
        "data": base64.b64encode(little.tobytes()).decode("ascii"),
    }


def unpack_array(packed: Mapping[str, Any]) -> FloatArray:
    """Read an array back; writable, native byte order."""
    dtype = np.dtype(packed["dtype"])
    flat = np.frombuffer(base64.b64decode(packed["data"]), dtype=dtype)
    return flat.reshape(packed["shape"]).astype(dtype.newbyteorder("="))


class Grids:
    """Grids of defocus, each kept once under a short name made from its content."""

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}
        self._arrays: dict[str, FloatArray] = {}

    def name(self, grid: FloatArray) -> tuple[str, bool]:
        """Return the grid's name, and whether it was not known before."""
        raw = grid.dtype.str.encode() + grid.tobytes()
        known = self._names.get(raw)
        if known is not None:
            return known, False
        name = hashlib.sha256(raw).hexdigest()[:12]
        self._names[raw] = name
        return name, True

    def learn(self, record: Mapping[str, Any]) -> None:
        """Remember a record of kind ``grid``."""
        self._arrays[record["grid"]] = unpack_array(record["values"])

    def __getitem__(self, name: str) -> FloatArray:
        return self._arrays[name]


def assessment_fields(assessment: Assessment, grid: str | None) -> dict[str, Any]:
    """Return the fields of an ``assessment`` record; patch maps are pictures and are not kept."""
    fields: dict[str, Any] = {"model": assessment.model, "value": assessment.value, "sd": assessment.sd}
    if assessment.abstained:
        fields |= {"abstained": True, "reason": assessment.reason}
    if assessment.detail:
        fields["detail"] = {name: float(value) for name, value in assessment.detail.items()}
    if assessment.distribution is not None:
        distribution = assessment.distribution
        fields["distribution"] = {
            "grid": grid,
            "signed": distribution.signed,
            "probability": pack_array(distribution.probability),
        }
    return fields


def as_told(assessment: Assessment) -> Assessment:
    """Return an assessment in exactly the types that it is read back in, so that a replay computes the same."""
    return Assessment(
        model=assessment.model,
        value=float(assessment.value),
        sd=float(assessment.sd),
        abstained=assessment.abstained,
        reason=assessment.reason,
        detail={name: float(value) for name, value in assessment.detail.items()},
        distribution=assessment.distribution,
        patch_map=assessment.patch_map,
    )


def read_assessment(record: Mapping[str, Any], grids: Grids) -> Assessment:
    """Make the assessment again that a record was written from."""
    packed = record.get("distribution")
    distribution = None
    if packed is not None:
        distribution = Distribution(grids[packed["grid"]], unpack_array(packed["probability"]), packed["signed"])
    return Assessment(
        model=record["model"],
        value=float(record["value"]),
        sd=float(record["sd"]),
        abstained=bool(record.get("abstained", False)),
        reason=str(record.get("reason", "")),
        detail={name: float(value) for name, value in record.get("detail", {}).items()},
        distribution=distribution,
    )


def frame_fields(frame: Frame, dose: float) -> dict[str, Any]:
    """Return the fields of a ``frame`` record: everything but the pixels."""
    fields: dict[str, Any] = {
        "index": frame.index,
        "start_s": frame.start_s,
        "end_s": frame.end_s,
        "settings": {name: float(value) for name, value in frame.settings.items()},
        "dose": dose,
    }
    if frame.truth:
        fields["truth"] = {name: float(value) for name, value in frame.truth.items()}
    if frame.simulated:
        fields["simulated"] = True
    return fields


def read_observation(record: Mapping[str, Any], assessments: Mapping[str, Assessment]) -> Observation:
    """Make the observation again that the policy was told."""
    return Observation(
        index=int(record["index"]),
        settings={name: float(value) for name, value in record["settings"].items()},
        time_s=middle_s(float(record["start_s"]), float(record["end_s"])),
        dose=float(record["dose"]),
        assessments=assessments,
    )


def middle_s(start_s: float, end_s: float) -> float:
    """Middle of an exposure; one formula, so that replay tells a policy the same bits."""
    return 0.5 * (start_s + end_s)


def action_fields(action: Action) -> dict[str, Any]:
    """Return the fields of an ``action`` record."""
    fields: dict[str, Any] = {"action": type(action).__name__.lower(), "reason": action.reason}
    if isinstance(action, (Change, Finish)):
        fields["settings"] = {name: float(value) for name, value in action.settings.items()}
    if action.detail:
        fields["detail"] = {name: float(value) for name, value in action.detail.items()}
    return fields


def read_action(record: Mapping[str, Any]) -> Action:
    """Make the action again that a record was written from."""
    detail = {name: float(value) for name, value in record.get("detail", {}).items()}
    settings = {name: float(value) for name, value in record.get("settings", {}).items()}
    match record["action"]:
        case "change":
            return Change(settings, record["reason"], detail)
        case "finish":
            return Finish(settings, record["reason"], detail)
        case "hold":
            return Hold(record["reason"], detail)
        case other:
            raise ValueError(f"unknown action {other!r} in the journal")


class DecisionDigest:
    """A running SHA-256 of a session's decisions: what the policy wanted after each frame, and the guard's verdict.

    The same when a session is recorded and when it is replayed from the record, if both decided the same, bit for bit:
    over one line of canonical JSON (sorted keys, shortest floats that read back the same) for each action and verdict.
    What the loop holds by itself, without asking the policy, does not count; nor does what is decided later about the
    same frame, as beside an acquisition: the first action after a frame was told is the policy's.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._told: int | None = None
        self._judged: int | None = None
        self.decisions = 0

    def told(self, index: int) -> None:
        """Learn which frame the policy was told of last."""
        self._told, self._judged = index, None

    def action(self, index: int | None, fields: Mapping[str, Any]) -> None:
        """Take in an action, by the fields of its record."""
        self._judged = None
        if index is not None and index == self._told:
            self._told, self._judged = None, index
            self.decisions += 1
            self._hash.update(canonical({"index": index, **{key: fields.get(key) for key in ACTION_KEYS}}))

    def verdict(self, index: int | None, fields: Mapping[str, Any]) -> None:
        """Take in what the guard said of it, by the fields of that record."""
        if index is not None and index == self._judged:
            self._judged = None
            self._hash.update(canonical({"index": index, **{key: fields.get(key) for key in VERDICT_KEYS}}))

    @property
    def sha256(self) -> str:
        """The digest so far, in hexadecimal."""
        return self._hash.hexdigest()


ACTION_KEYS = ("action", "reason", "settings", "detail")
VERDICT_KEYS = ("accepted", "reason", "refusal")


def verdict_fields(accepted: bool, reason: str, refusal: str | None) -> dict[str, Any]:
    """Return the fields of a ``verdict`` record."""
    return {"accepted": accepted, "reason": reason, "refusal": refusal}


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return one line of canonical JSON, the same for a record just made and for one that was read back."""
    try:
        text = _CANONICAL.encode(value)
    except ValueError:
        text = _CANONICAL.encode(_words(value))
    return text.encode() + b"\n"


_CANONICAL = json.JSONEncoder(allow_nan=False, sort_keys=True, separators=(",", ":"))


def _words(value: Any) -> Any:
    """NaN and infinities as the journal writes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {key: _words(item) for key, item in value.items()}
    return value
