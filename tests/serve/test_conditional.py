"""P-values by class and group from the server: those of `predict`, in both protocols; watches follow the pooled ones."""

import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gradgeo import Detector
from gradgeo.data import Preprocess
from gradgeo.detector.calibration import mondrian
from gradgeo.serve import parsing
from gradgeo.serve.inference import DetectorInference
from gradgeo.serve.limits import Limits
from gradgeo.serve.protocol import CONDITIONS
from gradgeo.serve.server import Server
from helpers.nets import inputs, network
from helpers.serving import LocalPool, ReadsHere, infer, request, served
from helpers.waiting import until

SHAPE = (3, 4, 4)
JUDGE = "/v1/judge"
GROUPS = ["A", "B", "few"]


@pytest.fixture(scope="module")
def detector() -> Detector:
    x = inputs(300, shape=SHAPE)
    groups = ["few"] * 6 + ["A", "B"] * 147
    x[torch.tensor([name == "B" for name in groups])] *= 3
    with pytest.warns(UserWarning, match="1 of 3 groups have fewer"):
        detector = Detector(network(inputs=48).eval(), evidence=["confidence"]).fit(x, groups=groups)
    detector.notes = {"class_names": list("abcd"), "preprocess": Preprocess(size=SHAPE[1:]).as_dict()}
    return detector


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record")


@pytest.fixture(scope="module")
def server(detector: Detector, record: Path) -> Iterator[Server]:
    inference = DetectorInference(detector)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "Pool", ReadsHere)
        with served(LocalPool(inference, facts=inference.facts), Limits(delay=0), record=record) as server:
            yield server


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return inputs(12, seed=3, shape=SHAPE).numpy()


def test_conditions_are_those_of_predict() -> None:
    assert CONDITIONS == mondrian.CONDITIONS


def test_the_metadata_say_what_there_is(server: Server) -> None:
    parameters = request(server, "GET", "/v2/models/m")[1]["parameters"]
    assert (parameters["conditional"], sorted(parameters["groups"])) == (["class"], GROUPS)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"conditional": "class"}, {"conditional": "class"}),
        ({"group": "B"}, {"groups": ["B"] * 12}),
        ({"conditional": "class", "group": "A"}, {"conditional": "class", "groups": ["A"] * 12}),
        ({"group": "few"}, {}),
        ({"group": "of another site"}, {}),
        ({"conditional": None, "group": None}, {}),
    ],
)
@pytest.mark.filterwarnings("error:.*compared with all")
def test_a_request_gets_what_predict_says(
    detector: Detector, server: Server, x: np.ndarray, asked: dict[str, Any], wanted: dict[str, Any]
) -> None:
    status, told = infer(server, x, parameters=asked)
    assert status == 200, told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predictions = detector.predict(torch.from_numpy(x), **wanted)
    assert told["p_value"] == predictions.p_value.tolist()
    assert told["trusted"] == predictions.trusted.tolist()
    n = [detector.calibration_size_] * 12
    if any(asked.values()):
        assert told["compared"] == getattr(predictions, "compared", torch.tensor(n)).tolist()
    else:
        assert "compared" not in told
    assert infer(server, x, outputs=[{"name": "compared"}])[1]["compared"] == n


def test_requests_of_several_groups_share_a_batch(detector: Detector, x: np.ndarray) -> None:
    inference = DetectorInference(detector)
    pool = LocalPool(inference, facts=inference.facts)
    with served(pool, Limits(delay=0.5)) as server, ThreadPoolExecutor(2) as threads:
        each = {name: threads.submit(infer, server, x, parameters={"group": name}) for name in ("A", "B")}
        answers = {name: future.result()[1] for name, future in each.items()}
    assert sum(pool.batches) == 24
    assert len(pool.batches) < 3
    for name, answer in answers.items():
        assert answer["p_value"] == detector.predict(torch.from_numpy(x), groups=[name] * 12).p_value.tolist()
    assert answers["A"]["p_value"] != answers["B"]["p_value"]


def test_a_file_is_judged_among_its_own(detector: Detector, server: Server) -> None:
    stream = BytesIO()
    Image.fromarray(np.full((*SHAPE[1:], 3), 77, np.uint8)).save(stream, "png")
    pooled, by = (request(server, "POST", JUDGE + q, stream.getvalue())[1] for q in ("", "?group=B"))
    assert "compared" not in pooled
    one = torch.full((1, *SHAPE), 77 / 255)
    wanted = detector.predict(one, groups=["B"])
    assert (by["p_value"], by["compared"]) == (wanted.p_value.item(), wanted.compared.item())
    for query in ("?conditional=site", f"?group={'a' * 257}"):
        assert request(server, "POST", JUDGE + query, stream.getvalue())[0] == 400


BAD = {
    "another condition": ({"conditional": "site"}, "expected the parameter conditional to be one of class"),
    "a number": ({"conditional": 1}, "expected the parameter conditional to be one of class"),
    "a truth": ({"group": True}, "expected the parameter group to be a text of at most 256 characters"),
    "a long name": ({"group": "a" * 257}, "expected the parameter group to be a text of at most 256 characters"),
    "a list": ({"group": ["A"]}, "a fault in parameters"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_asked_for_is_refused(server: Server, x: np.ndarray, name: str) -> None:
    parameters, words = BAD[name]
    status, told = infer(server, x, parameters=parameters)
    assert (status, words in told["error"]) == (400, True), told


def test_without_groups_none_can_be_named(x: np.ndarray) -> None:
    with served() as server:  # a stand-in, without groups
        one = np.ones((1, 2, 3))
        status, told = infer(server, one, parameters={"group": "A"})
        assert (status, told["error"]) == (400, "expected no parameter group: the detector was fitted without groups")


def test_watches_follow_the_pooled_p_values_and_the_record_says_what_was_asked(
    detector: Detector, server: Server, x: np.ndarray, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    watch = server.service().watches["fit"]
    update = watch.update
    monkeypatch.setattr(watch, "update", lambda p: seen.append(p) or update(p))
    _, told = infer(server, x, parameters={"conditional": "class", "group": "B"}, id="the last")
    assert seen[-1].tolist() == detector.predict(torch.from_numpy(x)).p_value.tolist() != told["p_value"]

    def rows() -> list[dict[str, Any]]:
        return [json.loads(line) for file in record.glob("*.jsonl") for line in file.read_text().splitlines()]

    until(lambda: [row["p"] for row in rows()[-12:]] == told["p_value"])
    last = rows()[-1]
    assert (last["conditional"], last["group"], last["compared"]) == ("class", "B", told["compared"][-1])
