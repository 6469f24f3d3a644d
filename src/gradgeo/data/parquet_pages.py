"""What a Parquet column unpacks to, from the headers of its pages, which are what the reader goes by; the sums in the
file's footer are only claimed.

The footer is read here as well: pyarrow's view of it (`RowGroupMetaData.column`) ends the process where the statistics
of a column are broken.

Source: apache/parquet-format, parquet.thrift (FileMetaData, PageHeader), and the Thrift compact protocol.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from gradgeo.errors import DataError

MOST_PAGES = 1 << 17
"""Pages of a column in a row group: 1 GiB in pages of 8 KiB."""

HEADER_READS = (1 << 10, 1 << 16, 1 << 20)
"""Bytes that are read for a page header: most take some dozens, statistics of long values more."""

PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY = 0, 2, 8
DELTA_BYTE_ARRAY = 7
"""The encoding in which a value can repeat the one before it for nothing."""

PADDING = 100
"""Bytes that a column may be longer than stated, in files of old writers (PARQUET-816)."""

LIST, STRUCT = 9, 12
"""Types of the protocol."""

MOST_DEPTH = 8
"""Structs and lists within each other."""

MOST_ELEMENTS = 1_000_000
"""Elements of a list in a footer, as in Arrow."""

# Fields of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
ROW_GROUPS, COLUMNS, COLUMN = 4, 1, 3
COLUMN_VALUES, COLUMN_LENGTH, DATA_OFFSET, DICTIONARY_OFFSET = 5, 7, 9, 11

# Fields of PageHeader, and of the headers of its kinds of pages.
UNPACKED, PACKED, DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 2, 3, 5, 7, 8
NUM_VALUES, ENCODING, ENCODING_V2 = 1, 2, 4


class Column(NamedTuple):
    """Where the pages of a column in a row group lie, and how many values they have."""

    start: int
    end: int
    values: int


class Unpacked(NamedTuple):
    """What columns of a row group unpack to."""

    nbytes: int
    """Bytes of the pages."""

    numbers: int
    """Values of the column that has the most."""

    repeated: int
    """The most bytes that a value takes which is stored once and stands in many rows."""

    encodings: frozenset[int]
    """How the values are stored (parquet.thrift, Encoding)."""


def columns_of(path: Path, leaves: Collection[int]) -> list[list[Column]]:
    """For each row group of a file its columns with the numbers `leaves`. Raises: DataError for a broken footer."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        data = file.read(length)
    groups = []
    try:
        for field, kind, at in _fields(data, 0):
            if field == ROW_GROUPS and kind == LIST:
                count, _, at = _list(data, at)
                for _ in range(count):
                    group, at = _struct(data, at, 1)
                    groups.append([_column(group[COLUMNS][leaf][COLUMN]) for leaf in leaves])
                return groups
    except (IndexError, KeyError, TypeError) as error:
        raise DataError(f"the footer of {path} is broken") from error
    return groups


def _column(fields: Any) -> Column:
    """Raises: TypeError for what is no struct."""
    if not isinstance(fields, dict):
        raise TypeError
    starts = (_count(fields, DATA_OFFSET), fields.get(DICTIONARY_OFFSET) or 0)
    start = min(starts) if starts[1] > 0 else starts[0]
    return Column(start, start + _count(fields, COLUMN_LENGTH) + PADDING, _count(fields, COLUMN_VALUES))


def unpacked(path: Path, columns: Iterable[Column]) -> Unpacked:
    """What columns of a row group unpack to. Raises: DataError for broken pages."""
    nbytes = numbers = repeated = 0
    encodings = set[int]()
    with path.open("rb") as file:
        for at, end, most in columns:
            values = pages = 0
            while values < most and at < end:
                header, at = _page_header(file, at)
                size, pages = _count(header, UNPACKED), pages + 1
                at += _count(header, PACKED)
                nbytes += size
                if DICTIONARY_PAGE in header:
                    repeated = max(repeated, size)
                page = header.get(DATA_PAGE) or header.get(DATA_PAGE_V2)
                if isinstance(page, dict):
                    values += _count(page, NUM_VALUES)
                    encoding = _count(page, ENCODING if DATA_PAGE in header else ENCODING_V2)
                    encodings.add(encoding)
                    if encoding == DELTA_BYTE_ARRAY:
                        repeated = max(repeated, size)
                if pages > MOST_PAGES:
                    raise DataError(f"the row group has more than {MOST_PAGES} pages")
            numbers = max(numbers, values)
    return Unpacked(nbytes, numbers, repeated, frozenset(encodings))


def _page_header(file: IO[bytes], at: int) -> tuple[dict[int, Any], int]:
    """The fields of the page header at a place of the file, and the place behind it."""
    if not 0 <= at < os.fstat(file.fileno()).st_size:
        raise DataError("a page of the row group lies outside of the file")
    for size in HEADER_READS:
        file.seek(at)
        data = file.read(size)
        try:
            header, length = _struct(data, 0)
        except IndexError:
            if len(data) < size:
                break
        else:
            return header, at + length
    raise DataError("a page header of the row group is broken")


def _count(header: dict[int, Any], field: int) -> int:
    value = header.get(field)
    if not isinstance(value, int) or value < 0:
        raise DataError("a header of the row group is broken")
    return value


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of a struct by their numbers; raises IndexError where `data` ends within it."""
    fields: dict[int, Any] = {}
    field = 0
    while data[at]:
        field, kind, at = _field(data, at, field)
        fields[field], at = _value(data, at, kind, depth)
    return fields, at + 1


def _fields(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """The number, the type and the place of each field of a struct, whose values are passed over."""
    field = 0
    while data[at]:
        field, kind, at = _field(data, at, field)
        yield field, kind, at
        _, at = _value(data, at, kind, 0)


def _field(data: bytes, at: int, before: int) -> tuple[int, int, int]:
    delta, kind = divmod(data[at], 16)
    if delta:
        return before + delta, kind, at + 1
    field, at = _integer(data, at + 1)
    return field, kind, at


def _list(data: bytes, at: int) -> tuple[int, int, int]:
    """How many elements of which type, and where they begin."""
    count, kind = divmod(data[at], 16)
    at += 1
    if count == 15:
        count, at = _varint(data, at)
    if count > MOST_ELEMENTS:
        raise IndexError
    return count, kind, at


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == STRUCT and depth < MOST_DEPTH:
        return _struct(data, at, depth + 1)
    if kind == LIST and depth < MOST_DEPTH:
        count, kind, at = _list(data, at)
        if kind in (1, 2):
            return None, at + count
        values = []
        for _ in range(count):
            value, at = _value(data, at, kind, depth + 1)
            values.append(value)
        return values, at
    if kind == 8:
        length, at = _varint(data, at)
    elif kind in (3, 7):
        length = 1 if kind == 3 else 8
    else:  # a map, which neither footers nor page headers have, or nested too deeply
        raise IndexError
    if at + length > len(data):
        raise IndexError
    return None, at + length


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise IndexError
