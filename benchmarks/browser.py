"""Pages in a browser: how soon the report's slider and queue answer, and the detector on the front page of the docs."""

import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import made_scores
from benchmarks.chromium import chromium
from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo import report
from gradgeo.errors import DataError

CASES = ("slider", "queue", "canvas")

ROWS, FLAGGED = 1_000_000, 9000
"""Verdicts behind the slider, and behind the queue; fewer rows where a column has fewer than 1,000 inputs."""

DOCS = Path(__file__).parent.parent / "docs"
DETECTOR = ("detector.onnx", "detector.json")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of the canvas that `make try` makes."""

SLIDE = """() => {
  const range = document.getElementById("alpha"), times = [];
  for (let step = 0; step <= Number(range.max); step += 1) {
    const began = performance.now();
    range.value = step;
    range.dispatchEvent(new Event("input"));
    document.body.offsetHeight; // laid out
    times.push(performance.now() - began);
  }
  return times;
}"""
TASKS = """() => {
  window.tasks = [];
  const keep = (seen) => window.tasks.push(...seen.getEntries().map((task) => task.duration));
  new PerformanceObserver(keep).observe({ type: "longtask" });
}"""
"""Chromium tells of tasks of 50 ms and longer."""


def run(suite: Suite) -> Page:
    """Each page as a reader uses it, in headless Chromium."""
    page = Page("Pages in a browser")
    cases = suite.wanted(CASES)
    with TemporaryDirectory() as folder, chromium() as browser:
        page.data["chromium"] = browser.version
        page.say(f"Chromium {browser.version}, headless, one page at a time.")
        if "slider" in cases:
            _slider(page, browser, Path(folder), ROWS * min(suite.inputs, 1000) // 1000)
        if "queue" in cases:
            _queue(page, browser, Path(folder))
        if "canvas" in cases:
            _canvas(page, browser, Path(folder), suite.inputs)
    return page


def _slider(page: Page, browser: Any, folder: Path, rows: int) -> None:
    scores = made_scores.write(folder / "slider.parquet", rows, odd=0.05, pictures=5000, trusted_pictures=True)
    report.write(scores, folder / "slider.html")
    opened = browser.new_page()
    opened.goto((folder / "slider.html").as_uri())
    times = opened.evaluate(SLIDE)
    opened.close()
    page.data["slider"] = {"rows": rows, "steps": len(times), "ms": median(times), "most_ms": max(times)}
    page.say(
        f"**The slider over alpha** of a report on {rows:,} verdicts: each of {len(times)} steps, all numbers written "
        f"and the page laid out: {median(times):.1f} ms (median), {max(times):.1f} ms at most."
    )


def _queue(page: Page, browser: Any, folder: Path) -> None:
    scores = made_scores.write(folder / "queue.parquet", FLAGGED, odd=0.2, pictures=700, trusted_pictures=True)
    report.write(scores, folder / "queue.html")
    opened = browser.new_page()
    opened.goto((folder / "queue.html").as_uri())
    items = opened.locator("#review-list li")
    count = items.count()
    opened.evaluate(TASKS)
    box = opened.locator("#review-list").bounding_box()
    opened.locator("#review-list").scroll_into_view_if_needed()
    opened.locator("#review-list").hover()
    while opened.evaluate(
        "(list => list.scrollTop + list.clientHeight < list.scrollHeight - 1)(document.getElementById('review-list'))"
    ):
        opened.mouse.wheel(0, box["height"])
        opened.wait_for_timeout(16)
    opened.focus("#review-list")
    for key in "1234" * 25:
        opened.keyboard.press(key)
    opened.wait_for_timeout(500)
    tasks = opened.evaluate("window.tasks")
    opened.close()
    page.data["queue"] = {"items": count, "long_tasks": len(tasks), "longest_ms": max(tasks, default=0)}
    longest = f"{len(tasks)}, the longest of {max(tasks):.0f} ms" if tasks else "none"
    page.say(
        f"**The review queue** of {count:,} items, its list scrolled by the wheel from end to end and 100 decided by "
        f"keys: tasks of 50 ms and longer: {longest}."
    )


def _canvas(page: Page, browser: Any, folder: Path, verdicts: int) -> None:
    size = {name: (DOCS / "assets" / "try" / name).stat().st_size for name in _made()}
    with try_site(folder) as address:
        opened = browser.new_page()
        opened.goto(address)
        loaded = re.fullmatch(r"Loaded in ([\d.]+) s\..*", _waited(opened, "verdict", "Loaded in"))
        assert loaded is not None
        times = [_drawn(opened, seed) for seed in range(min(verdicts, 100))]
        opened.close()
    mb = {kind: sum(size[name] for name in of) / 1e6 for kind, of in (("detector", DETECTOR), ("runtime", RUNTIME))}
    page.data["canvas"] = {"mb": mb, "load_s": float(loaded[1]), "ms": median(times), "most_ms": max(times)}
    page.say(
        f"**The canvas of the docs' front page**: {mb['detector']:.2f} MB of detector with its gradients inside, "
        f"{mb['runtime']:.2f} MB of ONNX Runtime Web, loaded from this machine in {loaded[1]} s on one thread. "
        f"{len(times)} drawings of two strokes, the last verdict on each: {median(times):.0f} ms (median), "
        f"{max(times):.0f} ms at most, with p-value, cause and gradient."
    )


def _made() -> tuple[str, ...]:
    """The canvas's files. Raises: DataError where some are missing."""
    names = (*DETECTOR, *RUNTIME)
    if missing := [name for name in names if not (DOCS / "assets" / "try" / name).is_file()]:
        raise DataError(f"docs/assets/try/ lacks {', '.join(missing)}: run make try")
    return names


@contextmanager
def try_site(folder: Path) -> Iterator[str]:
    """The address of a page with nothing but the canvas of the docs' front page.

    Raises:
        DataError: `make try` has not put its files in their place.
    """
    _made()
    (folder / "assets").mkdir()
    (folder / "assets" / "try").symlink_to(DOCS / "assets" / "try")
    found = re.search(r'<div id="try".*?</script>', (DOCS / "index.md").read_text(), re.DOTALL)
    assert found is not None
    (folder / "index.html").write_text(f'<!doctype html><link rel="icon" href="data:,">{found[0]}')
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *of: object) -> None:
        """Say nothing."""


def _waited(page: Any, name: str, start: str) -> str:
    """What stands in an element of the canvas, once it starts so."""
    begins = f"document.getElementById('try-{name}').textContent.startsWith({start!r})"
    page.wait_for_function(begins, timeout=120_000)
    return str(page.text_content(f"#try-{name}"))


def _drawn(page: Any, seed: int) -> float:
    """Draw two strokes at random; the milliseconds of the verdict on them."""
    page.click("#try-clear")
    box = page.locator("#try-canvas").bounding_box()
    for points in np.random.default_rng(seed).uniform(40, 216, (2, 3, 2)).tolist():
        for place, (x, y) in enumerate(points):
            page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
            if place == 0:
                page.mouse.down()
        page.mouse.up()
        page.wait_for_timeout(50)
    told = re.search(r"(\d+) ms$", _waited(page, "numbers", "p = "))
    assert told is not None
    return float(told[1])
