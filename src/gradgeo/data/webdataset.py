"""WebDataset shards: tar files in which consecutive members that differ only in their ending form an item.

Shards are read sequentially, one sample at a time, so memory depends neither on their number nor on their size. Pickles
(.pyd, .pickle, .pkl, .pth) are not opened, and sparse members, which webdataset never writes, are not read. The
webdataset library itself is not used: it runs shell commands in names (`pipe:`) and unpickles.

Source: A. Aizman, G. Maltby, T. Breuel, "High performance I/O for large scale deep learning", IEEE Big Data, 2019.
"""

import gzip
import json
import tarfile
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from torch import Tensor

from gradgeo._files import check_regular
from gradgeo.data import limits
from gradgeo.data.arrays import as_input, from_bytes
from gradgeo.data.files import content_id
from gradgeo.data.images import decode, is_image
from gradgeo.data.kept import as_text
from gradgeo.data.source import Record
from gradgeo.data.timestamps import Timestamp, parse_timestamp
from gradgeo.errors import DataError

ENDINGS = (".tar", ".tar.gz", ".tgz")
LABELS = ("cls", "cls.txt", "label.txt")
GZIP = b"\x1f\x8b"

MOST_ENDINGS = 32
"""Members of a sample that an error names."""

ENTRY = 100
"""Bytes of memory that a member takes beside its name and content."""

JSON_LABELS = ("label", "cls", "class")
"""Keys of the label in the .json of a sample."""

PICKLES = (".pyd", ".pickle", ".pkl", ".pth", ".pt")


@dataclass
class _Sample:
    """The members with one name: their endings, and the bytes of those that are read."""

    name: str
    parts: dict[str, bytes] = field(default_factory=dict)
    endings: list[str] = field(default_factory=list)
    error: str | None = None
    nbytes: int = 0
    """What its names and contents take."""

    def take(self, name: str, ending: str, size: int) -> bool:
        """Count a member that is to be read; False and an error where it is too large."""
        is_text = ending in LABELS or ending == "json"
        limit = limits.LARGEST_TEXT if is_text else limits.LARGEST_ITEM
        self.nbytes += size + len(name) + ENTRY
        if size > limit:
            self.error = self.error or f"{name} has {size} bytes; at most {limit} are read"
        elif self.nbytes > limits.LARGEST_ITEM:
            self.error = self.error or f"its members have more than {limits.LARGEST_ITEM} bytes, which are not read"
        return self.error is None

    def record(self, time: str | None, keep: Sequence[str] = ()) -> Record:
        """The sample as a record that decodes it on `load`."""
        about = _json(self.parts)
        label = next(
            (_integer(self.parts[key].decode("ascii", "replace")) for key in LABELS if key in self.parts), None
        )
        if label is None:
            label = next((_integer(about[key]) for key in JSON_LABELS if key in about), None)
        nbytes = sum(map(len, self.parts.values()))
        timestamp: Timestamp | None = None if time is None else parse_timestamp(about.get(time))
        kept = tuple(None if isinstance(value := about.get(key), list | dict) else as_text(value) for key in keep)
        return Record(self.name, partial(_decoded, self), label, timestamp, nbytes, kept)


class Shards:
    """The samples of tar files, one file after the other.

    The input is the first image of a sample, or else its .npy array. The label is the integer in its .cls, or `label`
    in its .json, which also holds the time. For a shard that is truncated or not a tar file, one item with an error
    stands for the rest.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, files: Sequence[Path], time: str | None = None, keep: Sequence[str] = ()) -> None:
        self._files = list(files)
        self._time, self._keep = time, keep
        self._counts: list[int] = []  # samples per shard, for the shards read to their end so far
        first = next(self.records(0), None)
        if first is None:
            raise DataError(f"no samples in {self._files[0]}" + (" and the others" if self._files[1:] else ""))
        self.labelled = first.label is not None
        if time is not None and first.time is None:
            raise DataError(f"the .json of the first sample, {first.name}, has no time (number or ISO 8601) as {time}.")
        for name, value in zip(keep, first.kept, strict=True):
            if value is None:
                raise DataError(f"the .json of the first sample, {first.name}, has no {name}.")
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
                        yield sample.record(self._time, self._keep)
            if number == len(self._counts):
                self._counts.append(at - before)

    def count(self) -> int:
        """The number of samples, from the headers."""
        known = len(self._counts)
        for file in self._files[known:]:
            self._counts.append(sum(1 for _ in _samples(file, 1 << 62)))
        return sum(self._counts)


class _Bounded:
    """A shard, unpacked as it is read, that gives no more bytes than are allowed: how many of them tarfile reads as
    headers is up to these."""

    def __init__(self, stream: IO[bytes], most: float) -> None:
        self._stream, self._most = stream, most
        self._left = 0

    def allow(self, size: int) -> None:
        """Allow so many bytes from here on."""
        self._left = size

    def read(self, size: int) -> bytes:
        """Raises: ReadError beyond what is allowed."""
        self._left -= size
        if size < 0 or self._left < 0:
            raise tarfile.ReadError(f"headers of more than {limits.LARGEST_HEADER} bytes before a member")
        return self._stream.read(size)

    def seek(self, position: int) -> None:
        """Raises: ReadError beyond the largest size."""
        if position > self._most:
            raise tarfile.ReadError(f"it unpacks to more than {limits.LARGEST_SHARD} bytes")
        self._stream.seek(position)

    def tell(self) -> int:
        """The position in the unpacked shard."""
        return self._stream.tell()


@contextmanager
def _opened(file: Path) -> Iterator[tuple[tarfile.TarFile, _Bounded]]:
    """The shard, unpacked where its ending says so."""
    check_regular(file)
    with ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(file.open("rb"))
        packed = not file.name.lower().endswith(".tar")
        if packed:
            stream = cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=stream)))
        elif stream.peek(2)[:2] == GZIP:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it is compressed; call it .tar.gz")
        bounded = _Bounded(stream, limits.LARGEST_SHARD if packed else float("inf"))
        bounded.allow(limits.LARGEST_HEADER)
        with tarfile.TarFile(fileobj=cast(IO[bytes], bounded)) as tar:
            yield tar, bounded


def _samples(file: Path, skip: int) -> Generator[_Sample]:
    """The samples of one shard, the first `skip` of them without content."""
    sample: _Sample | None = None
    number = 0
    try:
        with _opened(file) as (tar, stream):
            while (member := _next(tar, stream)) is not None:
                if not member.isreg() or _is_hidden(member.name):
                    continue
                name, ending = _split(member.name)
                if sample is not None and sample.name != name:
                    yield sample
                    sample, number = None, number + 1
                sample = sample or _Sample(name)
                if len(sample.endings) < MOST_ENDINGS:
                    sample.endings.append(ending)
                if number < skip or not _is_read(ending):
                    continue
                if member.issparse():  # a header can claim any number of zeros
                    sample.error = sample.error or f"{member.name} is a sparse file, which is not read"
                elif sample.take(member.name, ending, member.size):
                    sample.parts[ending] = _content(stream, member)
            stream.allow(tarfile.BLOCKSIZE)
            _check_end(tar)
    except (DataError, tarfile.TarError, OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        text = f"the shard cannot be read on from here: {type(error).__name__}: {error}"
        if sample is not None:
            sample.error = sample.error or text
            yield sample
        yield _Sample(file.name, error=text)
        return
    if sample is not None:
        yield sample


def _next(tar: tarfile.TarFile, stream: _Bounded) -> tarfile.TarInfo | None:
    """The next member, after headers of a bounded size."""
    stream.allow(limits.LARGEST_HEADER)
    member = tar.next()
    tar.members = []  # type: ignore[attr-defined]  # it would keep every header in memory
    if member is not None and tar.offset <= member.offset:  # it would be read for ever
        raise tarfile.ReadError(f"{member.name[:80]} has a negative size")
    if sum(len(key) + len(value) for key, value in tar.pax_headers.items()) > limits.LARGEST_HEADER:
        raise tarfile.ReadError(f"global headers of more than {limits.LARGEST_HEADER} bytes")
    return member


def _check_end(tar: tarfile.TarFile) -> None:
    """Raises: ReadError for a broken header, which tarfile takes for the end; the end is a block of zeros or none."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("broken header")


def _content(stream: _Bounded, member: tarfile.TarInfo) -> bytes:
    stream.allow(member.size)
    stream.seek(member.offset_data)
    data = stream.read(member.size)
    if len(data) < member.size:
        raise EOFError("unexpected end of data")
    return data


def _is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


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
        return as_input(from_bytes(sample.parts[numbers]))
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
