"""NumPy files: `.npz` with inputs and labels, `.npy` with inputs alone; pickled objects are refused."""

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgeo.data.files import content_id
from gradgeo.data.source import encode_labels
from gradgeo.data.timestamps import parse_timestamps
from gradgeo.errors import DataError, describe

INPUTS = ("x", "images", "data")
LABELS = ("y", "labels", "label")
LARGEST = 8 << 30
"""Bytes of the largest compressed array of an .npz, which is read into memory; uncompressed ones stay on disk."""


class Arrays:
    """The rows of an array (N, *input), as `as_input` gives them."""

    def __init__(
        self,
        x: NDArray[Any],
        labels: Sequence[int | None] | None,
        *,
        place: str,
        classes: tuple[str, ...] = (),
        times: NDArray[Any] | None = None,
        content_id: str = "",
    ) -> None:
        if x.dtype.kind not in "fiub" or x.ndim < 2 or not len(x):
            raise DataError(f"expected the inputs in {place} to be numbers of shape (N, *input), got {describe(x)}.")
        if labels is not None and len(labels) != len(x):
            raise DataError(f"expected one label per input in {place}, got {len(labels)} for {len(x)}.")
        if times is not None and len(times) != len(x):
            raise DataError(f"expected one time per input in {place}, got {len(times)} for {len(x)}.")
        self._x = x
        self.labels = labels
        self.classes = classes
        self.times = times
        self.content_id = content_id or str(len(x))

    def __len__(self) -> int:
        return len(self._x)

    def name(self, index: int) -> str:
        """The row's number."""
        return str(index)

    def load(self, index: int) -> Tensor:
        """The row as a model takes it."""
        return as_input(self._x[index])


def as_input(row: NDArray[Any]) -> Tensor:
    """One input as float32.

    uint8 is taken for an image: scaled to [0, 1], and (H, W) or (H, W, C) becomes (C, H, W). Other numbers stay as they
    are.

    Raises:
        DataError: text, complex numbers or records.
    """
    if row.dtype.kind not in "fiub":
        raise DataError(f"expected numbers, got {describe(row)}")
    if row.dtype == np.uint8:
        if row.ndim == 2:
            row = row[None]  # (1, H, W)
        elif row.ndim == 3 and row.shape[2] in (1, 3, 4) and row.shape[0] not in (1, 3):
            row = row.transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
        return torch.from_numpy(np.array(row, dtype=np.float32, order="C")) / 255
    with np.errstate(over="ignore"):  # larger than float32 becomes infinite, which the detector reports
        return torch.from_numpy(np.array(row, dtype=np.float32, order="C"))


def open_npz(path: Path, time: str | None = None) -> Arrays:
    """The inputs and labels of an .npz file, and the times in the array called `time`."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an .npz file. Write one with numpy.savez(file, x=inputs, y=labels).")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            x, y = _member(path, archive, INPUTS), _member(path, archive, LABELS)
            t = None if time is None else _member(path, archive, (time,))
    except DataError:
        raise
    except Exception as error:  # whatever a broken archive makes zipfile, zlib and NumPy raise
        raise _refused(path, error) from error
    for wanted, member in ((" or ".join(INPUTS), x), *([(time, t)] if time else [])):
        if member is None:
            raise DataError(f"expected an array named {wanted} in {path}, got {', '.join(sorted(names)) or 'none'}.")
    assert x is not None
    labels, classes = (None, ()) if y is None else encode_labels(y, path.name)
    times = None if t is None else parse_timestamps(t, path.name)
    return Arrays(x, labels, place=path.name, classes=classes, times=times, content_id=content_id([path]))


def open_npy(path: Path) -> Arrays:
    """The inputs of an .npy file, memory-mapped: each is read on access."""
    try:
        x = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # whatever a broken header makes NumPy raise
        raise _refused(path, error) from error
    return Arrays(x, None, place=path.name, content_id=content_id([path]))


def _member(path: Path, archive: Any, names: tuple[str, ...]) -> NDArray[Any] | None:
    """The first array of the archive with one of `names`: memory-mapped unless it is compressed; None without one."""
    for name in names:
        if name in archive.files:
            entry = archive.zip.getinfo(f"{name}.npy")
            if entry.compress_type == zipfile.ZIP_STORED and entry.file_size:
                return _mapped(path, entry)
            if entry.file_size > LARGEST:
                raise DataError(
                    f"the array {name} takes {entry.file_size} bytes of memory, more than {LARGEST}. "
                    "Save it uncompressed or as .npy, which is read in parts."
                )
            return np.asarray(archive[name])
    return None


def _mapped(path: Path, entry: zipfile.ZipInfo) -> NDArray[Any]:
    """A memory map of an uncompressed array within the archive. It starts behind the entry's local header.

    Source: APPNOTE.TXT, the ZIP file format specification, section 4.3.7.
    """
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)  # the lengths of the name and the extra field, which end the header
        file.seek(sum(struct.unpack("<HH", file.read(4))), 1)
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise ValueError("Object arrays are pickles")
        if not np.prod(shape):
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _refused(path: Path, error: Exception) -> DataError:
    if "pickle" in str(error) or "bject" in str(error):
        return DataError(
            f"{path} holds Python objects, which are pickles and execute code when they are read; refused. "
            "Save plain numbers of one shape."
        )
    return DataError(f"cannot read {path}: {type(error).__name__}: {error}")
