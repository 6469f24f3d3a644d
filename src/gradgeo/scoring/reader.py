"""A file of verdicts as a report reads it: checked, in batches, never as a whole. Everything in it is distrusted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.errors import DataError, expected, one_line, require
from gradgeo.scoring.metadata import Metadata
from gradgeo.scoring.schema import INTEGERS, NUMBERS, PREVIEW_COLUMNS, SCHEMA, RunState

BATCH = 65_536
"""Rows that are read at a time."""


class Scores:
    """A .parquet or .csv file of verdicts, or a folder of part-*.parquet.

    Raises: ArgumentError for another ending; DataError for a missing, unreadable or foreign file.
    """

    path: Path
    metadata: Metadata
    columns: frozenset[str]
    """The columns of `SCHEMA` that the file has."""

    ordered_by: str
    """What drift is followed over: "index", "time", or "date" where the time is a timestamp."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._arrow, self._dataset = require("pyarrow", "report"), require("pyarrow.dataset", "report")
        self._compute = require("pyarrow.compute", "report")
        files = self._files()
        with self._reading():
            self._set = self._dataset.dataset(files, format=self._csv() if self._is_csv else "parquet")
            self.metadata = self._metadata(files)
        self.columns = self._checked_columns()
        kind = str(self._set.schema.field("time").type) if "time" in self.columns else "null"
        self.ordered_by = "index" if kind == "null" else "date" if kind.startswith(("timestamp", "date")) else "time"

    @property
    def _is_csv(self) -> bool:
        return self.path.suffix == ".csv"

    def _files(self) -> list[str]:
        if self.path.is_dir():
            parts = sorted(self.path.glob("part-*.parquet"))
            if not parts:
                raise DataError(f"{self.path} has no part-*.parquet in it. Is it a folder that score wrote?")
            return [str(part) for part in parts]
        if self.path.suffix not in (".parquet", ".csv"):
            rule = "a .parquet or .csv file of verdicts, or a folder of part-*.parquet"
            raise expected("scores", rule, str(self.path))
        if not self.path.is_file():
            raise DataError(f"{self.path} does not exist")
        return [str(self.path)]

    def _csv(self) -> Any:
        csv, arrow = require("pyarrow.csv", "report"), self._arrow
        types = {
            name: getattr(arrow, column.arrow)() for name, column in SCHEMA.items() if column.scalar and name != "time"
        }  # of a time CSV does not say whether it is a number or a date
        convert = csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
        parse = csv.ParseOptions(newlines_in_values=True)
        return self._dataset.CsvFileFormat(parse_options=parse, convert_options=convert)

    def _metadata(self, files: Sequence[str]) -> Metadata:
        """What the first part states. Raises: DataError where another part is of another run."""
        if self._is_csv:
            return Metadata()
        read_schema = require("pyarrow.parquet", "report").read_schema
        stated = [(file, Metadata.decode(read_schema(file).metadata, file)) for file in files]
        first = stated[0][1]
        for file, metadata in stated[1:]:
            for name in ("detector", "alpha", "evidence"):
                if getattr(metadata, name) != getattr(first, name):
                    raise DataError(f"{file} is of another run than {Path(files[0]).name}: its {name} differs")
        return first

    def _checked_columns(self) -> frozenset[str]:
        types = {field.name: str(field.type) for field in self._set.schema}
        if missing := [name for name, column in SCHEMA.items() if column.required and name not in types]:
            raise DataError(f"{self.path} lacks the columns {', '.join(missing)}. Is it a file that score wrote?")
        for name, column in SCHEMA.items():
            if name in types and not types[name].startswith(column.reads):
                raise DataError(
                    f"the column {name} of {self.path} is of type {types[name][:60]}, not {column.reads[0]}"
                )
        return frozenset(name for name in SCHEMA if name in types)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Errors of Arrow become ours."""
        try:
            yield
        except (self._arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} cannot be read: {one_line(str(error))[:200]}") from error

    @cached_property
    def rows(self) -> int:
        """How many rows there are."""
        with self._reading():
            return int(self._set.count_rows())

    @cached_property
    def unfinished(self) -> bool:
        """Whether this is the folder of a run that has not ended, or of which parts have been lost since."""
        state = RunState.read(self.path)
        return state is not None and state.rows != self.rows

    def batches(self, columns: Sequence[str], *, pictured: bool = False) -> Iterator["Batch"]:
        """The rows in order, `BATCH` at a time, with those of `columns` that the file has.

        Args:
            columns: names of `SCHEMA`, none of `PREVIEW_COLUMNS`.
            pictured: add a column of that name, whether a row has a preview.
        """
        field, compute = self._dataset.field, self._compute
        wanted = {name: self._plain(name) for name in columns if name in self.columns}
        if pictured:
            wanted["pictured"] = compute.scalar(False)
            for name in self.columns.intersection(PREVIEW_COLUMNS):
                wanted["pictured"] = wanted["pictured"] | field(name).is_valid()
        with self._reading():
            for batch in self._set.to_batches(columns=wanted, batch_size=BATCH, **self._frugal):
                yield Batch(batch)

    @property
    def _frugal(self) -> dict[str, Any]:
        """No reading ahead: it is no quicker here, and what is read ahead grows with the files."""
        options: dict[str, Any] = {"batch_readahead": 1, "fragment_readahead": 0, "use_threads": False}
        if not self._is_csv:
            options["fragment_scan_options"] = self._dataset.ParquetFragmentScanOptions(pre_buffer=False)
        return options

    def _plain(self, name: str) -> Any:
        """A column as an expression of one type, whatever type the file has."""
        field, arrow = self._dataset.field(name), self._arrow
        kinds = SCHEMA[name].reads
        if name == "time" and self.ordered_by == "date":
            return field.cast(arrow.timestamp("us"), safe=False).cast(arrow.int64())
        if kinds[0] == INTEGERS[0]:
            return field.cast(arrow.int64(), safe=False)
        if kinds[0] == NUMBERS[0]:
            return field.cast(arrow.float64(), safe=False)
        return field.cast(arrow.large_string()) if kinds[0] == "string" else field

    def take(self, positions: IntArray) -> list[dict[str, Any]]:
        """Whole rows, by their ascending positions in the file; only the row groups that hold them are read."""
        rows: list[dict[str, Any]] = []
        start, columns = 0, sorted(self.columns - {"time"})  # which may lie beyond what Python calls a date
        with self._reading():
            for fragment in self._set.get_fragments():
                for part in [fragment] if self._is_csv else fragment.split_by_row_group():
                    # count_rows of a row group counts its whole file
                    end = start + (self.rows if self._is_csv else sum(group.num_rows for group in part.row_groups))
                    wanted = positions[(positions >= start) & (positions < end)]
                    if not len(wanted):
                        start = end
                        continue
                    for batch in part.to_batches(columns=columns, batch_size=BATCH, **self._frugal):
                        here = wanted[(wanted >= start) & (wanted < start + len(batch))] - start
                        rows += batch.take(self._arrow.array(here)).to_pylist() if len(here) else []
                        start += len(batch)
                    start = end
        return rows


class Batch:
    """Some rows, as arrays."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._arrow, self._compute = require("pyarrow", "report"), require("pyarrow.compute", "report")

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def numbers(self, name: str, missing: float | int | bool) -> NDArray[Any]:
        """A column of numbers, `missing` where there is none."""
        column = self._batch.column(name)
        return np.asarray(column.fill_null(missing).to_numpy(zero_copy_only=False))

    def present(self, name: str) -> BoolArray:
        """Where a column has a value."""
        return np.asarray(self._batch.column(name).is_valid().to_numpy(zero_copy_only=False))

    def texts(self, name: str, rows: BoolArray) -> Any:
        """A column of texts at some rows, as an Arrow array."""
        return self._batch.column(name).filter(self._arrow.array(rows))

    def counts(self, name: str, rows: BoolArray) -> list[tuple[str | None, int]]:
        """Each text of a column at some rows with its count."""
        return [(entry["values"], entry["counts"]) for entry in self.texts(name, rows).value_counts().to_pylist()]

    def table(self, name: str, width: int, rows: BoolArray) -> Array:
        """A column of lists of `width` numbers at some rows (n, width); NaN where a list has another length."""
        column = self._batch.column(name).filter(self._arrow.array(rows))
        values = np.full((len(column), width), np.nan)
        if column.null_count == len(column):
            return values
        sizes = self._compute.fill_null(self._compute.list_value_length(column), -1)
        whole = np.asarray(sizes.to_numpy(zero_copy_only=False)) == width
        flat = self._compute.list_flatten(column.filter(self._arrow.array(whole))).cast("float64")
        values[whole] = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, width)
        return values
