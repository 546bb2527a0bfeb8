"""Assessments as bytes and back: msgpack, floats and arrays exact to the last bit, never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from parfocal.models.base import Assessment, Distribution, FloatArray, PatchMap, ScorerError

_DTYPES = ("<f2", "<f4", "<f8")


def pack_assessments(assessments: Mapping[str, Assessment]) -> bytes:
    """Assessments by model name as one msgpack document."""
    return pack({name: encode_assessment(assessment) for name, assessment in assessments.items()})


def unpack_assessments(data: bytes) -> dict[str, Assessment]:
    """Inverse of `pack_assessments`; raises `ScorerError` for anything else."""
    document = unpack(data)
    if not isinstance(document, dict):
        raise ScorerError(f"expected assessments by name, got a {type(document).__name__}")
    return {name: decode_assessment(item) for name, item in document.items()}


def pack(document: Any) -> bytes:
    """Msgpack of plain data (text, numbers, bytes, lists, dicts)."""
    return bytes(msgpack.packb(document, use_bin_type=True))


def unpack(data: bytes) -> Any:
    """Inverse of `pack`; raises `ScorerError` if the bytes are not msgpack."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ScorerError(f"message of {len(data)} bytes is not msgpack: {error}") from error


def encode_assessment(assessment: Assessment) -> dict[str, Any]:
    """Plain data that `decode_assessment` turns back into an equal assessment."""
    distribution, patch_map = assessment.distribution, assessment.patch_map
    return {
        "model": str(assessment.model),
        "value": float(assessment.value),
        "sd": float(assessment.sd),
        "abstained": bool(assessment.abstained),
        "reason": str(assessment.reason),
        "detail": {str(key): float(value) for key, value in assessment.detail.items()},
        "distribution": None if distribution is None else _encode_distribution(distribution),
        "patch_map": None if patch_map is None else _encode_patch_map(patch_map),
    }


def decode_assessment(data: Any) -> Assessment:
    """Inverse of `encode_assessment`; raises `ScorerError` for a malformed document."""
    try:
        distribution, patch_map = data["distribution"], data["patch_map"]
        return Assessment(
            model=_typed(data["model"], str),
            value=_typed(data["value"], float),
            sd=_typed(data["sd"], float),
            abstained=_typed(data["abstained"], bool),
            reason=_typed(data["reason"], str),
            detail={_typed(key, str): _typed(value, float) for key, value in data["detail"].items()},
            distribution=None if distribution is None else _decode_distribution(distribution),
            patch_map=None if patch_map is None else _decode_patch_map(patch_map),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ScorerError(f"malformed assessment: {type(error).__name__}: {error}") from error


def encode_array(array: NDArray[Any]) -> dict[str, Any]:
    """Dtype, shape and raw little-endian bytes of an array of floats."""
    little = np.asarray(array)
    little = little.astype(little.dtype.newbyteorder("<"), copy=False)
    # numpy writes the native order as "=" or "<" depending on the machine; `str` is always explicit.
    if little.dtype.str not in _DTYPES:
        raise TypeError(f"arrays of an assessment must be floats, got {array.dtype}")
    return {"dtype": little.dtype.str, "shape": list(little.shape), "data": little.tobytes()}


def decode_array(data: Any) -> FloatArray:
    """Inverse of `encode_array`; raises `ValueError` if dtype, shape and length do not agree."""
    if data["dtype"] not in _DTYPES:
        raise ValueError(f"array of dtype {data['dtype']!r} is not allowed")
    shape = tuple(_typed(length, int) for length in data["shape"])
    dtype = np.dtype(data["dtype"])
    raw = _typed(data["data"], bytes)
    if any(length < 0 for length in shape) or len(raw) != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise ValueError(f"array of shape {shape} and dtype {dtype} cannot have {len(raw)} bytes")
    native = np.frombuffer(raw, dtype).reshape(shape)
    return native.astype(dtype.newbyteorder("="))


def _encode_distribution(distribution: Distribution) -> dict[str, Any]:
    return {
        "defocus_um": encode_array(distribution.defocus_um),
        "probability": encode_array(distribution.probability),
        "signed": bool(distribution.signed),
    }


def _decode_distribution(data: Any) -> Distribution:
    defocus_um, probability = decode_array(data["defocus_um"]), decode_array(data["probability"])
    if defocus_um.ndim != 1 or defocus_um.shape != probability.shape:
        raise ValueError(f"distribution of shapes {defocus_um.shape} and {probability.shape}")
    return Distribution(defocus_um, probability, _typed(data["signed"], bool))


def _encode_patch_map(patch_map: PatchMap) -> dict[str, Any]:
    return {
        "value": encode_array(patch_map.value),
        "certainty": encode_array(patch_map.certainty),
        "patch_px": int(patch_map.patch_px),
        "stride_px": int(patch_map.stride_px),
        "unit": str(patch_map.unit),
    }


def _decode_patch_map(data: Any) -> PatchMap:
    return PatchMap(
        value=decode_array(data["value"]),
        certainty=decode_array(data["certainty"]),
        patch_px=_typed(data["patch_px"], int),
        stride_px=_typed(data["stride_px"], int),
        unit=_typed(data["unit"], str),
    )


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value
