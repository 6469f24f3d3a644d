"""A data source: numbered items, read one by one; one that cannot be read is an item all the same."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradgeo.data.prefetch import ahead
from gradgeo.data.preprocess import Preprocess
from gradgeo.data.timestamps import Timestamp, moment
from gradgeo.errors import DataError, GradgeoError, describe, expected, one_line


@dataclass(frozen=True)
class Item:
    """One input: either `x` (float32) or the `error` that kept it from being read."""

    index: int
    name: str
    x: Tensor | None
    label: int | None
    error: str | None
    time: Timestamp | None = None


class Reader(Protocol):
    """What each kind of data with random access brings; `load` and `name` may raise whatever they like."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, ...; empty where there are none."""
        ...

    @property
    def labels(self) -> Sequence[int | None] | None:
        """One per item, None where unknown; None for data without labels."""
        ...

    @property
    def times(self) -> NDArray[Any] | None:
        """One per item, as `moments` gives them; None where no column of them was asked for."""
        ...

    @property
    def identity(self) -> str:
        """What changes when the items may have changed, and is cheap to tell."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a person calls the item."""
        ...

    def load(self, index: int) -> Tensor:
        """The item as float32."""
        ...


@dataclass(frozen=True)
class Record:
    """One item of a stream, read but not decoded; `load` may raise whatever it likes."""

    name: str
    load: Callable[[], Tensor]
    label: int | None = None
    time: Timestamp | None = None


@runtime_checkable
class StreamReader(Protocol):
    """What each kind of data brings that can only be read from its beginning to its end."""

    @property
    def classes(self) -> tuple[str, ...]:
        """As in `Reader`."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether any item can have a label."""
        ...

    @property
    def dated(self) -> bool | None:
        """Whether times are dates rather than numbers; None where no column of them was asked for."""
        ...

    @property
    def identity(self) -> str:
        """As in `Reader`."""
        ...

    def records(self, skip: int) -> Iterator[Record]:
        """The items from number `skip` on, every time the same."""
        ...

    def count(self) -> int:
        """How many items there are, told without decoding any; DataError where that cannot be."""
        ...


class Source(ABC):
    """Numbered items of some data: preprocessed, from `start` on, at most `limit` of them.

    Either `Indexed`, with random access and a length, or a `Stream`, whose length shows at its end.

    Attributes:
        spec: what the user called the data.
        classes: names of the labels 0, 1, ...; empty where the data has none.
        labelled: whether any item can have a label.
        time: what the data calls the times of its items.
        dated: whether times are dates (True) or numbers (False); None for data without times.
        preprocess: what is done to every input.
        start, limit: the part of the data that is taken.
        size: how many items there are; None where only reading tells.
        identity: what changes when the data may have changed.
    """

    labelled: bool
    dated: bool | None
    size: int | None

    def __init__(
        self,
        reader: Reader | StreamReader,
        spec: str,
        *,
        preprocess: Preprocess,
        start: int = 0,
        limit: int | None = None,
        numbering: tuple[str, ...] = (),
        time: str | None = None,
    ) -> None:
        if start < 0:
            raise expected("start", "0 or more", start)
        if limit is not None and limit < 1:
            raise expected("limit", "1 or more", limit)
        self.spec = spec
        self.classes = reader.classes
        self._number: dict[int | None, int] | None = None
        if numbering and reader.classes:
            if numbering != reader.classes:
                self._number = {i: numbering.index(c) for i, c in enumerate(reader.classes) if c in numbering}
            self.classes = numbering
        self.preprocess = preprocess
        self.time = time
        self.start = start
        self.limit = limit
        self.identity = reader.identity

    @abstractmethod
    def __getitem__(self, position: int) -> Item:
        """The item at `position`; its `index` counts from the beginning of the data, before `start`."""

    @abstractmethod
    def _groups(self, size: int, parts: Iterable[range]) -> Generator[list[Callable[[], Item]]]:
        """What makes the items of each batch: lists of calls, of at most `size`, none across the end of a part."""

    def batches(self, size: int, *, workers: int = 1, parts: Iterable[range] | None = None) -> Generator[list[Item]]:
        """Lists of at most `size` consecutive items, read ahead of their use by `workers` threads.

        Args:
            size: items in a batch.
            workers: threads that read.
            parts: ascending ranges of positions to take, and batches do not cross; what lies beyond the end of the
                data is passed over. None for all.
        """
        yield from ahead(self._groups(size, (range(sys.maxsize),) if parts is None else parts), workers)

    def __iter__(self) -> Iterator[Item]:
        for batch in self.batches(1):
            yield from batch

    def _item(
        self, index: int, name: Callable[[], str], load: Callable[[], Tensor], label: int | None, time: object
    ) -> Item:
        """The item that `load` gives; whatever it raises is the item's error."""
        x, error = None, None
        try:
            x = self.preprocess(load())
        except GradgeoError as fact:
            error = one_line(str(fact))
        except Exception as fact:  # whatever a broken or hostile file makes the decoders raise
            error = one_line(f"{type(fact).__name__}: {fact}")
        try:
            called = one_line(name())
        except Exception:  # a row whose data cannot be read often has no readable name either
            called = str(index)
        if self._number is not None:
            label = self._number.get(label)
        return Item(index, called, x, label, error, moment(time))


@final
class Indexed(Source):
    """Sized random access to what a reader holds."""

    size: int

    def __init__(self, reader: Reader, spec: str, **options: Any) -> None:
        super().__init__(reader, spec, **options)
        total = len(reader)
        if total and self.start >= total:
            raise expected("start", f"below the number of items in {spec}, {total}", self.start)
        self.labelled = reader.labels is not None
        self.dated = None if reader.times is None else reader.times.dtype.kind == "M"
        self.size = total - self.start if self.limit is None else min(self.limit, total - self.start)
        self._reader = reader

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> Item:
        """The item at `position`; its `index` counts from the beginning of the data, before `start`."""
        if not 0 <= position < self.size:
            raise IndexError(f"{position} is not in 0..{self.size - 1}")
        reader, index = self._reader, self.start + position
        label = None if reader.labels is None else reader.labels[index]
        time = None if reader.times is None else reader.times[index]
        return self._item(index, partial(reader.name, index), partial(reader.load, index), label, time)

    def _groups(self, size: int, parts: Iterable[range]) -> Generator[list[Callable[[], Item]]]:
        for part in parts:
            if part.start >= self.size:
                return
            end = min(part.stop, self.size)
            for first in range(part.start, end, size):
                yield [partial(self.__getitem__, position) for position in range(first, min(first + size, end))]


@final
class Stream(Source):
    """What a reader reads from beginning to end; `source[i]` reads up to that item."""

    def __init__(self, reader: StreamReader, spec: str, **options: Any) -> None:
        super().__init__(reader, spec, **options)
        self.labelled = reader.labelled
        self.dated = reader.dated
        self.size = None
        self._reader = reader

    def count(self) -> int:
        """How many items there are, told by passing over them; DataError where that cannot be."""
        rest = max(0, self._reader.count() - self.start)
        return rest if self.limit is None else min(rest, self.limit)

    def __getitem__(self, position: int) -> Item:
        """The item at `position`; everything before it is passed over."""
        for group in self._groups(1, (range(position, position + 1),) if position >= 0 else ()):
            return group[0]()
        raise IndexError(f"{position} is not in the data")

    def _groups(self, size: int, parts: Iterable[range]) -> Generator[list[Callable[[], Item]]]:
        end = sys.maxsize if self.limit is None else self.limit
        at, records = -1, iter(())  # type: tuple[int, Iterator[Record]]
        for part in parts:
            if part.start >= end:
                return
            if at != part.start:
                at, records = part.start, self._reader.records(self.start + part.start)
            group: list[Callable[[], Item]] = []
            while at < min(part.stop, end):
                record = next(records, None)
                if record is None:
                    break
                index = self.start + at
                group.append(
                    partial(self._item, index, partial(str, record.name), record.load, record.label, record.time)
                )
                at += 1
                if len(group) == size:
                    yield group
                    group = []
            if group:
                yield group
            if at < min(part.stop, end):  # the data has ended, and the parts may go on for ever
                return


def shaped(item: Item, shape: tuple[int, ...] | None) -> Item:
    """`item`, with an error in place of an `x` of another shape; None allows any."""
    if item.x is None or shape in (None, item.x.shape):
        return item
    return replace(item, x=None, error=f"expected shape {shape}, got {tuple(item.x.shape)}")


def encode_labels(values: NDArray[Any], place: str) -> tuple[list[int | None], tuple[str, ...]]:
    """Labels as integers, and the class names where they are text.

    Integers stay as they are, text is numbered in sorted order, missing values are None.

    Args:
        values: (N,), integers, whole floats, booleans or text.
        place: where they stand, for the message.
    """
    if values.ndim == 1 and values.dtype.kind in "iub":
        return [int(value) for value in values], ()
    if values.ndim == 1 and values.dtype.kind == "f" and _whole(values):
        return [None if np.isnan(value) else int(value) for value in values], ()
    if values.ndim == 1 and values.dtype.kind in "UO" and all(isinstance(v, str | None) for v in values):
        classes = tuple(sorted({str(value) for value in values if value is not None}))
        rank = {name: number for number, name in enumerate(classes)}
        return [rank.get(value) for value in values], classes
    raise DataError(f"expected the labels in {place} to be one integer or text per item, got {describe(values)}.")


def _whole(values: NDArray[Any]) -> bool:
    """Whether every value is a whole number or missing."""
    return bool((np.isnan(values) | (np.isfinite(values) & (np.floor(values) == values))).all())
