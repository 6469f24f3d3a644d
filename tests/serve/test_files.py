"""Image files in place of tensors: the verdicts are those of `score`, and hostile files are refused before they cost."""

import base64
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gradgeo import Detector
from gradgeo.data import Preprocess, images, open_source
from gradgeo.serve import byte_tensors, parsing
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.inference import DetectorInference
from gradgeo.serve.limits import Limits
from gradgeo.serve.server import Server
from helpers.nets import inputs, network
from helpers.serving import LocalPool, ReadsHere, curl, request, served

tritonclient = pytest.importorskip("tritonclient.http")

SHAPE = (3, 8, 8)
PREPROCESS = Preprocess(size=(8, 8), mean=(0.5,), std=(0.25,))
NAMES = ["ant", "bee", "cat", "dog"]
PATH, JUDGE = "/v2/models/m/infer", "/v1/judge"
MANY = 5000


@pytest.fixture(scope="module")
def detector() -> Detector:
    model = network(inputs=192).eval()
    detector = Detector(model, evidence=["confidence", "csm"]).fit(4 * inputs(100, shape=SHAPE) - 2)
    detector.notes = {"class_names": NAMES, "preprocess": PREPROCESS.as_dict()}
    return detector


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "Pool", ReadsHere)
        yield


@pytest.fixture(scope="module")
def server(detector: Detector) -> Iterator[Server]:
    inference = DetectorInference(detector)
    with served(LocalPool(inference, facts=inference.facts), Limits(delay=0, pixels=MANY)) as server:
        yield server


def encoded(form: str, mode: str = "RGB", side: int = 20, **options: Any) -> bytes:
    """A picture of noise in a file of that kind."""
    pixels = np.random.default_rng(3).integers(0, 255, (side, side, 4), np.uint8)
    stream = BytesIO()
    picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(pixels)
    (picture if mode == "I;16" else picture.convert(mode)).save(stream, form, **options)
    return stream.getvalue()


FILES = {
    "a.jpg": encoded("JPEG"),
    "b.png": encoded("PNG", "L"),
    "c.png": encoded("PNG", "RGBA", side=31),
    "d.webp": encoded("WEBP"),
    "e.tif": encoded("TIFF", "I;16"),
    "f.jpg": encoded("JPEG", "CMYK", progressive=True),
}


def judge(server: Server, data: bytes, query: str = "", **headers: str) -> tuple[int, Any]:
    status, told, _ = request(server, "POST", JUDGE + query, data, headers)
    return status, told


def form(*files: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A form with a field and these files."""
    parts = [b'--edge\r\nContent-Disposition: form-data; name="note"\r\n\r\nof a visit\r\n']
    for name, data in files:
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: image/png'
        parts.append(b"--edge\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n")
    return b"".join([*parts, b"--edge--\r\n"]), {"Content-Type": "multipart/form-data; boundary=edge"}


def test_verdicts_are_those_of_the_same_files_in_a_folder(detector: Detector, server: Server, tmp_path: Path) -> None:
    """Whatever a client says of them: a file is what its bytes are."""
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    items = list(open_source(tmp_path, preprocess=replace(PREPROCESS, channels=3)))
    wanted = detector.predict(torch.stack([item.x for item in items if item.x is not None]))
    assert len(wanted) == len(FILES)
    for i, item in enumerate(items):
        status, told = judge(server, FILES[item.name], **{"Content-Type": "image/png"})
        assert status == 200
        assert (told["label"], told["trusted"]) == (int(wanted.label[i]), bool(wanted.trusted[i]))
        assert told["class_name"] == NAMES[told["label"]]
        assert told["p_value"] == pytest.approx(float(wanted.p_value[i]), abs=0.02)
        assert told["model_name"] == "m"
        assert not {"cause", "detail", "logits"} & set(told)
    as_curl = {"Content-Type": "application/x-www-form-urlencoded"}  # what it says of `--data-binary @a.jpg`
    assert judge(server, FILES["a.jpg"], **as_curl) == judge(server, FILES["a.jpg"], **{"Content-Type": "image/jpeg"})

    client = tritonclient.InferenceServerClient("{}:{}".format(*server.address))
    for binary in (True, False):
        rows = [FILES[item.name] if binary else base64.b64encode(FILES[item.name]) for item in items]
        tensor = tritonclient.InferInput("input", [len(rows)], "BYTES")
        tensor.set_data_from_numpy(np.array(rows, dtype=object), binary_data=binary)
        answer = client.infer("m", [tensor])
        assert answer.as_numpy("label").tolist() == wanted.label.tolist()
        assert np.allclose(answer.as_numpy("p_value"), wanted.p_value, atol=0.02)
    assert client.get_model_metadata("m")["parameters"]["files"] is True
    client.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_of_the_documentation(server: Server, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(FILES["a.jpg"])
    by_group, plain, explained = curl(server, "serving.md", "photo.jpg", tmp_path)
    assert "fitted without groups" in by_group["error"]
    assert plain["label"] == explained["label"]
    assert "cause" in explained


def test_a_form_with_a_file(server: Server) -> None:
    pytest.importorskip("python_multipart", reason="python-multipart is not installed")
    plain = judge(server, FILES["a.jpg"])
    assert plain[0] == 200
    body, headers = form(("a.jpg", FILES["a.jpg"]))
    assert judge(server, body, **headers) == plain
    for number in (0, 2):
        body, headers = form(*[("a.jpg", FILES["a.jpg"])] * number)
        assert judge(server, body, **headers) == (400, {"error": f"expected a form with one file, got {number}"})
    for broken in (body[:-30], b"", b"--other\r\n"):
        status, told = judge(server, broken, **headers)
        assert (status, "expected a form with one file" in told["error"]) == (400, True)
    assert judge(server, body, **{"Content-Type": "multipart/form-data"})[0] == 400  # no boundary


def stated(width: int, height: int) -> bytes:
    """A small JPEG whose header states other sides."""
    data = encoded("JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


HOSTILE = {
    "empty": (b"", 400, "empty (0 bytes)"),
    "text": (b"<svg onload=alert(1)>", 400, "broken, or no image that is read here"),
    "cut": (encoded("PNG")[:200], 400, "broken, or no image that is read here"),
    "a lie in the middle": (encoded("JPEG")[:60] + encoded("PNG"), 400, "broken, or no image"),
    "100 megapixels": (stated(10_000, 10_000), 413, "expected at most 5000 pixels"),
    "64 megapixels": (stated(8_000, 8_000), 413, "8000 x 8000 pixels are too many; at most 5000 are read"),
    "a thin line": (stated(65_000, 1_500), 413, "expected at most 5000 pixels"),
    "floats": (encoded("TIFF", "F"), 400, "Save it with 8 or 16 bits"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_before_they_are_decoded(
    server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, status, message = HOSTILE[name]
    if status == 413:
        monkeypatch.setattr(images, "_pixels", lambda image: pytest.fail("it was decoded"))
    got, told = judge(server, data, **{"Content-Type": "image/jpeg"})
    assert (got, list(told)) == (status, ["error"])
    assert message in told["error"]
    assert "onload" not in told["error"]


def test_the_pixels_of_all_files_of_a_request_are_limited(server: Server) -> None:
    rows = [base64.b64encode(encoded("JPEG", side=60)).decode()] * 2  # 3600 each
    tensor = {"name": "input", "shape": [2], "datatype": "BYTES", "data": rows}
    status, told, _ = request(server, "POST", PATH, {"inputs": [tensor]})
    assert (status, "file 1 of 2: 60 x 60 pixels are too many" in told["error"]) == (413, True)
    tensor |= {"shape": [1, 1], "data": [[rows[0]]]}
    assert request(server, "POST", PATH, {"inputs": [tensor]})[0] == 200


BAD = {
    "numbers": ({"data": [1.0]}, "texts in base64"),
    "no base64": ({"data": ["%%%"]}, "files in base64"),
    "another count": ({"data": ["AAAA"] * 2}, "to be 1 texts"),
    "another shape": ({"shape": [1, 3, 8, 8], "data": ["AAAA"]}, "[rows] with rows from 1"),
    "nothing": ({}, "expected data in base64"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tensors_of_bytes_are_told_what_is_wrong(server: Server, name: str) -> None:
    changes, message = BAD[name]
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES"} | changes
    status, told, _ = request(server, "POST", PATH, {"inputs": [tensor]})
    assert (status, message in told["error"]) == (400, True), told


@pytest.mark.parametrize("behind", [b"", b"\1\0\0", b"\2\0\0\0a", b"\xff\xff\xff\xffa", b"\1\0\0\0ab"])
def test_lengths_in_tensors_of_bytes_are_checked(behind: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected 1 elements behind the JSON"):
        byte_tensors.read(memoryview(behind), 1)


def test_models_that_take_no_files_say_why(detector: Detector) -> None:
    inference = DetectorInference(detector)
    parameters = {**inference.facts.parameters, "preprocess": None}
    for pool, reason in (
        (LocalPool(), "of shape (2, 3), is no image"),
        (LocalPool(inference, facts=replace(inference.facts, parameters=parameters)), "does not say how images"),
    ):
        with served(pool, Limits(delay=0, file=1000)) as server:
            status, told = judge(server, FILES["b.png"])
            assert (status, reason in told["error"]) == (400, True)
            assert judge(server, bytes(1001)) == (413, {"error": "expected a file of at most 1000 bytes"})
            assert request(server, "GET", "/v2/models/m")[1]["parameters"]["files"] is False
            status, told = judge(server, b"x", **{"Content-Type": "text/plain"})
            assert (status, "expected a body of type image/..." in told["error"]) == (415, True)
            status, told = judge(server, b"x", "?explain=maybe")
            assert told == {"error": "expected explain of the query to be as /openapi.json describes"}
            assert judge(server, b"x", **{"Origin": "http://evil.example"})[0] == 403  # a form of another site


def test_what_shows_gradients_is_withheld_with_scores(detector: Detector) -> None:
    inference = DetectorInference(detector)
    with served(LocalPool(inference, facts=inference.facts), outputs=["label", "trusted"]) as server:
        status, told = judge(server, FILES["a.jpg"])
        assert (status, set(told)) == (200, {"model_name", "model_version", "label", "class_name", "trusted"})
        assert judge(server, FILES["a.jpg"], "?explain=true")[0] == 403
        assert judge(server, FILES["a.jpg"], "?pictures=true")[0] == 403


def test_pictures_and_explanations_come_on_request(server: Server, detector: Detector) -> None:
    told = judge(server, FILES["a.jpg"], "?pictures=true")[1]
    detail = told["detail"]
    picture = Image.open(BytesIO(base64.b64decode(detail["picture"])))
    assert picture.size == (8, 8)
    assert [Image.open(BytesIO(base64.b64decode(each["picture"]))).mode for each in detail["maps"]] == ["RGBA"] * 2
    assert detail["maps"][0]["class"] == detail["csm_classes"][0] == told["label"]
    assert len(detail["csm"]) == len(detail["csm_classes"]) ** 2
    assert detail["csm"][0] == pytest.approx(1)
    assert detail["class_names"] == {str(c): NAMES[c] for c in range(4)}
    assert set(detail["evidence"]) == set(detector.evidence_)
    assert "cause" in judge(server, FILES["a.jpg"], "?explain=true")[1]
    assert judge(server, FILES["a.jpg"], "?explain=perhaps")[0] == 400
