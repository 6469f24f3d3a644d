"""Bodies of requests: what they may hold and take, and that reading them stops nobody else."""

import json
import socket
import threading
import time
from typing import Any

import numpy as np
import pytest

from gradgeo.serve.limits import MEBI, Limits, memory_for
from gradgeo.serve.server import Server
from helpers.serving import FACTS, SHAPE, asking, infer, request, served
from helpers.waiting import until

PATH = "/v2/models/m/infer"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n"


def answer(server: Server, data: bytes) -> bytes:
    """What comes back for these bytes until the server closes the connection."""
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(data)
        parts = []
        try:
            while part := connection.recv(1 << 16):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)


def long_json(size: int) -> bytes:
    """A request of so many bytes, all of them numbers."""
    head, end = b'{"inputs":[{"name":"input","shape":[1,2,3],"datatype":"FP32","data":[0', b"]}]}"
    return head + b",0" * ((size - len(head) - len(end)) // 2) + end


@pytest.fixture(scope="module")
def server() -> Any:
    with served(limits=Limits(delay=0, client_timeout=5.0)) as server:
        yield server


def test_a_length_beside_chunks_is_refused(server: Server) -> None:
    """The pattern of request smuggling; the budget of all bodies once counted the length alone."""
    both = f"{HEAD}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()
    told = answer(server, both + b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 400")
    assert told.count(b"HTTP/1.1") == 1  # and the connection ends
    assert told.endswith(b'{"error": "expected Content-Length or Transfer-Encoding, got both"}')


def test_chunks_are_charged_for_the_longest_body_they_may_become() -> None:
    head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n".encode()
    most = memory_for(1000, 1000)
    with served(limits=Limits(body=1000, bodies=2 * most, client_timeout=5.0)) as server:
        with (
            socket.create_connection(server.address, timeout=20) as first,
            socket.create_connection(server.address, timeout=20) as second,
        ):
            first.sendall(head)
            second.sendall(head)
            until(lambda: server.service()._bodies_left == 0)
            with socket.create_connection(server.address, timeout=20) as third:
                third.sendall(head)
                assert third.recv(1 << 16).startswith(b"HTTP/1.1 429")
        until(lambda: server.service()._bodies_left == 2 * most)


def test_json_has_a_limit_of_its_own_and_binary_tensors_go_beyond() -> None:
    facts = type(FACTS)((3, 64, 64), 4, False, 19, FACTS.parameters)
    from helpers.serving import LocalPool

    with served(LocalPool(facts=facts), Limits(delay=0, json=MEBI // 4)) as server:
        longest = server.service().longest_body
        words = (
            f"expected JSON of at most 262144 bytes. Send the numbers as a binary tensor, {longest} bytes at most, "
            "with the header Inference-Header-Content-Length."
        )
        status, told, _ = request(server, "POST", PATH, long_json(MEBI // 2))
        assert (status, told["error"]) == (413, words)
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (MEBI // 2, b" " * (MEBI // 2))
        assert words.encode() in answer(server, f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk)
        headers = {"Inference-Header-Content-Length": str(MEBI // 2)}
        assert request(server, "POST", PATH, b" " * MEBI, headers)[0] == 413

        x = np.full((16, 3, 64, 64), 0.5, np.float32)  # three times the limit
        tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP32"}
        text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": x.nbytes}}]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        status, told, _ = request(server, "POST", PATH, text + x.tobytes(), headers)
        assert status == 200
        assert told["outputs"][0]["shape"] == [16, 4]


def test_a_body_that_can_never_be_held_is_too_long_not_too_early() -> None:
    with served(limits=Limits(body=1000, bodies=3000)) as server:
        status, told, _ = request(server, "POST", PATH, b" " * 500)
        assert (status, told["error"]) == (413, "expected a body that takes at most 3000 bytes of memory")


@pytest.mark.process
def test_the_longest_json_stops_nobody_and_is_answered_as_short_json_is(server: Server) -> None:
    x = np.full((1, *SHAPE), 0.5)
    request(server, "POST", PATH, long_json(1 << 15))  # starts the process that parses
    slowest, stop = [0.0], threading.Event()

    def probe() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            assert request(server, "GET", "/v2/health/live")[0] == 200
            slowest[0] = max(slowest[0], time.perf_counter() - began)

    prober = threading.Thread(target=probe)
    prober.start()
    status, told, _ = request(server, "POST", PATH, long_json(MEBI - 1))
    stop.set()
    prober.join()
    assert (status, told["error"]) == (
        400,
        "expected data to be flat with 6 numbers, or nested in the shape of the input",
    )
    assert slowest[0] < 0.25  # 0.02 s on an idle machine; in the process that listens it took 0.4 s and more

    padded = json.dumps(asking(x)).encode() + b" " * (1 << 15)
    status, told, _ = request(server, "POST", PATH, padded)
    assert status == 200
    assert {o["name"]: o["data"] for o in told["outputs"]} == infer(server, x)[1]
    status, told, _ = request(server, "POST", PATH, b"{" + b" " * (1 << 15))
    assert (status, "no valid JSON" in told["error"]) == (400, True)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"])
def test_types_that_a_web_page_may_send_unasked_are_refused(server: Server, kind: str) -> None:
    status, told, _ = request(server, "POST", PATH, asking(np.ones((1, *SHAPE))), {"Content-Type": kind})
    assert status == 415
    assert told["error"].startswith("expected a body of type application/json or application/octet-stream, got ")
    assert told["error"].endswith(f"{kind.partition(';')[0]}. Set the header Content-Type.")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/octet-stream"])
def test_types_of_the_protocol_are_taken(server: Server, kind: str) -> None:
    assert request(server, "POST", PATH, asking(np.ones((1, *SHAPE))), {"Content-Type": kind})[0] == 200
