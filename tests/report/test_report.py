import errno
import json
import math
import re
import struct
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from scipy import stats
from typer.testing import CliRunner

from benchmarks import drift as lab_drift
from benchmarks import made_scores
from gradgeo import cli, report
from gradgeo.detector.calibration.conformal import p_values
from gradgeo.errors import ArgumentError, DataError, MissingDependencyError
from gradgeo.report import charts, drift, gallery
from gradgeo.report.kinds import exact_interval
from gradgeo.report.summary import summarise
from gradgeo.report.trend import windows
from gradgeo.scoring import COLUMNS
from gradgeo.scoring.metadata import Metadata, steps
from gradgeo.scoring.reader import Scores

HOSTILE = "<script>alert(1)</script> \"'> </title> {{ 7 * 7 }} &amp;"


class Text(HTMLParser):
    """Words and tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.tags, self._hush = "", [], False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hush = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hush = False

    def handle_data(self, data: str) -> None:
        self.words += "" if self._hush else " ".join(data.split()) + " "


def save(path: Path, made: dict[str, Any], told: dict[bytes, bytes] | None = None) -> Path:
    pq.write_table(made_scores.table(made, made_scores.metadata() if told is None else told), path)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_scores.write(tmp_path_factory.mktemp("report") / "scores.parquet", 3000, odd=0.1)


def test_the_counts_are_those_of_the_file(whole: Path) -> None:
    summary, rows = summarise(Scores(whole)), pq.read_table(whole).to_pylist()
    judged = [row for row in rows if row["error"] is None]
    flagged = [row for row in judged if not row["trusted"]]
    assert (summary.rows, summary.judged, summary.flagged) == (3000, len(judged), len(flagged))
    assert summary.unjudged == sum(summary.errors.values()) == sum(row["error"] is not None for row in rows)
    for cause in made_scores.CAUSES:
        assert summary.causes[cause] == sum(row["cause"] == cause for row in flagged)
    for i, name in enumerate(made_scores.EVIDENCE):
        assert summary.significant[name] == sum(row["evidence"][i] <= 0.0500001 for row in flagged)
        assert summary.most_surprising[name] == sum(np.argmin(row["evidence"]) == i for row in flagged)
    assert summary.none_significant == sum(min(row["evidence"]) > 0.0500001 for row in flagged)
    for label in range(10):
        of_class = [row for row in judged if row["label"] == label]
        assert summary.by_class[label] == [len(of_class), sum(not row["trusted"] for row in of_class)]
    right = [row["label"] == row["true_label"] for row in judged]
    assert (summary.labelled, summary.correct) == (len(judged), sum(right))
    assert summary.trusted_correct == sum(r and row["trusted"] for r, row in zip(right, judged, strict=True))
    p = np.array([row["p_value"] for row in judged])
    assert summary.p_values.tolist() == [
        int(((p > b / 20 + 1e-12) & (p <= (b + 1) / 20 + 1e-12)).sum()) for b in range(20)
    ]
    assert summary.scores.sum() == len(judged)
    assert summary.windows.judged.sum() == len(judged)
    assert summary.windows.flagged.sum() == len(flagged)
    assert summary.windows.steps.sum() == len(judged) - len(flagged)


def test_what_is_shown_is_flagged_and_led_by_the_oddest(whole: Path) -> None:
    summary, rows = summarise(Scores(whole)), pq.read_table(whole).to_pylist()
    flagged = [i for i, row in enumerate(rows) if row["error"] is None and not row["trusted"]]
    pictured = [i for i in flagged if rows[i]["csm"] is not None]
    assert len(flagged) > 240 > len(pictured)
    oddest = sorted(pictured, key=lambda i: -rows[i]["outlier_score"])[:120]
    assert set(summary.outlying.tolist()) == set(oddest)
    assert set(summary.drawn.tolist()) <= set(flagged) - set(oddest)
    assert len(summary.drawn) == 120
    taken = Scores(whole).take(np.sort(summary.outlying))
    assert [row["index"] for row in taken] == sorted(oddest)
    assert taken[0]["csm"] == rows[taken[0]["index"]]["csm"]


@pytest.mark.page
def test_parts_in_a_folder_are_one_file(tmp_path: Path, whole: Path) -> None:
    table = pq.read_table(whole)
    for part, start in enumerate(range(0, 3000, 700)):
        pq.write_table(table.slice(start, 700), tmp_path / f"part-{part:05d}.parquet")
    (tmp_path / "progress.json").write_text("{}")
    pages = [re.sub(r"<dd>(scores\.parquet|test_[^<]*)</dd>", "", report.html(path)) for path in (whole, tmp_path)]
    assert pages[0] == pages[1]
    other = made_scores.metadata(alpha=0.1)
    pq.write_table(table.slice(0, 5).replace_schema_metadata(other), tmp_path / "part-00009.parquet")
    with pytest.raises(
        DataError, match=r"html: .*part-00009.parquet is of another run than part-00000.* its alpha differs"
    ):
        report.html(tmp_path)


def test_files_of_before_are_read_as_far_as_their_columns_go(tmp_path: Path) -> None:
    made = made_scores.columns(1000, time=False)
    for name in ("cause", "evidence", "thumbnail", "saliency", "csm", "csm_classes", "true_label"):
        del made[name]
    made["name"][3:5] = ['two\nlines, "quoted"', "NaN"]
    table = made_scores.table(made)
    pq.write_table(table, tmp_path / "a.parquet")
    pa_csv.write_csv(table, tmp_path / "a.csv")
    one, two = (summarise(Scores(tmp_path / f"a.{ending}")) for ending in ("parquet", "csv"))
    assert one.metadata == two.metadata == Metadata()
    assert (one.rows, one.judged, one.trusted, one.errors) == (two.rows, two.judged, two.trusted, two.errors)
    assert one.outlying.tolist() == two.outlying.tolist()
    assert [row["name"] for row in Scores(tmp_path / "a.csv").take(np.array([3, 4]))] == ['two\nlines, "quoted"', "NaN"]
    words = Text(report.html(tmp_path / "a.csv")).words
    assert "The file does not state its false-alarm rate" in words
    assert "does not state the size of the calibration set" in words
    assert not re.search(r"\b(nan|None|inf|Undefined)\b", words)


@pytest.mark.page
def test_counting_does_not_depend_on_the_size_of_a_batch(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = report.html(whole)
    monkeypatch.setattr("gradgeo.scoring.verdict_file.BATCH", 97)
    assert report.html(whole) == page


def changed(name: str) -> dict[str, Any]:
    made = made_scores.columns(600, odd=0.2)
    none = pa.nulls(600, made_scores.SCHEMA.arrow_type(name)) if name in COLUMNS else None
    if name == "none flagged":
        made["trusted"] = np.ones(600, bool)
    elif name == "all flagged":
        made["trusted"] = np.zeros(600, bool)
    elif name == "all errors":
        made |= made_scores.columns(600, errors=1.1)
    elif name == "one row":
        made = made_scores.columns(1, errors=0)
    elif name == "no rows":
        made = made_scores.columns(0)
    elif name == "one time":
        made["time"] = np.full(600, np.datetime64("2026-01-01", "us"))
    elif name == "equal scores":
        made["outlier_score"] = np.ones(600)
    elif name == "huge scores":
        made["outlier_score"] = np.r_[np.full(300, -1.7e308), np.full(299, 1.7e308), math.inf]
    elif name == "far times":
        made["time"] = np.full(600, np.iinfo(np.int64).max - 1).astype("datetime64[us]")
        made["time"][:300] = np.datetime64(-(2**62), "us")
    elif name == "p beyond 1":
        made["p_value"] = np.full(600, 1.5)
    elif none is not None:
        made[name] = none
    return made


KINDS = ["none flagged", "all flagged", "all errors", "one row", "no rows", "one time", "equal scores", "huge scores", "far times", "p beyond 1", "time", "cause", "evidence", "thumbnail", "csm", "csm_classes", "name", "label", "outlier_score", "p_value", "true_label"]  # fmt: skip


@pytest.mark.page
@pytest.mark.grid
@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_files_make_pages_too(tmp_path: Path, kind: str) -> None:
    words = Text(report.html(save(tmp_path / "a.parquet", changed(kind)))).words
    assert not re.search(r"\b(nan|None|inf|Undefined)\b", words)
    says = {
        "none flagged": "No input was flagged.",
        "all errors": "Not one of 600 inputs could be judged.",
        "no rows": "The file has no rows",
        "p_value": "no verdict, and no reason given",
        "p beyond 1": "no verdict, and no reason given",
    }
    assert says.get(kind, "") in words


@pytest.mark.witness
@pytest.mark.page
def test_what_a_file_says_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    made = made_scores.columns(600, odd=0.2)
    made["name"] = [HOSTILE] * 600
    for name in ("cause", "error"):
        made[name] = [value and HOSTILE for value in made[name].to_pylist()]
    made["thumbnail"] = [value and HOSTILE.encode() * 2 for value in made["thumbnail"]]
    texts = dict.fromkeys(("data", "model", "detector", "gradgeo"), HOSTILE)
    told = made_scores.metadata(class_names=[HOSTILE] * 10, evidence=[HOSTILE, *"abcde"], **texts)
    page = report.html(save(tmp_path / "a.parquet", made, told))
    text = Text(page)
    scripts = [attributes.get("type") for tag, attributes in text.tags if tag == "script"]
    assert scripts.count(None) == 1
    assert set(scripts) == {None, "application/json"}  # which no browser executes
    assert not any(key.startswith("on") for _, attributes in text.tags for key in attributes)
    assert not any(
        tag in ("img", "iframe", "object", "form") and "action" in attributes for tag, attributes in text.tags
    )
    assert HOSTILE in text.words
    assert " 49 " not in text.words
    assert {value for _, attributes in text.tags for key, value in attributes.items() if key == "src"} == set()
    assert re.search(r"default-src 'none'; .*script-src 'sha256-", page)


@pytest.mark.page
def test_no_text_of_a_file_reaches_the_page_with_control_characters(tmp_path: Path) -> None:
    odd = "\x1b[31mred \u202egnp.exe\u2066\nline"
    made = made_scores.columns(600, odd=0.2)
    made["name"] = [odd] * 600
    for name in ("cause", "error"):
        made[name] = [value and odd for value in made[name].to_pylist()]
    texts = dict.fromkeys(("data", "model", "detector", "gradgeo"), odd)
    names = [f"{odd} {i}" for i in range(6)]
    page = report.html(
        save(tmp_path / "a.parquet", made, made_scores.metadata(evidence=names, class_names=names, **texts))
    )
    assert not set("\x1b\u202e\u2066") & set(page)
    assert "\\x1b[31mred \\u202egnp.exe\\u2066\\nline 5" in page


def test_intervals_are_those_of_scipy() -> None:
    part, whole = np.array([0.0, 3, 50, 7]), np.array([10.0, 10, 80, 7])
    for low, high, k, n in zip(*exact_interval(part, whole), part, whole, strict=True):
        theirs = stats.binomtest(int(k), int(n)).proportion_ci(method="exact")
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def with_sides(width: int, height: int) -> bytes:
    data = made_scores.png()
    return data[:16] + struct.pack(">II", width, height) + data[24:]


def test_only_small_pngs_are_pictures() -> None:
    assert gallery.thumbnail(made_scores.png(size=96)) is not None
    good = made_scores.png()
    for bad in (None, "x", b"", b"<svg onload=alert(1)>" * 9, made_scores.png(size=97), with_sides(30_000, 1), with_sides(0, 9), good[:60], good + b"x" * 70_000, b"GIF89a" + good):  # fmt: skip
        assert gallery.thumbnail(bad) is None


def test_csms_are_drawn_cell_by_cell() -> None:
    assert gallery.csm_paths([[10, 0], [0, 10]]) == {0: "M1 0h1v1h-1zM0 1h1v1h-1z", 10: "M0 0h1v1h-1zM1 1h1v1h-1z"}
    levels = gallery.csm_levels([0.5] * 9, 3)
    assert gallery.csm_paths(levels) == {8: "M0 0h3v1h-3zM0 1h3v1h-3zM0 2h3v1h-3z"}
    for values, size in (([1.0] * 8, 3), ([math.nan] * 9, 3), ([2.0] * 9, 3), ([1.0, -1, -1, 1], 2), ([], 0)):
        assert gallery.csm_levels(values, size) == []
    assert gallery.csm_paths([]) == {}


def test_signals_are_lines_with_gaps() -> None:
    assert gallery.signal_path([0, 1, 0.5]) == "M0 100L128 0L255 50"
    assert gallery.signal_path([0, math.nan, 1, 1]) == "M0 100M170 0L255 0"
    assert gallery.signal_path([3, 3]) == "M0 50L255 50"
    assert gallery.signal_path([math.nan, 1]) is None


def test_pictures_end_where_the_budget_does() -> None:
    row = dict.fromkeys(COLUMNS) | {"index": 1, "thumbnail": made_scores.png()}
    cards = [gallery.card(row, Metadata(), largest=True)] * 3
    size = len(cards[0].thumbnail or "")
    kept = gallery.within(cards, 2 * size)
    assert [card.thumbnail is None for card in kept] == [False, False, True]
    assert len(kept) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 2, "gradgeo": "9.1"}, r"is of version 2, this gradgeo reads 1\. Use the gradgeo that wrote it \(9\.1\), or score again"),
        ({"version": None}, "is of version None"),
        ({"format": "other"}, "has metadata of another format than gradgeo-scores"),
        ({"alpha": 2}, "has metadata that gradgeo does not write: alpha"),
        ({"alpha": True, "evidence": "csm"}, "does not write: alpha, evidence"),
        ({"calibration_scores": [3, 2, 1]}, "does not write: calibration_scores"),
        ({"calibration_scores": list(range(100, -1, -1))}, "does not write: calibration_scores"),
        ({"calibration_size": -1, "model": 3}, "does not write: calibration_size, model"),
        ({"class_names": [1]}, "does not write: class_names"),
        ({"input_shape": ["x"]}, "does not write: input_shape"),
    ],
)  # fmt: skip
def test_foreign_metadata_are_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = save(tmp_path / "a.parquet", made_scores.columns(5), made_scores.metadata(**changes))
    with pytest.raises(DataError, match=f"^html: .*{says}"):
        report.html(path)


def test_files_that_are_no_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^html: expected scores to be a .parquet or .csv file of verdicts, or a"):
        report.html(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"a.parquet does not exist"):
        report.html(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"has no part-\*.parquet in it"):
        report.html(tmp_path)
    made = made_scores.columns(5)
    del made["p_value"], made["trusted"]
    with pytest.raises(DataError, match=r"lacks the columns p_value, trusted\. Is it a file that score wrote"):
        report.html(save(tmp_path / "a.parquet", made))
    pq.write_table(
        pa.table(made_scores.table(made_scores.columns(5)).to_pydict() | {"p_value": ["x"] * 5}), tmp_path / "b.parquet"
    )
    with pytest.raises(DataError, match=r"the column p_value of .*b.parquet is of type string, not float"):
        report.html(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"has metadata that are not JSON"):
        report.html(save(tmp_path / "c.parquet", made_scores.columns(5), {b"gradgeo": b"{"}))
    with pytest.raises(DataError, match=r"has metadata that are not JSON"):
        report.html(save(tmp_path / "c.parquet", made_scores.columns(5), {b"gradgeo": b"[" * 200_000}))
    whole = save(tmp_path / "d.parquet", made_scores.columns(500)).read_bytes()
    for damaged in (b"", whole[:-9], whole[:100], whole[:2000] + b"\xff" * 500 + whole[2500:]):
        (tmp_path / "d.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"d.parquet cannot be read: "):
            report.html(tmp_path / "d.parquet")
    (tmp_path / "e.csv").write_text(
        "index,name,label,probability,outlier_score,p_value,trusted,error\nx,a,1,1,1,1,true,\n"
    )
    with pytest.raises(DataError, match=r"e.csv cannot be read: "):
        report.html(tmp_path / "e.csv")


def no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.page
def test_writing_is_all_or_nothing(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report.html"
    summary = report.write(whole, out)
    assert out.read_text() == report.html(whole)
    assert summary.rows == 3000
    before = out.read_bytes()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"^write: .*bad.parquet cannot be read"):
        report.write(tmp_path / "bad.parquet", out)
    with pytest.raises(ArgumentError, match=r"^write: expected out to be a file ending in .html"):
        report.write(whole, tmp_path / "report.pdf")
    with pytest.raises(DataError, match=r"^write: cannot write .*No such file"):
        report.write(whole, tmp_path / "no" / "report.html")
    with monkeypatch.context() as full:
        full.setattr("os.fsync", no_space)
        with pytest.raises(DataError, match=r"^write: cannot write .*report.html: No space left on device"):
            report.write(whole, out)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"^write: jinja2 is needed .*'\.\[report\]'"):
        report.write(whole, out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.parquet", "report.html"]


@pytest.mark.page
def test_a_page_of_many_rows_is_small_and_soon_made(tmp_path: Path) -> None:
    path = made_scores.write(tmp_path / "a.parquet", 50_000, pictures=1000)
    start = time.process_time()
    page = report.html(path)
    assert time.process_time() - start < 15  # a million rows take 20 s at most, measured by hand
    assert len(page.encode()) < 3_500_000
    assert len(re.findall('<li class="card"', page)) == 240


@pytest.mark.page
def test_many_classes_reasons_and_causes_stay_small(tmp_path: Path) -> None:
    made = made_scores.columns(6000, errors=0.3, pictures=0)
    made["label"] = np.arange(6000)
    made["error"] = [value and f"{value} {i}" * 20 for i, value in enumerate(made["error"].to_pylist())]
    made["cause"] = [value and f"{value} {i}" for i, value in enumerate(made["cause"].to_pylist())]
    path = save(tmp_path / "a.parquet", made)
    summary = summarise(Scores(path))
    assert len(summary.errors) <= 1001
    assert sum(summary.errors.values()) == summary.unjudged
    page = report.html(path)
    assert len(page.encode()) < 1_000_000


def usual(size: int, *, mistakes: tuple[int, ...] = (0,) * (1 + drift.BINS)) -> drift.Usual:
    """Calibration inputs of a detector at 5 %, and mistakes."""
    return drift.Usual(0.05, size, np.array(mistakes))


def alarms(shift: float, *, size: int = 499, count: int = 2000, tries: int = 300) -> tuple[float, float]:
    """How often the two tests reject at 5 %, for scores of another mean."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(tries):
        p = p_values(np.sort(rng.normal(size=size)), rng.normal(shift, 1, count))
        trusted = p > 0.05
        counts = np.bincount(steps(p[trusted]), minlength=drift.BINS)
        moved = drift.shift(counts, usual(size))
        low, high = drift.expected_share(count, 0.05, size, 0.05)
        hits.append((moved.p < 0.05, not low <= 1 - trusted.mean() <= high))
    first, second = np.mean(hits, axis=0)
    return float(first), float(second)


@pytest.mark.simulation
def test_tests_of_drift_keep_their_level_with_more_traffic_than_calibration() -> None:
    for rate in alarms(0.0):
        assert stats.binomtest(round(300 * rate), 300, 0.05, alternative="greater").pvalue > 0.001
    assert min(alarms(0.3)) > 0.5


@pytest.mark.parametrize("count", [200, 10_000])
def test_the_range_of_chance_is_that_of_the_beta_binomial(count: int) -> None:
    exact = stats.betabinom.ppf([0.005, 0.995], count, 50, 950) / count
    assert drift.expected_share(count, 0.05, 999, 0.01) == pytest.approx(tuple(exact), abs=1.5 / count)


def test_drift_knows_its_direction_and_what_is_exactly_uniform() -> None:
    size = 999
    p = np.arange(51, 1001) / 1000
    assert drift.shift(np.bincount(steps(p), minlength=drift.BINS), usual(size)) == drift.Shift(
        pytest.approx(0, abs=1e-9), pytest.approx(1)
    )
    smaller = drift.shift(np.bincount(steps(p[:500]), minlength=drift.BINS), usual(size))
    larger = drift.shift(np.bincount(steps(p[500:]), minlength=drift.BINS), usual(size))
    assert smaller.distance == pytest.approx(450 / 950, abs=0.01)
    assert larger.distance == pytest.approx(-500 / 950, abs=0.01)
    assert drift.shift(np.zeros(drift.BINS, int), usual(size)) is None
    assert drift.uniform(3).tolist()[::50] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.simulation
@pytest.mark.parametrize("accuracy", [0.99, 0.9, 0.75])
def test_mistakes_are_no_drift(accuracy: float) -> None:
    """Traffic of a classifier that errs as it did at `fit`, whose mistakes look odd, sets off no more alarms."""
    found = lab_drift.false_alarms(accuracy, tries=60, windows=5, stream=0)
    assert found.shifted <= stats.binom.ppf(0.999, 60, drift.LEVEL) / 60
    assert found.crowded <= stats.binom.ppf(0.999, 60, drift.LEVEL) / 60
    if accuracy < 0.8:
        alone = lab_drift.false_alarms(accuracy, tries=20, windows=5, stream=0, mistakes_known=False)
        assert alone.crowded > 0.5


@pytest.mark.page
def test_without_times_there_is_no_drift_over_the_order_of_names(tmp_path: Path) -> None:
    made = made_scores.columns(3000, drift=0.8)
    del made["time"]
    path = save(tmp_path / "a.parquet", made)
    assert len(windows(summarise(Scores(path)))) == 1
    words = Text(report.html(path)).words
    assert "The data has no times, so nothing can be followed over them: rows stand in the order of names" in words


@pytest.mark.page
def test_a_file_that_does_not_know_its_mistakes_is_not_judged(tmp_path: Path) -> None:
    path = made_scores.write(tmp_path / "a.parquet", 3000, drift=0.8, pictures=0)
    table = pq.read_table(path)
    document = json.loads(table.schema.metadata[b"gradgeo"])
    del document["mistakes"]
    pq.write_table(table.replace_schema_metadata({b"gradgeo": json.dumps(document)}), path)
    assert "does not state how its mistakes look" in Text(report.html(path)).words


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("amount", "says"),
    [
        (0.0, r"In none of 40 windows do they depart from that"),
        (0.8, r"In 1\d of 40 windows they are not, first from 2026-03-0\d \d\d:\d\d .* they are smaller than they should be, with a median of 0\.\d\d instead of 0\.53\. These inputs have come to look less"),
        (-0.9, r"they are larger than they should be, .* look more ordinary"),
    ],
)  # fmt: skip
def test_drift_is_told_in_plain_words(tmp_path: Path, amount: float, says: str) -> None:
    path = made_scores.write(tmp_path / "a.parquet", 6000, drift=amount, pictures=0, errors=0, seed=1)
    assert re.search(says, Text(report.html(path)).words.replace("\u00a0", " "))


@pytest.mark.simulation
@pytest.mark.parametrize(
    ("odd", "says"), [(0.0, "no more than false alarms explain"), (0.2, "more than false alarms explain")]
)
def test_whether_false_alarms_explain_it_is_told(tmp_path: Path, odd: float, says: str) -> None:
    path = made_scores.write(tmp_path / "a.parquet", 4000, odd=odd, pictures=0)
    assert says in Text(report.html(path)).words


def test_times_may_be_numbers_dates_or_missing(tmp_path: Path) -> None:
    made = made_scores.columns(1000)
    for time_, by in ((np.arange(1000) / 7, "time"), (made["time"], "date"), (pa.array(made["time"]).cast(pa.timestamp("ns", "UTC")), "date"), (pa.array(made["time"]).cast(pa.date32(), safe=False), "date")):  # fmt: skip
        table = made_scores.table(made, made_scores.metadata())
        at = table.schema.get_field_index("time")
        pq.write_table(table.set_column(at, "time", pa.array(time_)), tmp_path / "a.parquet")
        assert summarise(Scores(tmp_path / "a.parquet")).windows.by == by
    made["time"] = pa.array(made["time"], mask=np.arange(1000) % 2 == 0)
    counted = summarise(Scores(save(tmp_path / "b.parquet", made))).windows
    assert counted.outside + counted.judged.sum() == summarise(Scores(tmp_path / "b.parquet")).judged
    assert counted.outside > 400


@pytest.mark.parametrize(
    ("times", "short"),
    [
        (["-5", "0", "5"], ["-5", "0", "5"]),
        (["1e-05", "2e-05", "3e-05"], ["1e-05", "2e-05", "3e-05"]),
        (["2026-01-01 00:00", "2026-02-01 00:00", "2026-03-01 00:00"], ["2026-01-01", "2026-02-01", "2026-03-01"]),
        (["2026-01-01 00:00", "2026-01-01 06:00", "2026-01-02 00:00"], ["01-01 00:00", "01-01 06:00", "01-02 00:00"]),
    ],
)
def test_times_below_an_axis_are_short(times: list[str], short: list[str]) -> None:
    assert charts._short(times) == short


def test_the_metadata_of_the_file_are_the_agreed_ones(whole: Path) -> None:
    about = Scores(whole).metadata
    told = json.loads(made_scores.metadata()[b"gradgeo"])
    assert about.evidence == made_scores.EVIDENCE
    assert about.calibration_scores is not None
    assert about.calibration_scores.tolist() == told["calibration_scores"]
    assert (about.alpha, about.calibration_size, about.input_shape) == (0.05, 999, (3, 32, 32))


@pytest.mark.page
def test_the_command_writes_the_page_and_prints_its_counts(whole: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["report", str(whole), "--out", str(tmp_path / "page.html")])
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.search(
        r"^inputs +3000\njudged +\d+\ntrusted +\d\d\.\d% \(\d+ of \d+\)\nflagged +.*\nwritten to", result.stdout
    )
    assert (tmp_path / "page.html").read_text() == report.html(whole)
    result = CliRunner().invoke(cli.app, ["report", str(tmp_path / "no.csv"), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 1
    assert re.fullmatch(r"gradgeo: error: .*no\.csv does not exist\n", result.stderr)
