"""Files of verdicts as a report reads them: checked, in batches, never as a whole. Everything in them is distrusted."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo._files import check_regular
from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.errors import LONGEST_TEXT, DataError, expected, one_line, require
from gradgeo.scoring.formats import FORMULA
from gradgeo.scoring.metadata import Metadata
from gradgeo.scoring.schema import ASKED, INTEGERS, KEPT, LISTS, NUMBERS, PREVIEW_COLUMNS, SCHEMA, STRINGS, RunState
from gradgeo.scoring.schema import column as column_of
from gradgeo.scoring.verdict_file import CsvFile, ParquetFile

BYTES = ("binary", "large_binary")
LONGEST_PICTURE = 1 << 17
"""Bytes of a thumbnail that are read; none that is shown is as long."""


class Scores:
    """A .parquet or .csv file of verdicts, or a folder of part-*.parquet.

    Raises: ArgumentError for another ending; DataError for a missing, unreadable or foreign file.
    """

    path: Path
    metadata: Metadata
    columns: frozenset[str]
    """The columns of `SCHEMA` and `ASKED` that the file has; of a folder, its first file."""

    kept: tuple[str, ...]
    """Columns of the data that were carried along."""

    ordered_by: str
    """What drift is followed over: "index", "time", or "date" where the time is a timestamp."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._arrow, self._compute = require("pyarrow", "report"), require("pyarrow.compute", "report")
        self._is_csv = self.path.suffix == ".csv"
        with self._reading():
            self._files = [self._opened(path) for path in self._paths()]
        first = self._files[0]
        self.metadata = first.metadata
        self.columns = frozenset(name for name in SCHEMA | ASKED if name in first.schema.names)
        self.kept = tuple(name for name in self.metadata.kept if name in first.schema.names)
        kind = str(first.schema.field("time").type) if "time" in self.columns else "null"
        self.ordered_by = "index" if kind == "null" else "date" if kind.startswith(("timestamp", "date")) else "time"
        for file in self._files[1:]:
            for name in ("detector", "alpha", "confidence", "evidence"):
                if getattr(file.metadata, name) != getattr(first.metadata, name):
                    raise DataError(f"{file.path} is of another run than {first.path.name}: its {name} differs")

    def _paths(self) -> list[Path]:
        if self.path.is_dir() and not self._is_csv:
            parts = sorted(self.path.glob("part-*.parquet"))
            if not parts:
                raise DataError(f"{self.path} has no part-*.parquet in it. Is it a folder that score wrote?")
            return parts
        if self.path.suffix not in (".parquet", ".csv"):
            rule = "a .parquet or .csv file of verdicts, or a folder of part-*.parquet"
            raise expected("scores", rule, str(self.path))
        if not self.path.is_file():
            raise DataError(f"{self.path} does not exist")
        return [self.path]

    def _opened(self, path: Path) -> CsvFile | ParquetFile:
        """One file. Raises: DataError where it lacks columns, or has them of another type."""
        check_regular(path)
        file = CsvFile(path) if self._is_csv else ParquetFile(path)
        types = {field.name: self._kind(field.type) for field in file.schema}
        if missing := [name for name, column in SCHEMA.items() if column.required and name not in types]:
            raise DataError(f"{path} lacks the columns {', '.join(missing)}. Is it a file that score wrote?")
        for name, column in (SCHEMA | ASKED | dict.fromkeys(file.metadata.kept, KEPT)).items():
            if name in types and not types[name].startswith(column.reads):
                raise DataError(f"the column {name} of {path} is of type {types[name][:60]}, not {column.reads[0]}")
        return file

    def _kind(self, kind: Any) -> str:
        """The name of an Arrow type, of a dictionary of texts or bytes that of its values."""
        types = self._arrow.types
        if types.is_dictionary(kind) and str(kind.value_type) in (*STRINGS, *BYTES):
            return str(kind.value_type)
        lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        numbers = lists and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
        return f"a list of {kind.value_type}" if lists and not numbers else str(kind)

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
            return sum(file.rows for file in self._files)

    @cached_property
    def unfinished(self) -> bool:
        """Whether this is the folder of a run that has not ended, or of which parts have been lost since."""
        state = RunState.read(self.path)
        return state is not None and state.rows != self.rows

    def batches(self, columns: Sequence[str], *, pictured: bool = False) -> Iterator["Batch"]:
        """The rows in order, in batches, with those of `columns` that the file has.

        Args:
            columns: names of `SCHEMA` or `ASKED`, none of `PREVIEW_COLUMNS`, or of kept columns.
            pictured: add a column of that name, whether a row has a preview.
        """
        wanted = [name for name in columns if name in self.columns or name in self.kept]
        previews = sorted(self.columns.intersection(PREVIEW_COLUMNS)) if pictured else []
        with self._reading():
            for file in self._files:
                for _, stored in file.batches([*wanted, *previews]):
                    arrays = {name: self._column(stored, name) for name in wanted}
                    if pictured:
                        there = [stored.column(name).is_valid() for name in previews if name in stored.schema.names]
                        arrays["pictured"] = self._arrow.array(np.zeros(len(stored), bool))
                        for valid in there:
                            arrays["pictured"] = self._compute.or_(arrays["pictured"], valid)
                    yield Batch(self._arrow.RecordBatch.from_pydict(arrays))

    def take(self, positions: IntArray) -> list[dict[str, Any]]:
        """Whole rows, by their ascending positions in the file; only the row groups that hold them are read."""
        rows: list[dict[str, Any]] = []
        start, columns = 0, sorted(self.columns)
        with self._reading():
            for file in self._files:
                inside = positions[(positions >= start) & (positions < start + file.rows)] - start
                for first, stored in file.batches(columns, inside) if len(inside) else ():
                    here = inside[(inside >= first) & (inside < first + len(stored))] - first
                    if len(here):
                        taken = stored.take(self._arrow.array(here))
                        arrays = {name: self._column(taken, name) for name in columns}
                        rows += self._arrow.RecordBatch.from_pydict(arrays).to_pylist()
                start += file.rows
        return rows

    def _column(self, stored: Any, name: str) -> Any:
        """A column as an array of one type, whatever type the file has; texts and pictures cut to what is shown."""
        arrow, kind = self._arrow, column_of(name).reads[0]
        column = stored.column(name) if name in stored.schema.names else arrow.nulls(len(stored))
        if name == "time" and self.ordered_by == "date":
            return column.cast(arrow.timestamp("us"), safe=False).cast(arrow.int64())
        if kind == INTEGERS[0]:
            return column.cast(arrow.int64(), safe=False)
        if kind == NUMBERS[0]:
            return column.cast(arrow.float64(), safe=False)
        if kind in LISTS or kind == "bool":
            return column
        if not arrow.types.is_dictionary(column.type):
            return self._cut(column, name)
        # the values that these rows have: others of a large dictionary are neither cut nor kept
        used = column.indices.drop_null().unique()  # (U,)
        indices = self._compute.index_in(column.indices, value_set=used)
        return arrow.DictionaryArray.from_arrays(indices, self._cut(column.dictionary.take(used), name))

    def _cut(self, values: Any, name: str) -> Any:
        """Texts or bytes, before there is one for each row, which would be large where one is long."""
        arrow, compute = self._arrow, self._compute
        if name in ("thumbnail", "saliency"):
            return compute.binary_slice(values.cast(arrow.large_binary()), 0, LONGEST_PICTURE)
        values = values.cast(arrow.large_string())
        if self._is_csv:
            values = compute.replace_substring_regex(values, f"^'('*[{re.escape(''.join(FORMULA))}])", r"\1")
        return compute.utf8_slice_codeunits(values, 0, LONGEST_TEXT + 1)  # one more than `one_line` shows


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

    def positions(self, name: str, values: Sequence[int | str | None], rows: BoolArray) -> IntArray:
        """Which of `values`, all different, a column has at some rows (n,): its position, -1 for another one."""
        column = self._batch.column(name).filter(self._arrow.array(rows))
        wanted = self._arrow.array(values)
        missing = values.index(None) if None in values else -1
        if not self._arrow.types.is_dictionary(column.type):
            found = self._compute.index_in(column, value_set=wanted.cast(column.type))
            return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
        looked_up = self._compute.index_in(column.dictionary, value_set=wanted.cast(column.dictionary.type))
        known = np.append(looked_up.fill_null(-1).to_numpy(zero_copy_only=False), missing).astype(np.int64)
        return np.asarray(known[column.indices.fill_null(-1).to_numpy(zero_copy_only=False)])

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
