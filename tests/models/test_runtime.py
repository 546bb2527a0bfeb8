"""The runner: same answers whatever the chunks, honest choices, clear refusals."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parfocal.models import backends, trial
from parfocal.models.backends import Outputs, TorchBackend, openvino_installed
from parfocal.models.base import ModelError
from parfocal.models.runtime import Runner, tiles

needs_openvino = pytest.mark.skipif(not openvino_installed(), reason="the optional package openvino is not installed")


class Net(nn.Module):
    """A small network with a condition and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(18, 5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, patches: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(torch.cat([self.features(patches), self.dropout(condition)], 1))
        return logits, logits.sum(1)


def data(number: int, size: int = 24) -> tuple[np.ndarray[Any, Any], Tensor]:
    rng = np.random.default_rng(1)
    return rng.integers(0, 4000, (number, 1, size, size)).astype(np.uint16), torch.from_numpy(rng.random((number, 2)))


def plain(patches: np.ndarray[Any, Any], condition: Tensor) -> Outputs:
    with torch.inference_mode():
        return Net().eval()(torch.from_numpy(patches.astype(np.float32)), condition.float())


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_do_not_change_the_answer(chunk: int) -> None:
    patches, condition = data(20)
    runner = Runner(Net(), backend="torch", precision="float32", chunk=chunk)
    outputs = runner(patches, condition)
    for output, wanted in zip(outputs, plain(patches, condition), strict=True):
        assert output.dtype == torch.float32
        assert torch.allclose(output, wanted, rtol=1e-5, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(outputs, runner(patches, condition), strict=True))


def test_patches_of_any_kind_give_the_same() -> None:
    patches, condition = data(9)
    runner = Runner(Net(), backend="torch", precision="float32", chunk=4)
    wanted = runner(patches, condition)[0]
    frozen = patches[:, 0].copy()
    frozen.setflags(write=False)
    for variant in (frozen, patches.astype(">u2"), torch.from_numpy(patches.astype(np.float64))):
        assert torch.equal(runner(variant, condition)[0], wanted)


def test_tiles_are_views_and_run_without_a_copy_of_the_whole() -> None:
    image = np.random.default_rng(0).integers(0, 4000, (70, 61)).astype(np.uint16)
    grid = tiles(image, 24, 12)
    assert grid.shape == (4, 4, 24, 24)
    assert np.shares_memory(grid, image)
    assert np.array_equal(grid[2, 3], image[24:48, 36:60])
    whole = torch.from_numpy(image.astype(np.int32))
    assert tiles(whole, 24, 12)[2, 3].tolist() == grid[2, 3].tolist()
    index = np.array([[0, 0], [3, 1], [2, 3]])
    condition = torch.rand(3, 2)
    runner = Runner(Net(), backend="torch", precision="float32", chunk=2)
    picked = np.stack([grid[row, column] for row, column in index])
    assert torch.equal(runner(grid, condition, index=index)[0], runner(picked, condition)[0])


@pytest.mark.parametrize(("size", "stride"), [(80, 10), (8, 0), (0, 1)])
def test_tiles_that_cannot_be_cut(size: int, stride: int) -> None:
    with pytest.raises(ModelError, match="cannot be cut"):
        tiles(np.zeros((70, 90)), size, stride)


class Fake:
    """A backend of known error, whose time the fake clock below decides."""

    def __init__(self, name: str, precision: str, error: float, module: nn.Module) -> None:
        self.name, self.precision = name, precision
        self._error, self._module = error, module

    def run(self, chunk: Tensor, conditions: Sequence[Tensor]) -> Outputs:
        logits, total = self._module(chunk, *conditions)
        return logits + self._error * logits.std() * torch.randn_like(logits), total


@pytest.fixture
def rigged(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], tuple[float, float]]:
    """Errors and times of the ways, by backend and precision, as the test wants them."""
    table: dict[tuple[str, str], tuple[float, float]] = {}
    timed = trial._timed

    def make(wish: Any, name: str, precision: str, module: nn.Module, batch: Tensor, conditions: Any) -> Any:
        return Fake(name, precision, table[name, precision][0], module)

    def measured(backend: Any, batch: Tensor, conditions: Any) -> tuple[Outputs, float]:
        return timed(backend, batch, conditions)[0], table[backend.name, backend.precision][1] * len(batch)

    monkeypatch.setattr(trial, "make_backend", make)
    monkeypatch.setattr(trial, "_timed", measured)
    monkeypatch.setattr(trial, "openvino_installed", lambda: True)
    return table


@pytest.mark.parametrize(
    ("bf16", "ov", "ov16", "chosen"),
    [
        ((0.001, 0.5), (0.0, 0.9), (0.001, 0.7), ("torch", "bfloat16")),
        ((0.5, 0.1), (0.0, 0.6), (0.5, 0.1), ("openvino", "float32")),  # fast but wrong is refused
        ((0.001, 0.95), (0.0, 0.95), (0.001, 0.99), ("torch", "float32")),  # not clearly faster is not worth it
        ((0.001, 2.0), (0.0, 1.5), (0.001, 0.3), ("openvino", "bfloat16")),
    ],
)
def test_the_fastest_that_is_accurate_is_chosen(
    rigged: dict[tuple[str, str], tuple[float, float]], bf16: Any, ov: Any, ov16: Any, chosen: tuple[str, str]
) -> None:
    rigged.update(
        {
            ("torch", "float32"): (0.0, 1.0),
            ("torch", "bfloat16"): bf16,
            ("openvino", "float32"): ov,
            ("openvino", "bfloat16"): ov16,
        }
    )
    runner = Runner(Net(), device="cpu", chunk=8)
    runner(*data(16))
    told = runner.describe()
    assert (told["backend"], told["precision"]) == chosen
    verdicts = {(row["backend"], row["precision"]): row["verdict"] for row in told["trial"]}
    assert verdicts[chosen] == "chosen"
    assert len(verdicts) == 4
    assert all(verdicts.values())


def test_a_real_trial_stays_within_its_tolerance() -> None:
    patches, condition = data(32)
    runner = Runner(Net(), device="cpu")
    outputs = runner(patches, condition)
    wanted = plain(patches, condition)
    for output, reference in zip(outputs, wanted, strict=True):
        assert float((output - reference).square().mean().sqrt() / reference.std()) < 0.012
    told = runner.describe()
    assert told["trial"][0]["verdict"] in ("reference", "chosen")
    assert told["chunk"].endswith(" px")
    sizes = {row["chunk"] for row in told["trial"]}
    default = 64 * 84 * 84 // (24 * 24)
    assert sizes == {default // 4, default // 2, default, 2 * default}
    assert all(torch.equal(a, b) for a, b in zip(outputs, runner(patches, condition), strict=True))


def test_bfloat16_asked_for_is_bfloat16() -> None:
    patches, condition = data(8)
    outputs = Runner(Net(), device="cpu", backend="torch", precision="bfloat16", chunk=8)(patches, condition)
    wanted = plain(patches, condition)
    assert not torch.equal(outputs[0], wanted[0])
    assert float((outputs[0] - wanted[0]).square().mean().sqrt() / wanted[0].std()) < 0.1


@needs_openvino
@pytest.mark.parametrize("number", [3, 20])
def test_openvino_agrees_with_torch(number: int) -> None:
    patches, condition = data(number)
    runner = Runner(Net(), backend="openvino", precision="float32", chunk=8, threads=1)
    for output, wanted in zip(runner(patches, condition), plain(patches, condition), strict=True):
        assert torch.allclose(output, wanted, rtol=1e-4, atol=1e-2)
    assert runner.describe()["backend"] == "openvino"


@needs_openvino
def test_openvino_runs_from_several_threads_at_a_time() -> None:
    runner = Runner(Net(), backend="openvino", precision="float32", chunk=8, threads=1)
    rng = np.random.default_rng(2)
    batches = [
        [torch.from_numpy(rng.random(shape, np.float32)) for shape in ((8, 1, 24, 24), (8, 2))] for _ in range(24)
    ]
    wanted = [runner(*batch)[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for said, expected in zip(pool.map(lambda batch: runner(*batch)[0], batches), wanted, strict=True):
            torch.testing.assert_close(said, expected)


@needs_openvino
def test_openvino_takes_patches_of_other_sizes() -> None:
    runner = Runner(Net(), backend="openvino", precision="float32", chunk=4)
    for size in (24, 40, 32):
        patches, condition = data(5, size)
        assert torch.allclose(runner(patches, condition)[0], plain(patches, condition)[0], rtol=1e-4, atol=1e-2)


class Fixed(nn.Module):
    """A network for one size of patch, as the paper's is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24 * 24, 3)

    def forward(self, patches: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(patches.flatten(1)))


@needs_openvino
def test_openvino_runs_a_network_for_one_size() -> None:
    patches, _ = data(5)
    network = Fixed()
    with torch.inference_mode():
        wanted = network(torch.from_numpy(patches.astype(np.float32)))
    assert torch.allclose(
        Runner(network, backend="openvino", precision="float32", chunk=4)(patches)[0], wanted, atol=0.1
    )


def test_larger_patches_go_fewer_at_a_time() -> None:
    seen: list[tuple[int, ...]] = []

    class Spy(nn.Module):
        def forward(self, patches: Tensor) -> Tensor:
            seen.append(tuple(patches.shape))
            return patches.mean((1, 2, 3))

    runner = Runner(Spy(), device="cpu", backend="torch", precision="float32")
    runner.warm_up(np.zeros((1, 512, 512), np.uint16))
    budget = int(runner.describe()["chunk"].split()[0])
    seen.clear()
    runner(np.zeros((3, 512, 512), np.uint16))
    runner(np.zeros((300, 64, 64), np.uint16))
    assert all(shape[0] <= max(1, budget // (shape[2] * shape[3])) for shape in seen)
    assert sum(shape[0] for shape in seen) == 303


@needs_openvino
def test_openvino_does_not_report_home() -> None:
    import sys

    Runner(Net(), backend="openvino", precision="float32", chunk=8)(*data(4))
    assert "openvino_telemetry" not in sys.modules


def test_openvino_absent_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'parfocal\[openvino\]'"):
        Runner(Net(), backend="openvino")
    with pytest.raises(ModelError, match="pip install"):
        backends.OpenVinoBackend(Net(), "float32", torch.zeros(1, 1, 8, 8), [], None)
    assert Runner(Net(), device="cpu").describe()["device"] == "cpu"


def test_a_way_that_fails_is_recorded_and_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    run = TorchBackend.run

    def failing(self: TorchBackend, chunk: Tensor, conditions: Sequence[Tensor]) -> Outputs:
        if self.precision == "bfloat16":
            raise RuntimeError("not on this machine")
        return run(self, chunk, conditions)

    monkeypatch.setattr(TorchBackend, "run", failing)
    runner = Runner(Net(), device="cpu", backend="torch")
    runner(*data(8))
    told = runner.describe()
    assert told["precision"] == "float32"
    assert any(row["verdict"] == "failed: not on this machine" for row in told["trial"])
    with pytest.raises(ModelError, match="not on this machine"):
        Runner(Net(), device="cpu", backend="torch", precision="bfloat16")(*data(8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float23"}, "did you mean 'float32'"),
        ({"backend": "opnvino"}, "did you mean 'openvino'"),
        ({"chunk": 0}, "positive"),
        ({"chunk": "many"}, "positive"),
        ({"device": "gpu7"}, "unknown device"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Runner(Net(), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="no CUDA GPU"):
        Runner(Net(), device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_gpu_agrees_with_cpu() -> None:  # pragma: no cover - only where there is one
    patches, condition = data(50)
    outputs = Runner(Net(), device="cuda", backend="torch", precision="float32", chunk=16)(patches, condition)
    for output, wanted in zip(outputs, plain(patches, condition), strict=True):
        assert torch.allclose(output, wanted, rtol=1e-2, atol=1.0)


def test_wrong_input_is_refused() -> None:
    patches, condition = data(4)
    runner = Runner(Net(), device="cpu", backend="torch", precision="float32", chunk=4)
    with pytest.raises(ModelError, match="no patches"):
        runner(patches[:0], condition[:0])
    with pytest.raises(ModelError, match="condition for 3"):
        runner(patches, condition[:3])
    with pytest.raises(ModelError, match="expected patches"):
        runner(patches[0, 0], condition)
    with pytest.raises(ModelError, match="does not select"):
        runner(patches[:, 0], condition, index=np.zeros((4, 2), int))


def test_a_network_that_returns_no_tensor() -> None:
    class Wrong(nn.Module):
        def forward(self, patches: Tensor) -> str:
            return "hello"

    with pytest.raises(ModelError, match="got str"):
        Runner(Wrong(), device="cpu", backend="torch", precision="float32", chunk=4)(np.zeros((2, 8, 8)))
