"""The machine's Chromium, for tests, pictures and measurements of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradgeo.errors import DataError, require

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser; as long as it lives, nothing else in this process can run an event loop.

    Raises:
        MissingDependencyError: Playwright is not installed.
        DataError: there is no Chromium.
    """
    playwright = require("playwright.sync_api", "dev")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise DataError("no Chromium: set CHROMIUM to its path, or install it, as by apt-get install chromium")
    # as root, in a container, Chromium has no sandbox of its own
    unboxed = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=unboxed)
        yield browser
        browser.close()
