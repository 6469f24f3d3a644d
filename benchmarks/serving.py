"""The server under load: good and bad requests on loopback, beside the bare model behind the same server."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.data.models import load_model
from gradgeo.detector.detector import Detector

CASES = ("digits", "cifar10")
FITTED = 1000  # inputs that a detector is fitted on
CLIENTS = 8
ROWS = 8  # of a larger request

Floats = NDArray[Any]


def run(suite: Suite) -> Page:
    """Throughput, latency, memory and errors of bare model and detectors; then a worker is killed under load."""
    page = Page("The server under load")
    page.say(
        f"For each row {suite.inputs} requests by {CLIENTS} clients on loopback, to one worker with one thread. Of 20, "
        f"14 have one input, 2 have {ROWS}, one has a NaN, and one each is no JSON, has another shape, has too many "
        "rows; now and then a client goes before its answer. 'Bare' is the model alone behind the same server. "
        "Latency is that of single good inputs. Memory is anonymous resident memory of server and worker together, "
        "after a quarter of the requests and at the end."
    )
    rows = []
    for name in suite.wanted(CASES):
        for detector, load in _loaders(suite, name):
            with load as loader, serving(loader) as server:
                soak = soaked(server, _inputs(suite[name]), suite.inputs)
            page.data.setdefault("soak", {})[f"{name}, {detector}"] = soak.summary
            rows.append([name, detector, *soak.cells])
    heading = [
        "case",
        "detector",
        "inputs a second",
        "p50, ms",
        "p99, ms",
        "good answered wrongly",
        "bad refused as they should",
    ]
    page.table([*heading, "MiB at 1/4", "MiB at the end"], rows)
    page.say(
        "Then the worker of the `fast` detector is killed (SIGKILL) after a third of the requests, under the same "
        "load. Each request that was accepted is answered by the next worker, or refused in words; none hangs or "
        "vanishes. The slowest waited for that worker to load."
    )
    rows = []
    for name in suite.wanted(CASES):
        _, load = _loaders(suite, name)[1]
        with load as loader, serving(loader) as server:
            soak = soaked(server, _inputs(suite[name]), suite.inputs, kill=True)
        page.data.setdefault("killed", {})[name] = soak.killed
        counts = soak.killed
        rows.append(
            [
                name,
                *(str(counts[key]) for key in ("answered", "refused in words", "without an answer")),
                f"{counts['slowest']:.1f}",
            ]
        )
    page.table(["case", "good answered", "good refused in words", "without an answer", "slowest, s"], rows)
    size = min(CROWD, 10 * suite.inputs)
    page.say(
        f"Then {size:,} clients connect at once to the `fast` detector of the first classifier, under the limit of "
        "connections that `gradgeo serve` has, and each sends a good request."
    )
    first = suite.wanted(CASES)[0]
    _, load = _loaders(suite, first)[1]
    with load as loader, serving(loader) as server:
        counts = crowded(server, _inputs(suite[first])[:1], size)
    page.data["crowd"] = counts
    page.table(list(counts), [[str(value) for value in counts.values()]])
    return page


def _inputs(classifier: ClassifierUnderTest) -> Floats:
    return classifier.x[classifier.half : classifier.half + 256].numpy()


def _loaders(suite: Suite, name: str) -> list[tuple[str, contextlib.AbstractContextManager[Any]]]:
    presets: list[tuple[str, contextlib.AbstractContextManager[Any]]] = [("bare", _bare(suite, name))]
    return presets + [(preset, _fitted(suite, name, preset)) for preset in ("fast", "full")]


@contextmanager
def _bare(suite: Suite, name: str) -> Iterator[Any]:
    classifier = suite[name]
    yield BareLoader(suite.spec(name), tuple(classifier.x.shape[1:]), classifier.logits.shape[1])


@contextmanager
def _fitted(suite: Suite, name: str, preset: str) -> Iterator[Any]:
    from gradgeo.serve.inference import DetectorLoader

    classifier = suite[name]
    rows = torch.nonzero(classifier.correct[: classifier.half])[:FITTED, 0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.gradgeo"
        Detector(classifier.model, evidence=preset).fit(classifier.x[rows]).save(file)
        yield DetectorLoader(file, partial(load_model, suite.spec(name)), 1)


@dataclass(frozen=True)
class BareLoader:
    """The model alone, in the place of a detector: the verdicts are made up, so that answers have the same size."""

    model: str
    shape: tuple[int, ...]
    classes: int

    def __call__(self) -> Any:
        """Load it in a worker."""
        from gradgeo.serve.inference import Facts

        torch.set_num_threads(1)
        return _BareWorker(
            load_model(self.model), Facts(self.shape, self.classes, False, 0, {"detector_sha256": "bare"})
        )


@dataclass(frozen=True)
class _BareWorker:
    model: torch.nn.Module
    facts: Any

    def __call__(self, x: Floats, explain: bool) -> dict[str, Any]:
        with torch.inference_mode():
            logits = self.model(torch.from_numpy(x))
        probability, label = logits.double().softmax(1).max(1)
        ones = np.ones(len(x))
        return {
            "logits": logits.numpy(),
            "label": label.numpy(),
            "probability": probability.numpy(),
            "outlier_score": ones,
            "p_value": ones,
            "trusted": ones > 0,
            "compared": np.ones(len(x), np.int64),
        }


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    address: tuple[str, int]
    pid: int

    def workers(self) -> list[int]:
        """Its workers; children are listed by the thread that started them."""
        lists = Path(f"/proc/{self.pid}/task").glob("*/children")
        children = [int(pid) for file in lists for pid in file.read_text().split()]
        return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def busy(self) -> float:
        """Seconds of processor time that all of it has taken."""
        ticks = 0
        for pid in (self.pid, *self.workers()):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Anonymous resident MiB of all of it; NaN where the system does not tell."""
        try:
            files = [Path(f"/proc/{pid}/status").read_text() for pid in (self.pid, *self.workers())]
        except OSError:
            return float("nan")
        lines = [line for text in files for line in text.splitlines() if line.startswith("RssAnon")]
        return sum(int(line.split()[1]) for line in lines) / 1024


def _serve(pipe: Connection, load: Any, record: Path | None = None) -> None:
    import logging

    from gradgeo.serve.limits import Limits
    from gradgeo.serve.server import Server, run
    from gradgeo.serve.workers import Pool

    class Telling(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            pipe.send(self.address)

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    run(Telling(Pool(load), name="m", port=0, limits=Limits(rows=2 * ROWS), record=record))


@contextmanager
def serving(load: Callable[[], Any], record: Path | None = None) -> Iterator[Served]:
    """A server for what `load` loads, which records its verdicts where a folder is named."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, load, record))
    process.start()
    theirs.close()
    try:
        address = ours.recv()
        yield Served(address, process.pid or 0)
    finally:
        process.terminate()
        process.join(60)
        if process.is_alive():
            process.kill()
            process.join()


@dataclass
class Soak:
    """What came of the requests."""

    seconds: float = 0.0
    single: list[float] = field(default_factory=list)
    """Latencies."""
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By kind; 0 for no answer."""
    inputs: int = 0
    memory: list[float] = field(default_factory=list)
    slowest: float = 0.0

    @property
    def summary(self) -> dict[str, Any]:
        """As JSON holds it."""
        expected = {kind: status for kind, (status, _) in _KINDS.items()}
        wrong = sum(n for (kind, status), n in self.statuses.items() if expected[kind] == 200 != status)
        refused = sum(n for (kind, status), n in self.statuses.items() if expected[kind] == status != 200)
        others = sum(n for (kind, _), n in self.statuses.items() if expected[kind] != 200)
        p50, p99 = (float(1000 * np.quantile(self.single, q)) for q in (0.5, 0.99))
        return {
            "inputs_per_second": self.inputs / self.seconds,
            "p50_ms": p50,
            "p99_ms": p99,
            "good_wrong": wrong,
            "bad_refused": [refused, others],
            "memory": [self.memory[len(self.memory) // 4], self.memory[-1]],
            "requests": sum(self.statuses.values()),
            "seconds": self.seconds,
        }

    @property
    def cells(self) -> list[str]:
        """As the table holds it."""
        s = self.summary
        numbers = [f"{s['inputs_per_second']:.0f}", f"{s['p50_ms']:.1f}", f"{s['p99_ms']:.1f}", str(s["good_wrong"])]
        return [*numbers, "{} of {}".format(*s["bad_refused"]), *(f"{m:.0f}" for m in s["memory"])]

    @property
    def killed(self) -> dict[str, Any]:
        """Outcomes of good requests where a worker was killed."""
        good = {k: n for k, n in self.statuses.items() if _KINDS[k[0]][0] == 200}
        answered = sum(n for (_, status), n in good.items() if status == 200)
        silent = sum(n for (_, status), n in good.items() if status == 0)
        refused = sum(good.values()) - answered - silent
        return {"answered": answered, "refused in words": refused, "without an answer": silent, "slowest": self.slowest}


def body_of(x: Floats, shape: list[int] | None = None) -> tuple[bytes, dict[str, str]]:
    """A request with a binary tensor, and its headers; `shape` where the request is to lie about it."""
    size = {"binary_data_size": x.nbytes}
    tensor = {"name": "input", "shape": shape or list(x.shape), "datatype": "FP32", "parameters": size}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return text + x.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


_KINDS: dict[str, tuple[int, Callable[[Floats], tuple[bytes, dict[str, str]]]]] = {
    "single": (200, lambda x: body_of(x[:1])),
    "several": (200, lambda x: body_of(x[:ROWS])),
    "NaN": (200, lambda x: body_of(np.full_like(x[:1], np.nan))),
    "no JSON": (400, lambda x: (b'{"inputs": [', {})),
    "another shape": (400, lambda x: body_of(x[:1], [1, *x.shape[:0:-1], 7])),
    "too many rows": (413, lambda x: body_of(np.concatenate([x] * (2 * ROWS + 1))[: 2 * ROWS + 1])),
}
"""Status that a request should get, and how it is written."""

_MIX = ("single",) * 7 + ("several", "no JSON", "NaN") + ("single",) * 7 + ("several", "another shape", "too many rows")

CROWD = 10_000
"""Connections at once; the limit of open files of both processes must be above."""

GOES = 97
"""Each so many-th request of a client it closes the connection on before the answer."""


def soaked(server: Served, x: Floats, requests: int, *, clients: int = CLIENTS, kill: bool = False) -> Soak:
    """Send so many requests by some clients at a time."""
    soak, lock, left = Soak(), threading.Lock(), iter(range(requests))
    victim = server.workers()[0] if kill else 0
    step = max(1, requests // 40)

    def client() -> None:
        connection = HTTPConnection(*server.address, timeout=120)
        while True:
            with lock:
                number = next(left, None)
                if number is None:
                    break
                if number % step == 0:
                    soak.memory.append(server.memory())
                if kill and number == requests // 3:
                    os.kill(victim, signal.SIGKILL)
            kind = _MIX[number % len(_MIX)]
            body, headers = _KINDS[kind][1](np.roll(x, -number, axis=0))
            if number % GOES == GOES - 1:
                go_away(server, body, headers)
                continue
            began = time.perf_counter()
            status = status_of(connection, body, headers)
            took = time.perf_counter() - began
            with lock:
                soak.statuses[kind, status] += 1
                soak.slowest = max(soak.slowest, took)
                if status == 200:
                    soak.inputs += ROWS if kind == "several" else 1
                if kind == "single" and status == 200:
                    soak.single.append(took)
        connection.close()

    began = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    soak.seconds = time.perf_counter() - began
    soak.memory.append(server.memory())
    return soak


def crowded(server: Served, x: Floats, size: int) -> dict[str, int]:
    """What became of so many connections that are open at once, and of one request after they have gone."""
    body, headers = _KINDS["single"][1](x)
    lines = [f"{name}: {value}" for name, value in {**headers, "Content-Length": str(len(body))}.items()]
    request = "\r\n".join(["POST /v2/models/m/infer HTTP/1.1", "Host: localhost", *lines, "", ""]).encode() + body
    statuses: Counter[str] = Counter()
    with contextlib.ExitStack() as crowd:
        opened: list[socket.socket] = []
        for _ in range(size):
            with contextlib.suppress(OSError):
                opened.append(crowd.enter_context(socket.create_connection(server.address, timeout=60)))
        for one in opened:
            with contextlib.suppress(OSError):  # closed already: its answer is there to be read
                one.sendall(request)
        for one in opened:
            try:
                statuses[one.recv(12).decode()[-3:]] += 1
            except OSError:
                statuses[""] += 1
    connection = HTTPConnection(*server.address, timeout=60)
    after = status_of(connection, body, headers)
    connection.close()
    refused = statuses["503"] + statuses["429"]
    rest = size - statuses["200"] - refused
    return {"answered": statuses["200"], "refused in words": refused, "neither": rest, "status afterwards": after}


def status_of(connection: HTTPConnection, body: bytes, headers: dict[str, str]) -> int:
    """The status of the answer if all of it came and an error says why; 0 otherwise."""
    try:
        connection.request("POST", "/v2/models/m/infer", body, headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, HTTPException):
        connection.close()
        return 0
    return response.status if response.status == 200 or json.loads(answer).get("error") else 0


def go_away(server: Served, body: bytes, headers: dict[str, str]) -> None:
    """Send a request and close the connection before the answer; it may be refused before all of it was sent."""
    connection = HTTPConnection(*server.address, timeout=120)
    with contextlib.suppress(OSError):
        connection.request("POST", "/v2/models/m/infer", body, headers)
    connection.close()
