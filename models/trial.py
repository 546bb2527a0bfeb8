"""The trial that decides how a network runs on this machine: what is accurate enough, and of that the fastest."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from parfocal.models.backends import PRECISIONS, Backend, OpenVinoBackend, Outputs, TorchBackend, openvino_installed
from parfocal.models.base import ModelError

GAIN = 1.15
"""How much faster than eager float32 another way must be to be worth it."""
REPEATS = 3
CHUNK_FACTORS = (0.25, 0.5, 2.0)
"""Times the default: the chunk sizes tried beside it where that is left open."""


@dataclass(frozen=True)
class Wish:
    """What the caller of a runner asked for; "auto" and None are left to the trial."""

    device: str
    precision: str
    backend: str
    chunk: int | None
    threads: int | None
    tolerance: float

    @property
    def decided(self) -> bool:
        """Whether nothing is left to choose."""
        return "auto" not in (self.precision, self.backend) and self.chunk is not None

    def ways(self) -> list[tuple[str, str]]:
        """Backend and precision of everything to try; eager float32 is the reference and not among them."""
        offered = ["torch", "openvino"] if self.device == "cpu" and openvino_installed() else ["torch"]
        backends = offered if self.backend == "auto" else [self.backend]
        precisions = list(PRECISIONS) if self.precision == "auto" else [self.precision]
        pairs = [(backend, precision) for backend in backends for precision in precisions]
        return [pair for pair in pairs if pair != ("torch", "float32")]

    def allows_reference(self) -> bool:
        """Whether eager float32 may be the outcome."""
        return self.backend in ("auto", "torch") and self.precision in ("auto", "float32")


@dataclass
class Attempt:
    """One way, as it did in the trial."""

    backend: str
    precision: str
    chunk: int
    ms_per_patch: float = math.nan
    error: float = math.nan
    verdict: str = ""


@dataclass
class Trial:
    """Everything that was tried."""

    attempts: list[Attempt] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """As plain JSON; what was not measured is None."""
        return [{key: _plain(value) for key, value in vars(attempt).items()} for attempt in self.attempts]


def choose(
    wish: Wish, module: nn.Module, batch: Tensor, conditions: Sequence[Tensor], chunk: int
) -> tuple[Backend, int, Trial]:
    """Try every way the wish leaves open on one batch; returns the way to go, its chunk size, and the record.

    Raises
    ------
    ModelError
        The one way that the wish leaves cannot be gone.
    """
    trial = Trial()
    reference_backend = make_backend(wish, "torch", "float32", module, batch, conditions)
    reference, seconds = _timed(reference_backend, batch, conditions)
    best: Backend = reference_backend
    best_attempt = Attempt("torch", "float32", chunk, _per_patch(seconds, batch), 0.0, "reference")
    trial.attempts.append(best_attempt)
    allowed = wish.allows_reference()
    for name, precision in wish.ways():
        attempt = Attempt(name, precision, chunk)
        trial.attempts.append(attempt)
        backend = _attempt(attempt, wish, module, batch, conditions, reference)
        if backend is None:
            continue
        # What the caller asked for is taken as asked; only a choice that is ours must be accurate and worth it.
        asked = wish.precision == precision or attempt.error <= wish.tolerance
        if not asked:
            attempt.verdict = f"refused: error {attempt.error:.2g} is above {wish.tolerance:g}"
        elif allowed and best is reference_backend and attempt.ms_per_patch * GAIN > best_attempt.ms_per_patch:
            attempt.verdict = "refused: not clearly faster"
        elif not allowed or attempt.ms_per_patch < best_attempt.ms_per_patch:
            best, best_attempt, allowed = backend, attempt, True
            attempt.verdict = "accepted"
        else:
            attempt.verdict = "refused: slower"
    if not allowed:
        problems = "; ".join(f"{a.backend} {a.precision}: {a.verdict}" for a in trial.attempts[1:])
        raise ModelError(f"no way to run the network as asked: {problems}")
    best_attempt.verdict = "chosen"
    size = wish.chunk if wish.chunk is not None else _best_chunk(best, batch, conditions, chunk, best_attempt, trial)
    return best, size, trial


def make_backend(
    wish: Wish, name: str, precision: str, module: nn.Module, batch: Tensor, conditions: Sequence[Tensor]
) -> Backend:
    """Make one backend; raises `ModelError` if it cannot be had."""
    if name == "openvino":
        return OpenVinoBackend(module, precision, batch, conditions, wish.threads)
    return TorchBackend(module, wish.device, precision)


def _attempt(
    attempt: Attempt, wish: Wish, module: nn.Module, batch: Tensor, conditions: Sequence[Tensor], reference: Outputs
) -> Backend | None:
    """Make and measure one way; None, with the reason in the record, if it cannot be gone."""
    try:
        backend = make_backend(wish, attempt.backend, attempt.precision, module, batch, conditions)
        outputs, seconds = _timed(backend, batch, conditions)
    except (ModelError, RuntimeError) as error:
        attempt.verdict = f"failed: {error}"
        return None
    attempt.ms_per_patch, attempt.error = _per_patch(seconds, batch), _error(outputs, reference)
    return backend


def _best_chunk(
    backend: Backend, batch: Tensor, conditions: Sequence[Tensor], chunk: int, chosen: Attempt, trial: Trial
) -> int:
    """Chunk size with the least time per patch; another than the default must be clearly better."""
    best, least = chunk, chosen.ms_per_patch / GAIN
    for size in sorted({max(1, round(chunk * factor)) for factor in CHUNK_FACTORS} - {chunk}):
        repeats = -(-size // len(batch))
        patches = batch.repeat(repeats, 1, 1, 1)[:size]
        extra = [condition.repeat(repeats, *[1] * (condition.ndim - 1))[:size] for condition in conditions]
        _, seconds = _timed(backend, patches, extra)
        attempt = Attempt(backend.name, backend.precision, size, _per_patch(seconds, patches), chosen.error)
        trial.attempts.append(attempt)
        if attempt.ms_per_patch < least:
            best, least = size, attempt.ms_per_patch
    return best


def _timed(backend: Backend, batch: Tensor, conditions: Sequence[Tensor]) -> tuple[Outputs, float]:
    """Run once for the outputs, brought to the host, and a few times more for the least of their seconds."""
    outputs = tuple(output.cpu() for output in backend.run(batch, conditions))
    seconds = math.inf
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for output in backend.run(batch, conditions):
            output.cpu()
        seconds = min(seconds, time.perf_counter() - begin)
    return outputs, seconds


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _per_patch(seconds: float, batch: Tensor) -> float:
    return 1e3 * seconds / len(batch)


def _error(outputs: Outputs, reference: Outputs) -> float:
    """Root mean square difference over the spread of the reference, of the worst output; infinite if not finite."""
    if len(outputs) != len(reference):
        return math.inf
    worst = 0.0
    for output, wanted in zip(outputs, reference, strict=True):
        if output.shape != wanted.shape or not bool(torch.isfinite(output).all()):
            return math.inf
        difference = (output - wanted).double().square().mean().sqrt()
        # An output that is the same for all patches has no spread: then its size is the measure.
        spread = torch.maximum(wanted.double().std(correction=0), 1e-3 * wanted.double().square().mean().sqrt())
        worst = max(worst, float(difference / spread) if float(spread) > 0 else math.inf if float(difference) else 0.0)
    return worst
