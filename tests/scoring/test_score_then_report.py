"""What `score` writes is what `report` reads: whole, killed, resumed and restarted runs, files and folders of parts."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from gradgeo import Detector, report
from gradgeo.data import Source, open_source
from gradgeo.data.preprocess import Preprocess
from gradgeo.errors import ModelError
from gradgeo.scoring import COLUMNS, Summary, local, score
from gradgeo.scoring.local_engine import ScoringJob
from gradgeo.scoring.metadata import Metadata
from gradgeo.scoring.reader import Scores
from gradgeo.serve.web.details import details
from gradgeo.watch import Watch
from helpers.breaking import Breaking
from helpers.nets import inputs, network

NAMES = ["v.parquet", "v", "v.csv"]
CLASSES = ("north", "east", "south", "west")


@pytest.fixture(scope="module")
def detector() -> Detector:
    detector = Detector(network(inputs=16, width=12).eval(), evidence="fast").fit(inputs(300, shape=(1, 4, 4)))
    detector.notes = {"class_names": list(CLASSES), "model": "net.py:net"}
    return detector


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 inputs with labels: one is not finite, and some are unlike any that the detector was fitted on."""
    path = tmp_path_factory.mktemp("data") / "a.npz"
    x = np.random.RandomState(0).rand(60, 1, 4, 4)
    x[10:20] *= 50
    x[25] = np.nan
    np.savez(path, x=x, y=np.arange(60) % 4)
    return path


def scored(detector: Detector, source: Source, out: Path, **options: object) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the input that is not finite
        return score(detector, source, out, batch_size=5, part_size=20, **options)


def broken_off(detector: Detector, source: Source, out: Path, **options: object) -> None:
    """A run that fails when two of its three parts are written."""
    with pytest.raises(ModelError, match="out of memory"):
        scored(Breaking(detector, 44), source, out, **options)


def page(path: Path) -> tuple[str, list[str]]:
    """The report of a file of verdicts, and the warnings it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text = report.html(path)
    return text, [str(entry.message) for entry in caught]


def goes_on(path: Path) -> list[str]:
    return [f"the run that writes {path} has not ended: the page shows the rows so far."]


@pytest.mark.journey
@pytest.mark.grid
@pytest.mark.parametrize("name", NAMES)
def test_the_report_counts_what_score_counted(detector: Detector, data: Path, tmp_path: Path, name: str) -> None:
    counted = scored(detector, open_source(data), tmp_path / name)
    summary = report.write(tmp_path / name, tmp_path / "page.html")
    assert counted.rows == summary.rows == 60
    assert counted.scored == summary.judged == 59
    assert 0 < summary.flagged < 59
    for field in ("trusted", "labelled", "correct", "trusted_labelled", "trusted_correct"):
        assert getattr(counted, field) == getattr(summary, field), field
    text, said = page(tmp_path / name)
    assert said == []
    assert "has not ended" not in text
    assert "NaN or infinite values" in text


@pytest.mark.journey
@pytest.mark.parametrize("name", NAMES[:2])
def test_the_report_states_what_the_rows_were_made_with(
    detector: Detector, data: Path, tmp_path: Path, name: str
) -> None:
    scored(detector, open_source(data), tmp_path / name)
    scores = Scores(tmp_path / name)
    assert scores.columns == set(COLUMNS) - {"time"} | {"label_name", "true_label_name"}
    metadata = scores.metadata
    assert (metadata.detector, metadata.alpha) == (detector.digest(), detector.alpha)
    assert (metadata.evidence, metadata.input_shape) == (tuple(detector.evidence_), (1, 4, 4))
    assert (metadata.class_names, metadata.model, metadata.data) == (CLASSES, "net.py:net", str(data))
    assert (metadata.calibration_size, metadata.part_size) == (detector.calibration_size_, 20)
    assert metadata.calibration_scores[[0, -1]].tolist() == detector.calibration_scores_[[0, -1]].tolist()
    assert "east" in page(tmp_path / name)[0]
    again = Metadata.decode(metadata.encode(), "a")
    assert again.encode() == metadata.encode()


@pytest.mark.journey
def test_the_report_of_a_run_that_has_not_ended_says_so(detector: Detector, data: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "v", open_source(data)
    broken_off(detector, source, out)
    text, said = page(out)
    assert said == goes_on(out)
    assert "has not ended" in text
    assert Scores(out).rows == 40
    scored(detector, source, out)  # it goes on
    text, said = page(out)
    assert said == []
    assert "has not ended" not in text
    assert Scores(out).rows == 60
    scored(detector, source, tmp_path / "whole")
    assert text.replace("<dd>v</dd>", "") == page(tmp_path / "whole")[0].replace("<dd>whole</dd>", "")

    (out / "part-00001.parquet").unlink()  # lost since: score would make it again
    assert page(out)[1] == goes_on(out)


@pytest.mark.journey
def test_a_finished_folder_is_reported_until_the_restarted_run_is_complete(
    detector: Detector, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "v"
    scored(detector, open_source(data, limit=30), out)
    broken_off(detector, open_source(data), out, restart=True)
    assert page(out)[1] == []
    assert Scores(out).rows == 30
    scored(detector, open_source(data), out)
    assert page(out)[1] == []
    assert Scores(out).rows == 60


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from gradgeo import Detector
from gradgeo.data import open_source
from gradgeo.scoring import score
from gradgeo.scoring.verdicts import BatchScorer
from helpers.nets import network

add, left = BatchScorer.add, [44]

def dying(self, items, *more):
    left[0] -= len(items)
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return add(self, items, *more)

BatchScorer.add = dying
detector = Detector.load(sys.argv[1], network(inputs=16, width=12).eval())
score(detector, open_source(sys.argv[2]), sys.argv[3], batch_size=5, part_size=20)
"""


@pytest.mark.process
def test_the_report_of_a_killed_run(detector: Detector, data: Path, tmp_path: Path) -> None:
    detector.save(tmp_path / "d.gradgeo")
    out = tmp_path / "v"
    tests = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", KILLED, str(tmp_path / "d.gradgeo"), str(data), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert page(out)[1] == goes_on(out)
    assert Scores(out).rows == 40
    loaded = Detector.load(tmp_path / "d.gradgeo", detector.model)
    assert scored(loaded, open_source(data), out).resumed == 40
    assert page(out)[1] == []


def p_values(path: Path) -> list[float]:
    if path.suffix == ".csv":
        rows = [line.split(",") for line in path.read_text().splitlines()]
        return [float(row[rows[0].index("p_value")] or "nan") for row in rows[1:]]
    return [np.nan if p is None else p for p in pq.read_table(path)["p_value"].to_pylist()]


def backwards(job: ScoringJob, numbers: Iterable[int], *, progress: Any, finished: Callable[[int], None]) -> Summary:
    """An engine that says of the last part first that it is finished, as parallel workers may."""
    done: list[int] = []
    summary = local(job, numbers, progress=progress, finished=done.append)
    for number in reversed(done):
        finished(number)
    return summary


@pytest.mark.grid
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run", ["whole", "resumed", "finished already", "in another order"])
def test_a_watch_sees_every_row_once_and_in_order(
    detector: Detector, data: Path, tmp_path: Path, name: str, run: str
) -> None:
    out, source, watch = tmp_path / name, open_source(data), Watch(detector.calibration_size_)
    if run == "resumed":
        broken_off(detector, source, out)
    if run == "finished already":
        scored(detector, source, out)
    scored(detector, source, out, watch=watch, engine=backwards if run == "in another order" else local)
    assert watch.state == Watch(detector.calibration_size_).update(p_values(out))
    assert (watch.state.inputs, watch.state.unjudgeable) == (59, 1)


def test_a_model_without_gradients_is_scored_and_reported_without_maps(data: Path, tmp_path: Path) -> None:
    model = network(inputs=16, width=12).eval()

    def remote(x: Tensor) -> Tensor:
        return torch.from_numpy(model(torch.from_numpy(x.numpy())).detach().numpy())

    detector = Detector(remote, evidence="lite").fit(inputs(300, shape=(1, 4, 4)))
    out = tmp_path / "v.parquet"
    scored(detector, open_source(str(data)), out)
    rows = pq.read_table(out).to_pylist()
    flagged = [row for row in rows if row["trusted"] is False]
    assert flagged
    assert all(row["csm"] is None and row["saliency"] is None for row in flagged), flagged[0]
    assert any(row["thumbnail"] for row in flagged)
    report.write(out, tmp_path / "r.html")
    x = inputs(2, shape=(1, 4, 4))
    shown = [json.loads(text) for text in details(detector, x, model(x).detach(), detector.explain(x), Preprocess())]
    assert [each["maps"] for each in shown] == [[], []]
    assert all(set(each["csm"]) == {None} for each in shown)
