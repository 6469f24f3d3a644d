"""Runs that end too early, by whatever cause, go on and come to the same rows; nothing finished is lost meanwhile."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gradgeo import Detector
from gradgeo.data import Preprocess, open_source
from gradgeo.data.digits import digits_classifier
from gradgeo.data.source import Record, Stream
from gradgeo.errors import DataError, ModelError
from gradgeo.scoring import Summary, local, score
from gradgeo.scoring.formats import VerdictSchema
from gradgeo.scoring.local_engine import ScoringJob
from gradgeo.scoring.metadata import Metadata
from gradgeo.scoring.output import OutputTarget
from gradgeo.scoring.parts import Parts
from gradgeo.scoring.schema import STATE_FILE, RunState
from gradgeo.scoring.verdicts import no_rows
from helpers.nets import inputs, network

KILLS = 20

KILLER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from gradgeo import Detector
from gradgeo.data import open_source
from gradgeo.data.digits import digits_classifier
from gradgeo.scoring import score

room, kills = Path(sys.argv[1]), int(sys.argv[2])
model = digits_classifier()
detector = Detector.load(room / "d.gradgeo", model)
source = open_source("digits/test", limit=160)

def run(out):
    score(detector, source, room / out, batch_size=8, part_size=8)

random.seed(0)
began = time.perf_counter()
run("whole")
whole = time.perf_counter() - began
killed, finished, resumed = 0, 0, 0
while True:
    out = f"disturbed-{finished}" + ("" if finished % 2 == 0 else ".parquet")
    child = os.fork()
    if child == 0:
        try:
            run(out)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    if killed < kills:
        time.sleep(random.uniform(0, whole / 4))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        killed += 1
    else:
        assert status == 0, status
        finished += 1
        if killed >= kills:
            break
print(killed, finished)
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector of the digits classifier."""
    room = tmp_path_factory.mktemp("room")
    model = digits_classifier()
    x = torch.stack([item.x for item in open_source("digits/fit", limit=240)])
    Detector(model, evidence="fast").fit(x).save(room / "d.gradgeo")
    return room


@pytest.mark.process
def test_killed_twenty_times_and_no_row_lost_or_twice(room: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(room), str(KILLS)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed, finished = map(int, done.stdout.split())
    assert killed == KILLS
    assert finished >= 1
    whole = pq.read_table(room / "whole")
    assert whole["index"].to_pylist() == list(range(160))
    for number in range(finished):
        out = room / f"disturbed-{number}{'.parquet' if number % 2 else ''}"
        assert pq.read_table(out).equals(whole)
        assert not out.with_name(f".{out.name}.parts").exists()


CHANGER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
import pyarrow.parquet as pq
import torch
torch.set_num_threads(1)
from gradgeo import Detector
from gradgeo.data import open_source
from gradgeo.data.digits import digits_classifier
from gradgeo.errors import DataError
from gradgeo.scoring import score

room, name, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
detector = Detector.load(room / "d.gradgeo", digits_classifier())
versions = [torch.stack([item.x for item in open_source("digits/test", start=at, limit=96)]).numpy() for at in (0, 96)]

def put(version):
    np.save(room / "new.npy", versions[version])
    os.replace(room / "new.npy", room / f"{name}.npy")

def run(out, **options):
    score(detector, open_source(room / f"{name}.npy"), room / out, batch_size=8, part_size=8, **options)

def run_or_restart():
    try:
        run(name)
    except DataError as error:
        assert "holds parts of a run with another content of the data" in str(error), error
        run(name, restart=True)

expected = []
for version in (0, 1):
    put(version)
    began = time.perf_counter()
    run(f"whole-{version}-{name}")
    whole = time.perf_counter() - began
    expected.append(pq.read_table(room / f"whole-{version}-{name}"))
random.seed(0)
killed = finished = 0
while killed < kills:
    version = random.randrange(2)
    child = os.fork()
    if child == 0:
        try:
            run_or_restart()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    time.sleep(random.uniform(0, whole / 2))
    if random.random() < 0.5:
        put(version)
    time.sleep(random.uniform(0, whole / 2))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0, status
    killed += os.WIFSIGNALED(status)
    finished += not os.WIFSIGNALED(status)
put(0)
run_or_restart()
assert pq.read_table(room / name).equals(expected[0])
print(killed, finished)
"""


@pytest.mark.process
@pytest.mark.parametrize("name", ["changing", "changing.parquet"])
def test_killed_while_its_input_changes_and_no_row_of_other_input(room: Path, name: str) -> None:
    arguments = [sys.executable, "-W", "ignore", "-c", CHANGER, str(room), name, str(KILLS // 4)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) == KILLS // 4
    assert not [path.name for path in room.iterdir() if path.name.startswith(".")]


# Without a process of its own


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(network(inputs=16, width=12).eval(), evidence="fast").fit(inputs(300, shape=(1, 4, 4)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.random.RandomState(0).rand(50, 1, 4, 4))
    return tmp_path / "a.npy"


class Counting:
    """A detector that counts inputs and fails at one of them."""

    def __init__(self, detector: Detector, fail_at: int | None = None) -> None:
        self.detector, self.fail_at, self.judged = detector, fail_at, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.detector, name)

    def judge(self, x: torch.Tensor, *, explain: bool) -> object:
        self.judged += len(x)
        if self.fail_at is not None and self.judged > self.fail_at:
            raise ModelError("out of memory")
        return self.detector.judge(x, explain=explain)


def begun(detector: Detector, data: Path, out: Path, **options: object) -> None:
    """A run of `out` that fails at its 25th input, with two parts of ten done."""
    with pytest.raises(ModelError, match="out of memory"):
        score(Counting(detector, 24), open_source(data), out, batch_size=5, part_size=10, **options)


@pytest.mark.parametrize("name", ["v", "v.parquet", "v.csv"])
def test_what_is_done_is_not_done_again(detector: Detector, data: Path, tmp_path: Path, name: str) -> None:
    score(detector, open_source(data), tmp_path / f"whole{name}", batch_size=5, part_size=10)
    begun(detector, data, tmp_path / name)
    assert (tmp_path / name).exists() == (name == "v")
    counting, told = Counting(detector), []
    summary = score(counting, open_source(data), tmp_path / name, batch_size=5, part_size=10, progress=told.append)
    assert (summary.rows, summary.scored, summary.resumed, counting.judged) == (50, 50, 20, 30)
    assert told == [20, *[5] * 6]
    if name == "v.csv":
        assert (tmp_path / name).read_bytes() == (tmp_path / f"whole{name}").read_bytes()
    else:
        assert pq.read_table(tmp_path / name).equals(pq.read_table(tmp_path / f"whole{name}"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.npy", name, f"whole{name}"])


@pytest.mark.journey
def test_the_summary_of_a_resumed_run_is_that_of_a_whole_one(detector: Detector, tmp_path: Path) -> None:
    x = np.random.RandomState(0).rand(50, 1, 4, 4)
    x[3] = np.nan
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(50) % 4)
    for name in ("v", "v.csv"):
        with pytest.warns(match="1 of 50 inputs have no verdict"):
            whole = score(detector, open_source(tmp_path / "a.npz"), tmp_path / f"w{name}", part_size=10)
        with pytest.raises(ModelError, match="out of memory"):
            score(Counting(detector, 24), open_source(tmp_path / "a.npz"), tmp_path / name, batch_size=5, part_size=10)
        with pytest.warns(match=r"1 of 50 inputs have no verdict; .* The first: 3: NaN or infinite values"):
            again = score(detector, open_source(tmp_path / "a.npz"), tmp_path / name, part_size=10)
        for field in ("rows", "scored", "trusted", "first_error", "labelled", "correct", "trusted_correct"):
            assert getattr(again, field) == getattr(whole, field)


def test_a_finished_folder_is_left_as_it_is(detector: Detector, data: Path, tmp_path: Path) -> None:
    score(detector, open_source(data), tmp_path / "v", part_size=10)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "v").iterdir()}
    counting = Counting(detector)
    summary = score(counting, open_source(data), tmp_path / "v", part_size=10)
    assert (summary.rows, summary.resumed, counting.judged, summary.utilisation) == (50, 50, 0, None)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "v").iterdir()} == before
    (tmp_path / "v" / "part-00004.parquet").unlink()  # what has gone since is made again
    assert score(detector, open_source(data), tmp_path / "v", part_size=10).resumed == 40
    assert len(pq.read_table(tmp_path / "v")) == 50


@pytest.mark.journey
@pytest.mark.parametrize("name", ["v", "v.csv"])
def test_another_run_is_refused(detector: Detector, data: Path, tmp_path: Path, name: str) -> None:
    begun(detector, data, tmp_path / name)

    def refused(match: str, judge: Detector = detector, part_size: int = 10, **options: object) -> None:
        with pytest.raises(DataError, match=f"holds parts of a run with another {match}.*--restart"):
            score(judge, open_source(data, **options), tmp_path / name, part_size=part_size)

    refused("start", start=1)
    refused("limit", limit=49)
    refused("preprocess", preprocess=Preprocess(mean=(0.0,)))
    refused("part size", part_size=11)
    other = Detector(detector.model, evidence="fast", seed=1)
    other.fit(torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(1)))
    refused("detector", other)
    detector.alpha = 0.1
    refused("detector")
    detector.alpha = 0.05
    os.utime(data, ns=(0, 0))
    refused("content of the data")
    summary = score(detector, open_source(data), tmp_path / name, part_size=10, restart=True)
    assert (summary.rows, summary.resumed) == (50, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", name]


def test_a_finished_folder_stays_until_the_new_one_is_complete(detector: Detector, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "v"
    score(detector, open_source(data, limit=30), out, part_size=10)
    before = pq.read_table(out)
    with pytest.raises(DataError, match="another limit"):
        score(detector, open_source(data), out, part_size=10)
    begun(detector, data, out, restart=True)
    assert pq.read_table(out).equals(before)
    counting = Counting(detector)
    score(counting, open_source(data), out, part_size=10)  # goes on with the new one, which need not begin anew
    assert counting.judged == 30
    assert pq.read_table(out)["index"].to_pylist() == list(range(50))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "v"]


def test_killed_while_the_folders_change_places(
    detector: Detector, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "v"
    score(detector, open_source(data, limit=30), out, part_size=10)
    exchange = OutputTarget._finish_exchange
    monkeypatch.setattr(OutputTarget, "_finish_exchange", lambda self: None)  # as if it never came to that
    score(detector, open_source(data), out, part_size=10, restart=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".v.old", ".v.parts", "a.npy"]
    monkeypatch.setattr(OutputTarget, "_finish_exchange", exchange)
    assert score(detector, open_source(data), out, part_size=10).resumed == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "v"]


@pytest.mark.journey
def test_damaged_and_half_written_parts_are_made_again(detector: Detector, data: Path, tmp_path: Path) -> None:
    score(detector, open_source(data), tmp_path / "whole", batch_size=5, part_size=10)
    begun(detector, data, tmp_path / "v")
    (tmp_path / "v" / "part-00001.parquet").write_bytes(b"PAR1")
    (tmp_path / "v" / ".part-00002.0123abcd.parquet").write_bytes(b"PAR1")
    assert score(detector, open_source(data), tmp_path / "v", batch_size=5, part_size=10).resumed == 10
    assert pq.read_table(tmp_path / "v").equals(pq.read_table(tmp_path / "whole"))
    assert len(list((tmp_path / "v").iterdir())) == 6


def test_killed_while_the_parts_of_a_file_are_removed(
    detector: Detector, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "v.csv"
    with monkeypatch.context() as patch:
        patch.setattr(OutputTarget, "_remove_old", lambda self: None)
        score(detector, open_source(data, start=1), out, part_size=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".v.csv.old", "a.npy", "v.csv"]
    left = tmp_path / ".v.csv.old"
    for name in ("part-00001.csv", STATE_FILE):  # the last that is removed says whose folder it is
        for path in left.iterdir() if name == STATE_FILE else [left / name]:
            path.unlink()
        assert score(detector, open_source(data), out, part_size=10).resumed == 0
        assert out.read_text().splitlines()[1].startswith("0,0,")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "v.csv"]
        left.mkdir()


def half(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:5])


def without_a_row(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[:3] + lines[4:])


DAMAGES = {
    "cut at the end of a row": half,
    "cut within its last field": lambda text: text[:-4],
    "a row lost": without_a_row,
    "a row twice": lambda text: text + text.splitlines(keepends=True)[-1],
    "no rows": lambda text: text.splitlines(keepends=True)[0],
    "empty": lambda text: "",
}


@pytest.mark.journey
@pytest.mark.grid
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_csv_part_that_lost_rows_is_made_again(
    detector: Detector, data: Path, tmp_path: Path, damage: str, number: int
) -> None:
    source = open_source(data, start=1)
    score(detector, source, tmp_path / "whole.csv", batch_size=5, part_size=10)
    with pytest.raises(ModelError, match="out of memory"):
        score(Counting(detector, 24), source, tmp_path / "v.csv", batch_size=5, part_size=10)
    damaged(tmp_path / ".v.csv.parts" / f"part-{number:05d}.csv", DAMAGES[damage])
    assert score(detector, source, tmp_path / "v.csv", batch_size=5, part_size=10).resumed == 10
    assert (tmp_path / "v.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def damaged(path: Path, damage: Callable[[str], str]) -> None:
    path.write_bytes(damage(path.read_bytes().decode()).encode())


class Rows:
    """A stream of 25 inputs."""

    classes, labelled, is_datetime, content_id = (), False, None, "rows"

    def records(self, skip: int) -> Iterator[Record]:
        for i in range(skip, 25):
            yield Record(str(i), partial(torch.full, (1, 4, 4), i / 25))

    def count(self) -> int:
        return 25


@pytest.mark.journey
@pytest.mark.parametrize("name", ["v", "v.csv"])
def test_a_short_part_is_not_taken_for_the_end_of_a_stream(detector: Detector, tmp_path: Path, name: str) -> None:
    source = Stream(Rows(), "rows", preprocess=Preprocess())
    score(detector, source, tmp_path / f"whole{name}", batch_size=5, part_size=10)
    with pytest.raises(ModelError, match="out of memory"):
        score(Counting(detector, 20), source, tmp_path / name, batch_size=5, part_size=10)
    if name == "v.csv":
        damaged(tmp_path / ".v.csv.parts" / "part-00001.csv", half)
    else:
        pq.write_table(pq.read_table(tmp_path / "v" / "part-00001.parquet")[:4], tmp_path / "v" / "part-00001.parquet")
    summary = score(detector, source, tmp_path / name, batch_size=5, part_size=10)
    assert (summary.rows, summary.resumed) == (25, 10)
    if name == "v.csv":
        assert (tmp_path / name).read_bytes() == (tmp_path / f"whole{name}").read_bytes()
    else:
        assert pq.read_table(tmp_path / name).equals(pq.read_table(tmp_path / f"whole{name}"))
        assert score(Counting(detector, 0), source, tmp_path / name, part_size=10).resumed == 25  # nothing is done


def test_rows_that_are_missing_in_the_end_are_told(detector: Detector, data: Path, tmp_path: Path) -> None:
    def lazy(job: ScoringJob, numbers: Iterable[int], **options: Any) -> Summary:
        return local(job, [0], **options)

    def losing(job: ScoringJob, numbers: Iterable[int], **options: Any) -> Summary:
        summary = local(job, numbers, **options)
        damaged(job.parts.path(0), half)
        return summary

    with pytest.raises(DataError, match=r"10 of 50 inputs have a row\. What is done stays"):
        score(detector, open_source(data), tmp_path / "v.csv", part_size=10, engine=lazy)
    with pytest.raises(DataError, match=r"the parts in .* changed: 44 rows of 50\. What is done stays"):
        score(detector, open_source(data), tmp_path / "v.csv", part_size=10, engine=losing)
    assert not (tmp_path / "v.csv").exists()
    assert score(detector, open_source(data), tmp_path / "v.csv", part_size=10).resumed == 40
    assert len((tmp_path / "v.csv").read_text().splitlines()) == 51


def test_parts_of_another_run_in_the_folder(detector: Detector, data: Path, tmp_path: Path) -> None:
    begun(detector, data, tmp_path / "v")
    score(detector, open_source(data, start=1), tmp_path / "other", part_size=10)
    (tmp_path / "other" / "part-00003.parquet").rename(tmp_path / "v" / "part-00003.parquet")
    with pytest.raises(DataError, match=r"part-00003\.parquet belongs to another run"):
        score(detector, open_source(data), tmp_path / "v", part_size=10)


def test_a_kill_before_anything_is_done_leaves_a_folder_that_can_be_used(
    detector: Detector, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "._gradgeo.0123abcd.json").write_text("{")
    assert score(detector, open_source(data), tmp_path / "v", part_size=10).rows == 50
    assert len(list((tmp_path / "v").iterdir())) == 6
    (tmp_path / "w").mkdir()
    with pytest.raises(ModelError, match="out of memory"):
        score(Counting(detector, 0), open_source(data), tmp_path / "w")
    assert list((tmp_path / "w").iterdir()) == []  # it was there before


def test_two_runs_do_not_write_to_one_place(detector: Detector, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")

    class Twice(Counting):
        def judge(self, x: torch.Tensor, *, explain: bool) -> object:
            with pytest.raises(DataError, match=r"another run is writing to .*Wait for it, or pass another out"):
                score(self.detector, open_source(data), tmp_path / "v", part_size=10)
            return super().judge(x, explain=explain)

    assert score(Twice(detector), open_source(data), tmp_path / "v", part_size=10).rows == 50


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """A disk that takes `after` files."""
    left = [after]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fsync)
        yield


@pytest.mark.parametrize("name", ["v", "v.parquet", "v.csv"])
def test_a_full_disk(
    detector: Detector, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out = tmp_path / name
    for files in (0, 5, 6):  # at once, in the middle, at the end
        again = "What is done stays: run the same command again and it goes on"
        with full_disk(monkeypatch, files), pytest.raises(DataError, match=f"No space left on device. {again}"):
            score(detector, open_source(data), out, batch_size=5, part_size=10)
    assert score(detector, open_source(data), out, batch_size=5, part_size=10).rows == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", name]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing fails beyond `size` bytes of a file, in the middle of what is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["v", "v.parquet", "v.csv"])
def test_a_disk_that_is_full_within_a_file(detector: Detector, data: Path, tmp_path: Path, name: str) -> None:
    whole, out = tmp_path / f"whole-{name}", tmp_path / name
    score(detector, open_source(data), whole, part_size=10)
    sizes = [path.stat().st_size for path in (whole.glob("part-*") if whole.is_dir() else [whole])]
    for size in (1, max(sizes) - 1):  # at the first file, and at the last of them or when they are joined
        with largest_file(size), pytest.raises(DataError, match=r"File too large\. What is done stays: run the same"):
            score(detector, open_source(data), out, part_size=10)
        assert out.exists() == (name == "v" and size > 1)
    assert score(detector, open_source(data), out, part_size=10).rows == 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", name, whole.name]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    if name == "v.csv":
        assert out.read_bytes() == whole.read_bytes()
    else:
        assert pq.read_table(out).equals(pq.read_table(whole))


def test_what_every_file_says(detector: Detector, data: Path, tmp_path: Path) -> None:
    detector.notes = {"class_names": ["a", "b", "c", "d"], "model": "net.py:net"}
    for name in ("v", "v.parquet"):
        score(detector, open_source(data), tmp_path / name, part_size=20)
    detector.notes = {}
    files = [tmp_path / "v.parquet", *(tmp_path / "v").glob("*.parquet")]
    said = [json.loads(pq.read_schema(file).metadata[b"gradgeo"]) for file in files]
    assert len(said) == 4
    assert all(entry == said[0] for entry in said)
    assert (said[0]["format"], said[0]["version"], said[0]["alpha"]) == ("gradgeo-scores", 1, 0.05)
    assert said[0]["class_names"] == ["a", "b", "c", "d"]
    assert said[0]["input_shape"] == [1, 4, 4]
    assert said[0]["model"] == "net.py:net"
    assert said[0]["data"] == str(data)
    assert len(said[0]["calibration_scores"]) == 101
    assert said[0]["calibration_scores"] == sorted(said[0]["calibration_scores"])
    assert said[0]["calibration_size"] == detector.calibration_size_
    assert len(said[0]["detector"]) == 64
    state = RunState.read(tmp_path / "v")
    assert state is not None
    assert state.rows == 50


def test_the_hash_of_a_detector_is_that_of_its_file(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "d.gradgeo")
    loaded = Detector.load(tmp_path / "d.gradgeo", detector.model)
    assert loaded.digest() == detector.digest()
    loaded.alpha = 0.06
    assert loaded.digest() != detector.digest()


def test_parts_are_sorted_by_number_beyond_five_digits(tmp_path: Path) -> None:
    parts = Parts(tmp_path, ".csv", VerdictSchema(False, None, Metadata()))
    for number in (100_000, 99_999, 7):
        parts.write(number, {name: [None] for name in no_rows()} | {"index": [number]})
    assert parts.numbers() == [7, 99_999, 100_000]
    stream = BytesIO()
    parts.join(stream)
    assert [line.split(b",")[0] for line in stream.getvalue().splitlines()[1:]] == [b"7", b"99999", b"100000"]
