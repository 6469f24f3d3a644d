"""What is logged: repeats are dropped and counted, and a handler outlives the stream that stood for stderr."""

import io
import json
import logging
import sys

import pytest

from gradgeo.serve.logs import LOGGERS, RepeatFilter, event, to_stderr


def record(name: str, text: str, at: float) -> logging.LogRecord:
    line = logging.LogRecord(name, logging.ERROR, "a.py", 1, text, (), None)
    line.created = at
    return line


def test_a_flood_passes_in_part_and_is_counted() -> None:
    """Out of file descriptors asyncio wrote 34,000 lines in 5 s."""
    repeats = RepeatFilter(most=3, seconds=10.0)
    flood = [repeats.filter(record("asyncio", "accept failed\nTraceback 1", i / 1000)) for i in range(1000)]
    assert flood == [True] * 3 + [False] * 997
    assert repeats.filter(record("asyncio", "something else", 5.0))
    assert all(repeats.filter(record("gradgeo.serve", "request", 5.0)) for _ in range(100))  # one line a request
    later = record("asyncio", "accept failed\nTraceback 2", 11.0)
    assert repeats.filter(later)
    assert later.fields == {"dropped": 997}
    after = record("asyncio", "accept failed", 11.1)
    assert repeats.filter(after)
    assert not hasattr(after, "fields")


def test_lines_go_to_what_stderr_is_now_until_it_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [(logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in LOGGERS]
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    with to_stderr():
        event("one")
        first.close()  # as a test runner does that stood in for it
        monkeypatch.setattr(sys, "stderr", second)
        event("two", rows=2)
    assert [(logging.getLogger(name).handlers[:], logging.getLogger(name).propagate) for name in LOGGERS] == before
    (line,) = second.getvalue().splitlines()
    assert json.loads(line) | {"time": ""} == {"time": "", "level": "info", "event": "two", "rows": 2}
