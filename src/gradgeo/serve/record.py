"""A record of every verdict that is given, as lines of JSON in files that are rotated; never an input itself.

The server does not wait for the disk: lines are hashed, made and written by a thread of their own. Where they cannot be
written, as on a full disk, the server goes on, says so in its log and counts what is lost.
"""

import hashlib
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo.errors import DataError
from gradgeo.serve.logs import event
from gradgeo.serve.protocol import ALL, Columns, Comparison

LARGEST = 1 << 26  # bytes of one file
WAITING, WAITING_BYTES = (
    1024,
    1 << 28,
)  # requests and their inputs that may wait; verdicts on more are lost, and counted
AGAIN = 60.0  # seconds between two lines of the log that say that nothing can be written
FILE = re.compile(r"verdicts-(\d{8})\.jsonl")


@dataclass
class VerdictRecord:
    """The files of a folder: verdicts-00000001.jsonl and so on, each line one input.

    A line has "time" (UTC by the clock of the machine), "n" (which rises by one with each line that was to be written
    since the start, whatever the clock does, so that lost ones are missed), "request" (as in the log and the header
    `x-request-id`), "row", "sha256" (of the input's bytes as the model's type, little-endian; of a text in UTF-8),
    "label", "p" (null where there is no verdict), "trusted", "cause" (null where it was not asked for), "conditional"
    and "group" (as the request asked, else null), "compared" (with how many calibration inputs), "detector" (its
    digest) and "versions".
    """

    folder: Path
    detector: str
    versions: Mapping[str, str]
    largest: int = LARGEST
    lost: Callable[[int], None] = lambda lines: None
    """Called with the number of lines that could not be written, from another thread."""
    _queue: "queue.Queue[tuple[float, str, NDArray[Any], Columns, Comparison] | None]" = field(
        default_factory=lambda: queue.Queue(WAITING)
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: int = 0
    _lines: int = 0
    _file: int | None = None
    _size: int = 0
    _said: float = float("-inf")

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise DataError(f"cannot write to the record {self.folder}: {error.strerror or error}.") from error
        self._thread = threading.Thread(target=self._work, name="gradgeo-record", daemon=True)
        self._thread.start()

    def add(self, request: str, x: NDArray[Any], columns: Columns, comparison: Comparison = ALL) -> None:
        """Have the verdicts on inputs (N, *input) written. Never waits."""
        try:
            if self._held + x.nbytes > WAITING_BYTES:
                raise queue.Full
            self._queue.put_nowait((time.time(), request, x, columns, comparison))
        except queue.Full:
            self._lost(len(x), "the disk is too slow")
        else:
            with self._lock:
                self._held += x.nbytes

    def close(self) -> None:
        """Write what waits, for a few seconds at most."""
        with suppress(queue.Full):
            self._queue.put(None, timeout=5)
        self._thread.join(10)

    def _work(self) -> None:
        while (waiting := self._queue.get()) is not None:
            waits = [waiting]
            with suppress(queue.Empty):
                while len(waits) < WAITING and (waiting := self._queue.get_nowait()) is not None:
                    waits.append(waiting)
            lines = [line for each in waits for line in self._lines_of(*each)]
            with self._lock:
                self._held -= sum(x.nbytes for _, _, x, *_ in waits)
            try:
                self._write("".join(lines).encode())
            except OSError as error:
                self._lost(len(lines), error.strerror or str(error))
            if waiting is None:
                break
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file)
            os.close(self._file)
            self._file = None

    def _lines_of(self, moment: float, request: str, x: NDArray[Any], *rest: Any) -> list[str]:
        before = self._lines
        try:
            return self._made(moment, request, x, *rest)
        except (ValueError, OverflowError, OSError) as error:  # of a clock that tells no time
            self._lines = before + len(x)
            self._lost(len(x), str(error))
            return []

    def _made(
        self, moment: float, request: str, x: NDArray[Any], columns: Columns, comparison: Comparison
    ) -> list[str]:
        told = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        rest = f'"detector":"{self.detector}","versions":{json.dumps(dict(self.versions))}}}\n'
        stored = np.ascontiguousarray(x, x.dtype.newbyteorder("<"))
        labels, p = np.asarray(columns["label"]).tolist(), np.asarray(columns["p_value"]).tolist()
        trusted, causes = np.asarray(columns["trusted"]).tolist(), columns.get("cause")
        compared = np.asarray(columns["compared"]).tolist()
        lines = []
        for row in range(len(x)):
            self._lines += 1
            line = {
                "time": told,
                "n": self._lines,
                "request": request,
                "row": row,
                "sha256": _digest(stored[row]),
                "label": labels[row],
                "p": None if p[row] != p[row] else p[row],
                "trusted": trusted[row],
                "cause": None if causes is None else causes[row] or None,
                "conditional": comparison.conditional,
                "group": comparison.group,
                "compared": compared[row],
            }
            lines.append(f"{json.dumps(line)[:-1]}, {rest}")
        return lines

    def _write(self, lines: bytes) -> None:
        """All of the lines or none. Raises: OSError."""
        if self._file is None or self._size + len(lines) > self.largest:
            self._open()
        assert self._file is not None
        try:
            if os.write(self._file, lines) < len(lines):
                raise OSError(28, "No space left on device")
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)  # no half line stays
            raise
        self._size += len(lines)

    def _open(self) -> None:
        """Begin the next file, which nobody else may have begun."""
        numbers = [int(found[1]) for path in self.folder.iterdir() if (found := FILE.fullmatch(path.name))]
        path = self.folder / f"verdicts-{max(numbers, default=0) + 1:08d}.jsonl"
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
        self._file, self._size = opened, 0

    def _lost(self, lines: int, why: str) -> None:
        self.lost(lines)
        if time.monotonic() - self._said > AGAIN:
            self._said = time.monotonic()
            event("verdicts are not recorded", logging.WARNING, reason=why, folder=str(self.folder), lost=lines)


def _digest(x: NDArray[Any] | str) -> str:
    return hashlib.sha256(x.encode() if isinstance(x, str) else x.tobytes()).hexdigest()
