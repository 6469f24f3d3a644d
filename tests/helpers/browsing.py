"""A real browser for tests of pages: what they load, show, and complain of. Skipped where there is no Chromium."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chromium import chromium
from gradgeo.errors import DataError, MissingDependencyError


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Of one module, see `chromium`."""
    with ExitStack() as opened:
        try:
            launched = opened.enter_context(chromium())
        except (DataError, MissingDependencyError) as error:
            pytest.skip(str(error))
        yield launched


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
