"""The canvas of the docs' front page in a browser. Skipped where `make try` has not put its files in their place."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from benchmarks.browser import try_site
from gradgeo.detector.weighing import CAUSES
from gradgeo.errors import DataError
from helpers import ROOT

pytestmark = pytest.mark.browser

TRY = ROOT / "docs" / "assets" / "try"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ExitStack() as opened:
        try:
            yield opened.enter_context(try_site(tmp_path_factory.mktemp("site")))
        except DataError as error:
            pytest.skip(str(error))


def test_what_is_drawn_is_judged_in_the_browser(browser: Any, address: str) -> None:
    page, asked, complaints = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.wait_for_function(
        "document.getElementById('try-verdict').textContent.startsWith('Loaded in')", timeout=120_000
    )
    box = page.locator("#try-canvas").bounding_box()
    for stroke in ([(120, 30), (128, 230)], [(40, 40), (220, 50), (60, 210), (230, 220)]):
        page.mouse.move(box["x"] + stroke[0][0], box["y"] + stroke[0][1])
        page.mouse.down()
        for x, y in stroke[1:]:
            page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
        page.mouse.up()
        page.wait_for_function(r"/^p = [\d.]+/.test(document.getElementById('try-numbers').textContent)")
    assert re.fullmatch(r"p = [\d.]+(e-\d+)?, probability [\d.]+, \d+ ms", page.text_content("#try-numbers"))
    assert re.fullmatch(r"\d", page.text_content("#try-label"))
    assert re.fullmatch(r"(Trusted|Not trusted(, (unstable|unlike|undecided))?)", page.text_content("#try-verdict"))
    seen = page.evaluate("[...document.getElementById('try-map').getContext('2d').getImageData(0, 0, 8, 8).data]")
    assert any(seen)
    assert complaints == []
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked
    page.click("#try-clear")
    assert page.text_content("#try-numbers") == ""
    page.close()


def test_the_page_names_causes_as_the_package_does() -> None:
    if not (TRY / "detector.json").is_file():
        pytest.skip("docs/assets/try/ lacks detector.json: run make try")
    about = json.loads((TRY / "detector.json").read_text())
    assert about["causes"]["names"] == list(CAUSES)
    assert {len(row) for row in about["causes"]["coefficient"]} == {len(about["questions"])}
