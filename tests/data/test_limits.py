"""Files of some hundred bytes that state, or unpack to, more than any memory: refused, or items with an error."""

import gzip
import io
import lzma
import os
import re
import struct
import tarfile
import threading
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from gradgeo import Detector
from gradgeo.data import Indexed, Preprocess, ReadableItems, digits, limits, open_source
from gradgeo.data.arrays import Header
from gradgeo.data.digits import digits_classifier
from gradgeo.data.images import decode
from gradgeo.data.prefetch import Group, prefetch
from gradgeo.data.source import Record, Stream
from gradgeo.errors import DataError, GradgeoWarning
from gradgeo.scoring import score
from helpers.memory import at_most

MB = 1 << 20


def black_png(side: int) -> bytes:
    """A PNG of `side` x `side` black pixels, RGB, a thousandth of what it unpacks to."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes((1 + 3 * side) * side), 9)
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def picture(array: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form, **options)
    return stream.getvalue()


# Images


def test_images_of_another_shape_do_not_wait_for_their_batch(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image = black_png(2048)  # 50 MB as float32
    for i in range(12):
        (tmp_path / "in" / f"{i:02}.png").write_bytes(image)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    detector = Detector(model, evidence=["confidence"]).fit(torch.rand(60, 3, 2, 2))
    with at_most(400), pytest.warns(GradgeoWarning, match="12 of 12 inputs have no verdict"):
        summary = score(detector, open_source(tmp_path / "in"), tmp_path / "out.csv")
    assert summary.first_error == "00.png: expected shape (3, 2, 2), got (3, 2048, 2048)"


def test_fitting_keeps_only_items_of_the_shape_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "00.png").write_bytes(black_png(2))
    image = black_png(2048)
    for i in range(1, 12):
        (tmp_path / f"{i:02}.png").write_bytes(image)
    items = ReadableItems(open_source(tmp_path))
    with at_most(400):
        assert [x.shape for x in items.loader()] == [(1, 3, 2, 2)]
    assert len(items.skipped) == 11


class Slow:
    """Items of a mebibyte that are counted when they are loaded."""

    classes = ()
    labels = times = None
    content_id = "slow"

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return 64

    def name(self, index: int) -> str:
        return str(index)

    def load(self, index: int) -> torch.Tensor:
        self.loaded.append(index)
        return torch.zeros(MB // 4)


@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_read_ahead_are_bounded(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(limits, "READ_AHEAD", 4 * MB)
    reader = Slow()
    batches = Indexed(reader, "slow", preprocess=Preprocess()).batches(16, workers=workers)
    assert len(next(batches)) == 16
    time.sleep(0.1)
    assert len(reader.loaded) <= 16 + 4 + workers
    assert [item.index for batch in batches for item in batch] == list(range(16, 64))
    assert sorted(reader.loaded) == list(range(64))
    before = set(threading.enumerate())
    batches = Indexed(reader, "slow", preprocess=Preprocess()).batches(16, workers=workers)
    next(batches)
    assert set(threading.enumerate()) > before
    batches.close()  # ends the threads that wait
    assert set(threading.enumerate()) <= before


def test_an_error_of_the_feeder_arrives_in_its_place() -> None:
    def groups() -> object:
        yield Group([lambda: 1])
        raise DataError("no more")

    results = prefetch(groups(), 1, lambda number: MB)
    assert next(results) == [1]
    with pytest.raises(DataError, match="no more"):
        next(results)


def test_undecoded_items_end_a_batch_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Records:
        classes, labelled, is_datetime, content_id = (), False, None, "records"

        def records(self, skip: int) -> object:
            return iter([Record(str(i), lambda: torch.zeros(1), nbytes=40) for i in range(skip, 7)])

        def count(self) -> int:
            return 7

    monkeypatch.setattr(limits, "BATCH", 100)
    batches = list(Stream(Records(), "records", preprocess=Preprocess()).batches(5))
    assert [[item.index for item in batch] for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]


def test_an_image_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LARGEST_ITEM", 50)
    data = picture(np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=f"the image has {len(data)} bytes; at most 50 are read"):
        decode(data)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), "floats"),
        (np.arange(64, dtype=np.int32).reshape(8, 8), "signed or 32-bit integers"),
    ],
)
def test_tiff_of_numbers_without_a_range_is_refused(pixels: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=rf"an image of {words}.* Save it with 8 or 16 bits a channel, or as \.npy"):
        decode(picture(pixels, "TIFF"))


def test_sixteen_bits_are_read_rightly_in_every_format() -> None:
    pixels = np.array([[0, 300], [30000, 65535]], np.uint16)
    for form in ("PNG", "TIFF", "PPM"):
        assert torch.equal(decode(picture(pixels, form))[0], torch.from_numpy(pixels.astype(np.float32)) / 65535)


def tiff(pixels: bytes, bits: int, photometric: int) -> bytes:
    """A TIFF of 4 x 1 grey pixels."""
    tags = [(256, 4), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    tags.append((279, len(pixels)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    pixels += bytes(len(pixels) % 2)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_tiff_of_twelve_bits_and_white_at_zero() -> None:
    twelve = tiff(bytes.fromhex("000 7ff 800 fff".replace(" ", "")), 12, 1)
    assert torch.allclose(decode(twelve)[0, 0], torch.tensor([0, 2047, 2048, 4095]) / 4095)
    inverted = tiff(np.array([0, 1, 2, 65535], "<u2").tobytes(), 16, 0)
    assert torch.allclose(decode(inverted)[0, 0], 1 - torch.tensor([0, 1, 2, 65535]) / 65535)


def progressive(scans: int, inside: bytes = b"", between: bytes = b"") -> bytes:
    """A JPEG whose last scan is repeated, with a comment of bytes `inside`."""
    plain = picture(np.zeros((16, 16), np.uint8), "JPEG", progressive=True)
    last = plain[plain.rindex(b"\xff\xda") : -2]
    comment = b"\xff\xfe" + struct.pack(">H", len(inside) + 2) + inside
    return plain[:2] + comment + plain[2:-2] + (between + last) * scans + b"\xff\xd9"


def test_scans_of_a_jpeg_are_counted() -> None:
    with pytest.raises(DataError, match=r"the JPEG has 1\d\d scans; at most 100 are decoded"):
        decode(progressive(130))
    with pytest.raises(DataError, match="the JPEG has 136 scans"):
        decode(progressive(130, between=b"\xff\x01"))  # a marker without a length, which hides no scan
    assert decode(progressive(20)).shape == (1, 16, 16)
    chance = b"\xff\xda" * 200  # in metadata, and behind the image
    assert decode(progressive(1, chance) + chance).shape == (1, 16, 16)


# Folders


def test_a_picture_replaced_under_its_name_is_other_data(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for name in ("a.png", "cat/b.png"):
        (tmp_path / name).write_bytes(picture(np.zeros((4, 4), np.uint8)))
    before = open_source(tmp_path).content_id
    assert open_source(tmp_path).content_id == before
    file = tmp_path / "cat" / "b.png"
    facts = file.stat()
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    touched = open_source(tmp_path).content_id
    assert touched != before
    file.write_bytes(file.read_bytes() + b"\0")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert open_source(tmp_path).content_id not in (before, touched)
    single = open_source(file).content_id
    os.utime(file, ns=(0, 0))
    assert open_source(file).content_id != single
    (tmp_path / "c.png").symlink_to("nowhere")
    [item] = [item for item in open_source(tmp_path) if item.name == "c.png"]
    assert item.error == "not a regular file"


def test_verdicts_of_replaced_pictures_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    x, y = digits.split()["fit"]
    detector = Detector(digits_classifier(), evidence=["confidence"]).fit(x[:200], y[:200])

    def fill(pixels: np.ndarray) -> None:
        for i, image in enumerate(pixels):
            (tmp_path / "in" / f"{i}.png").write_bytes(picture(image))

    fill((x[:5, 0].numpy() * 255).astype(np.uint8))
    assert score(detector, open_source(tmp_path / "in"), tmp_path / "out").rows == 5
    fill(np.random.RandomState(0).randint(0, 256, (5, 8, 8), np.uint8))
    with pytest.raises(DataError, match="content of the data"):
        score(detector, open_source(tmp_path / "in"), tmp_path / "out")


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.png").write_bytes(picture(np.zeros((4, 4), np.uint8)))
    (tmp_path / "set" / "dog").mkdir(parents=True)
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "private")
    with pytest.raises(DataError, match="1 links to folders, the first cat, are skipped"):
        open_source(tmp_path / "set")
    (tmp_path / "set" / "dog" / "b.png").write_bytes(picture(np.zeros((4, 4), np.uint8)))
    with pytest.warns(GradgeoWarning, match="1 links to folders, the first cat, are skipped"):
        source = open_source(tmp_path / "set")
    assert [item.name for item in source] == ["dog/b.png"]
    assert source.classes == ("dog",)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    assert len(open_source(tmp_path / "link")) == 1  # the folder that the user names may be one


@pytest.mark.parametrize("name", ["a.parquet", "a.npz", "a.npy"])
def test_pipes_are_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} is not a regular file"):
        open_source(tmp_path / name)


def test_a_pipe_among_shards_is_an_item(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    [item] = open_source(tmp_path / "a.tar")
    assert "is not a regular file" in item.error
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet is not a regular file"):
        open_source(tmp_path)


# Shards


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, size: int) -> bytes:
    """The header of a sparse file of so many zeros, of which none is stored."""
    head = bytearray(entry(name, kind=tarfile.GNUTYPE_SPARSE))
    octal = b"%011o\0" % size
    head[386:398], head[398:410], head[410:482], head[482:483] = octal, b"%011o\0" % 0, bytes(72), b"\0"
    head[483:495], head[148:156] = octal, b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


END = bytes(1024)


def test_sparse_members_are_not_read(tmp_path: Path) -> None:
    good = npy(np.zeros((1, 4, 4)))
    data = b"".join(sparse(f"{i}.npy", 1 << 28) for i in range(8))
    data += entry("good.npy", len(good)) + good + bytes(-len(good) % 512) + END
    (tmp_path / "a.tar").write_bytes(data)
    with at_most(200):
        items = [item for batch in open_source(tmp_path / "a.tar").batches(64) for item in batch]
    assert [item.error for item in items[:-1]] == [f"{i}.npy is a sparse file, which is not read" for i in range(8)]
    assert items[-1].error is None


def test_headers_of_a_shard_are_bounded(tmp_path: Path) -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as file:
            file.write(entry("././@LongLink", 1 << 28, kind))
            for _ in range(16):
                file.write(bytes(1 << 20))
        with at_most(200):
            [item] = open_source(tmp_path / "a.tar.gz")
        assert "headers of more than 131072 bytes before a member" in item.error


def test_endless_headers_of_a_shard_are_an_error(tmp_path: Path) -> None:
    records = b"".join(b"%d k%d=%s\n" % (13 + len(str(i)), i, b"v" * 7) for i in range(10, 90))
    many = b"".join(
        entry("g", len(text), tarfile.XGLTYPE) + text + bytes(-len(text) % 512)
        for text in (b"2000 key%04d=" % i + b"v" * (2000 - 14) + b"\n" + records for i in range(3000))
    )
    (tmp_path / "a.tar").write_bytes(many + entry("a.png") + END)
    [item] = open_source(tmp_path / "a.tar")
    assert "the shard cannot be read on from here" in item.error


def test_a_negative_size_does_not_go_round(tmp_path: Path) -> None:
    head = bytearray(entry("a.png", 0))
    head[124:136] = b"\xff" * 8 + (2**32 - 512).to_bytes(4, "big")  # base 256: -512
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    (tmp_path / "a.tar").write_bytes(bytes(head) + END)
    items = list(open_source(tmp_path / "a.tar"))
    assert "negative size" in items[-1].error or "broken" in items[-1].error


def test_a_shard_is_unpacked_as_its_ending_says(tmp_path: Path) -> None:
    data = entry("a.npy", len(npy(np.zeros((1, 2))))) + npy(np.zeros((1, 2))).ljust(512, b"\0") + END
    (tmp_path / "a.tar").write_bytes(gzip.compress(data))
    (tmp_path / "b.tar").write_bytes(lzma.compress(data))
    first, second = open_source(f"{tmp_path}/*.tar")
    assert "it is compressed; call it .tar.gz" in first.error
    assert "the shard cannot be read on from here" in second.error
    (tmp_path / "a.tar").rename(tmp_path / "a.tgz")
    [item] = open_source(tmp_path / "a.tgz")
    assert item.error is None


def test_what_a_compressed_shard_unpacks_to_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LARGEST_SHARD", 1 << 16)
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(entry("a.txt", 1 << 20) + bytes(1 << 20) + entry("b.txt") + END)
    *_, last = open_source(tmp_path / "a.tar.gz")
    assert "it unpacks to more than 65536 bytes" in last.error


def test_the_members_of_a_sample_are_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LARGEST_ITEM", 3000)
    monkeypatch.setattr(limits, "LARGEST_TEXT", 600)
    block = bytes(1024)
    members = b"".join(entry(f"a.{i}.npy", 1024) + block for i in range(4)) + entry("b.json", 1024) + block + END
    (tmp_path / "a.tar").write_bytes(members)
    first, second = open_source(tmp_path / "a.tar")
    assert first.error == "its members have more than 3000 bytes, which are not read"
    assert second.error == "b.json has 1024 bytes; at most 600 are read"


# Parquet


def repeated(path: Path, rows: int, size: int, column: str = "image", **more: pa.Array) -> Path:
    """A file in which all rows name one value of a dictionary."""
    value = bytes(size) if column == "image" else "a" * size
    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))
    table = pa.table({column: cells, **more})
    pq.write_table(table, path, compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30)
    return path


def test_a_dictionary_value_in_every_row_is_not_unpacked_at_once(tmp_path: Path) -> None:
    path = repeated(tmp_path / "a.parquet", 500, MB)
    assert path.stat().st_size < 1000
    with at_most(300):
        source = open_source(path)
        errors = {source[i].error for i in (0, 1, 100, 499, 5)}
    assert errors == {"not an image (PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM)"}


def test_the_footer_of_a_parquet_file_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages state counts, not the footer's sums."""
    monkeypatch.setattr(limits, "LARGEST_ROW_GROUP", MB // 2)
    path = repeated(tmp_path / "a.parquet", 30, MB)
    item = open_source(path)[3]
    assert re.fullmatch(r"its row group, unpacked, has 10\d+ bytes; at most 524288 are read. Write .*", item.error)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"PAR1", b"PARX"),
        (b"\x15\x00", b"\x15\x01"),  # small numbers of headers and of the footer
        (b"\x15\x06", b"\x15\xff\xff\xff\xff\x0f"),
        (b"\x19", b"\x1b"),  # lists become maps
        (b"\x1c", b"\x19\xfc\xff\xff\xff\x7f"),  # structs become long lists
        (b"\x00", b"\x7c"),
    ],
)
def test_broken_footers_and_pages_are_errors(tmp_path: Path, old: bytes, new: bytes) -> None:
    rows = [[float(i)] * 3 for i in range(40)]
    table = pa.table({"x": rows, "label": [f"class {i % 3}" for i in range(40)]})
    pq.write_table(table, tmp_path / "whole.parquet", row_group_size=20)
    data = (tmp_path / "whole.parquet").read_bytes()
    places = [match.start() for match in re.finditer(re.escape(old), data)]
    for place in places[:: max(1, len(places) // 40)]:
        (tmp_path / "a.parquet").write_bytes(data[:place] + new + data[place + len(old) :])
        try:
            items = list(open_source(tmp_path / "a.parquet", limit=40))
        except DataError:
            continue
        assert all((item.x is None) != (item.error is None) for item in items)


def test_text_labels_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"x": [[0.0]] * 2, "label": ["aaaaaaaa", "bbbbbbbb"]}), tmp_path / "a.parquet", compression="none"
    )
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data.replace(b"aaaaaaaa", b"\xff" * 8))
    with pytest.raises(DataError, match=r"the column label of .* cannot be read"):
        open_source(tmp_path / "a.parquet")


def test_a_long_label_in_every_row_is_stored_once(tmp_path: Path) -> None:
    rows = 2000
    path = repeated(tmp_path / "a.parquet", rows, MB, "label", x=pa.array([[0.0]] * rows))
    with at_most(200):
        source = open_source(path)
    assert source.classes == ("a" * MB,)
    assert source[rows - 1].label == 0


def test_lists_of_numbers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    column = pa.array([[0.0] * 50_000, [1.0] * 50_000])
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
    monkeypatch.setattr(limits, "ROWS_AT_ONCE", 1)
    assert [float(item.x[0]) for item in open_source(tmp_path / "a.parquet")] == [0, 1]
    monkeypatch.setattr(limits, "LARGEST_ROW_GROUP", MB)
    assert "its row group, unpacked, has 1600000 bytes" in open_source(tmp_path / "a.parquet")[0].error


def test_rows_are_counted_before_labels_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_LABELS", 3)
    pq.write_table(pa.table({"x": [[0.0]] * 4, "y": [0] * 4}), tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=np.zeros(4, int))
    for name in ("a.parquet", "a.npz"):
        with pytest.raises(DataError, match="4 rows; labels and times of at most 3 are kept in memory"):
            open_source(tmp_path / name)
    pq.write_table(pa.table({"x": [[0.0]] * 4}), tmp_path / "b.parquet")
    assert len(open_source(tmp_path / "b.parquet")) == 4


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", None])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_every_encoding_of_images_and_texts(tmp_path: Path, encoding: str | None, version: str) -> None:
    images = [picture(np.full((4, 4), i, np.uint8)) for i in range(40)]
    table = pa.table({"image": images, "label": [f"class {i % 3}" for i in range(40)]})
    options = {"use_dictionary": True} if encoding is None else {"use_dictionary": False}
    if encoding is not None:
        options["column_encoding"] = {"image": encoding, "label": encoding}
    pq.write_table(table, tmp_path / "a.parquet", data_page_version=version, data_page_size=100, **options)
    source = open_source(tmp_path / "a.parquet")
    assert source.classes == ("class 0", "class 1", "class 2")
    assert [(round(float(item.x[0, 0, 0] * 255)), item.label) for item in source] == [(i, i % 3) for i in range(40)]


# Arrays


def packed(path: Path, **arrays: tuple[str, tuple[int, ...], int]) -> Path:
    """An .npz of zeros: for each array its dtype, its shape, and how many bytes there are."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (dtype, shape, size) in arrays.items():
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
            archive.writestr(f"{name}.npy", head.getvalue() + bytes(size))
    return path


def test_labels_are_compared_with_the_inputs_before_they_are_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.npz", x=("<f4", (4, 1, 8, 8), 1024), y=("|i1", (1 << 27,), 1 << 27))
    with at_most(100), pytest.raises(DataError, match=r"expected one label per input in a\.npz, got 134217728 for 4"):
        open_source(path)


def test_labels_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LARGEST_LABELS", 20)
    with pytest.raises(DataError, match="the array y takes 32 bytes of memory, more than 20"):
        open_source(packed(tmp_path / "a.npz", x=("<f4", (4, 2), 32), y=("<i8", (4,), 32)))
    monkeypatch.setattr(limits, "LARGEST_TEXT", 3)
    with pytest.raises(DataError, match=r"expected labels of at most 3 bytes each in a\.npz"):
        open_source(packed(tmp_path / "a.npz", x=("<f4", (4, 2), 32), y=("<U1", (4,), 16)))


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy(np.zeros((2, 2))))
    with pytest.raises(DataError, match="x is compressed in another way than NumPy's"):
        open_source(tmp_path / "a.npz")


def test_an_input_of_a_sparse_file_is_bounded(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (2, 1 << 34)})
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(head.getvalue())
        file.truncate(file.tell() + (2 << 34))
    with at_most(100):
        item = open_source(tmp_path / "a.npy")[1]
    assert item.error == f"the input as float32 has {4 << 34} bytes; at most {limits.LARGEST_INPUT} are read"


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_a_file_that_becomes_shorter_costs_its_rows(tmp_path: Path, name: str) -> None:
    rows = np.arange(4000.0).reshape(500, 8)
    (np.save if name == "a.npy" else lambda file, x: np.savez(file, x=x))(tmp_path / name, rows)
    source = open_source(tmp_path / name)
    os.truncate(tmp_path / name, 4096)
    items = list(source)
    assert torch.equal(items[0].x, torch.arange(8.0))
    assert items[-1].error == f"{name} has become shorter since it was opened"


def test_rows_in_another_order_and_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(24).reshape(4, 3, 2)
    for dtype in (">f4", "<f8", "<i2", "|b1", "<f2"):
        for array in (rows.astype(dtype), np.asfortranarray(rows.astype(dtype))):
            np.save(tmp_path / "a.npy", array)
            assert torch.equal(open_source(tmp_path / "a.npy")[2].x, torch.from_numpy(array[2].astype(np.float32)))
    monkeypatch.setattr(limits, "LARGEST_ARRAY", 40)
    with pytest.raises(DataError, match=r"a\.npy, whose rows are spread over the file.* Save it in C order"):
        open_source(tmp_path / "a.npy")


def test_rows_can_be_sent_to_another_process(tmp_path: Path) -> None:
    import pickle

    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(3, 2))
    source = pickle.loads(pickle.dumps(open_source(tmp_path / "a.npy")))
    assert source[2].x.tolist() == [4, 5]


def test_a_head_is_checked_against_the_bytes_that_are_there() -> None:
    data = npy(np.zeros((4, 2)))
    assert Header.read(io.BytesIO(data), len(data)).shape == (4, 2)
    with pytest.raises(ValueError, match=r"an array of shape \(4, 2\) takes more than the 63 bytes that are there"):
        Header.read(io.BytesIO(data), 63)
