"""Ways to run a torch module: eager torch on a CPU or GPU, or OpenVINO; each at one precision."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from parfocal.models.base import ModelError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Outputs = tuple[Tensor, ...]


class Backend(Protocol):
    """Runs one chunk of patches."""

    name: str
    precision: str

    def run(self, chunk: Tensor, conditions: Sequence[Tensor]) -> Outputs:
        """Run float32 patches (k, c, h, w) in host memory; float32 outputs, on the host or still on the device."""
        ...


class TorchBackend:
    """The module as it is, weights and activations in channels_last; bf16 by autocast.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode; moved to the device.
    device : str
        A torch device.
    precision : str
        A key of `PRECISIONS`.
    """

    name = "torch"

    def __init__(self, module: nn.Module, device: str, precision: str) -> None:
        self._device = torch.device(device)
        try:
            self._module = module.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"device {device!r} cannot be used: {error}") from error
        self.precision = precision
        self._stage: list[tuple[Tensor, Any]] = []
        self._turn = 0

    def run(self, chunk: Tensor, conditions: Sequence[Tensor]) -> Outputs:
        """See `Backend.run`; on a GPU the copies are asynchronous and the outputs stay there."""
        on_gpu = self._device.type == "cuda"
        patches = self._upload(chunk) if on_gpu else chunk.to(self._device)
        patches = patches.contiguous(memory_format=torch.channels_last)
        extra = [condition.to(self._device, non_blocking=on_gpu) for condition in conditions]
        low = self.precision != "float32"
        with torch.autocast(self._device.type, dtype=PRECISIONS[self.precision], enabled=low):
            outputs = self._module(patches, *extra)
        return tuple(output.to(torch.float32) for output in as_outputs(outputs))

    def _upload(self, chunk: Tensor) -> Tensor:
        """Copy through one of two pinned buffers, so that the next chunk is gathered while this one travels."""
        if not self._stage or self._stage[0][0].shape[1:] != chunk.shape[1:] or len(self._stage[0][0]) < len(chunk):
            event: Any = torch.cuda.Event  # untyped in torch
            self._stage = [(torch.empty_like(chunk, pin_memory=True), event()) for _ in range(2)]
        buffer, used = self._stage[self._turn]
        self._turn = 1 - self._turn
        used.synchronize()
        pinned = buffer[: len(chunk)]
        pinned.copy_(chunk)
        patches = pinned.to(self._device, non_blocking=True)
        used.record()
        return patches


class OpenVinoBackend:
    """The module converted to OpenVINO (through torch.export, no ONNX), for CPUs.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.
    precision : str
        A key of `PRECISIONS`.
    example : Tensor, shape (k, c, h, w)
        Patches of the size to come; their number stays free, and their sides where the network allows it.
    conditions : sequence of Tensor
        What else the module takes.
    threads : int, optional
        How many threads it may use.

    Raises
    ------
    ModelError
        OpenVINO is not installed, or cannot convert or compile this module.
    """

    name = "openvino"

    def __init__(
        self, module: nn.Module, precision: str, example: Tensor, conditions: Sequence[Tensor], threads: int | None
    ) -> None:
        if not openvino_installed():
            raise ModelError("backend 'openvino' needs the package openvino: pip install 'parfocal[openvino]'")
        self.precision = precision
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            with _quiet():
                self._compiled = _convert(module.to("cpu"), example, conditions, settings)
            self._local = threading.local()
        except Exception as error:  # a converter fails in many ways, all of which mean: not this way
            raise ModelError(f"OpenVINO cannot run this network: {type(error).__name__}: {error}") from error

    def run(self, chunk: Tensor, conditions: Sequence[Tensor]) -> Outputs:
        """See `Backend.run`; from several threads at a time, if need be."""
        request = getattr(self._local, "request", None)
        if request is None:  # one a thread: a request that is busy refuses another call
            request = self._local.request = self._compiled.create_infer_request()
        result = request.infer([tensor.contiguous().numpy() for tensor in (chunk, *conditions)])
        # OpenVINO owns the result's memory and reuses it for the next chunk.
        return tuple(torch.from_numpy(result[index].copy()) for index in range(len(self._compiled.outputs)))


def openvino_installed() -> bool:
    """Whether the optional package is there, without importing it."""
    return importlib.util.find_spec("openvino") is not None


def as_outputs(outputs: Any) -> Outputs:
    """Make a tuple of what a module returned; raises `ModelError` for anything but tensors."""
    found = outputs if isinstance(outputs, tuple | list) else (outputs,)
    if not found or not all(isinstance(output, Tensor) for output in found):
        raise ModelError(f"the network must return a tensor or a tuple of tensors, got {type(outputs).__name__}")
    return tuple(found)


def _convert(module: nn.Module, example: Tensor, conditions: Sequence[Tensor], settings: dict[str, Any]) -> Any:
    # Importing openvino would report the use to its makers over the network: an instrument must not. Where the package
    # that does so cannot be imported, openvino uses its own silent stand-in.
    absent = "openvino_telemetry" not in sys.modules
    if absent:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    finally:
        if absent:
            del sys.modules["openvino_telemetry"]
    # torch.export takes a single patch for a fixed number of one.
    arguments = tuple(tensor[:1].repeat(2, *[1] * (tensor.ndim - 1)) for tensor in (example, *conditions))
    free = torch.export.Dim.AUTO  # free where the network allows it: number of patches, and their sides
    shapes = tuple({0: free, 2: free, 3: free} if tensor.ndim == 4 else {0: free} for tensor in arguments)
    exported = torch.export.export(module, arguments, dynamic_shapes=shapes)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchFXPythonDecoder.from_exported_program(exported)  # has to outlive the conversion
    converted = frontend.convert(frontend.load(decoder))
    for port, sides in zip(converted.inputs, _sides(exported), strict=True):
        port.get_node().set_partial_shape(openvino.PartialShape(sides))
    converted.validate_nodes_and_infer_types()
    return openvino.Core().compile_model(converted, "CPU", settings)


def _sides(exported: torch.export.ExportedProgram) -> list[list[int]]:
    """Shapes of the inputs of an exported network, -1 where a side is free."""
    names = exported.graph_signature.user_inputs
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder" and node.name in names]
    return [[side if isinstance(side, int) else -1 for side in node.meta["val"].shape] for node in nodes]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep a converter's deprecation warnings, and its talk to the root logger, to itself."""
    root, silent = logging.getLogger(), logging.NullHandler()
    level = root.level
    # `logging.warning` of the converter would install a handler on a root logger that has none.
    root.addHandler(silent)
    root.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)
