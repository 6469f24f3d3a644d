"""`gradgeo serve` as one starts it: a process of its own, a detector file, a token, an end."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import gradgeo
from gradgeo.data import digits
from gradgeo.data.models import load_model
from helpers.commands import NET, run
from helpers.waiting import until

tritonclient = pytest.importorskip("tritonclient.http")

COMMAND = [sys.executable, "-c", "from gradgeo.cli import main; main()", "serve"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, net.py:net, and its detector, d.gradgeo."""
    room = tmp_path_factory.mktemp("room")
    (room / "net.py").write_text(NET)
    detector = gradgeo.Detector(load_model(f"{room}/net.py:net"), evidence="fast").fit(digits.split()["fit"][0])
    detector.save(room / "d.gradgeo", notes={"class_names": list("0123456789")})
    detector.save(room / "noted.gradgeo", notes={"model": f"{room}/net.py:net"})
    (room / "token").write_text("s3cret\n")
    return room


def logged(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
def process(room: Path) -> Iterator[subprocess.Popen]:
    options = ["-m", f"{room}/net.py:net", "--port", "0", "--token-file", f"{room}/token", "--drain-delay", "0.3"]
    with (room / "log").open("w") as log:
        process = subprocess.Popen([*COMMAND, str(room / "d.gradgeo"), *options], stderr=log, cwd=room)
        yield process
        process.kill()
        process.wait()


@pytest.mark.process
def test_from_start_to_end(process: subprocess.Popen, room: Path) -> None:
    log = room / "log"
    until(lambda: any(line["event"] == "listening" for line in logged(log)) or process.poll() is not None, 300)
    port = next(line["port"] for line in logged(log) if line["event"] == "listening")
    client = tritonclient.InferenceServerClient(f"localhost:{port}", network_timeout=60)
    bearer = {"Authorization": "Bearer s3cret"}
    assert client.is_server_ready()
    before = client.get_model_metadata("d", headers=bearer)
    assert before["parameters"]["class_names"] == list("0123456789")

    detector = gradgeo.Detector.load(room / "d.gradgeo", load_model(f"{room}/net.py:net"))
    x = digits.split()["test"][0][:20]
    x[3] = torch.nan
    asked = tritonclient.InferInput("input", list(x.shape), "FP32")
    asked.set_data_from_numpy(x.numpy())
    wanted = [tritonclient.InferRequestedOutput(name) for name in ("p_value", "label", "trusted", "cause")]

    (room / "d.gradgeo").write_bytes(b"another detector")  # it goes on with the one it started with
    (room / "net.py").write_text("raise RuntimeError")
    result = client.infer("d", [asked], outputs=wanted, headers=bearer)
    with pytest.warns(gradgeo.GradgeoWarning, match="1 of 20"):
        expected = detector.predict(x)
    assert torch.allclose(torch.tensor(result.as_numpy("p_value")), expected.p_value, atol=0.02, equal_nan=True)
    assert result.as_numpy("label").tolist() == expected.label.tolist()
    assert result.as_numpy("trusted").tolist() == expected.trusted.tolist()
    assert result.as_numpy("cause")[3] == b""
    assert client.get_model_metadata("d", headers=bearer) == before
    with pytest.raises(tritonclient.InferenceServerException, match="expected the header Authorization"):
        client.infer("d", [asked])

    process.send_signal(signal.SIGTERM)
    until(lambda: not client.is_server_ready())  # and takes requests still, for a moment
    assert client.infer("d", [asked], headers=bearer).as_numpy("label").tolist() == expected.label.tolist()
    client.close()
    assert process.wait(60) == 0
    events = [line["event"] for line in logged(log)]
    assert events.index("draining") < events.index("ended")
    assert "s3cret" not in log.read_text()
    assert not re.search(r"Traceback|error", log.read_text())


def test_what_cannot_be_served_is_said_before_anything_is_loaded(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (room / "e.gradgeo").write_bytes(b"no detector")
    file, model = room / "noted.gradgeo", ("-m", "digits")
    assert "e.gradgeo" in run("serve", room / "e.gradgeo", *model)[2]
    code, _, err = run("serve", room / "none.gradgeo", *model)
    assert (code, "cannot read" in err, "No such file" in err) == (1, True, True)
    assert "pass --model; the detector was fitted with" in run("serve", file)[2]
    assert "expected name to be letters, digits, - _ and ." in run("serve", file, *model, "--name", "a/b")[2]
    assert "expected timeout to be above 0" in run("serve", file, *model, "--timeout", "0")[2]
    assert "cannot read the token file" in run("serve", file, *model, "--token-file", room / "none")[2]
    monkeypatch.setenv("GRADGEO_TOKEN", " ")
    assert "GRADGEO_TOKEN holds no token" in run("serve", file, *model)[2]
    monkeypatch.delenv("GRADGEO_TOKEN")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run("serve", file, *model, "--port", port)
    assert code == 1
    assert f"expected host and port to be free to listen at, got '127.0.0.1:{port}'" in err


def test_help_shows_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADGEO_TOKEN", "s3cret")
    code, out, _ = run("serve", "--help")
    assert code == 0
    assert "s3cret" not in out
