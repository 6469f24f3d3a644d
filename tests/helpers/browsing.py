"""A real browser for tests of pages: what they load, show, and complain of. Skipped where there is no Chromium."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of one module: as long as it lives, nothing else in this process can run an event loop."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium: set CHROMIUM to its path, or install it, for instance by apt-get install chromium")
    with api.sync_playwright() as playwright:
        # as root, in a container, Chromium has no sandbox of its own
        unboxed = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
        launched = playwright.chromium.launch(executable_path=found, args=unboxed)
        yield launched
        launched.close()


class Opened:
    """A page, and whatever it complained of or asked the network for."""

    def __init__(self, browser: Any, file: Path, *, before: str | None = None, **options: Any) -> None:
        self.context = browser.new_context(**options)
        if before is not None:  # a script that runs before those of the page
            self.context.add_init_script(before)
        self.page, self.complaints = self.context.new_page(), []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._requested)
        self.page.goto(file.as_uri())

    def _requested(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(request.url)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *failure: object) -> None:
        self.context.close()
        assert self.complaints == []


def until(page: Any, expression: str) -> None:
    """Wait until an expression of the page is true; the page's own policy forbids Playwright's way of waiting for it."""
    for _ in range(500):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"it never became true that {expression}")


def cells(page: Any, table: str) -> list[list[str]]:
    """The text of a table, row by row."""
    read = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    return page.eval_on_selector_all(f"{table} tbody tr", read)


def shown(page: Any) -> list[dict[str, str]]:
    """The cards that are seen, in order."""
    return page.eval_on_selector_all("#cards > li:not([hidden])", "cards => cards.map(card => ({...card.dataset}))")
