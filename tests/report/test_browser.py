"""The report in a real browser: what it loads, what it shows, how it is used."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import made_scores
from gradgeo import report
from helpers.browsing import Opened, cells, shown

pytestmark = pytest.mark.browser


def test_numbers_are_those_of_the_parquet_file(browser: Any, files: tuple[Path, Path]) -> None:
    rows = pq.read_table(files[0]).to_pylist()
    judged = [row for row in rows if row["error"] is None]
    flagged = [row for row in judged if not row["trusted"]]
    with Opened(browser, files[1]) as page:
        counts = {name: page.text_content(f"#count-{name}") for name in ("rows", "trusted", "flagged", "unjudged")}
        told = {
            "rows": rows,
            "trusted": [r for r in judged if r["trusted"]],
            "flagged": flagged,
            "unjudged": rows[len(judged) :],
        }
        assert counts == {name: f"{len(some):,}" for name, some in told.items()}
        causes = {row[0]: row[1] for row in cells(page, "#causes")}
        assert causes == {c: str(sum(row["cause"] == c for row in flagged)) for c in made_scores.CAUSES}
        evidence = {row[0]: (row[1], row[4]) for row in cells(page, "#evidence")}
        p = np.array([row["evidence"] for row in flagged])
        for i, name in enumerate(made_scores.EVIDENCE):
            assert evidence[name] == (str((p[:, i] <= 0.0500001).sum()), str((p.argmin(1) == i).sum()))
        # Behind the name stands what chance does not explain.
        classes = {row[0].partition(" ")[0]: (int(row[1]), int(row[2])) for row in cells(page, "#class-table")}
        for label, name in enumerate(made_scores.CLASSES):
            of = [row for row in judged if row["label"] == label]
            assert classes[name] == (sum(not row["trusted"] for row in of), len(of))
        shares = [int(row[2].replace(",", "")) for row in cells(page, "#p-table")]
        values = np.array([row["p_value"] for row in judged])
        assert shares == [int((np.ceil(20 * values - 1e-9) == b + 1).sum()) for b in range(20)]
        scores = [int(row[2].replace(",", "")) for row in cells(page, "#score-table")]
        assert sum(scores) == len(judged)
        windows = [(int(row[2]), int(row[3])) for row in cells(page, "#window-table")]
        assert np.sum(windows, axis=0).tolist() == [len(judged), len(flagged)]
        errors = {row[0]: int(row[1]) for row in cells(page, "#error-table")}
        assert errors == {e: sum(row["error"] == e for row in rows) for e in {row["error"] for row in rows} - {None}}
        by_index = {row["index"]: row for row in flagged}
        for entry in page.eval_on_selector_all("#cards > li", "cards => cards.map(card => ({...card.dataset}))"):
            row = by_index[int(entry["index"])]
            assert float(entry["p"]) == pytest.approx(row["p_value"])
            assert (int(entry["label"]), entry["cause"]) == (row["label"], row["cause"])


def test_filters_and_sorting_work(browser: Any, files: tuple[Path, Path]) -> None:
    with Opened(browser, files[1]) as page:
        everything = page.eval_on_selector_all("#cards > li", "cards => cards.map(card => ({...card.dataset}))")
        assert len(shown(page)) == 24
        assert page.text_content("#shown") == f"{len(everything)} of {len(everything)}, the first 24 are shown"
        assert [float(e["score"]) for e in shown(page)] == sorted(
            (float(e["score"]) for e in everything), reverse=True
        )[:24]

        page.select_option("#sort", "index")
        assert [int(e["index"]) for e in shown(page)] == sorted(int(e["index"]) for e in everything)[:24]
        page.select_option("#sort", "p")
        assert [float(e["p"]) for e in shown(page)] == sorted(float(e["p"]) for e in everything)[:24]
        page.select_option("#sort", "label")
        names = page.eval_on_selector_all(
            "#cards > li:not([hidden]) h3", "all => all.map(h => h.firstChild.textContent.trim())"
        )
        assert names == sorted(made_scores.CLASSES[int(e["label"])] for e in everything)[:24]

        page.select_option("#sort", "drift")
        assert [float(e.get("drift", 0)) for e in shown(page)] == sorted(
            (float(e.get("drift", 0)) for e in everything), reverse=True
        )[:24]

        page.select_option("#label", "3")
        page.select_option("#cause", "unlike")
        fitting = [e for e in everything if (e["label"], e["cause"]) == ("3", "unlike")]
        assert page.text_content("#shown").startswith(f"{len(fitting)} of {len(everything)}")
        assert {(e["label"], e["cause"]) for e in shown(page)} == {("3", "unlike")}
        one = shown(page)[0]["index"]
        page.fill("#text", f"#{one} CAT")
        assert [e["index"] for e in shown(page)] == [one]
        page.fill("#text", "no such words")
        assert shown(page) == []
        assert page.text_content("#shown") == "No flagged input fits."
        assert not page.is_visible("#more")
        page.fill("#text", "")
        page.select_option("#label", "")
        page.select_option("#cause", "")
        page.click("#more")
        assert len(shown(page)) == 48
        assert page.evaluate("document.activeElement === document.querySelectorAll('#cards > li')[24]")


@pytest.mark.witness
def test_without_script_everything_is_shown(browser: Any, files: tuple[Path, Path]) -> None:
    with Opened(browser, files[1], java_script_enabled=False) as page:
        assert page.locator("#cards > li:visible").count() == page.locator("#cards > li").count() > 24
        assert not page.is_visible("#filters")
        assert not page.is_visible("#theme")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_reader_and_the_button(browser: Any, files: tuple[Path, Path], scheme: str) -> None:
    def bright(page: Any) -> bool:
        return sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g)"))) > 400

    with Opened(browser, files[1], color_scheme=scheme) as page:
        assert bright(page) == (scheme == "light")
        assert page.text_content("#theme") == ("Dark theme" if scheme == "light" else "Light theme")
        page.focus("#theme")
        page.keyboard.press("Enter")
        assert bright(page) == (scheme == "dark")
        page.wait_for_timeout(300)  # what a page stores reaches the next load a moment later
        page.reload()
        assert bright(page) == (scheme == "dark")


def test_a_phone_never_scrolls_sideways(browser: Any, tmp_path: Path) -> None:
    long = "Pneumonoultramicroscopicsilicovolcanoconiosis_" * 4
    made = made_scores.columns(1000, odd=0.1, errors=0.1)
    made["name"] = [f"{long}{i}" for i in range(1000)]
    made["error"] = [value and long for value in made["error"].to_pylist()]
    made["cause"] = [value and long for value in made["cause"].to_pylist()]
    told = made_scores.metadata(class_names=[long] * 10, evidence=[long, *made_scores.EVIDENCE[1:]], data=long)
    pq.write_table(made_scores.table(made, told), tmp_path / "a.parquet")
    report.write(tmp_path / "a.parquet", tmp_path / "a.html")
    with Opened(browser, tmp_path / "a.html", viewport={"width": 360, "height": 740}) as page:
        page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        wide = "all => all.filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > 361).length"
        assert page.eval_on_selector_all("main *", wide) == 0


def test_everything_can_be_reached_by_keyboard_and_has_a_name(browser: Any, files: tuple[Path, Path]) -> None:
    with Opened(browser, files[1]) as page:
        reached = []
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert {"theme", "text", "label", "cause", "sort", "A", "SUMMARY"} <= set(reached)
        assert page.get_by_label("Search").get_attribute("id") == "text"
        for name in ("Predicted class", "Likely cause", "Sort by"):
            assert page.get_by_role("combobox", name=name).count() == 1
        nameless = "all => all.filter(e => !e.getAttribute('aria-label') && !e.getAttribute('alt')).length"
        assert page.eval_on_selector_all("[role=img], [role=region], img", nameless) == 0
        doubled = "all => all.length - new Set(all.map(e => e.id)).size"
        assert page.eval_on_selector_all("[id]", doubled) == 0
        targets = "all => all.filter(a => !document.querySelector(a.getAttribute('href'))).length"
        assert page.eval_on_selector_all("a", targets) == 0


HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\"> '\""


@pytest.mark.parametrize(
    "kind", ["hostile", "long and from the right", "none flagged", "all errors", "no rows", "signals"]
)
def test_other_files_load_without_complaint(browser: Any, tmp_path: Path, kind: str) -> None:
    made = made_scores.columns(
        0 if kind == "no rows" else 500,
        odd=0.1,
        errors=1.1 if kind == "all errors" else 0.01,
        signals=kind == "signals",
    )
    told = made_scores.metadata()
    if kind == "hostile":
        made["name"] = [HOSTILE] * 500
        made["cause"] = [value and HOSTILE for value in made["cause"].to_pylist()]
        told = made_scores.metadata(class_names=[HOSTILE] * 10, data=HOSTILE, evidence=[HOSTILE, *"abcde"])
    if kind == "long and from the right":
        made["name"] = ["\u202e" + "\u05d0" * 10_000] * 500
        made["cause"] = [value and "\u0639" * 10_000 for value in made["cause"].to_pylist()]
        told = made_scores.metadata(class_names=[f"{i}\u05d0" * 5000 for i in range(10)])
    if kind == "none flagged":
        made["trusted"] = np.ones(500, bool)
    pq.write_table(made_scores.table(made, told), tmp_path / "a.parquet")
    summary = report.write(tmp_path / "a.parquet", tmp_path / "a.html")
    with Opened(browser, tmp_path / "a.html") as page:
        assert page.title() == f"gradgeo report: {HOSTILE if kind == 'hostile' else 'photos/'}"
        assert page.locator("#cards > li").count() == summary.flagged
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert page.locator("#cards .signal").count() == (summary.flagged if kind == "signals" else 0)
        if kind == "hostile":
            assert page.locator("#cards h3").first.text_content().startswith(HOSTILE[:60])
            page.select_option("#cause", HOSTILE)
            assert len(shown(page)) == 24


def test_on_a_phone_headers_stand_over_their_columns(browser: Any, files: tuple[Path, Path]) -> None:
    edges = """rows => rows.map(row => [...row.cells].filter(cell => cell.offsetWidth)
        .map(cell => [cell.textContent.trim(), Math.round(cell.getBoundingClientRect().right)]))"""
    with Opened(browser, files[1], viewport={"width": 390, "height": 800}) as page:
        for table in ("#evidence", "#causes", "#class-table"):
            (head,) = page.eval_on_selector_all(f"{table} thead tr", edges)
            first, *_ = page.eval_on_selector_all(f"{table} tbody tr", edges)
            named = [edge for text, edge in head if text]
            assert [edge for _, edge in first][: len(named)] == named, table
