import csv
import os
import threading
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from gradgeo.data import Preprocess, open_source
from gradgeo.detector.detector import Detector
from gradgeo.errors import ArgumentError, DataError, GradgeoWarning, ModelError, NotFittedError
from gradgeo.scoring import COLUMNS, check_out, score
from gradgeo.scoring.reader import Scores
from gradgeo.scoring.schema import SCHEMA
from helpers.nets import inputs, network


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Of a small classifier of 4 x 4 grey images."""
    return Detector(network(inputs=16, width=12).eval()).fit(inputs(300, shape=(1, 4, 4)))


def image(value: int, size: int = 4) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.random.RandomState(value).randint(0, 255, (size, size), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def thousand(tmp_path: Path) -> Path:
    """1,000 tiny images, of which one is cut short and one is larger."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(1000):
        (folder / f"{i:03}.png").write_bytes(image(i))
    (folder / "500.png").write_bytes(image(500)[:40])
    (folder / "700.png").write_bytes(image(700, size=5))
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.journey
def test_one_unreadable_image_among_many(detector: Detector, thousand: Path, tmp_path: Path) -> None:
    done: list[int] = []
    out = tmp_path / "out.parquet"
    with pytest.warns(GradgeoWarning, match=r"2 of 1000 inputs have no verdict; .* The first: 500\.png: "):
        summary = score(detector, open_source(thousand), out, batch_size=128, workers=2, progress=done.append)
    assert (summary.rows, summary.scored) == (1000, 998)
    assert summary.labelled == 0
    assert sum(done) == 1000
    rows = pq.read_table(out).to_pylist()
    assert [row["index"] for row in rows] == list(range(1000))
    assert [row["name"] for row in rows] == [f"{i:03}.png" for i in range(1000)]
    assert list(rows[0]) == [name for name in COLUMNS if name not in ("true_label", "time")]
    assert [row["index"] for row in rows if row["error"] is not None] == [500, 700]
    assert rows[700]["error"] == "expected shape (1, 4, 4), got (1, 5, 5)"
    assert rows[500] | {"error": None} == dict.fromkeys(rows[0]) | {
        "index": 500, "name": "500.png", "trusted": False
    }  # fmt: skip
    x = torch.stack([item.x for item in open_source(thousand, limit=300)])
    found = detector.predict(x)
    assert [row["label"] for row in rows[:300]] == found.label.tolist()
    assert [row["trusted"] for row in rows[:300]] == found.trusted.tolist()
    for name in ("probability", "outlier_score", "p_value"):
        assert [row[name] for row in rows[:300]] == pytest.approx(getattr(found, name).tolist(), rel=1e-4)
    assert summary.trusted == sum(row["trusted"] for row in rows)


def test_csv_and_parquet_say_the_same(detector: Detector, tmp_path: Path) -> None:
    x = np.random.RandomState(0).rand(20, 1, 4, 4)
    x[3] = np.nan
    x[4, 0, 0, 0] = np.inf
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(20) % 4)
    for name in ("out.csv", "out.parquet"):
        with pytest.warns(GradgeoWarning, match=r"2 of 20 inputs have no verdict; .*3: NaN or infinite values"):
            summary = score(detector, open_source(tmp_path / "a.npz"), tmp_path / name, batch_size=7)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names == [name for name in COLUMNS if name != "time"]
    assert [str(kind) for kind in table.schema.types] == [
        *("int64", "string", "int64", "double", "double", "double", "bool", "string", "int64", "string"),
        *("list<element: float>", "binary", *["list<element: float>"] * 2, "list<element: int32>", "binary"),
    ]
    rows = table.to_pylist()
    text = {None: "", True: "true", False: "false"}
    assert read_csv(tmp_path / "out.csv") == [
        {key: text[v] if v is None or isinstance(v, bool) else str(v) for key, v in row.items() if SCHEMA[key].scalar}
        for row in rows
    ]
    judged = [row for row in rows if row["error"] is None]
    assert summary.labelled == len(judged) == 18
    assert summary.correct == sum(row["label"] == row["true_label"] for row in judged)
    assert summary.trusted_labelled == sum(row["trusted"] for row in judged)
    assert summary.trusted_correct == sum(row["trusted"] and row["label"] == row["true_label"] for row in judged)


def test_csv_has_no_formulas(detector: Detector, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    formulas = ("=HYPERLINK(A1).png", "@SUM(1).png", "+1+1.png", "-2+3.png", "\uff1d1.png", "'=1.png")
    plain = ("'quoted'.png", "a=b.png")
    for name in (*formulas, *plain):
        (folder / name).write_bytes(image(0))
    (folder / "-2+3.png").write_bytes(image(0)[:40])
    for name in ("v.csv", "v.parquet"):
        with pytest.warns(GradgeoWarning, match=r"The first: -2\+3\.png: "):
            score(detector, open_source(folder), tmp_path / name)
    names = [row["name"] for row in read_csv(tmp_path / "v.csv")]
    assert set(names) == {*(f"'{name}" for name in formulas), *plain}
    assert {row["name"] for row in pq.read_table(tmp_path / "v.parquet").to_pylist()} == {*formulas, *plain}
    taken = [Scores(tmp_path / name).take(np.arange(8)) for name in ("v.csv", "v.parquet")]
    assert [row["name"] for row in taken[0]] == [row["name"] for row in taken[1]]
    numbers = [row["outlier_score"] for row in read_csv(tmp_path / "v.csv") if row["outlier_score"]]
    assert all(np.isfinite(float(number)) for number in numbers)


def test_rows_continue_over_parts(detector: Detector, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.RandomState(0).rand(50, 1, 4, 4))
    source = open_source(tmp_path / "a.npy", start=5)
    score(detector, source, tmp_path / "out.parquet", batch_size=6, part_size=16)
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [16, 16, 13]
    assert file.read()["index"].to_pylist() == list(range(5, 50))
    score(detector, source, tmp_path / "out", batch_size=6, part_size=16)
    parts = [f"part-0000{i}.parquet" for i in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_gradgeo.json", *parts]
    assert pq.read_table(tmp_path / "out").equals(file.read())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "out", "out.parquet"]


def test_preprocessing_makes_other_inputs_fit(detector: Detector, thousand: Path, tmp_path: Path) -> None:
    source = open_source(thousand, preprocess=Preprocess(size=(4, 4)), start=690, limit=20)
    assert score(detector, source, tmp_path / "out.csv").scored == 20


def test_logits_that_overflow_have_no_verdict(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    nn.init.uniform_(model.weight, -20, 20)
    detector = Detector(model).fit(torch.randn(300, 6))
    np.save(tmp_path / "a.npy", np.stack([np.ones(6), np.full(6, 3e38)]))
    with pytest.warns(GradgeoWarning, match="1 of 2 inputs have no verdict; .*1: NaN or infinite logits"):
        score(detector, open_source(tmp_path / "a.npy"), tmp_path / "out.csv")
    good, bad = read_csv(tmp_path / "out.csv")
    assert good["error"] == ""
    assert [bad[name] for name in ("label", "p_value", "trusted")] == ["", "", "false"]


# Where things go wrong


class Failing:
    """A detector that does `act` in its second batch, or another."""

    def __init__(self, detector: Detector, act: BaseException, at: int = 2) -> None:
        self.detector, self.act, self.calls, self.at = detector, act, 0, at

    def __getattr__(self, name: str) -> object:
        return getattr(self.detector, name)

    def judge(self, x: torch.Tensor, *, explain: bool) -> object:
        self.calls += 1
        if self.calls == self.at:
            raise self.act
        return self.detector.judge(x, explain=explain)


@pytest.mark.grid
@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(
    "act",
    [KeyboardInterrupt("by hand"), ModelError("out of memory"), OSError(28, "no space")],
    ids=lambda act: type(act).__name__,
)
def test_an_interrupted_run_leaves_what_was_there(
    detector: Detector, thousand: Path, tmp_path: Path, act: BaseException, ending: str
) -> None:
    out = tmp_path / f"out.{ending}"
    out.write_text("before")
    failing, before = Failing(detector, act), set(threading.enumerate())
    with pytest.raises(type(act), match=str(act.args[-1])):
        score(failing, open_source(thousand, limit=30), out, batch_size=10)
    assert failing.calls == 2
    assert set(threading.enumerate()) <= before
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", out.name]


def test_out_is_checked_before_any_work(detector: Detector, thousand: Path, tmp_path: Path) -> None:
    never = Failing(detector, AssertionError("work was done"))
    never.calls = 1
    source = open_source(thousand, limit=3)
    (tmp_path / "out.txt").touch()
    with pytest.raises(ArgumentError, match=r"score: expected out to be a folder, or a file ending in \.parquet or"):
        score(never, source, tmp_path / "out.txt")
    with pytest.raises(DataError, match=r"the folder holds other files\. Name a new or an empty one"):
        score(never, source, thousand)
    with pytest.raises(DataError, match=r"cannot write .*nowhere/out\.csv: No such file or directory"):
        score(never, source, tmp_path / "nowhere" / "out.csv")
    with pytest.raises(DataError, match=r"cannot write .*nowhere/out: No such file or directory"):
        score(never, source, tmp_path / "nowhere" / "out")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="not a regular file"):
        score(never, source, tmp_path / "folder.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="not a regular file"):
        score(never, source, tmp_path / "pipe.csv")
    with pytest.raises(ArgumentError, match="expected part_size to be 1 or more"):
        score(never, source, tmp_path / "out.csv", part_size=0)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folders_and_files_without_permission(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir(0o500)
    tmp_path.chmod(0o500)
    for name in ("out.csv", "out", "parts"):
        with pytest.raises(DataError, match="Permission denied"):
            check_out(tmp_path / name)
    tmp_path.chmod(0o700)
    (tmp_path / "out.csv").touch(0o400)
    with pytest.raises(DataError, match="read-only"):
        check_out(tmp_path / "out.csv")


def test_out_may_not_be_the_data(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [[[[0.0] * 4] * 4]]}), path)
    before = path.read_bytes()
    with pytest.raises(ArgumentError, match="another file than the data"):
        score(detector, open_source(path), tmp_path / "." / "a.parquet")
    assert path.read_bytes() == before


def test_before_fit(tmp_path: Path, thousand: Path) -> None:
    with pytest.raises(NotFittedError, match="score: the detector is not fitted"):
        score(Detector(nn.Linear(3, 3)), open_source(thousand), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_warnings_of_many_batches_are_given_once(detector: Detector, thousand: Path, tmp_path: Path) -> None:
    class Odd(Failing):
        def judge(self, x: torch.Tensor, *, explain: bool) -> object:
            warnings.warn(f"{len(x)} inputs are odd", GradgeoWarning, stacklevel=2)
            return detector.judge(x, explain=explain)

    with pytest.warns(GradgeoWarning) as caught:
        score(Odd(detector, KeyError()), open_source(thousand, limit=25), tmp_path / "out.csv", batch_size=10)
    assert [str(w.message) for w in caught] == ["10 inputs are odd"]


def test_labels_are_matched_by_class_name(tmp_path: Path) -> None:
    """Folders 3 and 7 alone are classes 3 and 7 of the model, not 0 and 1."""
    from PIL import Image

    from gradgeo.data import open_source

    for name in ("3", "7", "other"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "a.png")
    source = open_source(tmp_path, class_order=tuple("0123456789"))
    assert [source[i].label for i in range(3)] == [3, 7, None]
    assert [open_source(tmp_path)[i].label for i in range(3)] == [0, 1, 2]
