"""What a Parquet column unpacks to, from the headers of its pages, which are what the reader goes by; the sums in the
file's footer are only claimed.

Source: apache/parquet-format, parquet.thrift (PageHeader), and the Thrift compact protocol.
"""

from collections.abc import Iterable
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

# Fields of PageHeader, and of the headers of its kinds of pages.
UNPACKED, PACKED, DATA_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 2, 3, 5, 7, 8
NUM_VALUES, ENCODING, ENCODING_V2 = 1, 2, 4


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


def unpacked(path: Path, columns: Iterable[Any]) -> Unpacked:
    """What columns (pyarrow's `ColumnChunkMetaData`) of a row group unpack to. Raises: DataError for broken pages."""
    nbytes = numbers = repeated = 0
    encodings = set[int]()
    with path.open("rb") as file:
        for column in columns:
            values = pages = 0
            starts = (column.data_page_offset, column.dictionary_page_offset or 0)
            at = min(start for start in starts if start > 0 or start == starts[0])
            end = at + column.total_compressed_size + PADDING
            while values < column.num_values and at < end:
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
        raise DataError("a page header of the row group is broken")
    return value


def _struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of a struct by their numbers; raises IndexError where `data` ends within it."""
    fields: dict[int, Any] = {}
    field = 0
    while data[at]:
        delta, kind = divmod(data[at], 16)
        if delta:
            field, at = field + delta, at + 1
        else:
            field, at = _integer(data, at + 1)
        fields[field], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 12 and depth < 4:
        return _struct(data, at, depth + 1)
    if kind == 8:
        length, at = _varint(data, at)
    elif kind in (3, 7):
        length = 1 if kind == 3 else 8
    else:  # lists and maps, which no page header has
        raise DataError("a page header of the row group is broken")
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
    raise DataError("a page header of the row group is broken")
