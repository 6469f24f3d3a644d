"""The cells of one Parquet column, unpacked a few rows at a time: as many as cannot take much memory.

Some hundred bytes unpack to gigabytes where all rows of a row group name one large value of a dictionary: a row group
is unpacked as a whole only where its size is known beforehand.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from gradgeo.data import limits
from gradgeo.errors import DataError, require


class RowGroup(NamedTuple):
    """A place of rows."""

    file: int
    """Number of the file."""

    number: int
    """Number within the file."""

    rows: int


class Size(NamedTuple):
    """What a row group may take."""

    nbytes: int
    """Bytes of the column, unpacked."""

    at_once: int
    """Rows that are unpacked together."""


class Cells:
    """The cells of a column, by the number of the row over all row groups.

    Memory: `limits.ROWS_AT_ONCE` for the rows that are unpacked, and as many rows as fit into `limits.CACHED_ROWS`, or
    into the size of the row group where that is more, for threads that read out of order.

    Args:
        open_file: opens a file by its number.
        size_of: what a row group of an open file takes; raises DataError where it is broken.
        column: the name of the column.
        groups: the row groups in order.
    """

    def __init__(
        self,
        open_file: Callable[[int], Any],
        size_of: Callable[[Any, RowGroup], Size],
        column: str,
        groups: list[RowGroup],
    ) -> None:
        self._open, self._size_of, self._column, self._groups = open_file, size_of, column, groups
        self._ends = np.cumsum([group.rows for group in groups], dtype=np.int64)
        self._file: tuple[int, Any] = (-1, None)
        self._sizes: dict[int, Size] = {}  # by row group, of those that have been read from
        self._at = -1  # the row group that is being read,
        self._coming: Iterator[Any] = iter(())  # its chunks,
        self._next = 0  # and the number of the next one
        self._chunks: OrderedDict[tuple[int, int], Any] = OrderedDict()  # by row group and number
        self._held = 0  # bytes of the chunks
        self._broken: dict[int, tuple[int, str]] = {}  # by row group, the chunk from which on it is unreadable, and why
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Any:
        """A cell, as an Arrow scalar. Raises: DataError where its row group is broken or too large."""
        at = int(np.searchsorted(self._ends, index, side="right"))
        group = self._groups[at]
        with self._lock:
            size = self._size(at)
            number, row = divmod(index - (int(self._ends[at]) - group.rows), size.at_once)
            if (at, number) not in self._chunks:
                self._read(at, number, size)
            self._chunks.move_to_end((at, number))
            return self._chunks[at, number][row]

    def _size(self, at: int) -> Size:
        if at in self._broken and self._broken[at][0] == 0:
            raise DataError(self._broken[at][1])
        if at not in self._sizes:
            with self._noting(at, 0):
                group = self._groups[at]
                if self._file[0] != group.file:
                    self._file, self._at = (group.file, self._open(group.file)), -1
                size = self._size_of(self._file[1], group)
                advice = "Write row groups of fewer rows"
                limits.check_size("its row group, unpacked,", size.nbytes, limits.LARGEST_ROW_GROUP, advice)
                self._sizes[at] = size
        return self._sizes[at]

    def _read(self, at: int, number: int, size: Size) -> None:
        """Read on up to a chunk, or from the beginning of the row group if it has been passed."""
        if at in self._broken and number >= self._broken[at][0]:
            raise DataError(self._broken[at][1])
        if self._at != at or number < self._next:
            self._at, self._coming, self._next = at, self._unpacked(self._groups[at], size.at_once), 0
        while self._next <= number:
            with self._noting(at, self._next):
                chunk = next(self._coming, None)
                if chunk is None:
                    raise DataError("the row group ends before its last row")
            self._keep((at, self._next), chunk, max(limits.CACHED_ROWS, size.nbytes))
            self._next += 1

    @contextmanager
    def _noting(self, at: int, number: int) -> Iterator[None]:
        """Whatever a broken page raises is one error of all rows from here on, which are not read again."""
        try:
            yield
        except Exception as fact:
            text = str(fact) if isinstance(fact, DataError) else f"{type(fact).__name__}: {fact}"
            self._broken[at], self._at = (number, text), -1
            raise DataError(text) from fact

    def _keep(self, key: tuple[int, int], chunk: Any, most: int) -> None:
        """Keep a chunk, and of the others the latest."""
        if key in self._chunks:
            self._held -= self._chunks.pop(key).nbytes
        self._chunks[key] = chunk
        self._held += chunk.nbytes
        while len(self._chunks) > 1 and self._held > most:
            self._held -= self._chunks.popitem(last=False)[1].nbytes

    def _unpacked(self, group: RowGroup, at_once: int) -> Iterator[Any]:
        """The column of a row group in chunks of `at_once` rows."""
        if self._file[0] != group.file:
            self._file = (group.file, self._open(group.file))
        batches = self._file[1].iter_batches(
            batch_size=at_once, row_groups=[group.number], columns=[self._column], use_threads=False
        )
        concat = require("pyarrow", "parquet").concat_arrays
        waiting: list[Any] = []  # a batch may be shorter than asked for
        for batch in batches:
            waiting.append(batch.column(0))
            if (rows := sum(map(len, waiting))) >= at_once:
                whole = waiting[0] if len(waiting) == 1 else concat(waiting)
                yield whole.slice(0, at_once)
                waiting = [whole.slice(at_once)] if rows > at_once else []
        if waiting:
            yield concat(waiting)
