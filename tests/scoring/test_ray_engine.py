"""Scoring on Ray Data: a local cluster of two workers makes the same rows, also when a worker dies."""

import os
import signal
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from gradgeo import Detector
from gradgeo.data import Source, open_source
from gradgeo.errors import DataError
from gradgeo.scoring import score
from gradgeo.scoring.formats import VerdictSchema
from gradgeo.scoring.manifest import Manifest
from gradgeo.scoring.parts import Parts
from gradgeo.scoring.ray_engine import RayEngine, _PartWorker
from helpers import ROOT, TESTS
from helpers.nets import inputs, network

ray = pytest.importorskip("ray", reason="ray is not installed; it comes with gradgeo[ray]")
pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("default")]  # Ray gives warnings of its own


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        found = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(TESTS), *([found] if found else [])]))
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=10**8
        )
        yield
        ray.shutdown()


def model() -> nn.Module:
    return network(inputs=16, width=12).eval()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("room")
    x = inputs(300, shape=(1, 4, 4))
    Detector(model(), evidence="fast").fit(x).save(room / "d.gradgeo")
    np.savez(room / "a.npz", x=np.random.RandomState(0).rand(60, 1, 4, 4), y=np.arange(60) % 4)
    with tarfile.open(room / "a.tar", "w") as tar:
        for i, row in enumerate(np.random.RandomState(0).rand(25, 1, 4, 4)):
            stream = BytesIO()
            np.save(stream, row)
            entry = tarfile.TarInfo(f"{i}.npy")
            entry.size = stream.tell()
            stream.seek(0)
            tar.addfile(entry, stream)
    return room


@dataclass(frozen=True)
class Job:
    """What each worker opens; with `deadly`, the first worker that comes to its twelfth input is killed."""

    room: Path
    data: str = "a.npz"
    deadly: bool = False

    def __call__(self) -> tuple[Detector, Source]:
        detector = Detector.load(self.room / "d.gradgeo", model())
        return (Mortal(detector, self.room) if self.deadly else detector), open_source(self.room / self.data)


class Mortal:
    def __init__(self, detector: Detector, room: Path) -> None:
        self.detector, self.room, self.judged = detector, room, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.detector, name)

    def judge(self, x: torch.Tensor, *, explain: bool) -> Any:
        self.judged += len(x)
        if self.judged > 12:
            try:
                (self.room / "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.detector.judge(x, explain=explain)


def test_a_killed_worker_costs_no_row(cluster: None, room: Path, tmp_path: Path) -> None:
    job = Job(room)
    local = score(*job(), tmp_path / "local", batch_size=5, part_size=10)
    engine, told = RayEngine(Job(room, deadly=True), jobs=2), []
    there = score(*job(), tmp_path / "ray", batch_size=5, part_size=10, engine=engine, progress=told.append)
    assert (room / "killed").exists()
    assert pq.read_table(tmp_path / "ray").equals(pq.read_table(tmp_path / "local"))
    assert (there.rows, there.scored, there.trusted, there.correct) == (60, 60, local.trusted, local.correct)
    assert there.detectors == 2
    assert 0 < there.utilisation < 1
    assert sum(told) == 60


def test_it_goes_on_where_one_process_was_and_counts_shards_first(cluster: None, room: Path, tmp_path: Path) -> None:
    job = Job(room, "a.tar")
    score(*job(), tmp_path / "local.csv", batch_size=5, part_size=5)
    engine = RayEngine(job, jobs=1)
    detector, source = job()
    with pytest.raises(DataError, match="cut off"):
        score(CutOff(detector), source, tmp_path / "ray.csv", batch_size=5, part_size=5)
    found = score(detector, source, tmp_path / "ray.csv", batch_size=5, part_size=5, engine=engine)
    assert (found.rows, found.resumed, found.detectors) == (25, 10, 1)
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()


class CutOff(Mortal):
    def __init__(self, detector: Detector) -> None:
        super().__init__(detector, Path())

    def judge(self, x: torch.Tensor, *, explain: bool) -> Any:
        self.judged += len(x)
        if self.judged > 12:
            raise DataError("cut off")
        return self.detector.judge(x, explain=explain)


def test_a_worker_that_sees_other_data_says_so(cluster: None, room: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", np.zeros((25, 1, 4, 4)))
    detector, _ = Job(room)()
    with pytest.raises(
        DataError, match=r"a worker failed at part 0: it finds another detector, model or data \(.*a\.npz"
    ):
        score(detector, open_source(tmp_path / "b.npy"), tmp_path / "out", engine=RayEngine(Job(room), jobs=1))
    assert not (tmp_path / "out").exists()


def test_what_goes_wrong_in_a_worker_goes_back_as_text(room: Path, tmp_path: Path) -> None:
    detector, source = Job(room)()
    parts = Parts(tmp_path, ".csv", VerdictSchema(True, None, Manifest.of(detector, source, 10).metadata))

    def opened() -> tuple[Detector, Source]:
        return detector, source

    def broken() -> tuple[Detector, Source]:
        raise ZeroDivisionError("division by\nzero")

    maker = _PartWorker(broken, parts, 10, 5, 1, on_gpu=False)
    assert maker({"part": np.array([3, 4])})["error"] == [r"ZeroDivisionError: division by\nzero"] * 2
    maker = _PartWorker(opened, parts, 10, 5, 1, on_gpu=False)
    made = maker({"part": np.array([3, 4])})
    assert made["error"] == ["", ""]
    assert parts.numbers() == [3, 4]
    before = [parts.path(number).stat().st_mtime_ns for number in (3, 4)]
    assert maker({"part": np.array([3, 4])})["part"] == [3, 4]  # made by a worker that died behind them
    assert [parts.path(number).stat().st_mtime_ns for number in (3, 4)] == before
    tmp_path.joinpath("part-00003.csv").unlink()
    tmp_path.joinpath("part-00003.csv").mkdir()
    assert "part-00003.csv" in maker({"part": np.array([3])})["error"][0]
