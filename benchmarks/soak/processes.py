"""The server and its clients in processes of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serving import Served
from benchmarks.soak import clients

GRADGEO = (sys.executable, "-W", "ignore", "-c", "from gradgeo.cli import main; main()")


@contextmanager
def served(folder: Path, file: Path, *options: str) -> Iterator[Served]:
    """`gradgeo serve` of a detector, its log in folder/log, its temporary files in folder/private; ended by SIGTERM.

    Raises: RuntimeError where it does not start, ends otherwise than in good order, or leaves a file or a process.
    """
    private, log = folder / "private", folder / "log"
    private.mkdir()
    command = [*GRADGEO, "serve", str(file), "--name", "m", "--port", "0", *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, env={**os.environ, "TMPDIR": str(private)})
    try:
        while not (lines := events(log, "listening")):
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        server = Served(("127.0.0.1", lines[0]["port"]), process.pid)
        yield server
        workers = server.workers()
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        alive = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        files = [path.name for path in private.iterdir()]
        if code or alive or files:
            raise RuntimeError(f"exit code {code}; processes left: {alive}; files left: {files}")
    finally:
        process.kill()
        process.wait()


def events(log: Path, event: str) -> list[dict[str, Any]]:
    """The lines of a log about an event; a line that a full disk cut is none."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("event") == event:
                found.append(entry)
    return found


@contextmanager
def client(task: str, server: Served, *arguments: str) -> Iterator[Callable[[], Any]]:
    """One of `benchmarks.clients`; what is yielded ends it and returns what it saw."""
    command = [sys.executable, str(clients.__file__), task, server.address[0], str(server.address[1]), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ended() -> Any:
        out, errors = process.communicate(timeout=180)
        if process.returncode:
            raise RuntimeError(errors.decode()[-2000:])
        return json.loads(out)

    try:
        yield ended
    finally:
        process.kill()
        process.wait()
