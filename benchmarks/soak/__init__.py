"""The commands in adversity: `serve` among hostile clients, killed workers and a full disk; how soon a server says that
it is alive while it reads the longest bodies; `score` killed as its input changes."""

import tempfile
from pathlib import Path

from benchmarks.page import Page
from benchmarks.shipped import Suite
from benchmarks.soak import health, killed, server

CASES = {"serve": server.report, "health": health.report, "score": killed.report}


def run(suite: Suite) -> Page:
    """A server, its health, and scoring, each in processes of their own."""
    page = Page("Soak")
    with tempfile.TemporaryDirectory() as name:
        for case in suite.wanted(CASES):
            folder = Path(name) / case
            folder.mkdir()
            CASES[case](page, folder, suite.inputs)
    return page
