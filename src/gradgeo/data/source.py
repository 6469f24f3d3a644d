"""A data source: numbered items, read one by one. An item that cannot be read is an item with an error."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Protocol, Self, final, runtime_checkable

from numpy.typing import NDArray
from torch import Tensor

from gradgeo.data import limits
from gradgeo.data.as_read import AsRead, is_image
from gradgeo.data.kept import Values
from gradgeo.data.prefetch import Group, prefetch
from gradgeo.data.preprocess import Preparation, Preprocess, in_channels
from gradgeo.data.timestamps import Timestamp, parse_timestamp
from gradgeo.errors import GradgeoError, expected, one_line


@dataclass(frozen=True)
class Item:
    """One input: either `x`, or the `error` that prevented reading it."""

    index: int
    """Position in the data, counted from 0 before `start`."""
    name: str
    """File name, path in the archive, or row number."""
    x: Tensor | None
    """float32, preprocessed; None with an error."""
    label: int | None
    """Class index; None where unknown."""
    error: str | None
    """One line; None if the item was read."""
    time: Timestamp | None = None
    """When the item was recorded; None where unknown."""
    kept: Values = ()
    """Its values of the columns that are kept."""
    as_read: AsRead | None = None
    """What it was before it was prepared; None where it was not read."""


class Reader(Protocol):
    """The interface of data with random access; `load` and `name` may raise any exception."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, ...; empty where there are none."""
        ...

    @property
    def labels(self) -> Sequence[int | None] | None:
        """(N,) class indices, None where unknown; None for data without labels."""
        ...

    @property
    def times(self) -> NDArray[Any] | None:
        """(N,) as `parse_timestamps` returns them; None where no time column was requested."""
        ...

    @property
    def content_id(self) -> str:
        """A cheap fingerprint that changes when the items may have changed."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """A name of the item for people."""
        ...

    def load(self, index: int) -> Any:
        """The item as float32, or as the source's preparation takes it."""
        ...


@dataclass(frozen=True)
class Record:
    """One item of a stream, read but not decoded; `load` may raise any exception."""

    name: str
    load: Callable[[], Any]
    label: int | None = None
    time: Timestamp | None = None
    nbytes: int = 0
    """Bytes that it holds until it is loaded."""
    kept: Values = ()


@runtime_checkable
class StreamReader(Protocol):
    """The interface of data that can only be read from beginning to end."""

    @property
    def classes(self) -> tuple[str, ...]:
        """As in `Reader`."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether any item can have a label."""
        ...

    @property
    def is_datetime(self) -> bool | None:
        """Whether times are dates rather than numbers; None where no time column was requested."""
        ...

    @property
    def content_id(self) -> str:
        """As in `Reader`."""
        ...

    def records(self, skip: int) -> Iterator[Record]:
        """The items from number `skip` on; the same in every call."""
        ...

    def count(self) -> int:
        """The number of items, without decoding any. Raises: DataError where that is not possible."""
        ...


class Source(ABC):
    """Numbered, preprocessed items of some data, from `start` on, at most `limit` of them.

    Either `Indexed`, with random access and a length, or a `Stream` of unknown length.

    Attributes:
        spec: the user's name for the data.
        classes: names of the labels 0, 1, ...; empty where the data has none.
        own_classes: the names that the data itself has, in its own order.
        columns: names of an input's entries, for rows of numbers; None for other data.
        unread: columns of the data that are nothing here: no input, label or time, and not kept.
        labelled: whether any item can have a label.
        time: the name of the time column; None where none was requested.
        is_datetime: whether times are dates (True) or numbers (False); None for data without times.
        keep: names of the columns that are carried along with the items.
        preprocess: the preprocessing of every input.
        channels: 1 or 3, to which images are brought before that where it does not state any; None for as they are.
        start, limit: the first `start` items are skipped, then at most `limit` are read.
        size: the number of items; None where it is unknown before reading.
        content_id: a fingerprint that changes when the data may have changed.
    """

    labelled: bool
    is_datetime: bool | None
    size: int | None
    channels: int | None = None

    def __init__(
        self,
        reader: Reader | StreamReader,
        spec: str,
        *,
        preprocess: Preparation,
        start: int = 0,
        limit: int | None = None,
        class_order: tuple[str, ...] = (),
        time: str | None = None,
        keep: tuple[str, ...] = (),
    ) -> None:
        if start < 0:
            raise expected("start", "0 or more", start)
        if limit is not None and limit < 1:
            raise expected("limit", "1 or more", limit)
        self.spec = spec
        self.classes = self.own_classes = reader.classes
        self._class_index: dict[int | None, int] | None = None
        if class_order and reader.classes:
            if class_order != reader.classes:
                self._class_index = {i: class_order.index(c) for i, c in enumerate(reader.classes) if c in class_order}
            self.classes = class_order
        self.columns: tuple[str, ...] | None = getattr(reader, "columns", None)
        self.unread: tuple[str, ...] = getattr(reader, "unread", ())
        self.preprocess = preprocess
        self.time = time
        self.keep = keep
        self.start = start
        self.limit = limit
        self.content_id = reader.content_id

    @abstractmethod
    def __getitem__(self, position: int) -> Item:
        """The item at `position`; its `index` counts from the beginning of the data, before `start`."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """The names of the items, which are not decoded; "" of one whose name cannot be read."""

    @abstractmethod
    def _groups(self, size: int, parts: Iterable[range]) -> Generator[Group[Item]]:
        """For each batch the calls that return its items: at most `size`, and none from two parts."""

    def batches(
        self,
        size: int,
        *,
        workers: int = 1,
        parts: Iterable[range] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Generator[list[Item]]:
        """Lists of at most `size` consecutive items, prefetched by `workers` threads.

        Memory: the batch that is asked for, and two more as far as `limits.READ_AHEAD` allows. Without a `shape` that
        is whatever the items take, which for images of a folder may be gigabytes.

        Args:
            size: items in a batch.
            workers: threads that read.
            parts: ascending ranges of positions; no batch crosses their borders, and positions beyond the end of the
                data are ignored. None: all positions.
            shape: that of the inputs: of an item of another shape only an error is kept. None: any shape.
        """
        groups = self._groups(size, (range(sys.maxsize),) if parts is None else parts)
        if shape is not None:
            groups = _only(groups, tuple(shape))
        yield from prefetch(groups, workers, _nbytes)

    def match(self, shape: tuple[int, ...]) -> Self:
        """Bring images to the channels of inputs of this `shape`, that of a detector; returns the source."""
        self.channels = shape[0] if is_image(tuple(shape)) else None
        return self

    def first_shape(self) -> tuple[int, ...] | None:
        """The shape of the first item that can be read; None without one."""
        for item in self:
            if item.x is not None:
                return tuple(item.x.shape)
        return None

    def __iter__(self) -> Iterator[Item]:
        with closing(self.batches(1)) as batches:
            for batch in batches:
                yield from batch

    def _item(
        self,
        index: int,
        name: Callable[[], str],
        load: Callable[[], Any],
        label: int | None,
        time: object,
        kept: Values = (),
    ) -> Item:
        """The item with the result of `load`, or with its exception as the error."""
        x, error, as_read = None, None, None
        try:
            x = load()
            if isinstance(self.preprocess, Preprocess):  # code of the user's sees what the file holds
                as_read = AsRead.of(x)
                if self.channels and self.preprocess.channels is None and is_image(as_read.shape):
                    x = in_channels(x, self.channels)
            x = self.preprocess(x)
        except Exception as reason:  # decoders of broken or hostile files raise anything
            known = isinstance(reason, GradgeoError)
            x, error = None, one_line(str(reason) if known else f"{type(reason).__name__}: {reason}")
        try:
            shown = one_line(name())
        except Exception:  # a row whose data cannot be read often has no readable name either
            shown = str(index)
        if self._class_index is not None:
            label = self._class_index.get(label)
        return Item(index, shown, x, label, error, parse_timestamp(time), kept, as_read)


@final
class Indexed(Source):
    """A source with random access and a length."""

    size: int

    def __init__(self, reader: Reader, spec: str, **options: Any) -> None:
        super().__init__(reader, spec, **options)
        total = len(reader)
        if total and self.start >= total:
            raise expected("start", f"below the number of items in {spec}, {total}", self.start)
        self.labelled = reader.labels is not None
        self.is_datetime = None if reader.times is None else reader.times.dtype.kind == "M"
        self.size = total - self.start if self.limit is None else min(self.limit, total - self.start)
        self._reader = reader
        self._kept: Sequence[Sequence[str | None]] = getattr(reader, "kept", ())  # of readers that have columns

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> Item:
        """The item at `position`; its `index` counts from the beginning of the data, before `start`."""
        if not 0 <= position < self.size:
            raise IndexError(f"{position} is not in 0..{self.size - 1}")
        reader, index = self._reader, self.start + position
        label = None if reader.labels is None else reader.labels[index]
        time = None if reader.times is None else reader.times[index]
        kept = tuple(column[index] for column in self._kept)
        return self._item(index, partial(reader.name, index), partial(reader.load, index), label, time, kept)

    def names(self) -> Iterator[str]:
        """As in `Source`."""
        for position in range(self.size):
            try:
                name = one_line(self._reader.name(self.start + position))
            except Exception:  # as in `_item`
                name = ""
            yield name

    def _groups(self, size: int, parts: Iterable[range]) -> Generator[Group[Item]]:
        for part in parts:
            if part.start >= self.size:
                return
            end = min(part.stop, self.size)
            for first in range(part.start, end, size):
                yield Group([partial(self.__getitem__, position) for position in range(first, min(first + size, end))])


@final
class Stream(Source):
    """A source that is read from beginning to end; `source[i]` reads up to that item."""

    def __init__(self, reader: StreamReader, spec: str, **options: Any) -> None:
        super().__init__(reader, spec, **options)
        self.labelled = reader.labelled
        self.is_datetime = reader.is_datetime
        self.size = None
        self._reader = reader

    def count(self) -> int:
        """The number of items, without decoding any. Raises: DataError where that is not possible."""
        rest = max(0, self._reader.count() - self.start)
        return rest if self.limit is None else min(rest, self.limit)

    def __getitem__(self, position: int) -> Item:
        """The item at `position`; the items before it are skipped."""
        for group in self._groups(1, (range(position, position + 1),) if position >= 0 else ()):
            return group.calls[0]()
        raise IndexError(f"{position} is not in the data")

    def names(self) -> Iterator[str]:
        """As in `Source`; the data are read."""
        return (one_line(str(record.name)) for record in islice(self._reader.records(self.start), self.limit))

    def _groups(self, size: int, parts: Iterable[range]) -> Generator[Group[Item]]:
        end = sys.maxsize if self.limit is None else self.limit
        at, records = -1, iter(())  # type: tuple[int, Iterator[Record]]
        for part in parts:
            if part.start >= end:
                return
            if at != part.start:
                at, records = part.start, self._reader.records(self.start + part.start)
            group = Group[Item]([])
            while at < min(part.stop, end):
                record = next(records, None)
                if record is None:
                    break
                index = self.start + at
                group.calls.append(
                    partial(
                        self._item,
                        index,
                        partial(str, record.name),
                        record.load,
                        record.label,
                        record.time,
                        record.kept,
                    )
                )
                group.nbytes += record.nbytes
                at += 1
                if len(group.calls) == size or group.nbytes >= limits.BATCH:
                    yield group
                    group = Group[Item]([])
            if group.calls:
                yield group
            if at < min(part.stop, end):  # the data has ended; `parts` may be endless
                return


def with_expected_shape(item: Item, shape: tuple[int, ...] | None) -> Item:
    """`item`, or an error in its place if `x` has another shape; None allows any shape."""
    if item.x is None or shape in (None, item.x.shape):
        return item
    return replace(item, x=None, error=f"expected shape {shape}, got {tuple(item.x.shape)}")


def _only(groups: Generator[Group[Item]], shape: tuple[int, ...]) -> Generator[Group[Item]]:
    """The groups with calls that keep items of this shape alone, so that no other waits in memory for its batch."""
    with closing(groups):
        for group in groups:
            yield Group([partial(_fitting, call, shape) for call in group.calls], group.nbytes)


def _fitting(call: Callable[[], Item], shape: tuple[int, ...]) -> Item:
    return with_expected_shape(call(), shape)


def _nbytes(item: Item) -> int:
    return 0 if item.x is None else item.x.nbytes
