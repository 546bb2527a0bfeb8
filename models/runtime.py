"""Execution of a network over many patches: chosen device, backend, precision and chunk size, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parfocal import did_you_mean
from parfocal.models.backends import PRECISIONS, Backend, Outputs, openvino_installed
from parfocal.models.base import ModelError
from parfocal.models.trial import Trial, Wish, choose, make_backend

CHUNK_PIXELS = 64 * 84 * 84
"""Pixels run at a time where nothing else is said: about what keeps the activations of a small network in the cache."""

Patches = NDArray[Any] | Tensor


class Runner:
    """Runs a network over batches of patches of any number, the same way every time.

    What is left to "auto" is decided once, at `warm_up` or the first call: every combination of backend and precision
    that this machine offers runs the same patches; its answer is compared with eager float32, its time measured. The
    fastest is taken among those whose error is within `tolerance`; another than eager float32 must be clearly faster.
    `describe` tells what was chosen, what was measured and what was refused. A runner whose choices are all given runs
    nothing twice.

    Parameters
    ----------
    module : nn.Module
        Takes patches (k, c, h, w) float32 and perhaps further tensors (k, ...); returns a tensor or a tuple of tensors
        with first axis k. Put into evaluation mode, its parameters frozen; it belongs to the runner afterwards.
    device : str
        "auto" (a CUDA GPU if there is one, else the CPU), or a torch device.
    precision : {"auto", "float32", "bfloat16"}
        Arithmetic; weights, inputs and outputs are float32 in any case.
    backend : {"auto", "torch", "openvino"}
        OpenVINO is for CPUs, and tried only where it is installed.
    chunk : int or "auto"
        Patches run at a time; "auto" measures how many pixels, so that larger patches go fewer at a time.
    threads : int, optional
        Sets the number of threads of torch, for the whole process.
    tolerance : float
        Largest error against eager float32 accepted of another way: root mean square over the patches of the trial,
        relative to the spread of the output over them, worst output.

    Raises
    ------
    ModelError
        An unknown precision or backend, a device that is not there, OpenVINO asked for and not installed.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "auto",
        chunk: int | str = "auto",
        threads: int | None = None,
        tolerance: float = 0.01,
    ) -> None:
        _one_of("precision", precision, ("auto", *PRECISIONS))
        _one_of("backend", backend, ("auto", "torch", "openvino"))
        if chunk != "auto" and (isinstance(chunk, str) or chunk < 1):
            raise ModelError(f"chunk must be 'auto' or a positive number of patches (got {chunk!r})")
        if threads is not None:
            torch.set_num_threads(threads)
        device = _device(device)
        if backend == "openvino" and device != "cpu":
            raise ModelError(f"backend 'openvino' runs on the CPU only, device {device!r} was asked for")
        if backend == "openvino" and not openvino_installed():
            raise ModelError("backend 'openvino' needs the package openvino: pip install 'parfocal[openvino]'")
        self._module = module.eval().requires_grad_(False)
        self._wish = Wish(device, precision, backend, chunk if isinstance(chunk, int) else None, threads, tolerance)
        self._backend: Backend | None = None
        self._chunk_pixels = CHUNK_PIXELS
        self._trial: Trial | None = None
        self._buffer = torch.empty(0)

    @property
    def device(self) -> str:
        """Where it runs."""
        return self._wish.device

    def warm_up(self, patches: Patches, *conditions: Tensor) -> None:
        """Decide what is left to "auto" on these patches (representative ones: their error is what is bounded)."""
        batch = next(self._chunks(_batch(patches), None)).clone()
        extra = [_as_float(condition)[: len(batch)] for condition in conditions]
        with torch.inference_mode():
            if self._wish.decided:
                self._backend = make_backend(
                    self._wish, self._wish.backend, self._wish.precision, self._module, batch, extra
                )
                return
            self._backend, chunk, self._trial = choose(self._wish, self._module, batch, extra, self._size(batch))
        self._chunk_pixels = chunk * _pixels(batch)

    def __call__(self, patches: Patches, *conditions: Tensor, index: NDArray[np.integer[Any]] | None = None) -> Outputs:
        """Do what `run` does."""
        return self.run(patches, *conditions, index=index)

    def run(self, patches: Patches, *conditions: Tensor, index: NDArray[np.integer[Any]] | None = None) -> Outputs:
        """Run the network over all patches.

        Parameters
        ----------
        patches : ndarray or Tensor
            (n, c, h, w), or (n, h, w) for one channel, of any real type; or, with `index`, a grid of tiles
            (rows, columns, h, w) such as `tiles` gives: only the chunk at work is ever copied.
        *conditions : Tensor, shape (n, ...)
            What else the network takes for each patch.
        index : ndarray, shape (n, 2), optional
            Row and column of the tiles to run, in this order.

        Returns
        -------
        tuple of Tensor
            The network's outputs, float32, in host memory, first axis n.

        Raises
        ------
        ModelError
            No patches, wrong dimensions, or conditions of another length.
        """
        batch = patches if index is not None else _batch(patches)
        number = len(batch) if index is None else len(index)
        if number == 0:
            raise ModelError("no patches to run the network on")
        extra = [_as_float(condition) for condition in conditions]
        for condition in extra:
            if len(condition) != number:
                raise ModelError(f"{number} patches but a condition for {len(condition)}")
        if self._backend is None:
            first = batch if index is None else _gather(batch, index[: self._size(batch)])
            self.warm_up(first, *extra)
        return self._run(batch, extra, index)

    def _run(self, batch: Patches, extra: Sequence[Tensor], index: NDArray[Any] | None) -> Outputs:
        backend = self._backend
        if backend is None:
            raise ModelError("warm_up has not chosen a backend")
        pieces: list[Outputs] = []
        done = 0
        with torch.inference_mode():
            for chunk in self._chunks(batch, index):
                pieces.append(backend.run(chunk, [condition[done : done + len(chunk)] for condition in extra]))
                done += len(chunk)
            return tuple(torch.cat(parts).cpu() for parts in zip(*pieces, strict=True))

    def _size(self, batch: Patches) -> int:
        """How many of these patches at a time."""
        return self._wish.chunk if self._wish.chunk is not None else max(1, self._chunk_pixels // _pixels(batch))

    def _chunks(self, batch: Patches, index: NDArray[Any] | None) -> Iterator[Tensor]:
        """Chunks (k, c, h, w) in float32, valid until the next one: they may share one buffer."""
        number, size = len(batch) if index is None else len(index), self._size(batch)
        for begin in range(0, number, size):
            part = batch[begin : begin + size] if index is None else _gather(batch, index[begin : begin + size])
            part = part[:, None] if part.ndim == 3 else part
            if isinstance(part, Tensor) and part.dtype == torch.float32:
                yield part
            else:
                yield self._fill(part, min(size, number))

    def _fill(self, part: Patches, capacity: int) -> Tensor:
        shape = (capacity, *part.shape[1:])
        if tuple(self._buffer.shape[1:]) != shape[1:] or len(self._buffer) < capacity:
            self._buffer = torch.empty(shape, dtype=torch.float32)
        chunk = self._buffer[: len(part)]
        if isinstance(part, Tensor):
            chunk.copy_(part)
        else:
            # numpy converts type and gathers overlapping tiles in one pass, also of read-only frames.
            np.copyto(chunk.numpy(), part, casting="unsafe")
        return chunk

    def describe(self) -> dict[str, Any]:
        """Device, backend, precision, chunk, threads; and, where there was a trial, what it measured. Plain JSON."""
        backend = self._backend
        return {
            "device": self._wish.device,
            "backend": backend.name if backend else self._wish.backend,
            "precision": backend.precision if backend else self._wish.precision,
            "chunk": self._wish.chunk if self._wish.chunk is not None else f"{self._chunk_pixels} px",
            "threads": torch.get_num_threads(),
            "tolerance": self._wish.tolerance,
            "trial": [] if self._trial is None else self._trial.rows(),
        }


def tiles(image: Patches, size: int, stride: int) -> Any:
    """Overlapping tiles of an image as a view, nothing copied; what does not fill a tile at the far edges is left out.

    Parameters
    ----------
    image : ndarray or Tensor, shape (height, width)
        The frame.
    size, stride : int
        Side of a tile and distance between tiles, px.

    Returns
    -------
    ndarray or Tensor, shape (rows, columns, size, size)
        Read-only view for an ndarray; ``rows = (height - size) // stride + 1``.

    Raises
    ------
    ModelError
        Not 2-D, or smaller than a tile, or a size or stride below 1.
    """
    if image.ndim != 2 or size < 1 or stride < 1 or min(image.shape) < size:
        raise ModelError(f"image of shape {tuple(image.shape)} cannot be cut into tiles of {size} px every {stride} px")
    if isinstance(image, Tensor):
        return image.unfold(0, size, stride).unfold(1, size, stride)
    return np.lib.stride_tricks.sliding_window_view(image, (size, size))[::stride, ::stride]


def _pixels(patches: Patches) -> int:
    """Pixels of one patch; of a tile, where it is a grid of them."""
    return int(patches.shape[-1] * patches.shape[-2])


def _batch(patches: Patches) -> Patches:
    if patches.ndim not in (3, 4):
        raise ModelError(f"expected patches (n, c, h, w) or (n, h, w), got shape {tuple(patches.shape)}")
    return patches


def _gather(grid: Patches, index: NDArray[Any]) -> Patches:
    if grid.ndim != 4 or index.ndim != 2 or index.shape[1] != 2:
        raise ModelError(f"index {index.shape} does not select from a grid of tiles {tuple(grid.shape)}")
    return grid[index[:, 0], index[:, 1]]


def _as_float(condition: Tensor) -> Tensor:
    return condition.detach().to("cpu", torch.float32)


def _one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ModelError(f"unknown {what} {value!r}{did_you_mean(value, known)}; there are {', '.join(known)}")


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(wanted).type
    except RuntimeError as error:
        raise ModelError(f"unknown device {wanted!r}: cpu, cuda, cuda:1... or auto") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {wanted!r} was asked for, but torch {torch.__version__} finds no CUDA GPU here")
    return wanted
