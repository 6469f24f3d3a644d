"""The report at other alphas: counted in Python, shown in a browser, equal to the rows of the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import special, stats

from benchmarks import made_scores
from gradgeo import report
from gradgeo.detector.calibration.conformal import flagged_ranks
from gradgeo.report.html.numbers import percent
from gradgeo.report.kinds import classes_and_groups, exact_interval, listed
from gradgeo.report.recount import recount
from gradgeo.report.summary import summarise
from gradgeo.scoring.reader import Scores
from helpers.browsing import Opened

STEPS = """() => {
  const range = document.getElementById("alpha"), seen = [];
  const text = (id) => document.getElementById(id).textContent;
  for (let step = 0; step <= Number(range.max); step += 1) {
    const began = performance.now();
    range.value = step;
    range.dispatchEvent(new Event("input"));
    document.body.offsetHeight; // laid out
    const rows = [...document.querySelectorAll("tr[data-kind]")].map((row) => [...row.cells].slice(1, 5).map((cell) => cell.textContent));
    seen.push({
      ms: performance.now() - began, alpha: text("alpha-shown"), flagged: text("count-flagged"), trusted: text("count-trusted"),
      headline: text("headline"), facts: [...document.querySelectorAll("#facts dd")].map((node) => node.textContent), rows,
    });
  }
  return seen;
}"""


@pytest.mark.browser
def test_every_step_shows_what_the_rows_of_the_file_say(browser: Any, files: tuple[Path, Path]) -> None:
    rows = [row for row in pq.read_table(files[0]).to_pylist() if row["error"] is None]
    p, label, truth = (np.array([row[name] for row in rows]) for name in ("p_value", "label", "true_label"))
    with Opened(browser, files[1]) as page:
        names = page.eval_on_selector_all(
            "tr[data-kind] th", "all => all.map(node => node.firstChild.textContent.trim())"
        )
        order = [made_scores.CLASSES.index(name) for name in names]
        first = page.locator("main").inner_html()
        seen = page.evaluate(STEPS)
        page.click("#as-scored")
        assert page.text_content("#count-flagged") == f"{int((p <= 0.05).sum()):,}"
        assert not page.locator(".moved").first.is_visible()
        page.focus("#alpha")
        page.keyboard.press("ArrowRight")
        assert page.text_content("#alpha-shown") == "5.1 %"
        assert page.locator(".moved").first.is_visible()
        page.keyboard.press("ArrowLeft")
        assert page.locator("main").inner_html() == first
    assert len(seen) > 150
    for step in seen:
        alpha = round(float(step["alpha"].removesuffix(" %")) / 100, 9)
        flagged, wrong = p <= alpha, label != truth
        assert (step["flagged"], step["trusted"]) == (f"{flagged.sum():,}", f"{(~flagged).sum():,}")
        assert step["headline"].startswith(f"{(~flagged).sum():,} of {len(p):,} predictions are trusted")
        k = flagged_ranks(made_scores.CALIBRATION, alpha)
        most = float(special.betaincinv(k, made_scores.CALIBRATION + 1 - k, 0.95)) if k else 0.0
        risk = percent((wrong & ~flagged).sum() / (~flagged).sum())
        told = [percent((~flagged).mean()) + "\u00a0%", percent(k / 1000), percent(most), risk]
        assert [fact.partition(" ")[0].partition("\u00a0")[0] for fact in step["facts"]] == [
            t.partition("\u00a0")[0] for t in told
        ]
        for kind, row in zip(order, step["rows"], strict=True):
            part, whole = int(flagged[label == kind].sum()), int((label == kind).sum())
            low, high = (percent(float(end[0])) for end in exact_interval(np.array([part]), np.array([whole])))
            assert row == [f"{part:,}", f"{whole:,}", percent(part / whole), f"[{low}, {high}]"]
    assert np.median([step["ms"] for step in seen]) < 100


@pytest.mark.browser
def test_intervals_in_the_page_are_those_of_scipy(browser: Any, files: tuple[Path, Path]) -> None:
    source = (Path(report.__file__).parent / "templates" / "js" / "numbers.js").read_text()
    whole = np.array([1, 7, 60, 400, 4000, 1_000_000, 1_000_000, 1_000_000, 3, 40])
    part = np.array([0, 3, 60, 1, 2000, 50_000, 3, 999_990, 1, 5])
    with Opened(browser, files[1]) as page:
        run = f"pairs => {{ {source}; return pairs.map(([k, n]) => exactInterval(k, n)); }}"
        found = page.evaluate(run, np.stack([part, whole], 1).tolist())
        halves = page.evaluate(
            f"shares => {{ {source}; return shares.map(percent); }}", [i / 8000 for i in range(8001)]
        )
    for (low, high), k, n in zip(found, part, whole, strict=True):
        theirs = stats.binomtest(int(k), int(n)).proportion_ci(method="exact")
        assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-9)
    assert halves == [percent(i / 8000) for i in range(8001)]


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_counts_are_exact_for_groups_and_for_each_calibration_set(tmp_path: Path, confidence: float | None) -> None:
    made = made_scores.columns(2000, odd=0.1, pictures=0)
    made["site"] = ["north", None, "south", "north"] * 500
    compared = np.where(np.arange(2000) % 2, 399, made_scores.CALIBRATION)
    p = np.maximum(np.ceil(made["p_value"].to_numpy(zero_copy_only=False) * (compared + 1)), 1) / (compared + 1)
    bound = [
        flagged_ranks(int(n), 0.05, confidence) / (n + 1) if confidence else 0.05
        for n in (399, made_scores.CALIBRATION)
    ]
    failed = ~pa.array(made["error"]).is_null().to_numpy(zero_copy_only=False)
    made |= {"p_value": pa.array(p, mask=failed), "trusted": (p > np.where(compared == 399, *bound)) & ~failed}
    told = made_scores.metadata(kept=["site"], confidence=confidence, groups=["site"])
    table = (
        made_scores.table(made, told)
        .append_column("compared", pa.array(compared))
        .append_column("site", pa.array(made["site"]))
    )
    pq.write_table(table, tmp_path / "a.parquet")
    scores = Scores(tmp_path / "a.parquet")
    summary = summarise(scores)
    kinds = listed(*classes_and_groups(summary))
    counted = recount(scores, summary, kinds)
    assert counted is not None
    assert counted.at(summary, counted.own) == summary
    sites = np.array([str(site) for site in made["site"]])
    for step in range(0, len(counted.alphas), 7):
        alpha = counted.alphas[step]
        limits = [
            flagged_ranks(int(n), alpha, confidence) / (n + 1) if confidence else alpha
            for n in (399, made_scores.CALIBRATION)
        ]
        flagged = (p <= np.where(compared == 399, *limits)) & ~failed
        assert counted.flagged[step] == flagged.sum()
        for kind, count in zip(kinds, counted.kinds[:, step], strict=True):
            rows = sites == str(kind.value) if kind.column else np.asarray(made["label"].fill_null(-1)) == kind.value
            assert count == (flagged & rows).sum(), kind


def unlike(made: dict[str, Any]) -> dict[str, Any]:
    made["trusted"] = np.ones(len(made["index"]), bool)
    return made


@pytest.mark.parametrize(
    ("change", "told"),
    [(dict, {"alpha": None}), (unlike, {}), (lambda made: made | made_scores.columns(400, errors=1.1), {})],
    ids=["no alpha", "flags that do not follow", "no verdict"],
)
def test_without_what_it_takes_there_is_no_slider(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], told: dict[str, Any]
) -> None:
    made = change(made_scores.columns(400, odd=0.1, pictures=0))
    pq.write_table(made_scores.table(made, made_scores.metadata(**told)), tmp_path / "a.parquet")
    page = report.html(tmp_path / "a.parquet")
    assert 'id="slider"' not in page
    assert 'id="data-steps"' not in page
