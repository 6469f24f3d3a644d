"""Texts at the server: a BYTES tensor of strings, as the public client sends them and as JSON has them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gradgeo
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.inference import DetectorInference
from gradgeo.serve.limits import Limits
from gradgeo.serve.server import Server
from gradgeo.serve.texts import LONGEST, TextReader
from helpers.serving import LocalPool, curl, request, served

tritonclient = pytest.importorskip("tritonclient.http")

PATH = "/v2/models/m/infer"
TEXTS = ["order 400 arrived", "что?", ""]


@pytest.fixture(scope="module")
def detector() -> gradgeo.Detector:
    torch.manual_seed(0)
    bag = torch.nn.Sequential(torch.nn.EmbeddingBag(128, 8), torch.nn.Linear(8, 3))
    model = gradgeo.text(bag, lambda text: [ord(letter) % 128 for letter in text], max_length=20)
    return gradgeo.Detector(model, evidence=["confidence", "neighbours"]).fit(
        [f"order {number} arrived" for number in range(60)]
    )


@pytest.fixture(scope="module")
def server(detector: gradgeo.Detector) -> Iterator[Server]:
    inference = DetectorInference(detector)
    with served(LocalPool(inference, facts=inference.facts), Limits(delay=0)) as server:
        yield server


def asked(server: Server, body: dict[str, Any]) -> tuple[int, Any]:
    status, answer, _ = request(server, "POST", PATH, body)
    return status, answer


@pytest.mark.filterwarnings("ignore:.*NaN or infinite")
def test_verdicts_are_those_of_predict(server: Server, detector: gradgeo.Detector) -> None:
    own = detector.predict(TEXTS)
    body = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [3], "data": TEXTS}]}
    status, answer = asked(server, body)
    assert status == 200
    columns = {output["name"]: output["data"] for output in answer["outputs"]}
    assert columns["trusted"] == own.trusted.tolist()
    assert columns["p_value"][:2] == own.p_value[:2].tolist()
    assert columns["p_value"][2] is None
    client = tritonclient.InferenceServerClient("{}:{}".format(*server.address))
    tensor = tritonclient.InferInput("input", [3], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in TEXTS], object))
    assert client.infer("m", [tensor]).as_numpy("trusted").tolist() == own.trusted.tolist()
    assert client.get_model_metadata("m")["inputs"] == [{"name": "input", "datatype": "BYTES", "shape": [-1]}]


@pytest.mark.filterwarnings("ignore:.*NaN or infinite")
def test_a_text_is_judged_by_itself(server: Server, detector: gradgeo.Detector) -> None:
    own = detector.predict(TEXTS)
    for text, trusted, p in zip(TEXTS, own.trusted.tolist(), own.p_value.tolist(), strict=True):
        for query in ("", "?pictures=true"):  # of which a text has none
            plain = {"Content-Type": "text/plain; charset=utf-8"}
            status, answer, _ = request(server, "POST", f"/v1/judge{query}", text.encode(), plain)
            assert (status, answer["trusted"]) == (200, trusted)
            assert answer["p_value"] == (p if p == p else None)
            assert "detail" not in answer
    head = 'Content-Disposition: form-data; name="file"; filename="a.txt"'
    form = f"--a\r\n{head}\r\n\r\n{TEXTS[0]}\r\n--a--\r\n".encode()
    status, answer, _ = request(server, "POST", "/v1/judge", form, {"Content-Type": "multipart/form-data; boundary=a"})
    assert (status, answer["p_value"]) == (200, own.p_value[0])
    fields = {"Content-Type": "application/x-www-form-urlencoded"}
    status, answer, _ = request(server, "POST", "/v1/judge", b"text=order%20400%20arrived", fields)
    assert (status, "expected a body of type text/plain" in answer["error"]) == (415, True)
    assert request(server, "POST", "/v1/judge", b"\xff\xd8", {"Content-Type": "text/plain"})[0] == 400


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_of_the_documentation(detector: gradgeo.Detector, tmp_path: Path) -> None:
    inference = DetectorInference(detector)
    with served(LocalPool(inference, facts=inference.facts), Limits(delay=0), name="reviews") as server:
        (one,) = curl(server, "serving.md", "text/plain", tmp_path)
        (several,) = curl(server, "serving.md", "/infer", tmp_path)
    verdicts = detector.predict(["order 151 arrived", "thanks"])
    assert one["p_value"] == verdicts.p_value[0]
    assert {output["name"]: output["data"] for output in several["outputs"]}["p_value"] == verdicts.p_value.tolist()


def test_what_is_no_text_is_refused(server: Server) -> None:
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 20, 9], "data": [0.0] * 180}]}
    assert asked(server, body) == (400, {"error": "expected the datatype BYTES: this model judges texts"})
    body = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": [3]}]}
    assert asked(server, body)[0] == 400
    with pytest.raises(ProtocolError, match="expected texts in UTF-8, got other bytes in element 1"):
        TextReader()([b"a", b"\xff"])
    with pytest.raises(ProtocolError, match=f"at most {LONGEST} bytes"):
        TextReader()([b"a" * (LONGEST + 1)])
