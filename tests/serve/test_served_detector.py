"""A real detector behind the server: what it answers is what `predict` and `score` say, under one identity."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradgeo import Detector
from gradgeo.data import open_source
from gradgeo.scoring import score
from gradgeo.scoring.reader import Scores
from gradgeo.serve.inference import DetectorInference, DetectorLoader
from gradgeo.serve.limits import Limits
from gradgeo.serve.protocol import DTYPES, OUTPUTS
from gradgeo.serve.server import Server
from helpers import serving
from helpers.nets import inputs, network
from helpers.serving import LocalPool, infer, request, served

ROWS = 20


@pytest.fixture(scope="module")
def detector() -> Detector:
    detector = Detector(network(inputs=16, width=12).eval(), evidence="fast").fit(inputs(300, shape=(1, 4, 4)))
    detector.notes = {"class_names": list("abcd"), "preprocess": None}
    return detector


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    x = np.random.RandomState(0).rand(ROWS, 1, 4, 4).astype(np.float32)
    x[5:9] *= 50
    x[3] = np.nan
    return x


@pytest.fixture(scope="module")
def server(detector: Detector) -> Iterator[Server]:
    inference = DetectorInference(detector)
    with served(LocalPool(inference, facts=inference.facts), Limits(delay=0)) as server:
        yield server


def quiet(call: Any, *arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the input without a verdict
        return call(*arguments, **options)


@pytest.mark.filterwarnings("ignore:1 of 20:UserWarning")
def test_server_score_and_predict_say_the_same(
    detector: Detector, server: Server, x: np.ndarray, tmp_path: Path
) -> None:
    status, answer = infer(server, x, outputs=[{"name": name} for name in OUTPUTS])
    assert status == 200
    predictions = quiet(detector.predict, torch.from_numpy(x))
    np.save(tmp_path / "a.npy", x)
    quiet(score, detector, open_source(tmp_path / "a.npy"), tmp_path / "v.parquet")
    rows = Scores(tmp_path / "v.parquet").take(np.arange(ROWS))
    assert 0 < sum(answer["trusted"]) < ROWS - 1
    assert answer["trusted"] == predictions.trusted.tolist() == [row["trusted"] for row in rows]
    for name in ("label", "probability", "outlier_score", "p_value"):
        judged = [i for i in range(ROWS) if i != 3]
        served_values = [answer[name][i] for i in judged]
        assert served_values == pytest.approx(getattr(predictions, name)[judged].tolist(), rel=1e-4), name
        assert served_values == pytest.approx([rows[i][name] for i in judged], rel=1e-4), name
        assert rows[3][name] is None
    assert answer["p_value"][3] is None
    assert answer["cause"] == [row["cause"] or "" for row in rows]


def test_one_detector_has_one_identity(detector: Detector, server: Server, tmp_path: Path) -> None:
    """Whoever has the rows of `score` and the metadata of a server can tell whether one detector made both."""
    _, metadata, _ = request(server, "GET", "/v2/models/m")
    np.save(tmp_path / "a.npy", np.ones((4, 1, 4, 4), np.float32))
    score(detector, open_source(tmp_path / "a.npy"), tmp_path / "v.parquet")
    stated = Scores(tmp_path / "v.parquet").metadata.detector
    assert metadata["parameters"]["detector_sha256"] == stated == detector.digest()
    assert metadata["versions"] == [detector.digest()[:12]]
    assert metadata["parameters"]["class_names"] == list("abcd")
    assert metadata["parameters"]["alpha"] == detector.alpha
    assert metadata["parameters"]["false_alarm_rate"] == detector.false_alarm_rate_.as_dict()

    detector.save(tmp_path / "one.gradgeo")
    detector.save(tmp_path / "two.gradgeo", notes={"another": "note"})  # other bytes, the same verdicts
    for name in ("one", "two"):
        facts = DetectorLoader(tmp_path / f"{name}.gradgeo", lambda: detector.model, 1)().facts
        assert facts.digest == detector.digest()


def test_the_stand_in_of_the_other_tests_answers_like_a_detector(detector: Detector, x: np.ndarray) -> None:
    """Names, types and shapes, which the protocol lists: what is tested with the stand-in holds for detectors."""
    real = quiet(DetectorInference(detector), x, True)
    stand_in = serving.judge(np.random.default_rng(0).uniform(0.3, 1, (ROWS, *serving.SHAPE)).astype(np.float32), True)
    assert set(real) == set(stand_in) == set(OUTPUTS)
    assert set(DetectorInference(detector)(x[:3], False)) == set(OUTPUTS) - {"cause"}
    for name, kind in OUTPUTS.items():
        if kind == "BYTES":
            assert all(isinstance(text, str) for text in (*real[name], *stand_in[name]))
            continue
        assert np.asarray(real[name]).shape == np.asarray(stand_in[name]).shape  # both have four classes
        assert real[name].dtype == stand_in[name].dtype == np.dtype(DTYPES[kind]), name
