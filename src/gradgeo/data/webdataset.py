"""WebDataset shards: tar files in which consecutive members that differ only in their ending form an item.

Shards are read sequentially, one sample at a time, so memory depends neither on their number nor on their size. Pickles
(.pyd, .pickle, .pkl, .pth) are not opened. The webdataset library itself is not used: it runs shell commands in names
(`pipe:`) and unpickles.

Source: A. Aizman, G. Maltby, T. Breuel, "High performance I/O for large scale deep learning", IEEE Big Data, 2019.
"""

import json
import tarfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gradgeo.data.arrays import as_input
from gradgeo.data.files import content_id
from gradgeo.data.images import decode, is_image
from gradgeo.data.source import Record
from gradgeo.data.timestamps import Timestamp, parse_timestamp
from gradgeo.errors import DataError

ENDINGS = (".tar", ".tar.gz", ".tgz")
LABELS = ("cls", "cls.txt", "label.txt")
JSON_LABELS = ("label", "cls", "class")
"""Keys of the label in the .json of a sample."""

LARGEST = 1 << 28
"""Bytes of the largest member that is read."""

PICKLES = (".pyd", ".pickle", ".pkl", ".pth", ".pt")


@dataclass
class _Sample:
    """The members with one name: their endings, and the bytes of those that are read."""

    name: str
    parts: dict[str, bytes] = field(default_factory=dict)
    endings: list[str] = field(default_factory=list)
    error: str | None = None

    def record(self, time: str | None) -> Record:
        """The sample as a record that decodes it on `load`."""
        about = _json(self.parts)
        label = next(
            (_integer(self.parts[key].decode("ascii", "replace")) for key in LABELS if key in self.parts), None
        )
        if label is None:
            label = next((_integer(about[key]) for key in JSON_LABELS if key in about), None)
        timestamp: Timestamp | None = None if time is None else parse_timestamp(about.get(time))
        return Record(self.name, partial(_decoded, self), label, timestamp)


class Shards:
    """The samples of tar files, one file after the other.

    The input is the first image of a sample, or else its .npy array. The label is the integer in its .cls, or `label`
    in its .json, which also holds the time. For a shard that is truncated or not a tar file, one item with an error
    stands for the rest.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, files: Sequence[Path], time: str | None = None) -> None:
        self._files = list(files)
        self._time = time
        self._counts: list[int] = []  # samples per shard, for the shards read to their end so far
        first = next(self.records(0), None)
        if first is None:
            raise DataError(f"no samples in {self._files[0]}" + (" and the others" if self._files[1:] else ""))
        self.labelled = first.label is not None
        if time is not None and first.time is None:
            raise DataError(f"the .json of the first sample, {first.name}, has no time (number or ISO 8601) as {time}.")
        self.is_datetime = None if time is None else isinstance(first.time, datetime)
        self.content_id = content_id(self._files)

    def records(self, skip: int) -> Iterator[Record]:
        """The samples from number `skip` on; only the headers of earlier ones are read."""
        at = 0
        for number, file in enumerate(self._files):
            if number < len(self._counts) and at + self._counts[number] <= skip:
                at += self._counts[number]
                continue
            before = at
            with closing(_samples(file, skip - at)) as samples:
                for sample in samples:
                    at += 1
                    if at > skip:
                        yield sample.record(self._time)
            if number == len(self._counts):
                self._counts.append(at - before)

    def count(self) -> int:
        """The number of samples, from the headers."""
        known = len(self._counts)
        for file in self._files[known:]:
            self._counts.append(sum(1 for _ in _samples(file, 1 << 62)))
        return sum(self._counts)


def _samples(file: Path, skip: int) -> Generator[_Sample]:
    """The samples of one shard, the first `skip` of them without content."""
    sample: _Sample | None = None
    number = 0
    try:
        with tarfile.open(file, "r:*") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header in memory
                if not member.isreg() or member.name.rpartition("/")[2].startswith("."):
                    continue
                name, ending = _split(member.name)
                if sample is not None and sample.name != name:
                    yield sample
                    sample, number = None, number + 1
                sample = sample or _Sample(name)
                sample.endings.append(ending)
                if number >= skip and _is_read(ending):
                    _take(tar, member, ending, sample)
            _check_end(tar)
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error) as error:
        text = f"the shard cannot be read on from here: {type(error).__name__}: {error}"
        if sample is not None:
            sample.error = sample.error or text
            yield sample
        yield _Sample(file.name, error=text)
        return
    if sample is not None:
        yield sample


def _check_end(tar: tarfile.TarFile) -> None:
    """Raises: ReadError for a broken header, which tarfile takes for the end; the end is a block of zeros or none."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("broken header")


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str, sample: _Sample) -> None:
    if member.size > LARGEST:
        sample.error = f"{member.name} has {member.size} bytes; at most {LARGEST} are read"
        return
    stream = tar.extractfile(member)
    assert stream is not None
    sample.parts[ending] = stream.read()
    if len(sample.parts[ending]) < member.size:
        raise EOFError("unexpected end of data")


def _split(name: str) -> tuple[str, str]:
    """The name of the sample and the ending, which starts at the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _is_read(ending: str) -> bool:
    return is_image(f"a.{ending}") or ending.endswith("npy") or ending in LABELS or ending == "json"


def _decoded(sample: _Sample) -> Tensor:
    """The input of a sample."""
    if sample.error is not None:
        raise DataError(sample.error)
    images = sorted((key for key in sample.parts if is_image(f"a.{key}")), key=lambda key: key.count("."))
    if images:  # "jpg" before "mask.png"
        return decode(sample.parts[images[0]])
    numbers = next((key for key in sample.parts if key.endswith("npy")), None)
    if numbers is not None:
        stream: Any = BytesIO(sample.parts[numbers])
        return as_input(np.lib.format.read_array(stream, allow_pickle=False))
    if any(f".{key}".endswith(PICKLES) for key in sample.endings):
        raise DataError("pickles execute code when they are read; refused. Write images or .npy")
    raise DataError(f"no image and no .npy among {', '.join(sample.endings)}")


def _json(parts: dict[str, bytes]) -> dict[str, Any]:
    try:
        about = json.loads(parts.get("json", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _integer(value: object) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.removeprefix("-").isdecimal() and len(text) < 19 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62 else None
