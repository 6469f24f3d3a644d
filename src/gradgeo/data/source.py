"""A data source: numbered items, read one by one; one that cannot be read is an item all the same."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradgeo.data.preprocess import Preprocess
from gradgeo.errors import DataError, GradgeoError, describe, expected

AHEAD = 2
"""Batches that are read ahead while the model works."""

LONGEST = 1000
"""Characters of a name or an error text that are kept."""


@dataclass(frozen=True)
class Item:
    """One input: either `x` (float32) or the `error` that kept it from being read."""

    index: int
    name: str
    x: Tensor | None
    label: int | None
    error: str | None


class Reader(Protocol):
    """What each kind of source brings; `load` and `name` may raise whatever they like."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, ...; empty where there are none."""
        ...

    @property
    def labels(self) -> Sequence[int | None] | None:
        """One per item, None where unknown; None for data without labels."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a person calls the item."""
        ...

    def load(self, index: int) -> Tensor:
        """The item as float32."""
        ...


@final
class Source:
    """Sized random access to what a reader holds: preprocessed, from `start` on, at most `limit` items.

    Attributes:
        spec: what the user called the data.
        classes: names of the labels 0, 1, ...; empty where the data has none.
        labelled: whether any item can have a label.
    """

    def __init__(
        self,
        reader: Reader,
        spec: str,
        *,
        preprocess: Preprocess,
        start: int = 0,
        limit: int | None = None,
        numbering: tuple[str, ...] = (),
    ) -> None:
        total = len(reader)
        if start < 0:
            raise expected("start", "0 or more", start)
        if limit is not None and limit < 1:
            raise expected("limit", "1 or more", limit)
        if total and start >= total:
            raise expected("start", f"below the number of items in {spec}, {total}", start)
        self.spec = spec
        self.classes = reader.classes
        self._number: dict[int | None, int] = {}
        if numbering and reader.classes:
            self._number = {i: numbering.index(c) for i, c in enumerate(reader.classes) if c in numbering}
            self.classes = numbering
        self.labelled = reader.labels is not None
        self._reader = reader
        self._preprocess = preprocess
        self._start = start
        self._size = total - start if limit is None else min(limit, total - start)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> Item:
        """The item at `position`; its `index` counts from the beginning of the data, before `start`."""
        if not 0 <= position < self._size:
            raise IndexError(f"{position} is not in 0..{self._size - 1}")
        index = self._start + position
        x, error = None, None
        try:
            x = self._preprocess(self._reader.load(index))
        except GradgeoError as fact:
            error = one_line(str(fact))
        except Exception as fact:  # whatever a broken or hostile file makes the decoders raise
            error = one_line(f"{type(fact).__name__}: {fact}")
        label = None if self._reader.labels is None else self._reader.labels[index]
        if self.classes != self._reader.classes:
            label = self._number.get(label)
        return Item(index, self._name(index), x, label, error)

    def batches(self, size: int, *, workers: int = 1) -> Iterator[list[Item]]:
        """Lists of `size` consecutive items, read ahead of their use by `workers` threads."""
        pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="gradgeo-read")
        waiting: deque[Any] = deque()
        try:
            for start in range(0, len(self), size):
                batch = range(start, min(start + size, len(self)))
                waiting.append([pool.submit(self.__getitem__, position) for position in batch])
                if len(waiting) > AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)

    def _name(self, index: int) -> str:
        try:
            return one_line(self._reader.name(index))
        except Exception:  # a row whose data cannot be read often has no readable name either
            return str(index)


def shaped(item: Item, shape: tuple[int, ...] | None) -> Item:
    """`item`, with an error in place of an `x` of another shape; None allows any."""
    if item.x is None or shape in (None, item.x.shape):
        return item
    return replace(item, x=None, error=f"expected shape {shape}, got {tuple(item.x.shape)}")


def one_line(text: str) -> str:
    """`text` without line breaks, terminal codes or lone surrogates, which are escaped, and not endless."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:LONGEST])
    return escaped + ("..." if len(text) > LONGEST else "")


def class_labels(values: NDArray[Any], place: str) -> tuple[list[int | None], tuple[str, ...]]:
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
