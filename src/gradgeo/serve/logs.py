"""Logs as one JSON object a line, which hold no value of an input and no text of a stranger's exception."""

import json
import logging
import time
import traceback
from typing import Any

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


def to_stderr() -> None:
    """Send what this package and uvicorn log to stderr, as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in ("gradgeo.serve", "uvicorn.error", "asyncio", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO if name.startswith(("gradgeo", "uvicorn")) else logging.WARNING)
        logger.propagate = False
    logging.captureWarnings(True)
