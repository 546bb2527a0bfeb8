"""Which arithmetic pays on this machine: bfloat16 where the hardware multiplies in it, float32 elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

CHOICES = ("auto", "bfloat16", "float32")


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; elsewhere it would be slower than float32."""
    ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # older versions do not say
    capabilities = ask()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def settled(precision: str, device_type: str) -> str:
    """What `precision` means on a device: itself, or for ``auto`` what is faster there.

    A training step of the defocus network took 7.7 times as long in emulated bfloat16 as in float32 (AVX2, one thread).

    Raises
    ------
    ValueError
        None of `CHOICES`.
    """
    if precision not in CHOICES:
        raise ValueError(f"precision must be one of {', '.join(CHOICES)} (got {precision!r})")
    if precision != "auto":
        return precision
    return "bfloat16" if device_type == "cuda" or has_bfloat16() else "float32"


def training_autocast(precision: str, device_type: str) -> torch.autocast:
    """The context in which a training step runs its network."""
    return torch.autocast(device_type, torch.bfloat16, enabled=settled(precision, device_type) == "bfloat16")
