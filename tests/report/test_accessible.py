"""The report under axe-core's rules (WCAG 2.2 A and AA, and best practices), as a reader meets it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import made_scores
from gradgeo import report
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


@pytest.mark.parametrize("kind", ["none flagged", "one class", "thousand classes", "print"])
def test_axe_finds_no_violation_at_the_ends(browser: Any, tmp_path: Path, kind: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    made, told = made_scores.columns(3000, odd=0.1, pictures=50), {}
    if kind == "none flagged":
        made["trusted"] = made["error"].is_null()
        told = {"alpha": 1e-6}
    if kind.endswith(("class", "classes")):
        count = 1 if kind == "one class" else 1000
        label = np.random.default_rng(0).zipf(1.3, 3000) % count
        made |= {"label": pa.array(label, mask=made["label"].is_null().to_numpy(zero_copy_only=False))}
        made |= {"true_label": label}
        told = {"class_names": [f"species {i:03d}" for i in range(count)]}
    pq.write_table(made_scores.table(made, made_scores.metadata(**told)), tmp_path / "a.parquet")
    report.write(tmp_path / "a.parquet", tmp_path / "a.html")
    with Opened(browser, tmp_path / "a.html") as page:
        page.emulate_media(media="print" if kind == "print" else "screen")
        assert axe.Axe().run(page).generate_report().strip() == "Found 0 accessibility violations:"
