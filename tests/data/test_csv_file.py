"""CSV files: rows of numbers by name, images by file name, and what a broken or hostile file makes of single rows."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from gradgeo.data import limits, open_source
from gradgeo.detector.file import serialization
from gradgeo.errors import ArgumentError, DataError
from helpers.commands import run
from helpers.nets import inputs


def written(folder: Path, text: str | bytes, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.mark.parametrize(("separator", "name"), [(",", "t.csv"), (";", "t.csv"), ("\t", "t.csv"), ("\t", "t.TSV")])
def test_rows_of_numbers_with_labels_and_times(tmp_path: Path, separator: str, name: str) -> None:
    rows = ["label,a,b,when", "cat,1,2.5,2024-05-01", "dog,-1e-1,true,2024-05-02", ",,3,"]
    text = "\ufeff" + "\r\n".join(rows).replace(",", separator) + "\r\n\r\n"
    source = open_source(written(tmp_path, text, name), time="when")
    assert source.columns == ("a", "b")
    assert source.classes == ("cat", "dog")
    items = list(source)
    assert [item.label for item in items] == [0, 1, None]
    assert [str(item.time) for item in items] == ["2024-05-01 00:00:00", "2024-05-02 00:00:00", "None"]
    assert items[0].x is not None
    assert items[0].x.tolist() == [1.0, 2.5]
    assert items[1].x.tolist() == pytest.approx([-0.1, 1.0])
    assert items[2].x.isnan().tolist() == [True, False]
    assert source[1].x.tolist() == items[1].x.tolist()


def test_columns_stand_in_the_order_asked_for_and_a_label_may_have_any_name(tmp_path: Path) -> None:
    spec = written(tmp_path, 'id,b,a,target\n"x, ""1""\n",1,2,3\ny,4,5,6\n')
    source = open_source(spec, columns=["a", "b"], label="target")
    assert [(item.x.tolist(), item.label) for item in source] == [([2, 1], 3), ([5, 4], 6)]
    assert [item.kept for item in open_source(spec, keep=["id"], label="target")] == [('x, "1"',), ("y",)]
    with pytest.raises(DataError, match=r"the columns id of .* hold text.*--columns"):
        open_source(spec)
    with pytest.raises(DataError, match="has no column c; it has id, b, a, target"):
        open_source(spec, columns=["a", "c"])
    with pytest.raises(ArgumentError, match="columns"):
        open_source("digits", columns=["a"])


def test_a_broken_row_is_an_item_with_an_error_and_the_rest_go_on(tmp_path: Path) -> None:
    rows = [b"a,b", b"1,2", b"1,2,3", b"4", b"1,x\xff", b"1_0,2", b'"1"2,2', b"5,6"]
    items = list(open_source(written(tmp_path, b"\n".join(rows))))
    assert [item.error is None for item in items] == [True, False, False, False, False, False, True]
    assert "3 fields, its file 2 columns" in str(items[1].error)
    assert "b is 'x" in str(items[3].error)
    assert items[6].x is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no names"),
        ("1,2\n3,4\n", "no names of columns"),
        ("a,b\n", "no rows"),
        ("a,a\n1,2\n", "several columns called a"),
        ("a,b\n1,hello\n2,world\n", "columns b of .* hold text"),
    ],
)
def test_files_without_names_rows_or_numbers_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_source(written(tmp_path, text))


def test_a_line_without_end_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LARGEST_ITEM", 1000)
    with pytest.raises(DataError, match="a line has 1001 bytes"):
        open_source(written(tmp_path, b"a,b\n" + b"1" * 5000))


def test_names_of_images_are_read_beside_the_file_and_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("sub/one.png", "../outside.png"):
        Image.new("L", (3, 2), 255).save(folder / name)
    rows = ["file,label", "sub/one.png,ok", "missing.png,ok", "../outside.png,bad", f"{tmp_path}/outside.png,bad"]
    source = open_source(written(folder, "\n".join(rows)))
    items = list(source)
    assert source.columns is None
    assert items[0].x is not None
    assert items[0].x.shape == (1, 2, 3)
    assert [item.name for item in items][:2] == ["sub/one.png", "missing.png"]
    assert [item.label for item in items] == [1, 1, 0, 0]
    assert "no such file" in str(items[1].error)
    assert all("not below the folder" in str(item.error) for item in items[2:])


MODEL = """
import torch
from torch import nn

def load():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
"""


def test_a_detector_of_the_command_line_takes_columns_by_name(tmp_path: Path) -> None:
    x, names = inputs(120, shape=(12,)), [f"c{i}" for i in range(12)]
    for file, order in (("held.csv", range(12)), ("turned.csv", range(11, -1, -1))):
        lines = [",".join(repr(row[i].item()) for i in order) for row in x]
        written(tmp_path, "\n".join([",".join(names[i] for i in order), *lines]), file)
    net = ("-m", f"{written(tmp_path, MODEL, 'net.py')}:load")
    detector = tmp_path / "d.gradgeo"
    quick = ("--evidence", "confidence", "--alpha", 0.2)
    assert run("fit", *net, "-d", tmp_path / "held.csv", "-o", detector, *quick)[0] == 0
    assert serialization.read(detector).fitted["columns"] == names
    verdicts = []
    for file in ("held", "turned"):
        out = tmp_path / f"{file}-verdicts.csv"
        assert run("score", detector, *net, "-d", tmp_path / f"{file}.csv", "-o", out)[0] == 0
        verdicts.append(out.read_text())
    assert verdicts[0] == verdicts[1]
    assert verdicts[0].count("\n") == 121
    assert run("explain", detector, *net, "-d", tmp_path / "turned.csv", "-i", 3)[0] == 0
    code, _, err = run("score", detector, *net, "-d", written(tmp_path, "c0,c1\n1,2\n"), "-o", tmp_path / "v.csv")
    assert code != 0
    assert "has no column c2" in err


def test_parquet_has_columns_by_name_as_well(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"b": [1, 2, None], "kind": ["x", "y", "x"], "a": [0.5, 1.5, 2.5], "on": [True, None, False]}
    file = tmp_path / "t.parquet"
    parquet.write_table(arrow.table(columns), file)
    source = open_source(file, columns=["a", "b", "on"], label="kind")
    assert source.columns == ("a", "b", "on")
    nan = float("nan")
    wanted = torch.tensor([[0.5, 1.0, 1.0], [1.5, 2.0, nan], [2.5, nan, 0.0]])
    torch.testing.assert_close(torch.stack([item.x for item in source if item.x is not None]), wanted, equal_nan=True)
    assert [item.label for item in source] == [0, 1, 0]
    assert [item.name for item in source] == ["0", "1", "2"]
    with pytest.raises(DataError, match=r"the columns kind of .*t.parquet hold no numbers. Name those"):
        open_source(file)
    with pytest.raises(DataError, match=r"t.parquet has no column c; it has b, kind, a, on"):
        open_source(file, columns=["c"])
    plain = {name: columns[name] for name in "ba"} | {"label": [3, 4, 5]}
    parquet.write_table(arrow.table(plain), file)
    source = open_source(tmp_path / "*.parquet", keep=["b"])
    assert source.columns == ("a",)
    assert [item.label for item in source] == [3, 4, 5]
    assert open_source(file).columns == ("b", "a")
    with pytest.raises(ArgumentError, match=r"expected columns to be None for data other than .csv, .tsv and .parquet"):
        open_source(f"hf:{file}", columns=["a"])
