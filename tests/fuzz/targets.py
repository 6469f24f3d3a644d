"""What is fuzzed: each target takes bytes that anyone may have made, and fails where something else than our own error
comes out, a result breaks its contract, or memory runs out."""

import copy
import gzip
import io
import json
import struct
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save
from torch import nn

import gradgeo
from gradgeo import Detector
from gradgeo.data import Item, Source, arrays, files, images, limits, open_source, parquet, ucr, webdataset
from gradgeo.data import timestamps as times
from gradgeo.detector.file import serialization as detector_file
from gradgeo.errors import GradgeoError
from gradgeo.serve import reading
from gradgeo.serve.errors import ProtocolError
from helpers.memory import at_most

SHARED = Path("/dev/shm")
FOLDER = Path(tempfile.mkdtemp(prefix="gradgeo-fuzz-", dir=SHARED if SHARED.is_dir() else None))
LONGEST = 40  # items read of one source
OURS = "MemoryError", "AssertionError", "RecursionError", "SystemError"
"""What no item's error may be: the item is spared, but the reader was not."""

MEMORY = 512 << 20
"""Bytes that one execution may take beside what the process has."""

OUT_OF_MEMORY = "MemoryError", "can't allocate memory", "bad_alloc", "alloc of size"
"""How Python, torch, C++ and Arrow say that there is none left."""

LIMITS = {
    "MOST_PIXELS": 1 << 14,
    "LARGEST_ITEM": 1 << 20,
    "LARGEST_INPUT": 1 << 22,
    "LARGEST_TEXT": 1 << 14,
    "LARGEST_SHARD": 1 << 26,
    "LARGEST_ARRAY": 1 << 22,
    "LARGEST_ROW_GROUP": 1 << 22,
    "ROWS_AT_ONCE": 1 << 20,
    "CACHED_ROWS": 1 << 22,
    "LARGEST_LABELS": 1 << 20,
    "MOST_LABELS": 1 << 14,
}
"""Lower limits of the readers: what honest data may take would make fuzzing slow, and its memory tell nothing."""

X = torch.rand(56, 12, generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Target:
    """Something that reads bytes, with bytes that it accepts to begin from."""

    check: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


def run(name: str, data: bytes) -> bool:
    """Whether the target accepted the bytes; raises what it should not have."""
    with warnings.catch_warnings(), at_most(MEMORY >> 20), lowered():
        warnings.simplefilter("ignore")
        try:
            TARGETS[name].check(data)
            return True
        except (GradgeoError, ProtocolError) as error:
            refusal = str(error)
    assert not any(words in refusal for words in OUT_OF_MEMORY), refusal
    return False


@contextmanager
def lowered() -> Iterator[None]:
    """The readers with `LIMITS`."""
    before = {name: getattr(limits, name) for name in LIMITS}
    vars(limits).update(LIMITS)
    try:
        yield
    finally:
        vars(limits).update(before)


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4)).eval()


@cache
def detectors() -> list[bytes]:
    """Files of fitted detectors."""
    written = []
    for options in (
        {"evidence": "full"},
        {"evidence": "paper", "classes": 3},
        {"evidence": "fast"},
        {"evidence": "lite"},
    ):
        path = FOLDER / "seed.gradgeo"
        Detector(network(), alpha=0.3, **options).fit(X).save(path, notes={"size": [8, 8]})
        written.append(path.read_bytes())
    return written


@cache
def _contents() -> list[tuple[str, dict[str, np.ndarray]]]:
    found = []
    for data in detectors():
        path = FOLDER / "seed.gradgeo"
        path.write_bytes(data)
        with safe_open(path, framework="numpy") as file:
            found.append((file.metadata()["gradgeo"][65:], {k: file.get_tensor(k) for k in file.keys()}))  # noqa: SIM118
    return found


def detector(data: bytes) -> None:
    """A detector file as it is, or one whose hash is right over altered contents."""
    raw = data[1:] if data[:1] < b"\x40" else forged(data[1:])
    path = FOLDER / "fuzzed.gradgeo"
    path.write_bytes(raw)
    contents = detector_file.read(path)  # once, as the commands do
    json.dumps(contents.facts(), allow_nan=False)
    loaded = Detector.load(contents, network(), strict=False)
    if data[-1:] < b"\x20":
        p_value = torch.tensor([explanation.p_value for explanation in loaded.explain(X[:2])])
    else:
        p_value = loaded.predict(X[:2]).p_value
    assert p_value.shape == (2,)
    assert bool(((p_value > 0) & (p_value <= 1) | p_value.isnan()).all())


VALUES = (
    *(None, True, False, 0, 1, 2, 3, 4, -1, 2**31, 2**62, 2**63, 10**400, 0.0, -1.5, 1e308, 1e-308, 0.05, 0.9999),
    *(
        "",
        "csm",
        "auto",
        "logit",
        "full",
        "\ud800",
        "a" * 999,
        [],
        [0],
        [1, 1],
        [0, 5],
        [12],
        [2**40],
        [[]],
        [[0.0] * 4] * 2,
    ),
    *({}, {"a": {}}, [None], ["confidence"], ["csm", "csm"]),
)
NUMBERS = (0.0, 1.0, -1.0, 5.0, 1e308, -1e308, 1e-320, np.nan, np.inf, 99.0)


class _Choices:
    """Small numbers out of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __call__(self, below: int) -> int:
        pair = self._data[self._at : self._at + 2]
        self._at += 2
        return int.from_bytes(pair, "little") % max(1, below)

    @property
    def left(self) -> int:
        return len(self._data) - self._at


def forged(data: bytes) -> bytes:
    """A file with the right hash over contents that `data` alters."""
    pick = _Choices(data)
    text, original = _contents()[pick(3)]
    document, arrays = json.loads(text), dict(original)
    for _ in range(1 + pick(4)):
        if pick(2):
            _alter(document, pick)
        elif arrays:
            _alter_array(arrays, pick)
    text = json.dumps(document, sort_keys=True)
    return save(arrays, metadata={"gradgeo": f"{detector_file._digest(text, arrays)} {text}"})


def _alter(document: object, pick: _Choices) -> None:
    while isinstance(document, dict | list) and document:
        keys = sorted(document) if isinstance(document, dict) else range(len(document))
        key = keys[pick(len(keys))]
        inner = document[key]
        if isinstance(inner, dict | list) and inner and pick(4):
            document = inner
            continue
        what = pick(len(VALUES) + 2)
        if what < len(VALUES):
            document[key] = copy.deepcopy(VALUES[what])
        elif what == len(VALUES):
            del document[key]
        elif isinstance(document, dict):
            document["more"] = 1
        return


def _alter_array(arrays: dict[str, np.ndarray], pick: _Choices) -> None:
    name = sorted(arrays)[pick(len(arrays))]
    array, what = arrays[name].copy(), pick(8)
    if what == 0:
        del arrays[name]
        return
    if what == 1:
        array = array[: pick(len(array) + 1)] if array.ndim else array
    elif what == 2:
        array = array.astype([np.float32, np.int32, np.uint8, np.float64, np.int64][pick(5)])
    elif what == 3:
        array = array.reshape(-1)
    elif what == 4 and array.size:
        array = array[..., None]
    elif array.size:
        value = NUMBERS[pick(len(NUMBERS))]
        if array.dtype.kind in "iu":
            value = np.int64([0, -1, 1, 3, 99, 2**62, -(2**63)][pick(7)]).astype(array.dtype)
        if what == 5:
            array[...] = value
        else:
            array.reshape(-1)[pick(array.size)] = value
    arrays[name] = np.ascontiguousarray(array)


def _first(source: Source) -> Iterator[Item]:
    """The first items, read without the threads that read ahead."""
    calls = (call for group in source._groups(1, (range(LONGEST),)) for call in group.calls)
    return (call() for call in calls)


def _items(path: Path, **options: object) -> None:
    """Every item of a source is a float32 tensor, or an error in words."""
    source = open_source(path, **options)
    for item in _first(source):
        assert (item.x is None) != (item.error is None)
        if item.x is not None:
            assert item.x.dtype == torch.float32
        else:
            assert not item.error.startswith(OURS), item.error
            assert not any(words in item.error for words in OUT_OF_MEMORY), item.error
        assert item.label is None or isinstance(item.label, int)
        assert item.name.isprintable()
    source.classes, source.content_id  # noqa: B018


def _reading(ending: str, **options: object) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        path = FOLDER / f"fuzzed{ending}"
        path.write_bytes(data)
        _items(path, **options)

    return check


@cache
def npy_seeds() -> list[bytes]:
    made = []
    for array in (
        np.zeros((2, 3), np.float32),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.asfortranarray(np.zeros((2, 3), ">f8")),
        np.zeros((2, 2), bool),
        np.array([[1 + 2j]]),
        np.array([["a"]]),
        np.zeros((0, 3)),
        np.zeros(2, [("a", "f4"), ("b", "i4", 3)]),
    ):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, array)
        made.append(stream.getvalue())
    return made


def npz_seeds() -> list[bytes]:
    made = []
    for write in (np.savez, np.savez_compressed):
        for columns in (
            {"x": np.zeros((3, 2)), "y": np.array([0, 1, 2]), "t": np.array([1.0, 2, 3])},
            {
                "images": np.zeros((2, 4, 4), np.uint8),
                "labels": np.array(["cat", "dog"]),
                "t": np.array(["2024-05-01"] * 2),
            },
        ):
            stream = io.BytesIO()
            write(stream, **columns)
            made.append(stream.getvalue())
    return made


def packed_labels() -> bytes:
    """An .npz of more labels than inputs, a thousandth of what they unpack to."""
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.zeros((4, 2)), y=np.zeros(1 << 20, np.int8))
    return stream.getvalue()


ENTRIES = ("x.npy", "y.npy", "t.npy", "images.npy", "labels.npy", "../x.npy", "x", "x.txt")


def npz(data: bytes) -> None:
    """An archive as it is, or with members that are altered and have the right checksums."""
    if data[:1] >= b"\x40":
        pick, stream = _Choices(data[1:7]), io.BytesIO()
        inner, seeds = data[7:], npy_seeds()
        with zipfile.ZipFile(stream, "w", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED][pick(2)]) as archive:
            archive.writestr(ENTRIES[pick(len(ENTRIES))], inner)
            archive.writestr(ENTRIES[pick(len(ENTRIES))], seeds[pick(len(seeds))])
        data = b"?" + stream.getvalue()
    path = FOLDER / "fuzzed.npz"
    path.write_bytes(data[1:])
    _items(path)
    _items(path, time="t")


def picture(ending: str, mode: str = "RGB", **options: object) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    image = Image.fromarray((np.arange(7 * 5 * 3) % 251).astype(np.uint8).reshape(7, 5, 3)).convert(mode)
    image.save(stream, ending, **options)
    return stream.getvalue()


def image_seeds() -> list[bytes]:
    modes = [
        ("PNG", "RGB"),
        ("PNG", "L"),
        ("PNG", "P"),
        ("PNG", "I;16"),
        ("PNG", "LA"),
        ("JPEG", "RGB"),
        ("BMP", "RGB"),
    ]
    modes += [("GIF", "P"), ("TIFF", "RGB"), ("TIFF", "F"), ("TIFF", "I"), ("TIFF", "I;16"), ("PPM", "RGB")]
    modes += [("PPM", "L"), ("WEBP", "RGB")]
    jpeg = picture("JPEG", progressive=True)
    scans = jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * 3 + b"\xff\xd9"
    return [*(picture(*which) for which in modes), scans]


def image(data: bytes) -> None:
    """An image, in memory."""
    pixels = images.decode(data)
    assert pixels.dtype == torch.float32
    assert pixels.ndim == 3
    assert pixels.shape[0] in (1, 3)
    assert bool(((pixels >= 0) & (pixels <= 1)).all()), pixels


def tar_bytes(members: list[tuple[str, bytes]], mode: str = "w", **header: object) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in header.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def tar_seeds() -> list[bytes]:
    [number, *_] = npy_seeds()
    members = [
        ("a.npy", number),
        ("a.cls", b"3"),
        ("b.json", b'{"label": 2, "t": 1}'),
        ("b.x.npy", number),
        ("c.pkl", b"1"),
    ]
    sparse = tar_bytes([("a.npy", b"")], type=tarfile.GNUTYPE_SPARSE)
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 20
    return [
        *(b"\0" + data for data in tars(members, number)),
        b"\x40" + tar_bytes(members, "w:gz"),
        b"\xff" + tar_bytes(members),
        b"\0" + sparse[:386] + b"%011o\0" % (1 << 30) + sparse[398:],
        b"\x40" + gzip.compress(long.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)),
    ]


def tars(members: list[tuple[str, bytes]], number: bytes) -> list[bytes]:
    return [
        tar_bytes(members),
        tar_bytes([("d/../" + "e" * 120 + ".npy", number)]),
        tar_bytes([("a.npy", number)], type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        tar_bytes([("a.npy", number)], pax_headers={"size": "10", "path": "b.npy"}),
    ]


def tar(data: bytes) -> None:
    """A shard, plain or packed, or what one unpacks to."""
    ending, data = (".tar" if data[:1] < b"\x40" else ".tar.gz"), data if data[:1] < b"\x80" else _zipped(data)
    path = FOLDER / f"fuzzed{ending}"
    path.write_bytes(data[1:])
    _items(path)


def _zipped(data: bytes) -> bytes:
    return data[:1] + gzip.compress(data[1:], 1)


def parquet_seeds() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = []
    for table in (
        pa.table({"x": [[1.0, 2.0], [3.0, 4.0]], "label": [0, 1]}),
        pa.table({"image": [{"bytes": picture("PNG"), "path": "a.png"}, None], "label": ["cat", None]}),
        pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 2, 3), np.float32))}),
    ):
        stream = io.BytesIO()
        pq.write_table(table, stream, row_group_size=1)
        made.append(stream.getvalue())
    rows, value = 2000, bytes(1 << 18)
    for column in (pa.array([value]), pa.array([[0.0] * 999])):
        cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), column)
        cells = cells if pa.types.is_binary(column.type) else cells.dictionary_decode()
        stream = io.BytesIO()
        table = pa.table({"x": cells, "label": pa.array(["a" * 99] * rows)})
        pq.write_table(table, stream, compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30)
        made.append(stream.getvalue())
    return made


def tsv(data: bytes) -> None:
    folder = FOLDER / "UCR" / "A"
    folder.mkdir(parents=True, exist_ok=True)
    train, _, test = data.partition(b"\0")
    (folder / "A_TRAIN.tsv").write_bytes(train)
    (folder / "A_TEST.tsv").write_bytes(test)
    source = open_source("ucr:A", data_root=folder.parent)
    for item in _first(source):
        assert (item.x is None) != (item.error is None)
        assert item.label is None or 0 <= item.label < len(source.classes)


def moment(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    found = times.parse_timestamp(text)
    assert found is None or isinstance(found, datetime)
    column = times.parse_timestamps([text, "2024-05-01"], "a column")
    assert len(column) == 2


def pattern(data: bytes) -> None:
    most, files.MOST = files.MOST, 100
    try:
        assert len(files.braces(data.decode("utf-8", "surrogateescape"))) <= 100
    finally:
        files.MOST = most


def request(data: bytes) -> None:
    """A request to the server, for a model of numbers or of texts: the length of its JSON, then its body."""
    texts = bool(data[:1]) and data[0] % 2 == 1
    length = None if data[:1] < b"\x40" else str(int.from_bytes(data[1:3], "little") - 7)
    body, shape, dtype = data[3:], (2, 3), np.dtype(np.float32)
    at = reading.json_length(body, length)
    head = reading.read_head(body[:at], len(body) - at, shape=shape, dtype=dtype, most_rows=4, texts=texts)
    asked = reading.with_tensor(head, memoryview(body)[at:], shape=shape, dtype=dtype)
    assert asked.x.shape[1:] == (2, 3)
    assert asked.x.dtype == np.float32
    assert max(len(asked.x), len(asked.files)) <= 4
    assert not texts or not len(asked.x)


def request_seeds() -> list[bytes]:
    def tensor(shape: list[int], datatype: str = "FP32", **others: object) -> dict[str, object]:
        return {"inputs": [{"name": "input", "shape": shape, "datatype": datatype, **others}]}

    plain = tensor([1, 2, 3], data=[[[1, 2, 3], [4, 5, 6]]])
    asked = {
        **plain,
        "id": "1",
        "parameters": {"conditional": "class", "group": "A"},
        "outputs": [{"name": "cause"}, {"name": "logits", "parameters": {"binary_data": True}}],
    }
    files = tensor([2], "BYTES", data=["QUJD", "RA=="])
    shared = {**files, "outputs": [{"name": "cause", "parameters": {"shared_memory_region": "a"}}]}
    odd = {**plain, "parameters": {"conditional": "day", "group": True}}
    texts = tensor([2, 1], "BYTES", data=[["a"], ["\u00e9"]])
    numbers = tensor([1, 2, 3], parameters={"binary_data_size": 24})
    elements = tensor([2], "BYTES", parameters={"binary_data_size": 11})
    behind = [(0xFE, numbers, bytes(24))] + [(first, elements, b"\2\0\0\0AB\1\0\0\0C") for first in (0xFE, 0xFF)]
    return [
        *(b"\0\0\0" + json.dumps(body).encode() for body in (plain, asked, files, shared, odd)),
        *(b"\1\0\0" + json.dumps(body).encode() for body in (plain, texts)),
        *(
            bytes([first]) + struct.pack("<H", len(head) + 7) + head + tail
            for first, head, tail in ((first, json.dumps(body).encode(), tail) for first, body, tail in behind)
        ),
    ]


TARGETS: dict[str, Target] = {
    "detector": Target(
        detector, lambda: [*(b"\0" + data for data in detectors()), *(b"\xff" + bytes([i, 0] * 9) for i in range(9))]
    ),
    "npy": Target(_reading(".npy"), npy_seeds),
    "npz": Target(
        npz,
        lambda: (
            [b"\0" + data for data in [*npz_seeds(), packed_labels()]] + [b"\xff" * 7 + data for data in npy_seeds()]
        ),
    ),
    "tar": Target(tar, tar_seeds),
    "parquet": Target(_reading(".parquet"), parquet_seeds),
    "image": Target(image, image_seeds),
    "tsv": Target(tsv, lambda: [b"1\t0.5\t2\n2\t1\t2\n\0002\t1\tnan\n7\t\tx\n", b"-1\t1e400\n\0-1\t1\n"]),
    "moment": Target(moment, lambda: [b"2024-05-01T12:00:00+02:00", b"2024-05-01", b"1999-W01-1T24"]),
    "pattern": Target(pattern, lambda: [b"a-{000..011}.tar", b"{a,b}/{0..1}.x", b"~/{,}[x]"]),
    "request": Target(request, request_seeds),
}

MODULES = {
    "detector": detector_file,
    "npy": arrays,
    "npz": arrays,
    "tar": webdataset,
    "parquet": parquet,
    "image": images,
    "tsv": ucr,
    "moment": times,
    "pattern": files,
    "request": reading,
}
"""Of which file each target should reach every line."""

assert gradgeo.__version__
