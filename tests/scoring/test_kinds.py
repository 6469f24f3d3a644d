"""Columns of the data that are carried along, p-values by class and group, q-values; and what the report makes of them."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats

import gradgeo
from benchmarks import made_scores
from gradgeo import Detector, report
from gradgeo.cli import app
from gradgeo.data import ReadableItems, open_source
from gradgeo.detector.calibration.conformal import Level
from gradgeo.errors import ArgumentError, DataError
from gradgeo.report.kinds import chance, classes_and_groups
from gradgeo.report.summary import summarise
from gradgeo.scoring import score
from gradgeo.scoring.reader import Scores
from gradgeo.watch import Watch
from helpers.nets import inputs, network

N = 300
SITES = [None if i == 7 else ("=north", "south", "south")[i % 3] for i in range(N)]
SCANNERS = [i % 2 for i in range(N)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds") / "data.parquet"
    x = inputs(N, shape=(12,)).float().tolist()
    x[5] = [float("nan")] * 12
    pq.write_table(pa.table({"x": x, "site": SITES, "scanner": SCANNERS}), path)
    return path


@pytest.fixture(scope="module")
def detector(data: Path) -> Detector:
    items = ReadableItems(open_source(data, keep=["site", "scanner"], start=8), batch_size=50)
    loader = items.loader()
    return Detector(network().float(), evidence=["confidence", "csm"], alpha=0.1).fit(
        loader, groups=items.groups(["site"])
    )


def test_columns_are_carried_along(data: Path, tmp_path: Path) -> None:
    source = open_source(data, keep=["scanner", "site"])
    assert [item.kept for item in source][6:9] == [("0", "=north"), ("1", None), ("0", "south")]
    x = np.zeros((3, 2))
    np.savez(tmp_path / "a.npz", x=x, site=["a", "b", "c"], lot=np.array([1.5, np.nan, 2]), wrong=np.zeros((3, 2)))
    assert [item.kept for item in open_source(tmp_path / "a.npz", keep=["site", "lot"])] == [
        ("a", "1.5"), ("b", None), ("c", "2.0")
    ]  # fmt: skip
    with pytest.raises(DataError, match="expected an array named place in"):
        open_source(tmp_path / "a.npz", keep=["place"])
    with pytest.raises(DataError, match="expected one value per input in the array wrong"):
        open_source(tmp_path / "a.npz", keep=["wrong"])
    with pytest.raises(DataError, match=r"has no column place; it has x, site, scanner"):
        open_source(data, keep=["place"])
    with pytest.raises(DataError, match=r"expected one number, text or date per item in the column x"):
        open_source(data, keep=["x"])
    with pytest.raises(ArgumentError, match="expected keep to be empty for data without columns"):
        open_source("digits", keep=["site"])
    for keep in ("site", ["site", "site"], [""], [str(i) for i in range(17)]):
        with pytest.raises(ArgumentError, match="expected keep to be at most 16 names of columns, each once"):
            open_source(data, keep=keep)


def test_groups_of_a_fit_are_those_of_its_usable_items(data: Path, detector: Detector) -> None:
    assert detector.groups_ == ("south", "=north")
    items = ReadableItems(open_source(data, keep=["site", "scanner"]), batch_size=50)
    groups = items.groups(["scanner", "site"])
    assert len(groups) == 0
    list(items)
    assert (len(groups), groups[7], groups[8]) == (N, "1, missing", "0, south")
    assert items.groups([]) is None
    with pytest.raises(ArgumentError, match="expected columns to be among those that are kept, site, scanner"):
        items.groups(["lot"])


@pytest.mark.filterwarnings("ignore:.*(have no verdict|are compared with all)")
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_verdicts_by_group_with_q_values(data: Path, detector: Detector, tmp_path: Path, ending: str) -> None:
    out, source = tmp_path / f"v.{ending}", open_source(data, keep=["site", "scanner"])
    summary = score(detector, source, out, groups=["site"], fdr=0.3, batch_size=64, part_size=128)
    with out.open(newline="") as stream:
        rows = pq.read_table(out).to_pylist() if ending == "parquet" else list(csv.DictReader(stream))
    assert list(rows[0])[-4:] == ["compared", "q_value", "site", "scanner"]
    given = {"parquet": "=north", "csv": "'=north"}[ending]
    assert [row["site"] or None for row in rows[6:9]] == [given, None, "south"]
    judged = [i for i in range(N) if i != 5]
    x = torch.stack([item.x for item in source])[judged]
    found = detector.predict(x, groups=["missing" if SITES[i] is None else SITES[i] for i in judged])
    far = [j for j in range(len(judged)) if float(found.outlier_score[j]) > -1e9]
    same = [float(rows[i]["p_value"]) == float(found.p_value[j]) for j, i in enumerate(judged)]
    assert np.mean(same) > 0.97  # batches may round a score past that of a calibration input
    assert len(far) == N - 1
    assert [int(rows[i]["compared"]) for i in judged] == found.compared.tolist()
    assert int(rows[7]["compared"]) == detector.calibration_size_
    p = [float(rows[i]["p_value"]) for i in judged]
    q = np.array([float(rows[i]["q_value"]) for i in judged])
    np.testing.assert_allclose(q, stats.false_discovery_control(p), rtol=1e-12)
    assert rows[5]["q_value"] in (None, "")
    assert summary.selected == (q <= 0.3).sum()


@pytest.mark.filterwarnings("ignore:.*(have no verdict|are compared with all)")
def test_a_folder_is_filled_and_resumed(data: Path, detector: Detector, tmp_path: Path) -> None:
    source = open_source(data)
    first = score(detector, source, tmp_path / "v", conditional="class", fdr=0.3, part_size=100)
    again = score(detector, source, tmp_path / "v", conditional="class", fdr=0.3, part_size=100)
    assert (again.resumed, again.selected) == (N, first.selected)
    table = pq.read_table(sorted((tmp_path / "v").glob("part-*.parquet"))[1])
    assert table["q_value"].null_count == 0
    with pytest.raises(DataError, match="holds parts of a run with another conditional, fdr"):
        score(detector, source, tmp_path / "v", part_size=100)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"conditional": "site"}, "expected conditional to be one of 'class'"),
        ({"groups": ["site"]}, "expected groups to be columns that the source keeps"),
        ({"fdr": 1.5}, "expected fdr to be None or a number between 0 and 1, got 1.5"),
        ({"fdr": True}, "expected fdr to be None or a number between 0 and 1"),
    ],
)
def test_what_score_cannot_do(data: Path, detector: Detector, tmp_path: Path, given: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        score(detector, open_source(data), tmp_path / "v.csv", **given)
    assert not list(tmp_path.iterdir())


def test_a_watch_knows_one_calibration_set(data: Path, detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="expected watch to be None with conditional or groups"):
        score(detector, open_source(data), tmp_path / "v.csv", conditional="class", watch=Watch(99))


def test_a_column_named_as_one_of_ours_is_refused(detector: Detector, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 12)), label_=[1, 2, 3], q_value=[1, 2, 3])
    with pytest.raises(ArgumentError, match=r"expected keep to be other names .* got 'q_value'"):
        score(detector, open_source(tmp_path / "a.npz", keep=["q_value"]), tmp_path / "v.csv")


@pytest.mark.journey
@pytest.mark.filterwarnings("ignore:.*(have no verdict|are compared with all)")
def test_the_report_tells_groups_apart(data: Path, detector: Detector, tmp_path: Path) -> None:
    score(detector, open_source(data, keep=["site", "scanner"]), tmp_path / "v.parquet", groups=["site"])
    summary = summarise(Scores(tmp_path / "v.parquet"))
    rows = [row for row in pq.read_table(tmp_path / "v.parquet").to_pylist() if row["error"] is None]
    for column in ("site", "scanner"):
        for value, (judged, flagged) in summary.by_kept[column].items():
            own = [row for row in rows if row[column] == value]
            assert (judged, flagged) == (len(own), sum(not row["trusted"] for row in own))
    assert dict(summary.metadata.group_sizes) == {
        name: rate.calibration_size for name, rate in detector.false_alarm_rates("group").items()
    }
    page = report.html(tmp_path / "v.parquet")
    assert "<h3>By site</h3>" in page
    assert "=north" in page
    assert "at most 1" in page
    assert "score without --conditional and --groups to follow drift" in page


@pytest.mark.journey
def test_what_chance_does_not_explain_is_marked(tmp_path: Path) -> None:
    columns = made_scores.columns(4000, seed=2, odd=0.0, errors=0.0, pictures=0)
    columns["lot"] = pa.array(["bad" if i % 8 == 0 else f"lot {i % 3}" for i in range(4000)])
    trusted = np.array(columns["trusted"])
    trusted[::8] = np.random.default_rng(0).random(500) > 0.2
    columns["trusted"] = pa.array(trusted)
    path = tmp_path / "v.parquet"
    schema = pa.table(columns).schema.with_metadata(made_scores.metadata(kept=["lot"]))
    pq.write_table(pa.table(columns, schema=schema), path)
    classes, groups = classes_and_groups(summarise(Scores(path)))
    assert [entry.name for entry in groups["lot"] if entry.off] == ["bad"]
    assert sum(entry.off for entry in classes) <= 10
    assert groups["lot"][0].name == "bad"
    assert report.html(path).count("more than chance</strong>") >= 1


@pytest.mark.parametrize("judged", [40, 3000])
def test_the_chance_is_that_of_the_beta_binomial(judged: int) -> None:
    rate, law = Level(0.05).rate(99), stats.betabinom(judged, 5, 95)
    for flagged in (0, 1, 2, 9, 30):
        p = chance(flagged, judged, rate)
        assert p == pytest.approx(min(1, 2 * min(law.cdf(flagged), 1 - law.cdf(flagged - 1))), rel=1e-6)
        assert p == pytest.approx(chance(flagged * 10_000 // judged, 20_000, rate), abs=1)
    assert chance(0, 10, Level(0.05).rate(3)) == 1.0
    assert chance(1, 10, Level(0.05).rate(3)) == 0.0


@pytest.mark.journey
@pytest.mark.filterwarnings("ignore:.*(have no verdict|are compared with all)")
def test_the_commands(data: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    (tmp_path / "net.py").write_text("from helpers.nets import network\n\ndef load():\n    return network().float()\n")
    model, run = f"{tmp_path}/net.py:load", CliRunner()
    common = ["-m", model, "-d", str(data)]
    fitted = [*common, "-o", str(tmp_path / "d"), "--alpha", "0.1", "--evidence", "confidence"]
    done = run.invoke(app, ["fit", *fitted, "--groups", "site", "--confidence", "80%"])
    assert done.exit_code == 0, done.output
    assert "with 80 % confidence (flagged: p <= " in done.output
    told = run.invoke(app, ["info", str(tmp_path / "d")]).output
    assert "by_group" in told
    assert "compared with all" in told
    asked = ["--groups", "--keep", "scanner", "--fdr", "0.2", "--conditional", "class"]
    done = run.invoke(app, ["score", str(tmp_path / "d"), *common, "-o", str(tmp_path / "v.parquet"), *asked])
    assert done.exit_code == 0, done.output
    assert "at a false discovery rate of 0.2" in done.output
    assert pq.read_schema(tmp_path / "v.parquet").names[-2:] == ["scanner", "site"]
    run.invoke(app, ["fit", *fitted])
    done = run.invoke(app, ["score", str(tmp_path / "d"), *common, "-o", str(tmp_path / "w.parquet"), "--groups"])
    assert (done.exit_code, "the detector was not fitted with any" in done.output) == (1, True)
    assert gradgeo.Detector.load(tmp_path / "d", network().float()).confidence is None
