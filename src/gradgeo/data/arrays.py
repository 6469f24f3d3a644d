"""NumPy files: `.npz` with inputs and labels, `.npy` with inputs alone; pickled objects are refused."""

import io
import math
import os
import struct
import weakref
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgeo._files import check_regular
from gradgeo.data import limits
from gradgeo.data.files import content_id
from gradgeo.data.kept import texts
from gradgeo.data.labels import encode_labels
from gradgeo.data.timestamps import parse_timestamps
from gradgeo.errors import DataError, describe

INPUTS = ("x", "images", "data")
LABELS = ("y", "labels", "label")


class FileRows:
    """The rows of an array (N, *input) in a file, each read on access.

    They are read, not mapped: somebody who shortens a mapped file ends the process, without a word.
    """

    def __init__(self, path: Path, header: "Header", offset: int) -> None:
        self.shape, self.dtype = header.shape, header.dtype
        self._path, self._header, self._offset = path, header, offset
        self._numbers = math.prod(header.shape[1:])
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        return FileRows, (self._path, self._header, self._offset)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> NDArray[Any]:
        check_input(self._numbers)
        left = self._numbers * self.dtype.itemsize
        at, pieces = self._offset + index * left, []
        while left:
            piece = self._read(at, left)
            if not piece:
                raise DataError(f"{self._path.name} has become shorter since it was opened")
            pieces.append(piece)
            at, left = at + len(piece), left - len(piece)
        return np.frombuffer(b"".join(pieces), self.dtype).reshape(self.shape[1:])

    def _read(self, at: int, count: int) -> bytes:
        if hasattr(os, "pread"):  # leaves the position alone, which threads and forked processes share
            return os.pread(self._file, count, at)
        with self._path.open("rb") as file:
            file.seek(at)
            return file.read(count)


LONGEST_HEAD = (1 << 16) - 1
"""Bytes of the head of an array, as the first version of the format has it; NumPy itself reads 10,000."""


class Header(NamedTuple):
    """The head of an array in NumPy's format."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @classmethod
    def read(cls, stream: IO[bytes], left: int) -> "Header":
        """Read the head. Raises: ValueError for a broken one, for Python objects, and for an array of more bytes than
        the `left` that follow from the beginning of the head on."""
        version = np.lib.format.read_magic(stream)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in reader:  # 3.0 holds records whose names are not Latin
            raise ValueError(f"version {version[0]}.{version[1]}")
        stated = stream.read(2 if version == (1, 0) else 4)
        length = int.from_bytes(stated, "little")
        if length > LONGEST_HEAD:  # NumPy would ask for the memory before it looks
            raise ValueError(f"a head of {length} bytes")
        header = cls(*reader[version](io.BytesIO(stated + stream.read(length))))
        if header.dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded: they are pickles")
        if any(count < 0 for count in header.shape) or header.nbytes > left:
            raise ValueError(f"an array of shape {header.shape} takes more than the {left} bytes that are there")
        return header

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class Arrays:
    """The rows of an array (N, *input), as `as_input` gives them."""

    def __init__(
        self,
        x: NDArray[Any] | FileRows,
        labels: Sequence[int | None] | None,
        *,
        place: str,
        classes: tuple[str, ...] = (),
        times: NDArray[Any] | None = None,
        content_id: str = "",
        kept: Sequence[Sequence[str | None]] = (),
    ) -> None:
        check_layout(x.shape, x.dtype, place)
        if labels is not None and len(labels) != len(x):
            raise DataError(f"expected one label per input in {place}, got {len(labels)} for {len(x)}.")
        if times is not None and len(times) != len(x):
            raise DataError(f"expected one time per input in {place}, got {len(times)} for {len(x)}.")
        self._x = x
        self.labels = labels
        self.classes = classes
        self.times = times
        self.kept = kept
        self.content_id = content_id or str(len(x))

    def __len__(self) -> int:
        return len(self._x)

    def name(self, index: int) -> str:
        """The row's number."""
        return str(index)

    def load(self, index: int) -> Tensor:
        """The row as a model takes it."""
        return as_input(self._x[index])


def check_layout(shape: tuple[int, ...], dtype: np.dtype[Any], place: str) -> None:
    """Raises: DataError unless an array holds inputs: numbers of shape (N, *input), none of them empty."""
    if dtype.kind not in "fiub" or len(shape) < 2 or 0 in shape:
        got = f"an array of shape {shape}, {dtype}"
        raise DataError(f"expected the inputs in {place} to be numbers of shape (N, *input), got {got}.")


def check_input(numbers: int) -> None:
    """Raises: DataError where one input of so many numbers is too large."""
    limits.check_size("the input as float32", 4 * numbers, limits.LARGEST_INPUT)


def as_input(row: NDArray[Any]) -> Tensor:
    """One input as float32.

    uint8 is taken for an image: scaled to [0, 1], and (H, W) or (H, W, C) becomes (C, H, W). Other numbers stay as they
    are.

    Raises:
        DataError: text, complex numbers or records; more than `limits.LARGEST_INPUT`.
    """
    if row.dtype.kind not in "fiub":
        raise DataError(f"expected numbers, got {describe(row)}")
    check_input(row.size)
    if row.dtype == np.uint8:
        if row.ndim == 2:
            row = row[None]  # (1, H, W)
        elif row.ndim == 3 and row.shape[2] in (1, 3, 4) and row.shape[0] not in (1, 3):
            row = row.transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
        return torch.from_numpy(np.array(row, dtype=np.float32, order="C")).div_(255)
    with np.errstate(over="ignore"):  # larger than float32 becomes infinite, which the detector reports
        return torch.from_numpy(np.array(row, dtype=np.float32, order="C"))


def from_bytes(data: bytes) -> NDArray[Any]:
    """The array in the bytes of an .npy file, not copied. Raises: ValueError for a broken one or a pickle."""
    stream = BytesIO(data)
    header = Header.read(stream, len(data))
    count, start = math.prod(header.shape), stream.tell()
    if len(data) - start < header.nbytes:
        raise ValueError("unexpected end of data")
    if not header.nbytes:
        return np.empty(header.shape, header.dtype)
    values = np.frombuffer(data, header.dtype, count, start)
    return values.reshape(header.shape, order="F" if header.fortran else "C")


def open_npz(path: Path, time: str | None = None, keep: Sequence[str] = ()) -> Arrays:
    """The inputs and labels of an .npz file, the times in the array called `time`, and those of `keep` as texts.

    Only the heads are read before the arrays are known to fit together.
    """
    check_regular(path)
    content = content_id([path])
    labels: list[int | None] | None = None
    classes: tuple[str, ...] = ()
    times, kept = None, []
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is not an .npz file. Write one with numpy.savez(file, x=inputs, y=labels).")
        with zipfile.ZipFile(path) as archive:
            x, y = _Member.find(archive, INPUTS), _Member.find(archive, LABELS)
            t = None if time is None else _Member.find(archive, (time,))
            others = [_Member.find(archive, (name,)) for name in keep]
            for wanted, member in (
                (" or ".join(INPUTS), x), *([(time, t)] if time else []), *zip(keep, others, strict=True)
            ):  # fmt: skip
                if member is None:
                    names = ", ".join(sorted(name.removesuffix(".npy") for name in archive.namelist()))
                    raise DataError(f"expected an array named {wanted} in {path}, got {names or 'none'}.")
            assert x is not None
            check_layout(x.header.shape, x.header.dtype, path.name)
            for what, member in (("label", y), ("time", t), *zip(keep, others, strict=True)):
                if member is not None:
                    member.check_column(what, x.header.shape[0], path.name)
            inputs = x.rows(path, archive)
            if y is not None:
                labels, classes = encode_labels(y.read(archive), path.name)
            if t is not None:
                times = parse_timestamps(t.read(archive), path.name)
            for name, member in zip(keep, others, strict=True):
                assert member is not None
                column = member.read(archive)
                if column.ndim != 1:
                    raise DataError(f"expected one value per input in the array {name} of {path.name}.")
                kept.append(texts(column))
    except DataError:
        raise
    except Exception as error:  # whatever a broken archive makes zipfile, zlib and NumPy raise
        raise _refused(path, error) from error
    return Arrays(inputs, labels, place=path.name, classes=classes, times=times, kept=kept, content_id=content)


def open_npy(path: Path) -> Arrays:
    """The inputs of an .npy file; each is read on access."""
    check_regular(path)
    content = content_id([path])
    try:
        with path.open("rb") as stream:
            header = Header.read(stream, path.stat().st_size)
            check_layout(header.shape, header.dtype, path.name)
            rows = _rows(path, header, stream.tell())
    except DataError:
        raise
    except Exception as error:  # whatever a broken header makes NumPy raise
        raise _refused(path, error) from error
    return Arrays(rows, None, place=path.name, content_id=content)


def _rows(path: Path, header: Header, offset: int) -> NDArray[Any] | FileRows:
    """The rows of an array that stands in the file as it is, from `offset` on."""
    if offset + header.nbytes > path.stat().st_size:
        raise ValueError("unexpected end of data")
    if not header.fortran:
        return FileRows(path, header, offset)
    advice = "Save it in C order (numpy.ascontiguousarray), which is read in parts."
    what = f"{path.name}, whose rows are spread over the file (Fortran order),"
    limits.check_size(what, header.nbytes, limits.LARGEST_ARRAY, advice)
    with path.open("rb") as file:
        file.seek(offset)
        values = np.fromfile(file, header.dtype, math.prod(header.shape))
    return values.reshape(header.shape, order="F")


class _Member(NamedTuple):
    """An array of an .npz file, of which the head has been read."""

    entry: zipfile.ZipInfo
    header: Header
    start: int
    """Bytes of the head."""

    @classmethod
    def find(cls, archive: zipfile.ZipFile, names: tuple[str, ...]) -> "_Member | None":
        """The first array of the archive with one of `names`."""
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        for name in names:
            if name in entries:
                if entries[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{name} is compressed in another way than NumPy's")
                with archive.open(entries[name]) as stream:
                    return cls(entries[name], Header.read(stream, entries[name].file_size), stream.tell())
        return None

    def check_column(self, what: str, rows: int, place: str) -> None:
        """Raises: DataError unless it is a column of labels or times for so many inputs."""
        shape = self.header.shape
        if shape and shape[0] != rows:
            raise DataError(f"expected one {what} per input in {place}, got {shape[0]} for {rows}.")
        limits.check_labels(place, rows)
        if len(shape) == 1 and self.header.dtype.itemsize > limits.LARGEST_TEXT:
            raise DataError(f"expected {what}s of at most {limits.LARGEST_TEXT} bytes each in {place}.")
        self._check_unpacked(limits.LARGEST_LABELS)

    def rows(self, path: Path, archive: zipfile.ZipFile) -> NDArray[Any] | FileRows:
        """Its rows: read on access where they stand in the file as they are, else unpacked.

        An array follows the entry's local header. Source: APPNOTE.TXT, the ZIP file format specification, 4.3.7.
        """
        if self.entry.compress_type != zipfile.ZIP_STORED:
            return self.read(archive)
        with path.open("rb") as file:
            file.seek(
                self.entry.header_offset + 26
            )  # the lengths of the name and the extra field, which end the header
            name, extra = struct.unpack("<HH", file.read(4))
            return _rows(path, self.header, file.tell() + name + extra + self.start)

    def read(self, archive: zipfile.ZipFile) -> NDArray[Any]:
        """The array in memory."""
        self._check_unpacked(limits.LARGEST_ARRAY)
        with archive.open(self.entry) as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))

    def _check_unpacked(self, limit: int) -> None:
        name = self.entry.filename.removesuffix(".npy")
        if self.header.nbytes > limit:
            raise DataError(
                f"the array {name} takes {self.header.nbytes} bytes of memory, more than {limit}. "
                "Save it uncompressed or as .npy, which is read in parts."
            )


def _refused(path: Path, error: Exception) -> DataError:
    if "pickle" in str(error) or "bject" in str(error):
        return DataError(
            f"{path} holds Python objects, which are pickles and execute code when they are read; refused. "
            "Save plain numbers of one shape."
        )
    return DataError(f"cannot read {path}: {type(error).__name__}: {error}")
