import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradgeo.data import arrays, open_source, parquet
from gradgeo.data.arrays import FileRows
from gradgeo.data.files import braces, content_id, expand, files_below
from gradgeo.errors import DataError


def test_braces() -> None:
    assert braces("a") == ["a"]
    assert braces("a-{008..011}") == ["a-008", "a-009", "a-010", "a-011"]
    assert braces("{a,b}/{0..1}.x") == ["a/0.x", "a/1.x", "b/0.x", "b/1.x"]
    assert braces("a{3..1}") == []
    with pytest.raises(DataError, match="too many files"):
        braces("{0..99999999999}")
    with pytest.raises(DataError, match=r"stands for .* files; at most"):
        braces("{0..9999}{0..9999}")


def test_patterns(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "c.txt", "[x].parquet"):
        (tmp_path / name).touch()
    assert [p.name for p in expand(f"{tmp_path}/*.parquet")] == ["[x].parquet", "a.parquet", "b.parquet"]
    assert [p.name for p in expand(f"{tmp_path}/{{b,a}}.parquet")] == ["b.parquet", "a.parquet"]
    assert [p.name for p in expand(f"{tmp_path}/[x].parquet")] == ["[x].parquet"]
    with pytest.raises(DataError, match=r"nothing is called .*/d\.parquet"):
        expand(f"{tmp_path}/{{a,d}}.parquet")
    with pytest.raises(DataError, match="nothing is called"):
        open_source(f"{tmp_path}/*.tar")
    with pytest.raises(
        DataError, match=r"to be all \.parquet or all \.tar, got \[x\]\.parquet, a\.parquet, b\.parquet"
    ):
        open_source(f"{tmp_path}/*")


def test_of_folder(tmp_path: Path) -> None:
    for name in ("b/2.PARQUET", "a/1.parquet", "_gradgeo/3.parquet", ".v.parts/4.parquet", "a/.5.parquet", "6.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = files_below(tmp_path, (".parquet",))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a/1.parquet", "b/2.PARQUET"]
    assert len(files_below(tmp_path, (".parquet",), at_most=1)) == 1


def test_identity_tells_a_change(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("a")
    before = content_id([file])
    assert content_id([file]) == before
    os.utime(file, ns=(0, 0))
    assert content_id([file]) != before


def test_identity_is_of_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that is replaced while it is opened: no part made of the old one is kept for the new one."""
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)))
    pq.write_table(pa.table({"x": [[0.0]]}), tmp_path / "a.parquet")
    files = [tmp_path / f"a.{ending}" for ending in ("npy", "npz", "parquet")]
    before = [open_source(file).content_id for file in files]

    def replaced(read: Callable[..., object]) -> Callable[..., object]:
        def reading(*arguments: object, **options: object) -> object:
            for file in files:
                os.utime(file, ns=(0, 0))
            return read(*arguments, **options)

        return reading

    monkeypatch.setattr(arrays.Header, "read", staticmethod(replaced(arrays.Header.read)))
    monkeypatch.setattr(parquet.Parquet, "_open", replaced(parquet.Parquet._open))
    times = [(file.stat().st_atime_ns, file.stat().st_mtime_ns) for file in files]
    for file, time, taken in zip(files, times, before, strict=True):
        os.utime(file, ns=time)
        assert open_source(file).content_id == taken
        assert file.stat().st_mtime_ns == 0


def test_parquet_files_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(3):
        rows = pa.table({"x": [[float(10 * number + i)] for i in range(4)], "label": ["cat", "dog", "cow", "cat"]})
        pq.write_table(rows, tmp_path / "data" / f"{number}.parquet", row_group_size=3)
    for spec in (str(tmp_path / "data"), f"{tmp_path}/data/*.parquet", f"{tmp_path}/data/{{0..2}}.parquet"):
        source = open_source(spec)
        assert [item.x.item() for item in source] == [10 * n + i for n in range(3) for i in range(4)]
        assert source.classes == ("cat", "cow", "dog")
        assert [item.label for item in source] == [0, 2, 1, 0] * 3
        assert source[2].x.item() == 2  # back to an earlier file
    pq.write_table(pa.table({"x": [["text"]]}), tmp_path / "data" / "3.parquet")
    with pytest.raises(DataError, match=r"expected the column x: list<.*double> in .*3\.parquet as in .*0\.parquet"):
        open_source(tmp_path / "data")
    pq.write_table(pa.table({"y": [[1.0]]}), tmp_path / "data" / "3.parquet")
    with pytest.raises(DataError, match=r"3\.parquet as in .*, got no such column"):
        open_source(tmp_path / "data")


def test_verdicts_beside_images_are_not_the_data(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    pq.write_table(pa.table({"x": [[1.0]]}), tmp_path / "verdicts.parquet")
    assert [item.name for item in open_source(tmp_path)] == ["a.png"]


def test_fixed_shape_tensors(tmp_path: Path) -> None:
    x = np.arange(4 * 2 * 3, dtype=np.float32).reshape(4, 2, 3)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
    pq.write_table(pa.table({"x": tensors}), tmp_path / "a.parquet", row_group_size=3)
    assert [item.x.tolist() for item in open_source(tmp_path / "a.parquet")] == x.tolist()
    turned = pa.FixedShapeTensorArray.from_numpy_ndarray(x.transpose(0, 2, 1))  # kept as it lies, with a permutation
    pq.write_table(pa.table({"x": turned}), tmp_path / "b.parquet")
    assert [item.x.tolist() for item in open_source(tmp_path / "b.parquet")] == x.transpose(0, 2, 1).tolist()
    kind = pa.fixed_shape_tensor(pa.float32(), (2,))
    storage = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"x": pa.ExtensionArray.from_storage(kind, storage)}), tmp_path / "c.parquet")
    good, bad = open_source(tmp_path / "c.parquet")
    assert good.x.tolist() == [1, 2]
    assert "no data in the row" in bad.error


def test_npz_arrays_stay_on_disk(tmp_path: Path) -> None:
    x = np.random.RandomState(0).rand(5, 3, 2)
    for name, array in (("c", x), ("fortran", np.asfortranarray(x)), ("big", x.astype(">f4"))):
        np.savez(tmp_path / f"{name}.npz", y=np.arange(5), x=array)
        source = open_source(tmp_path / f"{name}.npz")
        assert isinstance(source._reader._x, np.ndarray if name == "fortran" else FileRows)
        assert np.allclose([item.x.numpy() for item in source], x)
        assert [item.label for item in source] == list(range(5))
    np.savez_compressed(tmp_path / "packed.npz", x=x)
    source = open_source(tmp_path / "packed.npz")
    assert isinstance(source._reader._x, np.ndarray)
    assert np.allclose([item.x.numpy() for item in source], x)
    data = (tmp_path / "c.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data.replace(b"\x93NUMPY", b"\x93NUMPI"))
    with pytest.raises(DataError, match=r"cannot read .*cut\.npz"):
        open_source(tmp_path / "cut.npz")
