"""The largest memory of a process that reads large data, or small data that states or unpacks to much more."""

import gzip
import io
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import peak_resident
from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.errors import GradgeoError

MEBIBYTE = 1 << 20
MOST = 100_000  # items that are read of one source
CHILD = f"from {__name__} import child; child()"


@dataclass(frozen=True)
class Case:
    """Data, and what is done with it."""

    name: str
    make: Callable[[Path], None]
    """Writes it to a path."""
    ending: str = ""
    """Of the path; none for a folder."""
    task: str = "read"
    """`read`, `score`, `score to size`, `load` of a detector, or `report` of verdicts."""


def run(suite: Suite) -> Page:
    """Peak memory of reading or scoring each, in a process of its own."""
    page = Page("Memory of reading")
    page.say(
        "Largest resident memory of a process that reads data item by item, scores it with a linear classifier of "
        "images of 2 x 2, loads it as that classifier's detector, or reports it as verdicts; one thread. The first row "
        "is a process that imports what the others do and reads nothing. Most of the data is refused, or consists of "
        "items with an error; none of it takes all memory."
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            if case.name not in suite.wanted(known.name for known in CASES):
                continue
            path = Path(folder) / f"{number}{case.ending}"
            case.make(path)
            files = [path] if path.is_file() else list(path.glob("*"))
            size = sum(file.stat().st_size for file in files)
            command = [sys.executable, "-c", CHILD, case.task, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peak, *words = done.stdout.splitlines()
            page.data.setdefault("cases", {})[case.name] = {"bytes": size, "mb": float(peak), "said": words}
            rows.append([case.name, case.task, _shown(size), f"{float(peak):.0f}", " ".join(words)[:100]])
            for file in files:
                file.unlink()
    page.table(["data", "done", "size", "memory, MB", "said"], rows)
    return page


def _shown(size: int) -> str:
    for unit, least in (("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.0f} {unit}"
    return f"{size} B"


def child() -> None:
    """Do the task of a case; print the peak memory in MB, and the error if there is one."""
    import torch

    from gradgeo import Detector, report
    from gradgeo.data import Preprocess, open_source
    from gradgeo.scoring import score

    task, path = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    detector = _fitted()
    words = ""
    try:
        if task == "load":
            Detector.load(path, detector.model)
        elif task == "report":
            report.html(path)
        else:
            source = open_source(path, preprocess=Preprocess(size=(2, 2)) if task == "score to size" else None)
            if task == "read":
                words = next((item.error for item in islice(source, MOST) if item.error), "")
            else:
                words = score(detector, source, Path(path).with_suffix(".verdicts.csv")).first_error or ""
    except GradgeoError as error:
        words = str(error)
    print(peak_resident() * MEBIBYTE / 1e6)
    print(words.replace(path, Path(path).name))


def _fitted() -> Any:
    import torch
    from torch import nn

    from gradgeo import Detector

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).eval()
    return Detector(model, evidence=["confidence"]).fit(torch.rand(100, 3, 2, 2))


def _photographs(path: Path) -> None:
    from PIL import Image

    path.mkdir()
    levels = np.random.default_rng(0).normal(128, 40, (500, 750, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(levels).resize((6000, 4000))
    picture.save(path / "00.jpg", quality=95)
    data = (path / "00.jpg").read_bytes()
    for number in range(1, 12):
        (path / f"{number:02}.jpg").write_bytes(data)


def _black(path: Path) -> None:
    path.mkdir()
    side, packer = 8192, zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(1 + 3 * side)) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    for number in range(16):
        (path / f"{number:02}.png").write_bytes(image)


def _scans(path: Path) -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("L", (4000, 4000)).save(stream, "JPEG", progressive=True, quality=30)
    plain = stream.getvalue()
    path.write_bytes(plain[:-2] + plain[plain.rindex(b"\xff\xda") : -2] * 400 + b"\xff\xd9")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        for number in range(200):
            member = tarfile.TarInfo(f"{number:05}.npy")
            member.type = tarfile.GNUTYPE_SPARSE
            header, size = bytearray(member.tobuf(tarfile.GNU_FORMAT)), b"%011o\0" % (1 << 28)
            header[386:398], header[398:410], header[410:482] = size, b"%011o\0" % 0, bytes(72)
            header[482:495] = b"\0" + size
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header)
            file.write(header)
        file.write(bytes(1024))


def _packed(path: Path) -> None:
    """Each array is a gzip stream of its own, so that it is packed once."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": ((1 << 28) - 128,)})
    member = tarfile.TarInfo("00000.npy")
    member.size = 1 << 28
    body = gzip.compress(head.getvalue() + bytes((1 << 28) - len(head.getvalue())), 6)
    with path.open("wb") as file:
        for number in range(24):
            member.name = f"{number:05}.npy"
            file.write(gzip.compress(member.tobuf()) + body)
        file.write(gzip.compress(bytes(1024)))


def _long_header(path: Path) -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    zeros = gzip.compress(bytes(1 << 26), 9)
    path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT)) + zeros * 64)


def _one_value(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array([bytes(MEBIBYTE)]))
    options = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 1 << 30}
    pq.write_table(pa.table({"image": cells}), path, **options)


def _many_labels(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, at_once = 63_000_000, 1_000_000
    table = pa.table(
        {"x": pa.FixedSizeListArray.from_arrays(np.zeros(at_once, np.float32), 1), "label": np.zeros(at_once, np.int64)}
    )
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(rows // at_once):
            writer.write_table(table)


def _large_input(path: Path) -> None:
    """A detector file, its hash right, of inputs of 2^28 entries."""
    from safetensors.numpy import load, save

    from gradgeo.detector.file import serialization

    _fitted().save(path)
    data = path.read_bytes()
    text = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]["gradgeo"][65:]
    text, arrays = text.replace('"input_shape": [3, 2, 2]', f'"input_shape": [{1 << 28}]'), load(data)
    path.write_bytes(save(arrays, metadata={"gradgeo": f"{serialization._digest(text, arrays)} {text}"}))


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _long_name(path: Path) -> None:
    """Verdicts, all of one name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = 20_000
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array(["a" * MEBIBYTE]))
    ones = np.ones(n)
    columns = {
        **{"index": np.arange(n), "name": names, "label": np.zeros(n, np.int64), "probability": ones},
        **{"outlier_score": ones, "p_value": 0.01 * ones, "trusted": np.zeros(n, bool)},
        "error": pa.nulls(n, pa.string()),
    }
    options = {"compression": "zstd", "store_schema": False, "dictionary_pagesize_limit": 1 << 30}
    pq.write_table(pa.table(columns), path, **options)


def _archive(path: Path, **arrays: tuple[str, tuple[int, ...]]) -> None:
    """Compressed arrays of zeros of a type and shape."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (kind, shape) in arrays.items():
            header = {"descr": kind, "fortran_order": False, "shape": shape}
            left = int(np.prod(shape)) * np.dtype(kind).itemsize
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                while left:
                    left -= member.write(bytes(min(left, 1 << 24)))


CASES = (
    Case("nothing", Path.touch, ".npy"),
    Case("12 JPEG photographs of 24 megapixels", _photographs, task="score"),
    Case("12 JPEG photographs of 24 megapixels, with a size", _photographs, task="score to size"),
    Case("16 PNG of 8192 x 8192 black pixels", _black, task="score"),
    Case("a JPEG of 16 megapixels in 406 scans", _scans, ".jpg"),
    Case("a shard of 200 sparse members of 256 MiB", _sparse, ".tar"),
    Case("a packed shard of 24 arrays of 256 MiB", _packed, ".tar.gz", "score"),
    Case("a shard whose header states 4 GiB", _long_header, ".tar.gz"),
    Case("Parquet, one value of 1 MiB in 20,000 rows", _one_value, ".parquet"),
    Case("Parquet, 63 million labels", _many_labels, ".parquet"),
    Case(
        ".npz, 2,147,483,648 labels for 4 inputs",
        lambda p: _archive(p, x=("<f4", (4, 1, 8, 8)), y=("|i1", (1 << 31,))),
        ".npz",
    ),
    Case(".npz, compressed inputs of 2 GiB", lambda p: _archive(p, x=("<f4", ((1 << 31) // 256, 64))), ".npz"),
    Case("a detector that states inputs of 2^28 entries", _large_input, ".gradgeo", "load"),
    Case("a link to /dev/zero as a detector", _endless, ".gradgeo", "load"),
    Case("verdicts, one name of 1 MiB in 20,000 rows", _long_name, ".parquet", "report"),
)
