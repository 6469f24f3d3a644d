"""Flagged inputs looked at: large, by likeness, as CSV; and one report beside another."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from benchmarks import made_scores
from gradgeo import report
from gradgeo.detector.evidence import EVIDENCE, PRESETS
from gradgeo.report.words import PLAIN, plain
from helpers.browsing import Opened, shown, until

FORMULA = "=HYPERLINK(1),\"x\" 'y'"


def test_evidence_is_said_in_plain_words() -> None:
    assert {name for names in PRESETS.values() for name in names} <= PLAIN.keys() <= EVIDENCE.keys()
    assert plain("confidence") == "the classifier itself is unsure (confidence)"
    assert plain("mine") == "mine"


@pytest.mark.browser
def test_a_picture_is_seen_large_with_saliency_beside_trusted_ones(browser: Any, files: tuple[Path, Path]) -> None:
    pixels = "document.getElementById('large-picture').toDataURL()"
    with Opened(browser, files[1]) as page:
        page.locator(".zoom").first.press("Enter")
        page.wait_for_selector("#large[open]")
        index = shown(page)[0]["index"]
        assert index in page.get_attribute("#large-picture", "aria-label")
        until(page, "document.getElementById('large-picture').width === 360")
        over = page.evaluate(pixels)
        page.uncheck("#large-overlay")
        until(page, f"{pixels} !== '{over}'")
        page.wait_for_selector("#large-trusted img")
        names = page.eval_on_selector_all("#large-trusted img", "all => all.map(image => image.alt)")
        trusted = {
            row["index"] for row in pq.read_table(files[0], columns=["index", "trusted"]).to_pylist() if row["trusted"]
        }
        assert len(names) == 3
        assert {int(name.removeprefix("Trusted input ")) for name in names} <= trusted
        page.keyboard.press("Escape")
        assert not page.is_visible("#large")


@pytest.mark.browser
def test_alike_inputs_lie_near_each_other_and_names_are_taken_away(browser: Any, tmp_path: Path) -> None:
    made = made_scores.columns(400, odd=0.2)
    half = np.arange(400) % 2
    flagged = ~made["trusted"] & (made["error"].is_null().to_numpy(zero_copy_only=False))
    made["thumbnail"] = [made_scores.png(int(half[i])) if flagged[i] else None for i in range(400)]
    made["name"] = [FORMULA if i == np.flatnonzero(flagged)[0] else f"{i}.png" for i in range(400)]
    made["time"][:3] = np.datetime64("NaT")
    pq.write_table(made_scores.table(made, made_scores.metadata()), tmp_path / "a.parquet")
    report.write(tmp_path / "a.parquet", tmp_path / "a.html")
    with Opened(browser, tmp_path / "a.html", accept_downloads=True) as page:
        page.click("#likeness")
        page.wait_for_selector(".spot")
        read = "all => all.map(spot => [Number(spot.dataset.index), spot.offsetLeft, spot.offsetTop])"
        spots = np.array(page.eval_on_selector_all(".spot", read))
        assert len(spots) == flagged.sum()
        kind, places = half[spots[:, 0]], spots[:, 1:].astype(float)
        middle = [places[kind == k].mean(0) for k in (0, 1)]
        nearer = [np.linalg.norm(places - m, axis=1) for m in middle]
        assert ((nearer[1] < nearer[0]) == (kind == 1)).mean() > 0.9
        page.select_option("#cause", "unlike")
        until(page, f"document.querySelectorAll('.spot').length < {flagged.sum()}")
        with page.expect_download() as waited:
            page.click("#csv")
        with Path(waited.value.path()).open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert {row["cause"] for row in rows} == {"unlike"}
        everything = {str(i): name for i, name in enumerate(made["name"])}
        assert all(row["name"].removeprefix("'") == everything[row["index"]] for row in rows)
        page.select_option("#cause", "")
        page.fill("#text", "HYPERLINK")
        with page.expect_download() as waited:
            page.click("#csv")
        assert f"'{FORMULA}".replace('"', '""') in Path(waited.value.path()).read_text()
        page.click("#likeness")
        assert not page.is_visible("#map")


@pytest.mark.browser
def test_two_reports_are_compared_exactly(browser: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    made_scores.write(tmp_path / "b.parquet", 1500, odd=0.2, pictures=0, seed=3)
    report.write(tmp_path / "b.parquet", tmp_path / "b.html")
    counts = []
    for path in (files[0], tmp_path / "b.parquet"):
        rows = [row for row in pq.read_table(path, columns=["trusted", "error"]).to_pylist() if row["error"] is None]
        counts.append((sum(not row["trusted"] for row in rows), len(rows)))
    (k, n), (other, m) = counts
    with Opened(browser, files[1]) as page:
        page.set_input_files("#compare-file", tmp_path / "b.html")
        page.wait_for_selector("#compare-rows tr")
        first = page.locator("#compare-rows tr").first.inner_text()
        assert first.startswith("All inputs fewer than before")
        assert [float(value) for value in re.findall(r"(\d+\.\d) \[", first)] == [
            round(100 * k / n, 1),
            round(100 * other / m, 1),
        ]
        told = page.text_content("#compare-told")
        assert f"{n:,} judged inputs" in told
        assert "different detectors" not in told
        source = (Path(report.__file__).parent / "templates" / "js" / "compare.js").read_text()
        numbers = (Path(report.__file__).parent / "templates" / "js" / "numbers.js").read_text()
        tables = [(k, n, other, m), (3, 40, 0, 35), (0, 5, 0, 9), (200, 100_000, 300, 90_000)]
        found = page.evaluate(f"all => {{ {numbers}; {source}; return all.map((one) => fisher(...one)); }}", tables)
        for p, (a, b, c, d) in zip(found, tables, strict=True):
            assert p == pytest.approx(stats.fisher_exact([[a, b - a], [c, d - c]]).pvalue, rel=1e-5, abs=1e-12)
        for name, text, says in (
            ("c.html", "<p>no report", "This is no report that can be compared"),
            (
                "d.html",
                '<script type="application/json" id="data-about">{"format": "gradgeo.report/1"</script>',
                "damaged",
            ),
            (
                "e.html",
                '<script id="data-about">{"format": "gradgeo.report/1", "flagged": [3, 2]}</script>',
                "does not write",
            ),
        ):
            (tmp_path / name).write_text(text)
            page.set_input_files("#compare-file", tmp_path / name)
            until(page, f"document.getElementById('compare-told').textContent.includes({says!r})")
            assert not page.is_visible("#compare-table")
