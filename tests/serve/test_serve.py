"""The server over real sockets, with a judge that takes no time."""

import gc
import json
import os
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from gradgeo.serve.limits import Limits
from gradgeo.serve.protocol import DEFAULT
from gradgeo.serve.server import Server, run
from gradgeo.serve.workers import StartError
from helpers.serving import CLASSES, FACTS, SHAPE, LocalPool, asking, infer, judge, request, served
from helpers.waiting import until

tritonclient = pytest.importorskip("tritonclient.http")

VERSION = FACTS.digest[:12]


@pytest.fixture(scope="module")
def server() -> Any:
    with served(limits=Limits(delay=0, client_timeout=5.0, rows=8)) as server:
        yield server


@pytest.fixture
def x() -> np.ndarray:
    x = np.random.default_rng(0).uniform(0.3, 1, (3, *SHAPE)).astype(np.float32)
    x[1] = 0
    x[2, 0, 0] = np.nan
    return x


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    client = tritonclient.InferenceServerClient("{}:{}".format(*server.address))
    yield client
    client.close()


def tensor(x: np.ndarray, *, binary: bool = True) -> Any:
    made = tritonclient.InferInput("input", list(x.shape), "FP32")
    made.set_data_from_numpy(x, binary_data=binary)
    return made


def test_the_public_client_sees_a_healthy_server(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert client.is_model_ready("m", VERSION)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    told = client.get_model_metadata("m")
    assert told["versions"] == [VERSION]
    assert told["parameters"]["detector_sha256"] == FACTS.digest
    assert told["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, *SHAPE]}]
    assert told["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_the_public_client_gets_what_the_judge_says(
    client: Any, x: np.ndarray, binary_in: bool, binary_out: bool | None
) -> None:
    expected = judge(x, True)
    names = [*expected]
    wanted = (
        None if binary_out is None else [tritonclient.InferRequestedOutput(n, binary_data=binary_out) for n in names]
    )
    result = client.infer("m", [tensor(x, binary=binary_in)], outputs=wanted, request_id="7")
    assert result.get_response()["id"] == "7"
    for name in names if wanted else DEFAULT:
        got = result.as_numpy(name)
        if name == "cause":
            assert [text.decode() if isinstance(text, bytes) else text for text in got] == expected[name]
        else:
            np.testing.assert_array_equal(got, expected[name], name)
    if wanted is None:
        assert result.as_numpy("cause") is None


def test_other_floats_are_taken(server: Server, x: np.ndarray) -> None:
    for kind, dtype in (("FP64", np.float64), ("FP16", np.float16)):
        made = tritonclient.InferInput("input", list(x.shape), kind)
        made.set_data_from_numpy(x.astype(dtype))
        client = tritonclient.InferenceServerClient("{}:{}".format(*server.address))
        np.testing.assert_array_equal(
            client.infer("m", [made]).as_numpy("p_value"), judge(x.astype(dtype).astype(np.float32))["p_value"]
        )
        client.close()


def test_what_cannot_be_judged_is_null_and_not_trusted(server: Server, x: np.ndarray) -> None:
    status, told = infer(server, x)
    assert status == 200
    assert told["trusted"] == [True, False, False]
    assert told["p_value"][2] is None
    assert told["logits"][-CLASSES:] == [None] * CLASSES
    body = json.dumps(asking(x)).replace("null", "NaN").encode()  # as some clients write it
    status, again, _ = request(server, "POST", "/v2/models/m/infer", body)
    assert status == 200
    assert {o["name"]: o["data"] for o in again["outputs"]} == told
    huge = np.full((1, *SHAPE), 1e300)
    status, told = infer(server, huge)  # infinite in float32, which this judge takes for large
    assert status == 200


def test_nested_data_and_versions(server: Server, x: np.ndarray) -> None:
    body = asking(x[:1])
    body["inputs"][0]["data"] = x[:1].tolist()
    status, told, headers = request(server, "POST", f"/v2/models/m/versions/{VERSION}/infer", body)
    assert status == 200
    assert told["model_version"] == VERSION
    assert "id" not in told
    assert len(headers["x-request-id"]) == 32
    assert request(server, "POST", "/v2/models/m/versions/1/infer", body)[0] == 404


def of(**changes: Any) -> dict[str, Any]:
    body = asking(np.ones((1, *SHAPE)))
    body["inputs"][0] |= changes
    return body


BAD = {
    "no JSON": (b"{", "no valid JSON"),
    "not UTF-8": (b'{"id": "\xff"}', "no valid JSON"),
    "deep": (b'{"inputs":' + b"[" * 100_000, "no valid JSON"),
    "a list": (b"[]", "should be an object"),
    "no inputs": ({"inputs": []}, "inputs: List should have at least 1 item"),
    "two inputs": ({"inputs": of()["inputs"] * 2}, "inputs: List should have at most 1 item"),
    "another input": (of(name="image"), "the name of the input to be 'input'"),
    "integers": (of(datatype="UINT8"), "datatype: Input should be 'FP16', 'FP32', 'FP64' or 'BYTES'"),
    "another shape": (of(shape=[1, 3, 2]), r"shape of the input to be [rows, 2, 3]"),
    "no rows": (of(shape=[0, 2, 3], data=[]), "with rows from 1 to 8"),
    "a negative shape": (of(shape=[-1, 2, 3]), "greater than or equal to 0"),
    "huge sides": (of(shape=[1, 10**30, 10**30]), r"shape of the input to be [rows, 2, 3]"),
    "a huge rank": (of(shape=[1] * 1000), "at most 32 items"),
    "too few numbers": (of(data=[1.0]), "flat with 6 numbers"),
    "too deep": (of(data=[[[[1.0]]] * 6]), "flat with 6 numbers"),
    "ragged": (of(data=[[1.0, 2.0], [3.0]]), "numbers, flat or nested evenly"),
    "texts": (of(data=["1"] * 6), "expected data to be numbers, or the datatype BYTES"),
    "truths": (of(data=[True] * 6), "inputs.data: Input should be a valid number"),
    "no data": ({"inputs": [{"name": "input", "shape": [1, 2, 3], "datatype": "FP32"}]}, "Shared memory is not"),
    "sizes without bytes": (of(parameters={"binary_data_size": 24}), "expected data or binary_data_size, got both"),
    "an unknown output": (of() | {"outputs": [{"name": "secret"}]}, "expected outputs among logits"),
    "an output twice": (of() | {"outputs": [{"name": "label"}] * 2}, "each once"),
    "classification": (of() | {"outputs": [{"name": "logits", "parameters": {"classification": 2}}]}, "not supported"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_told_what_is_wrong(server: Server, name: str) -> None:
    body, message = BAD[name]
    status, told, _ = request(server, "POST", "/v2/models/m/infer", body)
    assert (status, list(told)) == (400, ["error"])
    assert message in told["error"]
    assert "Traceback" not in told["error"]


@pytest.mark.parametrize("length", ["-1", "x", "999", "1e3", "10000000000000000000000", "٣"])
def test_a_bad_header_length_is_refused(server: Server, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode("utf-8").decode("latin-1")}
    status, told, _ = request(server, "POST", "/v2/models/m/infer", of(), headers)
    assert status == 400
    assert "Inference-Header-Content-Length" in told["error"]


@pytest.mark.parametrize(
    ("size", "behind"), [(24, 23), (23, 23), (True, 1), (None, 24), (48, 48), ("24", 24), (-24, 24)]
)
def test_binary_tensors_must_be_as_long_as_they_should(server: Server, size: Any, behind: int) -> None:
    body = of(parameters={"binary_data_size": size})
    del body["inputs"][0]["data"]
    if size is None:
        body = of()
    text = json.dumps(body).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    status, told, _ = request(server, "POST", "/v2/models/m/infer", text + bytes(behind), headers)
    assert status == 400
    assert "binary_data_size" in told["error"]


def test_too_much_is_refused_by_its_own_status(server: Server) -> None:
    path = "/v2/models/m/infer"
    status, told = infer(server, np.ones((9, *SHAPE)))
    assert (status, told["error"]) == (413, "expected at most 8 rows in a request. Send several requests.")
    assert request(server, "POST", path, of(shape=[10**30, 2, 3]))[0] == 413
    longest = server.service().longest_body
    assert request(server, "POST", path, b" " * (longest + 1))[0] == 413
    declared = raw(server, f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {longest + 1}\r\n\r\n".encode())
    assert declared.startswith(b"HTTP/1.1 413")  # before any of it was sent
    chunk = b"%x\r\n%s\r\n" % (longest + 1, b" " * (longest + 1))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert raw(server, head + chunk + b"0\r\n\r\n").startswith(b"HTTP/1.1 413")
    status, told, _ = request(server, "POST", path, of(), {"Content-Encoding": "gzip"})
    assert (status, told["error"]) == (415, "expected a body that is not compressed")


def raw(server: Server, data: bytes, *, half_close: bool = False) -> bytes:
    """All that comes back for these bytes."""
    with socket.create_connection(server.address, timeout=20) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
                if b"\r\n\r\n" in part and b"413" in part:
                    break
        except ConnectionError:
            pass
        return b"".join(parts)


def test_wrong_routes_are_told_in_json(server: Server) -> None:
    for method, path, status, text in (
        ("GET", "/health", 404, "nothing is at this path. One image file or text goes to POST /v1/judge"),
        ("GET", "/v2/models/x", 404, "no such model or version; here is m"),
        ("GET", "/v2/models/m/infer", 405, "expected the method POST, got GET"),
    ):
        got, told, _ = request(server, method, path)
        assert (got, list(told), told["error"].startswith(text)) == (status, ["error"], True)


def test_what_is_no_http_is_told_in_json(server: Server) -> None:
    answer = raw(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'{"error": "Invalid HTTP request received."}' in answer
    assert raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000).startswith(b"HTTP/1.1 400")


def test_a_model_that_fails_fails_its_own_request_only() -> None:
    slow = threading.Event()

    def busy(x: np.ndarray, explain: bool) -> dict[str, Any]:
        slow.wait(20)
        return judge(x, explain)

    pool = LocalPool(busy)
    with served(pool, Limits(delay=0.05)) as server, ThreadPoolExecutor(4) as threads:
        first = threads.submit(infer, server, np.ones((1, *SHAPE)))
        until(lambda: pool.batches)
        waiting = [threads.submit(infer, server, np.full((2, *SHAPE), value)) for value in (0.5, 13.0, 1.0)]
        until(lambda: server.service().batcher.rows == 6)
        slow.set()
        assert first.result()[0] == 200
        (good, _), (bad, told), (fine, last) = [w.result() for w in waiting]
        assert (good, bad, fine) == (200, 500, 200)
        assert told == {"error": "the model or the detector failed (ValueError)"}
        assert last["p_value"] == [1.0, 1.0]
    assert pool.batches == [1, 6, 2, 2, 2]
    assert pool.closed


def test_requests_share_batches_and_a_full_queue_says_so() -> None:
    gate = threading.Event()

    def held(x: np.ndarray, explain: bool) -> dict[str, Any]:
        gate.wait(20)
        return judge(x, explain)

    pool = LocalPool(held)
    with served(pool, Limits(delay=0, batch=4, queue=7)) as server, ThreadPoolExecutor(12) as threads:
        first = threads.submit(infer, server, np.ones((1, *SHAPE)))
        until(lambda: pool.batches)
        some = []
        for i in range(7):
            some.append(threads.submit(infer, server, np.full((1, *SHAPE), i / 7)))
            until(lambda i=i: server.service().batcher.rows == i + 1)
        status, told, headers = request(server, "POST", "/v2/models/m/infer", asking(np.ones((1, *SHAPE))))
        assert (status, headers["retry-after"]) == (429, "1")
        assert "7 inputs are waiting already" in told["error"]
        gate.set()
        assert first.result()[0] == 200
        for i, answer in enumerate(some):
            status, told = answer.result()
            assert status == 200
            assert told["logits"][0] == pytest.approx(6 * i / 7)
    assert pool.batches == [1, 4, 3]


def test_an_answer_that_does_not_come_in_time_is_504_and_its_work_is_dropped() -> None:
    gate = threading.Event()
    pool = LocalPool(lambda x, explain: (gate.wait(20), judge(x, explain))[1])
    with served(pool, Limits(delay=0, timeout=0.2)) as server, ThreadPoolExecutor(2) as threads:
        both = [threads.submit(infer, server, np.ones((1, *SHAPE)))]
        until(lambda: pool.batches)
        both.append(threads.submit(infer, server, np.ones((1, *SHAPE))))
        assert [answer.result()[0] for answer in both] == [504, 504]
        assert server.service().batcher.rows == 0
        gate.set()
        until(lambda: infer(server, np.ones((1, *SHAPE)))[0] == 200)
    assert sum(pool.batches) < 6  # the second of both was not judged for nobody


def test_a_client_that_goes_takes_its_work_along() -> None:
    gate = threading.Event()
    pool = LocalPool(lambda x, explain: (gate.wait(20), judge(x, explain))[1])
    body = json.dumps(asking(np.ones((1, *SHAPE)))).encode()
    ask = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with served(pool, Limits(delay=0)) as server:
        first = threading.Thread(target=infer, args=(server, np.ones((1, *SHAPE))))
        first.start()
        until(lambda: pool.batches)
        with socket.create_connection(server.address) as connection:
            connection.sendall(ask)
            until(lambda: server.service().batcher.rows == 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: server.service().batcher.rows == 0)
        gate.set()
        first.join()
        gate.clear()  # else the answer may be there before the client is seen to be gone
        assert raw(server, ask, half_close=True) == b""  # half closed is gone
        gate.set()
        assert raw(server, ask[:-10], half_close=True) == b""  # in the middle of its body
        until(
            lambda: b'gradgeo_requests_total{route="infer",status="499"} 3.0' in request(server, "GET", "/metrics")[1]
        )
        assert b'status="500"' not in request(server, "GET", "/metrics")[1]
        assert infer(server, np.ones((1, *SHAPE)))[0] == 200


def test_slow_clients_are_let_go() -> None:
    with served(limits=Limits(client_timeout=0.3)) as server:
        began = time.monotonic()
        with (
            socket.create_connection(server.address, timeout=20) as silent,
            socket.create_connection(server.address, timeout=20) as dribbling,
        ):
            dribbling.sendall(b"GET /v2 HTT")
            assert silent.recv(1) == b""
            assert dribbling.recv(1) == b""
        body = raw(server, b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert body.startswith(b"HTTP/1.1 408")
        assert b'{"error":"expected the whole body within 0.3 s"}' in body
        with socket.create_connection(server.address, timeout=20) as second:  # slow with its second request
            second.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: b"extensions" in second.recv(1 << 16))
            second.sendall(b"GET /v2 ")
            assert second.recv(1) == b""
        assert 0.3 < time.monotonic() - began < 10
        assert request(server, "GET", "/v2")[0] == 200


def test_too_many_connections_are_refused_politely() -> None:
    with served(limits=Limits(connections=20, client_timeout=2.0)) as server, ExitStack() as crowd:
        first = crowd.enter_context(socket.create_connection(server.address, timeout=20))
        until(lambda: server.server_state.connections)
        for _ in range(100):
            silent = crowd.enter_context(socket.create_connection(server.address, timeout=20))
        last = crowd.enter_context(socket.create_connection(server.address, timeout=20))
        until(lambda: len(server.server_state.connections) >= 100)
        first.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 200")  # was there before them
        last.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: last.recv(1 << 16), b""))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in answer
        assert b'{"error": "too many connections. Try again later."}' in answer
        answer = b"".join(iter(lambda: silent.recv(1 << 16), b""))  # told without having asked
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert answer.endswith(b'{"error": "too many connections. Try again later."}')
        until(lambda: len(server.server_state.connections) == 0)
        assert request(server, "GET", "/v2")[0] == 200


def test_bodies_together_are_limited() -> None:
    with served(limits=Limits(body=1000, bodies=60_000, client_timeout=3.0)) as server:
        head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{"
        with socket.create_connection(server.address, timeout=20) as slow:
            slow.sendall(head)
            until(lambda: server.service()._bodies_left == 60_000 - 40 * 900)  # what its JSON may take
            assert b"429 Too Many Requests" in raw(server, head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        until(lambda: server.service()._bodies_left == 60_000)
        assert infer(server, np.ones((1, *SHAPE)))[0] == 200


def test_a_token_is_asked_for_but_for_health() -> None:
    with served(token="s3cret") as server:
        assert request(server, "GET", "/v2/health/live")[0] == 200
        assert request(server, "GET", "/v2/health/ready")[0] == 200
        for given in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "s3cret"},
            {"Authorization": "Basic s3cret"},
        ):
            status, told, headers = request(server, "GET", "/v2/models/m", headers=given)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert told == {"error": "expected the header Authorization: Bearer with the token of this server"}
        for path in ("/metrics", "/openapi.json", "/v2/models/m"):
            assert request(server, "GET", path)[0] == 401
            assert request(server, "GET", path, headers={"Authorization": "Bearer s3cret"})[0] == 200


def test_metrics_count_what_happened(x: np.ndarray) -> None:
    with served(limits=Limits(delay=0)) as server:
        for _ in range(10):
            infer(server, np.zeros((2, *SHAPE)))
        infer(server, x)
        request(server, "POST", "/v2/models/m/infer", b"{")
        text = request(server, "GET", "/metrics")[1].decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['gradgeo_requests_total{route="infer",status="200"}'] == "11.0"
    assert values['gradgeo_requests_total{route="infer",status="400"}'] == "1.0"
    assert values['gradgeo_inputs_total{verdict="trusted"}'] == "1.0"
    assert values['gradgeo_inputs_total{verdict="flagged"}'] == "21.0"
    assert values['gradgeo_inputs_total{verdict="unjudgeable"}'] == "1.0"
    assert values['gradgeo_p_value_bucket{le="0.05"}'] == "21.0"
    assert values["gradgeo_request_seconds_count"] == "12.0"
    assert values['gradgeo_watch_alarm{against="fit"}'] == "1.0"
    assert values['gradgeo_watch_alarm{against="start"}'] == "0.0"
    assert float(values['gradgeo_watch_log10{against="fit"}']) > 3
    assert values["gradgeo_workers"] == "1.0"


def test_logs_are_json_and_hold_no_input(caplog: pytest.LogCaptureFixture) -> None:
    from gradgeo.serve.logs import JsonLines

    with caplog.at_level("INFO", "gradgeo.serve"), served(limits=Limits(delay=0)) as server:
        infer(server, np.full((2, *SHAPE), 0.123456), id="patient-7")
        request(server, "POST", "/v2/models/m/infer", of(data=[0.123456, "0.123456"]))
        request(server, "GET", "/v2/health/ready")
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "gradgeo.serve"]
    asked = [line for line in lines if line["event"] == "request"]
    assert [(line["path"], line["status"], line.get("rows")) for line in asked] == [
        ("/v2/models/m/infer", 200, 2),
        ("/v2/models/m/infer", 400, None),
    ]
    assert asked[0]["untrusted"] == 0
    assert asked[0]["ms"] >= 0
    assert "0.123456" not in json.dumps(lines)
    assert "patient" not in json.dumps(lines)


def test_an_exception_of_ours_is_logged_by_place_and_not_shown(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradgeo.serve import service
    from gradgeo.serve.logs import JsonLines

    def broken(self: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(service.Service, "model_metadata", broken)
    with caplog.at_level("ERROR"):
        status, told, _ = request(server, "GET", "/v2/models/m")
        until(lambda: any(r.name == "gradgeo.serve" for r in caplog.records))
    assert (status, told) == (500, {"error": "the server failed on this request"})
    (record,) = [r for r in caplog.records if r.name == "gradgeo.serve"]
    line = JsonLines().format(record)
    assert json.loads(line)["exception"] == "RuntimeError"
    assert "broken" in line
    assert "secret" not in line


def test_asked_to_end_it_answers_what_it_has_and_says_it_is_not_ready() -> None:
    gate = threading.Event()
    pool = LocalPool(lambda x, explain: (gate.wait(20), judge(x, explain))[1])
    with served(pool, Limits(delay=0)) as server, ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(infer, server, np.ones((1, *SHAPE)))]
        until(lambda: pool.batches)
        answers += [threads.submit(infer, server, np.ones((1, *SHAPE))) for _ in range(2)]
        until(lambda: server.service().batcher.rows == 2)
        server.service().draining = True
        assert request(server, "GET", "/v2/health/ready")[:2] == (503, {"ready": False})
        assert request(server, "GET", "/v2/health/live")[0] == 200
        server.handle_exit(signal.SIGTERM, None)
        until(lambda: refused(server))
        gate.set()
        assert [answer.result()[0] for answer in answers] == [200] * 3
    assert pool.closed


def refused(server: Server) -> bool:
    try:
        socket.create_connection(server.address, timeout=5).close()
    except (ConnectionRefusedError, IndexError):  # closed, or its socket gone
        return True
    return False


def test_without_a_worker_it_is_not_ready_and_says_so() -> None:
    pool = LocalPool()
    with served(pool) as server:
        pool.alive = 0
        assert request(server, "GET", "/v2/health/ready")[0] == 503
        assert request(server, "GET", "/v2/models/m/ready")[:2] == (503, {"name": "m", "ready": False})
        assert infer(server, np.ones((1, *SHAPE)))[0] == 200  # it waits for the worker to be started anew
        pool.failing = True
        status, told = infer(server, np.ones((1, *SHAPE)))
        assert (status, told["error"]) == (503, "no worker can be started at the moment")


@pytest.mark.process
def test_run_returns_when_asked_to_end_and_leaves_the_signals_as_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for number in (signal.SIGTERM, signal.SIGINT):
        pool = LocalPool()
        server = Server(pool, name="m", port=0)

        def end(server: Server = server, number: int = number) -> None:
            until(lambda: server.started)
            assert request(server, "GET", "/v2/health/ready")[0] == 200
            assert gc.get_freeze_count() > 10_000  # what is loaded is not looked through again, while all would wait
            os.kill(os.getpid(), number)

        ending = threading.Thread(target=end)
        ending.start()
        run(server)
        ending.join()
        assert pool.closed
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert gc.get_freeze_count() == 0


@pytest.mark.process
def test_workers_that_cannot_load_end_the_server_with_their_reason() -> None:
    class Broken(LocalPool):
        async def start(self) -> Any:
            raise StartError("the weights are gone")

    with pytest.raises(StartError, match="the weights are gone"):
        run(Server(Broken(), name="m", port=0))
