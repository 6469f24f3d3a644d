"""The canvas of the docs' front page in a browser. Skipped where `make try` has not put its files in their place."""

import functools
import json
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gradgeo.detector.weighing import CAUSES
from helpers import ROOT

pytestmark = pytest.mark.browser

TRY = ROOT / "docs" / "assets" / "try"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *of: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    missing = [name for name in ("detector.onnx", "detector.json", "ort.wasm.min.mjs") if not (TRY / name).is_file()]
    if missing:
        pytest.skip(f"docs/assets/try/ lacks {', '.join(missing)}: run make try")
    site = tmp_path_factory.mktemp("site")
    (site / "assets").mkdir()
    (site / "assets" / "try").symlink_to(TRY)
    found = re.search(r'<div id="try".*?</script>', (ROOT / "docs" / "index.md").read_text(), re.DOTALL)
    assert found is not None
    (site / "index.html").write_text(f'<!doctype html><link rel="icon" href="data:,">{found[0]}')
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


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
