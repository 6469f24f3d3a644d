"""What the tests of serving share: a judge without a model, a pool in this process, a server on a thread."""

import asyncio
import json
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from gradgeo.serve.inference import Facts
from gradgeo.serve.limits import Limits
from gradgeo.serve.server import Server
from helpers.judging import CLASSES, SHAPE, judge
from helpers.waiting import until

FACTS = Facts(SHAPE, CLASSES, False, 19, {"detector_sha256": "0123456789abcdef" * 4, "alpha": 0.05})
Judge = Callable[..., dict[str, Any]]


class LocalPool:
    """As `workers.Pool`, on threads of this process."""

    def __init__(self, judge: Judge = judge, *, size: int = 1, facts: Facts = FACTS) -> None:
        self.judge, self.size, self.facts = judge, size, facts
        self.alive, self.restarts, self.pids = size, 0, [0]
        self.failing = False
        self.batches: list[int] = []
        self.closed = False

    async def start(self) -> Facts:
        return self.facts

    async def __call__(self, x: np.ndarray, explain: bool, *among: Any) -> dict[str, Any]:
        from gradgeo.serve.workers import InferenceError

        self.batches.append(len(x))
        try:
            return await asyncio.to_thread(self.judge, x, explain, *among)
        except ValueError as error:
            raise InferenceError(f"the model or the detector failed ({type(error).__name__})") from None

    async def close(self) -> None:
        self.closed = True


class ReadsHere:
    """As the pool of `parsing`, whose place it takes: on threads of this process."""

    def __init__(self, reader: Callable[[], Callable[[Any], Any]], **_: Any) -> None:
        self._task = reader()

    async def start(self) -> None: ...

    async def __call__(self, job: Any) -> Any:
        return await asyncio.to_thread(self._task, job)

    async def close(self) -> None: ...


@contextmanager
def served(pool: Any = None, limits: Limits | None = None, name: str = "m", **options: Any) -> Iterator[Server]:
    """A server that listens, on a thread of its own."""
    server = Server(pool or LocalPool(), name=name, port=0, limits=limits, **options)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def request(
    server: Server, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """Status, body (read as JSON where it is) and headers of an answer."""
    connection = HTTPConnection(*server.address, timeout=20)
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    connection.request(method, path, data, headers or {})
    response = connection.getresponse()
    told, kind = response.read(), response.headers.get("content-type", "")
    connection.close()
    return response.status, json.loads(told) if kind == "application/json" else told, dict(response.headers)


def curl(server: Server, page: str, about: str, folder: Path) -> list[Any]:
    """What the commands of a page of docs/ that hold a text print, run in a folder."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line.startswith("curl ") and about in line]
    here = "{}:{}".format(*server.address)
    printed = []
    for line in lines:
        command = [word.replace("localhost:8000", here) for word in shlex.split(line)]
        run = subprocess.run([*command, "--silent"], cwd=folder, capture_output=True, check=True, timeout=60)
        printed.append(json.loads(run.stdout))
    return printed


def asking(x: np.ndarray, **more: Any) -> dict[str, Any]:
    """An inference request for inputs."""
    data = [None if value != value else float(value) for value in x.ravel()]
    return {"inputs": [{"name": "input", "shape": list(x.shape), "datatype": "FP32", "data": data}], **more}


def infer(server: Server, x: np.ndarray, **more: Any) -> tuple[int, Any]:
    """Status, and outputs by name or the error."""
    status, told, _ = request(server, "POST", "/v2/models/m/infer", asking(x, **more))
    return status, {o["name"]: o["data"] for o in told["outputs"]} if status == 200 else told
