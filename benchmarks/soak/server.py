"""A server among hostile clients, killed workers and a full disk."""

import contextlib
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import Page
from benchmarks.serving import Floats, Served, go_away, status_of
from benchmarks.soak.health import quantiles, told
from benchmarks.soak.processes import client, served
from benchmarks.soak.requests import BEGINNING, HOSTILE, KINDS, ROWS
from gradgeo.data import digits
from gradgeo.detector.detector import Detector

CLIENTS = 8
SLOW = 10
"""Clients that send a byte in a fifth of a second."""

REQUESTS = 10  # for each input that a run is asked for
KILLS = 6
"""Processes of the server that are killed, workers or the one that parses."""

FULL = 0.4, 0.6
"""Shares of the requests between which the disk is full."""

GOES = 0.02
"""Share of requests whose client closes the connection before the answer."""

LINUX = sys.platform == "linux"
"""Elsewhere the limit on files of another process cannot be set, and no disk is full."""


@dataclass
class Soak:
    """What came of the requests."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By kind; 0 for no answer, or a refusal without words."""
    hostile: Counter[tuple[str, int]] = field(default_factory=Counter)
    kills: int = 0
    gone: int = 0
    let_go: int = 0
    """Slow clients that were."""
    seconds: float = 0.0
    memory: list[float] = field(default_factory=list)
    """MiB of all processes, after a tenth of the requests, a half, and at the end."""
    descriptors: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """Of the log: when the disk was full, when it was full no more, at the end."""
    health: dict[str, list[float]] = field(default_factory=dict)

    @property
    def unexpected(self) -> dict[str, int]:
        """Answers that should not have been."""
        allowed = {name: kind.statuses for name, kind in KINDS.items()} | {n: s for n, (s, _) in HOSTILE.items()}
        return {
            f"{name}: {status}": count
            for (name, status), count in (self.statuses + self.hostile).items()
            if status not in allowed[name]
        }


def soaked(
    server: Served, log: Path, x: Floats, requests: int, *, kills: int = KILLS, slow: int = SLOW, seed: int = 0
) -> Soak:
    """Send so many requests while all the rest happens."""
    soak, lock, left = Soak(), threading.Lock(), iter(range(requests))
    rng = random.Random(seed)
    names, shares = list(KINDS), [kind.share for kind in KINDS.values()]
    stop = threading.Event()
    begins, ends = (int(share * requests) for share in FULL)

    def events_at(number: int) -> None:
        if number in (requests // 10, requests // 2):
            _measure(soak, server)
        due = number and number % (requests // (kills + 1) or 1) == 0 and soak.kills < kills
        if due and (victims := server.workers()):
            os.kill(rng.choice(victims), signal.SIGKILL)
            soak.kills += 1
        if LINUX and number in (begins, ends):
            soak.lines.append(log.read_bytes().count(b"\n"))
            _limit_files(server, log.stat().st_size if number == begins else None)

    def asking() -> None:
        connection = HTTPConnection(*server.address, timeout=120)
        while True:
            with lock:
                number = next(left, None)
                if number is None:
                    break
                [name] = rng.choices(names, shares)
                goes = rng.random() < GOES
                events_at(number)
            body, headers = KINDS[name].body(np.roll(x, -number, axis=0))
            if goes:
                go_away(server, body, headers)
                soak.gone += 1
                continue
            status = status_of(connection, body, headers)
            with lock:
                soak.statuses[name, status] += 1
        connection.close()

    def dawdling() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(server.address, timeout=30) as connection:
                connection.sendall(f"{BEGINNING}Content-Length: 900\r\n\r\n".encode())
                while not stop.wait(0.2):
                    connection.sendall(b" ")
            soak.let_go += not stop.is_set()

    def attacking() -> None:
        while not stop.wait(0.3):
            for name, (_, data) in HOSTILE.items():
                soak.hostile[name, _raw(server, data)] += 1

    with client("probe", server) as probed:
        began = time.perf_counter()
        askers = [threading.Thread(target=asking) for _ in range(CLIENTS)]
        others = [threading.Thread(target=task) for task in (attacking, *[dawdling] * slow)]
        for thread in (*askers, *others):
            thread.start()
        for thread in askers:
            thread.join()
        soak.seconds = time.perf_counter() - began
        stop.set()
        for thread in others:
            thread.join()
        soak.health = probed()
    if soak.lines:
        soak.lines.append(log.read_bytes().count(b"\n"))
    _measure(soak, server)
    return soak


def _measure(soak: Soak, server: Served) -> None:
    soak.memory.append(server.memory())
    folder = Path(f"/proc/{server.pid}/fd")
    soak.descriptors.append(len(list(folder.iterdir())) if folder.exists() else 0)


def _limit_files(server: Served, size: int | None) -> None:
    """Let the processes of a server write no file beyond so many bytes; None lifts that."""
    import resource

    for pid in (server.pid, *server.workers()):
        with contextlib.suppress(ProcessLookupError):
            hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def _raw(server: Served, data: bytes) -> int:
    try:
        with socket.create_connection(server.address, timeout=60) as connection:
            connection.sendall(data)
            return int(connection.recv(100)[9:12] or 0)
    except OSError:
        return 0


def report(page: Page, folder: Path, inputs: int) -> None:
    """REQUESTS requests for each of the inputs."""
    requests = REQUESTS * inputs
    file = folder / "digits.gradgeo"
    Detector(digits.digits_classifier(), evidence="fast").fit(digits.split()["fit"][0]).save(file)
    with served(folder, file, "--model", "digits", "--rows", str(ROWS)) as server:
        soak = soaked(server, folder / "log", digits.split()["test"][0].numpy(), requests)
    facts = summary(soak)
    page.data["serve"] = facts
    page.say(
        f"`gradgeo serve` of the digits with `fast`, one worker: {requests:,} requests by {CLIENTS} clients on "
        f"loopback, {soak.gone} of which close the connection before the answer. Meanwhile {soak.kills} of its "
        f"processes are killed (SIGKILL), {SLOW} clients send a byte in a fifth of a second, and others send no HTTP. "
        + (
            "Between two and three fifths of the requests its disk is full: a limit on the size of files that its "
            "processes may write (RLIMIT_FSIZE), at the length that the log has by then. "
            if soak.lines
            else ""
        )
        + "At the end SIGTERM; exit code 0, no process and no temporary file is left. A kind and the statuses that it "
        "may have:"
    )
    rows = []
    for name, statuses, counts in (
        *((name, kind.statuses, soak.statuses) for name, kind in KINDS.items()),
        *((name, statuses, soak.hostile) for name, (statuses, _) in HOSTILE.items()),
    ):
        found = {status: count for (kind, status), count in sorted(counts.items()) if kind == name}
        answers = ", ".join(f"{count} x {status or 'no answer'}" for status, count in found.items())
        rows.append([name, ", ".join(map(str, statuses)), answers])
    page.table(["request", "may be", "was"], rows)
    page.say(
        f"{sum(soak.unexpected.values())} answers were of another status. Slow clients were let go {soak.let_go} "
        f"times. Memory of all its processes {_listed(soak.memory)} MiB, descriptors {_listed(soak.descriptors)} "
        "(after a tenth, a half, all of the requests). "
        + (f"Lines of the log: {_listed(soak.lines)} (disk full, no more, at the end). " if soak.lines else "")
        + f"Health, asked from a process of its own: {told(facts['health'])}."
    )


def summary(soak: Soak) -> dict[str, Any]:
    """As JSON holds it."""
    return {
        "requests": sum(soak.statuses.values()) + soak.gone,
        "seconds": soak.seconds,
        "killed": soak.kills,
        "gone": soak.gone,
        "slow_let_go": soak.let_go,
        "statuses": {f"{kind}: {status}": count for (kind, status), count in sorted(soak.statuses.items())},
        "hostile": {f"{kind}: {status}": count for (kind, status), count in sorted(soak.hostile.items())},
        "unexpected": soak.unexpected,
        "memory": soak.memory,
        "descriptors": soak.descriptors,
        "log_lines": soak.lines,
        "health": quantiles(soak.health),
    }


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:.0f}" for number in numbers)
