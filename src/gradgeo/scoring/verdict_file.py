"""One file of verdicts, read in batches that take little memory whatever the file says of itself."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from gradgeo._typing import IntArray
from gradgeo.data import limits
from gradgeo.data.parquet_pages import PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY, Column, Unpacked, columns_of, unpacked
from gradgeo.errors import DataError, require
from gradgeo.scoring.metadata import Metadata
from gradgeo.scoring.schema import SCHEMA, TEXT_COLUMNS
from gradgeo.scoring.schema import column as column_of

BATCH = 65_536
"""Rows that are read at a time."""

DICTIONARIES = {PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY}
"""Encodings of texts that Arrow reads as dictionaries."""


class VerdictFile(Protocol):
    """A file of verdicts."""

    path: Path

    @property
    def schema(self) -> Any:
        """The Arrow schema."""
        ...

    @property
    def rows(self) -> int:
        """How many rows there are."""
        ...

    def batches(self, columns: Sequence[str], positions: IntArray | None = None) -> Iterator[tuple[int, Any]]:
        """Arrow batches of those of `columns` that the file has, each with the position of its first row.

        Args:
            columns: names.
            positions: rows that are wanted; batches without any may be left out. None: all.
        """
        ...


class ParquetFile:
    """A Parquet file. Texts and pictures are read as dictionaries: one that many rows have is kept once.

    Raises: DataError where columns that are read take more memory than those of any file that `score` writes.
    """

    metadata: Metadata

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parquet = require("pyarrow.parquet", "report")
        footer = self._parquet.read_metadata(path)
        self.schema, self.rows = footer.schema.to_arrow_schema(), int(footer.num_rows)
        self._expanded: set[str] = set()  # what cannot be read as dictionaries
        self.metadata = Metadata.decode(footer.metadata, str(path))
        self._rows_at_once = self._checked(footer)

    def batches(self, columns: Sequence[str], positions: IntArray | None = None) -> Iterator[tuple[int, Any]]:
        """As `VerdictFile`; of row groups without any of `positions` nothing is read."""
        present = [name for name in columns if name in self.schema.names]
        dictionaries = [
            n for n in (*TEXT_COLUMNS, *self.metadata.kept, "thumbnail") if n in present and n not in self._expanded
        ]
        with self._parquet.ParquetFile(self.path, read_dictionary=dictionaries) as file:
            start = 0
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                end = start + group.num_rows
                if positions is None or bool(((positions >= start) & (positions < end)).any()):
                    options = {"row_groups": [number], "columns": present, "use_threads": False}
                    # a data set would unpack all of the row group
                    for batch in file.iter_batches(self._rows_at_once[number], **options):
                        yield start, batch
                        start += len(batch)
                start = end

    def _checked(self, footer: Any) -> list[int]:
        """For each row group how many of its rows may be unpacked at once, by the headers of its pages."""
        names = [footer.schema.column(leaf).path.partition(".")[0] for leaf in range(footer.num_columns)]
        leaves = [leaf for leaf, name in enumerate(names) if name in SCHEMA or name in self.metadata.kept]
        at_once = []
        for number, columns in enumerate(columns_of(self.path, leaves)):
            rows = BATCH
            for leaf, column in zip(leaves, columns, strict=True):
                name, pages = names[leaf], self._unpacked(column)
                place, most = f"the column {name} of {self.path}", column_of(name).entries
                if pages.nbytes > limits.LARGEST_VERDICTS:
                    raise DataError(
                        f"{place} takes {pages.nbytes:,} bytes in one row group, more than "
                        f"{limits.LARGEST_VERDICTS:,}. Write smaller row groups."
                    )
                if pages.numbers > footer.row_group(number).num_rows * most:
                    raise DataError(f"{place} holds lists of more than {most} entries. Is it a file that score wrote?")
                if not pages.encodings <= DICTIONARIES:
                    self._expanded.add(name)
                    rows = min(rows, max(1, limits.LARGEST_VERDICTS // max(1, pages.repeated)))
            at_once.append(rows)
        return at_once

    def _unpacked(self, column: Column) -> Unpacked:
        try:
            return unpacked(self.path, [column])
        except DataError as fact:
            raise DataError(f"{self.path} cannot be read: {fact}") from fact


class CsvFile:
    """A CSV file; its metadata are empty."""

    metadata = Metadata()

    def __init__(self, path: Path) -> None:
        self.path = path
        arrow, csv, dataset = (require(name, "report") for name in ("pyarrow", "pyarrow.csv", "pyarrow.dataset"))
        types = {
            name: getattr(arrow, column.arrow)() for name, column in SCHEMA.items() if column.scalar and name != "time"
        }  # of a time CSV does not say whether it is a number or a date
        convert = csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
        parse = csv.ParseOptions(newlines_in_values=True)
        kind = dataset.CsvFileFormat(parse_options=parse, convert_options=convert)
        self._set = dataset.dataset([str(path)], format=kind)
        self.schema = self._set.schema

    @cached_property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._set.count_rows())

    def batches(self, columns: Sequence[str], positions: IntArray | None = None) -> Iterator[tuple[int, Any]]:
        """As `VerdictFile`; the file is read up to its end."""
        start, present = 0, [name for name in columns if name in self.schema.names]
        # no reading ahead: it is no quicker here, and what is read ahead grows with the file
        options = {"batch_readahead": 1, "fragment_readahead": 0, "use_threads": False}
        for batch in self._set.to_batches(columns=present, batch_size=BATCH, **options):
            yield start, batch
            start += len(batch)
