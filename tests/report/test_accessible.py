"""The report under axe-core's rules (WCAG 2.2 A and AA, and best practices), as a reader meets it."""

from pathlib import Path
from typing import Any

import pytest

from helpers.browsing import Opened

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_no_violation(browser: Any, files: tuple[Path, Path], scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with Opened(browser, files[1], color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        page.focus("#review-list")
        page.keyboard.press("2")
        page.focus("#alpha")
        page.keyboard.press("ArrowRight")
        page.eval_on_selector_all("details", "all => all.slice(0, 4).forEach(one => one.open = true)")
        assert axe.Axe().run(page).generate_report().strip() == "Found 0 accessibility violations:"
        page.locator(".zoom").first.click()
        page.wait_for_selector("#large[open]")
        assert axe.Axe().run(page, context="#large").generate_report().strip() == "Found 0 accessibility violations:"
