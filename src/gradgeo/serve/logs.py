"""Logs as one JSON object a line, which hold no value of an input and no text of a stranger's exception."""

import json
import logging
import sys
import threading
import time
import traceback
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TextIO

LOGGER = logging.getLogger("gradgeo.serve")


class JsonLines(logging.Formatter):
    """One object a line: time (UTC, seconds), level, event, and what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = type(record.exc_info[1]).__name__
            line["at"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(record.exc_info[2])]
        return json.dumps(line, default=str)


def event(what: str, level: int = logging.INFO, *, exc_info: BaseException | None = None, **fields: Any) -> None:
    """Log that something happened, with plain values that belong to it."""
    LOGGER.log(level, what, extra={"fields": fields}, exc_info=exc_info)


class RepeatFilter(logging.Filter):
    """Lets few lines of one kind through in a while, and says afterwards how many there were.

    Out of file descriptors, asyncio logs thousands of lines a second. Lines about requests are not of these.

    Args:
        most: lines of one kind (logger, place, first line of text) that pass in a while.
        seconds: the length of a while.
    """

    def __init__(self, most: int = 10, seconds: float = 10.0) -> None:
        super().__init__()
        self._most, self._seconds = most, seconds
        self._seen: dict[tuple[Any, ...], _Repeats] = {}
        self._dropped = 0
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes; one that does states in `dropped` how many of all kinds were left out before it."""
        with self._lock:
            for kind in [kind for kind, repeats in self._seen.items() if repeats.until <= record.created]:
                self._dropped += max(0, self._seen.pop(kind).lines - self._most)
            if record.name != LOGGER.name or record.exc_info:
                text = record.getMessage().partition("\n")[0][:200]
                kind = (record.name, record.pathname, record.lineno, text)
                repeats = self._seen.setdefault(kind, _Repeats(record.created + self._seconds))
                repeats.lines += 1
                if repeats.lines > self._most:
                    return False
            if self._dropped:
                record.fields = {**getattr(record, "fields", {}), "dropped": self._dropped}
                self._dropped = 0
            return True


@dataclass
class _Repeats:
    until: float
    lines: int = 0


class _Stderr(logging.StreamHandler[TextIO]):
    """To what `sys.stderr` is when a line is written: whoever replaced it may have closed what it was before."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


LOGGERS = ("gradgeo.serve", "uvicorn.error", "asyncio", "py.warnings")


def to_stderr() -> ExitStack:
    """Send what this package and uvicorn log to stderr, as JSON, until what is returned is closed."""
    handler = _Stderr()
    handler.setFormatter(JsonLines())
    handler.addFilter(RepeatFilter())
    undo = ExitStack()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        undo.callback(_restore, logger, logger.handlers[:], logger.level, logger.propagate)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO if name.startswith(("gradgeo", "uvicorn")) else logging.WARNING)
        logger.propagate = False
    logging.captureWarnings(True)
    undo.callback(logging.captureWarnings, False)
    return undo


def _restore(logger: logging.Logger, handlers: list[logging.Handler], level: int, propagate: bool) -> None:
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
