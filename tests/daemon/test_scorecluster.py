"""A cluster gives the same rows in the same order; what goes wrong there is one clear row or one clear message."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

pytest.importorskip("distributed", reason="needs the extra cluster")

from distributed import KilledWorker, LocalCluster
from distributed.client import FutureCancelledError

from parfocal import UsageError
from parfocal.daemon import scorecluster
from parfocal.daemon.fileoptics import PartialOptics
from parfocal.daemon.imagefiles import find_images
from parfocal.daemon.scorecluster import ClusterError, ClusterScorer, score_task
from parfocal.daemon.scorefiles import FileScorer
from parfocal.daemon.scorerows import ScoreJob
from parfocal.models.base import ModelError

JOB = ScoreJob(("sharpness",), PartialOptics(pixel_um=0.3))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0", protocol="inproc://"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(20):
        shape = (2, 64, 64) if index % 5 == 0 else (64, 64)
        tifffile.imwrite(tmp_path / f"{index:02}.tif", rng.integers(90, 4000, shape, dtype=np.uint16))
    (tmp_path / "07.tif").write_bytes(b"no tiff")
    tifffile.imwrite(tmp_path / "11.tif", np.full((64, 64), np.nan, dtype=np.float32))
    return find_images([Path()])


def test_the_same_rows_in_the_same_order(address: str, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here = [row.to_json() for row in FileScorer(JOB).rows(images)]
    there = [row.to_json() for row in ClusterScorer(JOB, address).rows(images)]
    assert there == here
    assert len(there) == 24
    assert there[0]["path"] == "00.tif"
    assert sum("error" in row for row in there) == 2


def test_a_file_that_a_worker_cannot_see_is_a_row_that_says_so(address: str, images: list[Path]) -> None:
    rows = list(ClusterScorer(JOB, address).rows([images[0], Path("gone.tif"), images[1]]))
    assert [row.error for row in rows] == ["", "", "ImageFileError", ""]
    assert "as seen from the worker inproc://" in rows[2].assessment.reason
    assert "same path" in rows[2].assessment.reason


def test_notes_come_back(address: str, images: list[Path]) -> None:
    scorer = ClusterScorer(ScoreJob(("sharpness",)), address)
    next(iter(scorer.rows(images[:1])))
    assert scorer.notes == set()
    _, notes = score_task(ScoreJob(("sharpness",)), ["a"], ["a"], scorecluster.__version__)
    assert notes == set()


def test_a_model_that_cannot_be_made_ends_it_as_it_does_here(address: str, images: list[Path]) -> None:
    job = ScoreJob(("sharpness",), options={"sharpness": {"metric": "beauty"}})
    with pytest.raises(ModelError, match="beauty"):
        list(ClusterScorer(job, address).rows(images))


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorecluster, "CONNECT_S", 0.2)
    scorer = ClusterScorer(JOB, "tcp://127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        list(scorer.rows([Path("a.tif")]))
    assert ClusterError.exit_code == 2


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(ClusterError, match="carrier-pigeon"):
        list(ClusterScorer(JOB, "carrier-pigeon://x").rows([Path("a.tif")]))


def test_a_scheduler_without_workers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorecluster, "CONNECT_S", 0.5)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0", protocol="inproc://") as empty,
        pytest.raises(ClusterError, match="no workers"),
    ):
        list(ClusterScorer(JOB, empty.scheduler_address).rows([Path("a.tif")]))


def test_another_version_there_is_refused(address: str, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match="runs parfocal"):
        score_task(JOB, [], [], "0.0.0")


def test_an_unknown_model_bothers_no_cluster() -> None:
    with pytest.raises(UsageError, match="did you mean 'sharpness'"):
        ClusterScorer(ScoreJob(("sharpnes",)), "tcp://127.0.0.1:9")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"parfocal\[cluster\]"):
        ClusterScorer(JOB, "tcp://127.0.0.1:9")


class FakeFuture:
    """A task that was done, or died."""

    def __init__(self, key: str, result: Any) -> None:
        self.key, self._result = key, result

    def done(self) -> bool:
        return self._result is not LOST

    def release(self) -> None:
        pass

    def exception(self, timeout: float) -> Any:
        raise TimeoutError

    def result(self, timeout: float) -> Any:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


LOST = object()


class FakeClient:
    """A cluster whose workers die of a file of a certain name."""

    def __init__(self, deadly: str = "", fate: Any = None) -> None:
        self.deadly, self.fate = deadly, fate
        self.tasks: list[tuple[str, ...]] = []
        self.closed = False

    def nthreads(self) -> dict[str, int]:
        return {} if self.fate is LOST else {"tcp://w": 1}

    def submit(self, function: Any, job: Any, paths: Any, places: Any, version: str, **options: Any) -> FakeFuture:
        self.tasks.append(paths)
        if self.fate is not None:
            return FakeFuture(options["key"], self.fate)
        if any(self.deadly in path for path in paths):
            return FakeFuture(options["key"], KilledWorker("task", "tcp://w", 3))
        return FakeFuture(options["key"], function(job, paths, places, version))

    def close(self) -> None:
        self.closed = True


def with_client(monkeypatch: pytest.MonkeyPatch, client: FakeClient) -> ClusterScorer:
    monkeypatch.setattr(ClusterScorer, "_connect", lambda self: client)
    return ClusterScorer(JOB, "tcp://s:1")


def test_a_file_that_kills_workers_is_one_row_and_its_neighbours_are_scored(
    images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeClient("03.tif")
    rows = list(with_client(monkeypatch, client).rows(images))
    errors = {str(row.path): row.error for row in rows if row.error}
    assert errors == {"03.tif": "KilledWorker", "07.tif": "ImageFileError", "11.tif": "ImageError"}
    assert [row.path for row in rows] == sorted(row.path for row in rows)
    assert len(rows) == 24
    assert client.closed
    assert client.tasks.count(("03.tif",)) == 1


def test_a_scheduler_that_goes_away_is_named(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient(fate=FutureCancelledError("key", "scheduler-connection-lost"))
    with pytest.raises(ClusterError, match=r"tcp://s:1 went away"):
        list(with_client(monkeypatch, client).rows(images))
    assert client.closed


def test_a_worker_without_parfocal_is_said(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient(fate=ModuleNotFoundError("No module named 'parfocal'"))
    with pytest.raises(ClusterError, match="has to be installed there"):
        list(with_client(monkeypatch, client).rows(images))


def test_a_cluster_that_lost_its_last_worker_is_not_waited_for_for_ever(
    images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorecluster, "LOST_S", 0.01)
    with pytest.raises(ClusterError, match="lost its last worker"):
        list(with_client(monkeypatch, FakeClient(fate=LOST)).rows(images))


def test_a_consumer_that_stops_early_lets_the_cluster_go(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient("never")
    rows = with_client(monkeypatch, client).rows(images)
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert client.closed
