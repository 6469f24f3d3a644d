import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gradgeo.data import Indexed, Preprocess, ReadableItems, digits, limits, open_source
from gradgeo.data.images import decode
from gradgeo.data.labels import encode_labels
from gradgeo.data.limits import MOST_PIXELS
from gradgeo.errors import ArgumentError, DataError


def png(array: np.ndarray, form: str = "PNG") -> bytes:
    stream = BytesIO()
    Image.fromarray(array).save(stream, form)
    return stream.getvalue()


def grey(value: int, size: int = 4) -> np.ndarray:
    return np.full((size, size), value, np.uint8)


def hf_parquet(path: Path, images: list[dict | None], labels: list[int] | None = None, **options: int) -> Path:
    columns = {"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if labels is not None:
        columns["label"] = pa.array(labels)
    names = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, path, **options)
    return path


# Images


def test_folder_of_classes_labels_in_sorted_order(tmp_path: Path) -> None:
    for name in ("dog", "cat", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "dog" / "b.png").write_bytes(png(grey(51)))
    (tmp_path / "cat" / "z.JPG").write_bytes(png(grey(0), "JPEG"))
    (tmp_path / "cat" / "deep").mkdir()
    (tmp_path / "cat" / "deep" / "a.png").write_bytes(png(grey(255)))
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    source = open_source(tmp_path)
    assert [(i.index, i.name, i.label, i.error) for i in source] == [
        (0, "cat/z.JPG", 0, None),
        (1, "cat/deep/a.png", 0, None),
        (2, "dog/b.png", 1, None),
    ]
    assert source.classes == ("cat", "dog", "empty")
    assert source.labelled
    x = source[2].x
    assert x is not None
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.full((1, 4, 4), 0.2))


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(png(grey(0)))
    (tmp_path / "thumbs").mkdir()
    source = open_source(tmp_path)
    assert not source.labelled
    assert source.classes == ()
    assert [(i.name, i.label) for i in source] == [("a.png", None), ("b.png", None)]


def test_single_image(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png(np.zeros((2, 3, 3), np.uint8)))
    [item] = open_source(tmp_path / "cat.png")
    assert item.name == "cat.png"
    assert item.x is not None
    assert item.x.shape == (3, 2, 3)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3), ("I;16", 1)],
)
def test_modes(mode: str, channels: int) -> None:
    image = Image.new(mode, (5, 4))
    stream = BytesIO()
    image.save(stream, "TIFF")
    x = decode(stream.getvalue())
    assert x.shape == (channels, 4, 5)
    assert x.dtype == torch.float32
    assert 0 <= x.min() <= x.max() <= 1


def test_sixteen_bit_grey_keeps_its_depth() -> None:
    x = decode(png(np.array([[0, 300], [30000, 65535]], np.uint16)))
    assert torch.allclose(x[0], torch.tensor([[0, 300], [30000, 65535]]) / 65535)


def test_rgb_is_channels_first() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert torch.equal(decode(png(pixels)), torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def bomb() -> bytes:
    stream = BytesIO()
    Image.new("1", (MOST_PIXELS // 4096, 4097)).save(stream, "PNG")
    return stream.getvalue()


def huge_claim() -> bytes:
    """A PNG whose header alone claims 60,000 x 60,000 pixels."""

    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR" + header) + chunk(b"IDAT" + zlib.compress(b"0"))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "empty"),
        (b"GIF89a not really", "not an image|unreadable"),
        (b"plain text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (
            png(np.random.RandomState(0).randint(0, 255, (64, 64), np.uint8))[:-200],
            "unreadable image|truncated",
        ),
        (bomb(), "too many"),
        (huge_claim(), "too many pixels"),
    ],
    ids=["empty", "broken gif", "text", "eps", "truncated", "bomb", "claimed bomb"],
)
def test_unreadable_image_is_an_item(tmp_path: Path, data: bytes, error: str) -> None:
    (tmp_path / "a.png").write_bytes(png(grey(1)))
    (tmp_path / "b.png").write_bytes(data)
    good, bad = open_source(tmp_path)
    assert good.error is None
    assert bad.x is None
    assert bad.error is not None
    assert re.search(error, bad.error)
    assert "0x" not in bad.error  # no memory addresses: the same run gives the same file


def test_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    [item] = open_source(tmp_path)
    assert item.error == "not a regular file"


def test_names_cannot_break_lines_or_speak_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[31mred.png").write_bytes(png(grey(1)))
    [item] = open_source(tmp_path)
    assert item.name == "a\\n\\x1b[31mred.png"


# Parquet


def test_parquet_in_the_hugging_face_layout(tmp_path: Path) -> None:
    rows = [{"bytes": png(grey(i)), "path": f"{i}.png"} for i in range(10)]
    source = open_source(hf_parquet(tmp_path / "a.parquet", rows, [0, 1] * 5, row_group_size=3))
    assert len(source) == 10
    assert source.classes == ("cat", "dog")
    assert [item.name for item in source] == [f"{i}.png" for i in range(10)]
    assert [item.label for item in source] == [0, 1] * 5
    assert [round(float(item.x[0, 0, 0] * 255)) for item in source] == list(range(10))
    assert source[7].name == "7.png"  # back to an earlier row group


def test_parquet_row_groups_are_read_once_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"bytes": png(grey(i)), "path": None} for i in range(12)]
    source = open_source(hf_parquet(tmp_path / "a.parquet", rows, row_group_size=2))
    reads: list[int] = []
    whole = pq.ParquetFile.iter_batches

    def iter_batches(self: pq.ParquetFile, **options: object) -> object:
        reads.extend(options["row_groups"])
        return whole(self, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    assert [item.name for item in source] == [str(i) for i in range(12)]
    assert source[0].error is None
    assert reads == list(range(6))  # they are small, and kept
    monkeypatch.setattr(limits, "CACHED_ROWS", 0)
    source = open_source(tmp_path / "a.parquet")
    reads.clear()
    assert [source[i].name for i in (0, 1, 11, 0)] == ["0", "1", "11", "0"]
    assert reads == [0, 5, 0]


def test_parquet_paths_are_only_names(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(grey(9)))
    rows = [
        {"bytes": png(grey(1)), "path": "../../etc/passwd\x1b[2J"},
        {"bytes": None, "path": str(secret)},
        None,
        {"bytes": b"", "path": None},
        {"bytes": b"junk", "path": "e.png"},
    ]
    items = list(open_source(hf_parquet(tmp_path / "a.parquet", rows)))
    assert items[0].name == "../../etc/passwd\\x1b[2J"
    assert items[0].error is None
    assert [item.x is None for item in items] == [False, True, True, True, True]
    assert "not read" in items[1].error
    assert items[2].name == "2"


def test_parquet_text_labels_binary_images_and_missing_labels(tmp_path: Path) -> None:
    table = pa.table({"picture": [png(grey(0))] * 3, "label": ["dog", None, "cat"]})
    pq.write_table(table, tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet")
    assert [item.label for item in source] == [1, None, 0]
    assert source.classes == ("cat", "dog")
    pq.write_table(pa.table({"x": [[0.0]] * 2, "y": [3, None]}), tmp_path / "b.parquet")
    assert [item.label for item in open_source(tmp_path / "b.parquet")] == [3, None]
    pq.write_table(pa.table({"x": [[0.0]] * 2, "y": pa.array(["b", "a"]).dictionary_encode()}), tmp_path / "c.parquet")
    assert [item.label for item in open_source(tmp_path / "c.parquet")] == [1, 0]


@pytest.mark.parametrize(
    ("kind", "value", "shape"),
    [
        (pa.list_(pa.float64()), [1.0, 2.0, 3.0], (3,)),
        (pa.large_list(pa.float32()), [1.0, 2.0], (2,)),
        (pa.list_(pa.int16(), 2), [1, 2], (2,)),
        (pa.list_(pa.list_(pa.float32())), [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], (2, 3)),
        (pa.list_(pa.list_(pa.float32(), 2), 2), [[1.0, 2.0], [3.0, 4.0]], (2, 2)),
    ],
)
def test_parquet_lists_of_numbers(tmp_path: Path, kind: pa.DataType, value: list, shape: tuple[int, ...]) -> None:
    column = pa.array([value, value[::-1]], kind)
    pq.write_table(pa.table({"id": [1, 2], "series": column}), tmp_path / "a.parquet")
    first, second = open_source(tmp_path / "a.parquet")
    assert torch.equal(first.x, torch.tensor(value, dtype=torch.float32))
    assert torch.equal(second.x, torch.tensor(value[::-1], dtype=torch.float32))
    assert first.x.shape == shape


def test_parquet_ragged_rows_are_items(tmp_path: Path) -> None:
    rows = pa.array([[[1.0], [2.0]], [[1.0], [2.0, 3.0]], None, [[1.0], None]])
    pq.write_table(pa.table({"x": rows}), tmp_path / "a.parquet")
    items = list(open_source(tmp_path / "a.parquet"))
    assert [item.x is None for item in items] == [False, True, True, True]
    assert "different lengths" in items[1].error


def test_parquet_damaged_row_group_loses_its_rows_only(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    rows = [{"bytes": png(random.randint(0, 255, (32, 32), np.uint8)), "path": None} for _ in range(8)]
    path = hf_parquet(tmp_path / "a.parquet", rows, row_group_size=4)
    place = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 60] = b"\xff" * 60
    path.write_bytes(data)
    errors = [item.error for item in open_source(path)]
    assert errors[:4] == [None] * 4
    assert None not in errors[4:]


def test_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"not at all")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        open_source(tmp_path / "a.parquet")
    whole = hf_parquet(tmp_path / "b.parquet", [{"bytes": b"", "path": None}]).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"b\.parquet cannot be read as Parquet"):
        open_source(tmp_path / "b.parquet")


def test_parquet_without_inputs(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["text"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"the columns b of .* hold no numbers"):
        open_source(tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": pa.array([], pa.list_(pa.float32()))}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="has no rows"):
        open_source(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    "metadata", [b"", b"{", b"[]", b'{"info": 1}', b"[" * 100_000, b'{"info": {"features": null}}']
)
def test_parquet_with_broken_metadata_has_no_class_names(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"x": [[1.0]], "label": [0]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet").classes == ()


# Arrays


def test_npz(tmp_path: Path) -> None:
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.array([1.0, 0.0]), other=np.array([{}]))
    source = open_source(tmp_path / "a.npz")
    assert [item.label for item in source] == [1, 0]
    assert torch.equal(source[1].x, torch.from_numpy(images[1]).permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (np.zeros((4, 5), np.uint8), (1, 4, 5)),
        (np.zeros((3, 4, 5), np.uint8), (3, 4, 5)),
        (np.zeros((4, 5, 1), np.uint8), (1, 4, 5)),
        (np.zeros((4, 5, 3)), (4, 5, 3)),
        (np.zeros((7,), ">f4"), (7,)),
        (np.zeros((7,), bool), (7,)),
    ],
)
def test_npy_rows(tmp_path: Path, row: np.ndarray, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.stack([row, row]))
    source = open_source(tmp_path / "a.npy")
    assert not source.labelled
    assert [item.name for item in source] == ["0", "1"]
    assert source[0].x.shape == shape
    assert source[0].x.dtype == torch.float32


def test_numbers_beyond_float32_become_infinite(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1e300, -1e300]]))
    assert open_source(tmp_path / "a.npy")[0].x.tolist() == [float("inf"), float("-inf")]


class Harm:
    """Unpickling this would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_pickles_are_refused(tmp_path: Path) -> None:
    harm = np.array([Harm(tmp_path / "harmed")] * 2, dtype=object)
    np.savez(tmp_path / "a.npz", x=harm)
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3)), y=harm)
    np.save(tmp_path / "c.npy", harm)
    for name in ("a.npz", "b.npz", "c.npy"):
        with pytest.raises(DataError, match="pickles and execute code"):
            open_source(tmp_path / name)
    (tmp_path / "d.npz").write_bytes(pickle.dumps(harm))
    with pytest.raises(DataError, match=r"is not an \.npz file"):
        open_source(tmp_path / "d.npz")
    (tmp_path / "e.npy").write_bytes(pickle.dumps(harm))
    with pytest.raises(DataError, match=r"cannot read .*e\.npy"):
        open_source(tmp_path / "e.npy")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((2, 2)), "b": np.zeros(1)}, "named x or images or data in .*, got a, b"),
        ({"x": np.zeros(3)}, r"numbers of shape \(N, \*input\)"),
        ({"x": np.zeros((0, 3))}, r"numbers of shape \(N, \*input\)"),
        ({"x": np.array([["a"]])}, "got an array of shape"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(3, int)}, "one label per input in a.npz, got 3 for 2"),
        ({"x": np.zeros((2, 2)), "y": np.array([0.5, 1])}, "one integer or text per item"),
        ({"x": np.zeros((2, 2)), "y": np.array([np.inf, 1])}, "one integer or text per item"),
        ({"x": np.zeros((2, 2)), "y": np.zeros((2, 10))}, "one integer or text per item"),
    ],
)
def test_npz_of_another_layout(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "a.npz")


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.RandomState(0).rand(50, 50))
    data = bytearray(path.read_bytes())
    data[200:400] = b"\0" * 200
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot read .*a\.npz"):
        open_source(path)


def test_npz_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradgeo.data.limits.LARGEST_ARRAY", 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 10)))
    with pytest.raises(DataError, match=r"more than 1000\. Save it uncompressed or as \.npy"):
        open_source(tmp_path / "a.npz")


def test_npz_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(DataError, match=r"cannot read .*a\.npz"):
        open_source(tmp_path / "a.npz")
    (tmp_path / "b.npy").write_bytes(header.getvalue())
    with pytest.raises(DataError, match=r"cannot read .*b\.npy"):
        open_source(tmp_path / "b.npy")


def test_encode_labels() -> None:
    assert encode_labels(np.array([2, -1]), "f") == ([2, -1], ())
    assert encode_labels(np.array([True, False]), "f") == ([1, 0], ())
    assert encode_labels(np.array([1.0, np.nan]), "f") == ([1, None], ())
    assert encode_labels(np.array(["b", "a", "b"]), "f") == ([1, 0, 1], ("a", "b"))


# UCR


def ucr(root: Path, train: str, test: str) -> Path:
    (root / "Beats").mkdir(parents=True)
    (root / "Beats" / "Beats_TRAIN.tsv").write_text(train)
    (root / "Beats" / "Beats_TEST.tsv").write_text(test)
    return root


def test_ucr_labels_follow_the_sorted_labels_of_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = ucr(tmp_path, "3\t1\t2\n-1\t3\t4\n10\t5\t6\n", "10\t7\t8\n5\t9\t9\n")
    train = open_source("ucr:Beats/train", data_root=root)
    assert [item.label for item in train] == [1, 0, 2]
    assert train.classes == ("-1", "3", "10")
    assert train[0].x.tolist() == [[1.0, 2.0]]
    monkeypatch.setenv("UCR_DATA_HOME", str(root))
    test = open_source("ucr:Beats/test")
    assert [(item.name, item.label) for item in test] == [("Beats_TEST.tsv:0", 2), ("Beats_TEST.tsv:1", None)]
    assert [item.label for item in open_source("ucr:Beats")] == [1, 0, 2, 2, None]


def test_ucr_broken_lines_are_items(tmp_path: Path) -> None:
    root = ucr(tmp_path, "1\t1\t2\n1\tone\t2\nx\t1\t2\n1\tNaN\t1\n\n", "1\t1\t1\n")
    items = list(open_source("ucr:Beats/train", data_root=root))
    assert [item.error is None for item in items] == [True, False, True, True]
    assert "could not convert" in items[1].error
    assert items[2].label is None
    assert items[3].x.isnan().any()


def test_ucr_missing_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UCR_DATA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "aeon", None)
    monkeypatch.setitem(sys.modules, "aeon.datasets", None)
    with pytest.raises(DataError, match=r"neither --data-root nor \$UCR_DATA_HOME is set.*'\.\[ucr\]'"):
        open_source("ucr:Beats")
    with pytest.raises(DataError, match=r"looked in .*Beats for Beats_TRAIN\.tsv"):
        open_source("ucr:Beats", data_root=tmp_path)


@pytest.mark.parametrize("spec", ["ucr:", "ucr:../x", "ucr:Beats/valid", "ucr:a b"])
def test_ucr_names(spec: str) -> None:
    with pytest.raises(DataError, match="expected ucr:NAME"):
        open_source(spec)


def test_ucr_from_aeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {
        "train": (np.ones((2, 1, 3)), np.array(["2", "-1"])),
        "test": (np.zeros((1, 1, 3)), np.array(["2"])),
    }
    aeon = ModuleType("aeon.datasets")
    aeon.load_classification = lambda name, split: parts[split]
    monkeypatch.setitem(sys.modules, "aeon", SimpleNamespace(datasets=aeon))
    monkeypatch.setitem(sys.modules, "aeon.datasets", aeon)
    source = open_source("ucr:Beats", data_root=tmp_path)
    assert [(item.x.shape, item.label) for item in source] == [((1, 3), 1), ((1, 3), 0), ((1, 3), 1)]
    aeon.load_classification = lambda name, split: 1 / 0
    with pytest.raises(DataError, match="aeon says ZeroDivisionError"):
        open_source("ucr:Beats")


@pytest.mark.witness
@pytest.mark.data
def test_shared_data(gradgeo_data: Path) -> None:
    ecg = open_source("ucr:ECG5000/test", data_root=gradgeo_data / "data" / "UCR")
    assert len(ecg) == 4500
    assert ecg[0].x.shape == (1, 140)
    assert {item.label for item in (ecg[0], ecg[4499])} <= set(range(5))
    assert ecg.classes == ("1", "2", "3", "4", "5")
    cifar = open_source(gradgeo_data / "data" / "cifar10-test.parquet", start=9_990)
    assert len(cifar) == 10
    assert cifar.classes[3] == "cat"
    assert all(item.error is None and item.x.shape == (3, 32, 32) for item in cifar)


# Digits


def test_digits_split_is_fixed_and_disjoint() -> None:
    parts = digits.split()
    assert {name: len(x) for name, (x, _) in parts.items()} == {"train": 700, "fit": 700, "test": 397}
    assert {name: y[:5].tolist() for name, (_, y) in parts.items()} == PINNED
    x = torch.cat([x for x, _ in parts.values()])
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (0, 1)
    whole = torch.stack([item.x for item in open_source("digits")])
    assert torch.equal(x.flatten(1).sum(1).sort().values, whole.flatten(1).sum(1).sort().values)


PINNED = {"train": [2, 8, 2, 6, 6], "fit": [6, 5, 8, 5, 0], "test": [0, 4, 2, 7, 7]}


def test_digits_parts() -> None:
    x, y = digits.split()["test"]
    source = open_source("digits/test")
    assert len(source) == 397
    assert torch.equal(source[3].x, x[3])
    assert source[3].label == y[3]
    assert source.classes == tuple("0123456789")
    with pytest.raises(DataError, match="expected digits, digits/train or"):
        open_source("digits/valid")


# The parts common to all kinds


def test_start_and_limit(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(10.0)[:, None])
    part = open_source(tmp_path / "a.npy", start=3, limit=4)
    assert [(item.index, item.x.item()) for item in part] == [(i, i) for i in range(3, 7)]
    assert len(open_source(tmp_path / "a.npy", start=8, limit=100)) == 2
    for start, limit, message in [
        (10, None, "start to be below .* 10"),
        (-1, None, "start"),
        (0, 0, "limit"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            open_source(tmp_path / "a.npy", start=start, limit=limit)
    with pytest.raises(IndexError, match=r"4 is not in 0\.\.3"):
        part[4]


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_keep_the_order(tmp_path: Path, workers: int) -> None:
    np.save(tmp_path / "a.npy", np.arange(50.0)[:, None])
    batches = list(open_source(tmp_path / "a.npy").batches(8, workers=workers))
    assert [len(batch) for batch in batches] == [8] * 6 + [2]
    assert [item.index for batch in batches for item in batch] == list(range(50))


def test_batches_are_not_read_far_ahead(tmp_path: Path) -> None:
    read: list[int] = []

    class Counting:
        classes = ()
        labels = times = None
        content_id = "counting"

        def __len__(self) -> int:
            return 1000

        def name(self, index: int) -> str:
            return str(index)

        def load(self, index: int) -> torch.Tensor:
            read.append(index)
            return torch.zeros(1)

    batches = Indexed(Counting(), "counting", preprocess=Preprocess()).batches(10)
    next(batches)
    batches.close()
    assert len(read) <= 40


def test_missing_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not here: looked at .*nowhere\. Data can be"):
        open_source("nowhere")
    (tmp_path / "a.xyz").touch()
    with pytest.raises(DataError, match="of no kind that can be read"):
        open_source(tmp_path / "a.xyz")
    with pytest.raises(DataError, match=r"no images in .*looked there and in 0 sub-folders"):
        open_source(tmp_path)


def test_readable_items_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"{i}.png").write_bytes(png(grey(i)))
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(png(grey(4, size=9)))
    done: list[int] = []
    items = ReadableItems(open_source(tmp_path), batch_size=3, progress=done.append)
    state = torch.random.get_rng_state()
    for _ in range(2):  # a detector may pass over its data more than once
        x = torch.cat(list(items.loader()))
        assert (x[:, 0, 0, 0] * 255).round().tolist() == [1, 2, 3, 5, 6]
        assert [item.name for item in items.skipped] == ["0.png", "4.png"]
    assert done == [3, 3, 1] * 2
    assert torch.equal(state, torch.random.get_rng_state())


def test_readable_items_labels(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [[0.0]] * 3, "y": [3, None, 1]}), tmp_path / "a.parquet")
    items = ReadableItems(open_source(tmp_path / "a.parquet"))
    [(x, y)] = items.loader()
    assert x.shape == (2, 1)
    assert y.tolist() == [3, 1]
    assert [(item.index, item.error) for item in items.skipped] == [(1, "no label")]


def test_readable_items_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 1 items of .* can be read; the first: empty"):
        list(ReadableItems(open_source(tmp_path)))


# Preprocess


def test_preprocess_does_nothing_by_default() -> None:
    x = torch.rand(2, 5)
    assert torch.equal(Preprocess()(x), x)


def test_preprocess_resizes_the_centre() -> None:
    x = torch.zeros(1, 4, 8)
    x[:, :, 2:6] = 1
    assert torch.equal(Preprocess(size=(2, 2))(x), torch.ones(1, 2, 2))
    assert torch.equal(Preprocess(size=(4, 8))(x), x)
    tall = torch.rand(3, 50_000, 1)
    assert Preprocess(size=(32, 16))(tall).shape == (3, 32, 16)


def test_preprocess_channels_and_normalisation() -> None:
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1)
    assert torch.allclose(Preprocess(channels=1)(red), torch.tensor(0.299))
    assert torch.equal(Preprocess(channels=3)(torch.ones(1, 1, 1)), torch.ones(3, 1, 1))
    x = Preprocess(mean=(1.0, 0, 0), std=(0.5,))(red)
    assert x.flatten().tolist() == [0, 0, 0]
    series = Preprocess(mean=(1.0,), std=(2.0,))(torch.full((1, 4), 5.0))
    assert series.tolist() == [[2.0] * 4]


@pytest.mark.parametrize(
    ("shape", "resize", "crop"),
    [((3, 40, 60), 32, (24, 24)), ((3, 61, 40), 20, (20, 16)), ((1, 30, 31), None, (24, 40)), ((3, 9, 50), 12, None)],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_and_crop_are_those_of_torchvision(
    shape: tuple[int, ...], resize: int | None, crop: tuple[int, int] | None, interpolation: str
) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    ours = Preprocess(resize=resize, crop=crop, interpolation=interpolation)(x)
    kind = transforms.InterpolationMode(interpolation)
    theirs = transforms.Resize(resize, kind, antialias=True)(x) if resize else x
    theirs = transforms.CenterCrop(crop)(theirs) if crop else theirs
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_order_of_channels_and_what_people_see() -> None:
    x = torch.rand(3, 4, 4)
    preprocess = Preprocess(order="bgr", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    seen = preprocess(x)
    assert torch.allclose(seen[0], (x[2] - 0.1) / 0.5)
    assert torch.allclose(preprocess.undone(seen), x, atol=1e-6)
    assert preprocess.declared() == {"order": "bgr", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}


@pytest.mark.parametrize(
    ("preprocess", "shape", "message"),
    [
        (Preprocess(crop=(2, 2)), (1, 5), r"shape \(C, H, W\) to resize, got shape \(1, 5\)"),
        (Preprocess(order="bgr"), (1, 5, 5), "expected 3 channels to order as BGR, got 1"),
        (Preprocess(resize=8192), (1, 1, 100), r"resized it would be 8192 x 819200 pixels, more than"),
        (Preprocess(size=(2, 2)), (1, 5), r"shape \(C, H, W\) to resize, got shape \(1, 5\)"),
        (Preprocess(channels=3), (4, 5, 5), "1 or 3 channels to make 3 of, got 4"),
        (Preprocess(mean=(0.0, 0.0)), (3, 5, 5), "mean has 2 numbers, the input 3 channels"),
    ],
)
def test_preprocess_refuses_other_inputs(preprocess: Preprocess, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        preprocess(torch.zeros(shape))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (0, 3)}, "size"),
        ({"size": (10**9, 10**9)}, "size"),
        ({"size": (3,)}, "size"),
        ({"size": (2.5, 2.5)}, "size"),
        ({"size": (2, 2), "resize": 3}, "resize to be None where size is set"),
        ({"resize": 0}, "resize"),
        ({"resize": True}, "resize"),
        ({"crop": (0, 2)}, "crop"),
        ({"order": "gbr"}, "order to be one of 'rgb', 'bgr'"),
        ({"interpolation": "nearest"}, "interpolation to be one of"),
        ({"channels": 2}, "channels"),
        ({"mean": ()}, "mean"),
        ({"mean": (float("nan"),)}, "mean"),
        ({"std": (0.0,)}, "std to be above 0"),
    ],
)
def test_preprocess_values(settings: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Preprocess(**settings)


def test_preprocess_goes_through_json() -> None:
    for preprocess in (
        Preprocess(),
        Preprocess((3, 4), 3, (0.5, 0.1, 0.2), (1.0,)),
        Preprocess(resize=9, crop=(8, 7), order="bgr", interpolation="bicubic"),
    ):
        assert Preprocess.from_dict(json.loads(json.dumps(preprocess.as_dict()))) == preprocess
    assert Preprocess.from_dict(None) == Preprocess()
    assert Preprocess.from_dict({"size": None, "channels": 3, "mean": None, "std": None}) == Preprocess(channels=3)


@pytest.mark.parametrize(
    "settings",
    [
        *([], "x", {"sise": 1}, {"size": "ab"}, {"mean": [None]}, {"std": 3}, {"mean": {}}),
        *({"crop": 3}, {"crop": ["a", "b"]}),
    ],
)
def test_preprocess_from_a_hostile_file(settings: object) -> None:
    with pytest.raises(ArgumentError, match="preprocess"):
        Preprocess.from_dict(settings)


@pytest.mark.process
def test_libraries_are_imported_when_used() -> None:
    extras = "{'PIL', 'pyarrow', 'aeon', 'timm', 'torchvision', 'matplotlib', 'typer', 'ray'}"
    code = (
        f"import sys, gradgeo.data, gradgeo.data.models, gradgeo.scoring.ray_engine; print({extras} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
