"""Data that the user's code gives, `file.py:function`; texts in .txt, .jsonl and .csv files."""

import textwrap
from pathlib import Path

import pytest
import torch

import gradgeo
from gradgeo.data import open_source
from gradgeo.data.transform import TextPreparation
from gradgeo.errors import ArgumentError, DataError, GradgeoError

CODE = """
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset

class Broken(Dataset):
    classes = ["ok", "defect"]
    def __len__(self): return 4
    def __getitem__(self, i):
        if i == 2: raise OSError("the disk is gone")
        return {"pixel_values": torch.full((1, 2, 2), float(i)), "labels": "defect" if i else "ok"}

def dataset(): return Broken()
def loader(): return DataLoader(Broken(), batch_size=2, shuffle=True)
def collated(): return DataLoader(Broken(), collate_fn=lambda items: items)
def pairs(): return np.ones((3, 5)), [1, 0, 2]
def uneven(): return np.ones((3, 5)), [1, 0]
def other():
    for i in range(3):
        yield {"picture": np.full((2, 2, 3), 255, np.uint8), "kind": np.int64(i)}
def bare(): return [torch.ones(2), np.array([1, 2.5]), np.zeros(2), "text", (torch.ones(2), "label")]
def failing():
    yield torch.ones(2)
    raise ValueError("no more")
def empty(): return []
def table(): import pandas; return pandas.DataFrame({"a": [1]})
def nothing(): return 3
once = iter([torch.ones(2)])
ready = [torch.ones(2), torch.zeros(2)]
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(textwrap.dedent(CODE))
    return tmp_path / "own.py"


@pytest.mark.parametrize("name", ["dataset", "loader"])
def test_a_data_set_of_mappings(code: Path, name: str) -> None:
    source = open_source(f"{code}:{name}")
    assert source.classes == ("ok", "defect")
    items = list(source)
    assert [item.label for item in items] == [0, 1, None, 1]
    assert items[2].error == "OSError: the disk is gone"
    assert torch.equal(items[3].x, torch.full((1, 2, 2), 3.0))
    assert [item.index for item in open_source(f"{code}:{name}", start=1, limit=2)] == [1, 2]


def test_arrays_objects_and_generators(code: Path) -> None:
    pairs = open_source(f"{code}:pairs")
    assert [(item.label, tuple(item.x.shape)) for item in pairs] == [(1, (5,)), (0, (5,)), (2, (5,))]
    assert len(list(open_source(f"{code}:ready"))) == 2
    source = open_source(f"{code}:other", keys=("picture", "kind"))
    for _ in range(2):  # each reading calls the function
        assert [(item.label, tuple(item.x.shape), float(item.x.max())) for item in source] == [
            (i, (3, 2, 2), 1.0) for i in range(3)
        ]
    assert source.count() == 3


def test_a_bad_item_is_an_item_with_an_error(code: Path) -> None:
    errors = [item.error or "" for item in open_source(f"{code}:bare")]
    assert errors[:3] == [""] * 3
    assert "a text, which takes a model that was made by gradgeo.text" in errors[3]
    assert "the number of its class, got 'label'" in errors[4]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("absent", ArgumentError, "expected data to be a function in .*own.py, got 'absent'"),
        ("collated", DataError, "a DataLoader with a collate_fn of its own"),
        ("uneven", DataError, "gives 3 inputs and 2 labels"),
        ("other", ArgumentError, "one with picture, kind'. Name the keys of input and label"),
        ("empty", DataError, "gives no items"),
        ("nothing", DataError, "expected a Dataset, .* got 3"),
        ("once", DataError, "can be read once only. Name a function"),
        ("table", DataError, "gives a table"),
    ],
)
def test_code_that_gives_no_data(code: Path, name: str, error: type[GradgeoError], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(f"{code}:{name}")


def test_keys_that_are_missing_and_code_that_fails(code: Path) -> None:
    with pytest.raises(ArgumentError, match="those of the items, pixel_values, labels, got 'target'"):
        open_source(f"{code}:dataset", keys=("pixel_values", "target"))
    with pytest.raises(ArgumentError, match="expected keys to be empty for data other than"):
        open_source("digits", keys=("x",))
    with pytest.raises(ArgumentError, match=r"expected time to be none for file.py:function"):
        open_source(f"{code}:dataset", time="when")
    with pytest.raises(DataError, match="failed after 1 items: ValueError: no more"):
        list(open_source(f"{code}:failing"))


@pytest.fixture(scope="module")
def of_text() -> TextPreparation:
    bag = torch.nn.Sequential(torch.nn.EmbeddingBag(100, 4), torch.nn.Linear(4, 3))
    return TextPreparation(gradgeo.text(bag, lambda text: [ord(c) % 100 for c in text], max_length=8))  # type: ignore[arg-type]


def test_texts_in_files(tmp_path: Path, of_text: TextPreparation) -> None:
    (tmp_path / "a.txt").write_text("good\n\nbad day\n")
    (tmp_path / "a.jsonl").write_text(
        '{"text": "good", "label": "b", "n": 1}\n[]\n\n{"sentence": "bad", "label": "a"}\n{"x": 3}'
    )
    (tmp_path / "a.csv").write_text('id,review,label\n1,good,b\n2,,a\n3,"bad, day",a\n')
    lines = list(open_source(tmp_path / "a.txt", preprocess=of_text))
    assert [(item.name, item.error) for item in lines] == [("good", None), ("1", "no text"), ("bad day", None)]
    assert lines[0].x.shape == (8, 5)
    json = list(open_source(tmp_path / "a.jsonl", preprocess=of_text, keep=("n",)))
    assert [item.label for item in json] == [1, None, 0, None]
    assert [item.error is None for item in json] == [True, False, True, False]
    assert json[0].kept == ("1",)
    source = open_source(tmp_path / "a.csv", preprocess=of_text, keep=("id",))
    assert [(item.name, item.label, item.error) for item in source] == [
        ("good", 1, None), ("1", 0, "no text"), ("bad, day", 0, None),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"expected one column of texts in .*, got none"):
        open_source(tmp_path / "a.csv", preprocess=of_text, columns=["id"])
    with pytest.raises(DataError, match="is plain text, without keys"):
        open_source(tmp_path / "a.txt", preprocess=of_text, keep=("n",))
    with pytest.raises(DataError, match=r"holds texts, which take a model made by gradgeo.text"):
        open_source(tmp_path / "a.txt")


def test_a_table_of_file_names_with_labels_and_columns_to_keep(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image").new("L", (4, 4), 255)
    image.save(tmp_path / "a.png")
    (tmp_path / "a.tsv").write_text("file\tlabel\tsite\na.png\tok\tnorth\nb.png\tdefect\tsouth\n../c.png\tok\t\n")
    items = list(open_source(tmp_path / "a.tsv", keep=("site",)))
    assert [(item.name, item.label, item.kept) for item in items] == [
        ("a.png", 1, ("north",)), ("b.png", 0, ("south",)), ("../c.png", 1, (None,)),
    ]  # fmt: skip
    assert [item.error for item in items] == [None, "no such file", "the file is not below the folder of a.tsv"]


def test_texts_in_parquet_and_hugging_face_data(
    tmp_path: Path, of_text: TextPreparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"id": ["x", "y", "z"], "text": ["good", None, "bad day"], "label": [1, 0, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    for spec in (str(tmp_path / "a.parquet"), f"hf:{tmp_path / 'a.parquet'}"):
        items = list(open_source(spec, preprocess=of_text, keep=("id",)))
        assert [(item.label, item.kept, item.x is None) for item in items] == [
            (1, ("x",), False), (0, ("y",), True), (2, ("z",), False),
        ]  # fmt: skip
        assert items[2].name == "bad day"
        assert torch.equal(items[0].x, of_text("good"))
