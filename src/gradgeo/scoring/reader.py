"""A file of verdicts as a report reads it: checked, in batches, never as a whole. Everything in it is distrusted."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.errors import DataError, expected, one_line, require
from gradgeo.scoring.metadata import About

STATE = "_gradgeo.json"
"""What a run notes of itself in its folder."""

BATCH = 65_536
"""Rows that are read at a time."""

INTEGERS, STRINGS = ("int", "uint"), ("string", "large_string")
NUMBERS = ("float", "double", "halffloat", *INTEGERS)
KINDS: dict[str, tuple[str, ...]] = {
    "index": INTEGERS,
    "name": (*STRINGS, "dictionary"),
    "label": INTEGERS,
    "probability": NUMBERS,
    "outlier_score": NUMBERS,
    "p_value": NUMBERS,
    "trusted": ("bool",),
    "error": (*STRINGS, "dictionary", "null"),
    "true_label": (*INTEGERS, "null"),
    "cause": (*STRINGS, "dictionary", "null"),
    "evidence": ("list", "large_list", "fixed_size_list", "null"),
    "time": (*NUMBERS, "timestamp", "date", "null"),
    "thumbnail": ("binary", "large_binary", "null"),
    "signal": ("list", "large_list", "fixed_size_list", "null"),
    "csm": ("list", "large_list", "fixed_size_list", "null"),
    "csm_classes": ("list", "large_list", "fixed_size_list", "null"),
}
"""The columns that are read, and how the names of the Arrow types that they may have begin."""

REQUIRED = ("index", "name", "label", "probability", "outlier_score", "p_value", "trusted", "error")
PICTURES = ("thumbnail", "signal", "csm")


class Scores:
    """A .parquet or .csv file of verdicts, or a folder of part-*.parquet.

    Attributes: `path`, `about`, `columns` (those it has of `KINDS`), `timed` ("index", "time", or "date" where the
    time is a timestamp: what drift is followed over), `unfinished` (a folder whose run says that it has not ended).

    Raises: ArgumentError for another ending; DataError for a missing, unreadable or foreign file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._arrow, self._dataset = require("pyarrow", "report"), require("pyarrow.dataset", "report")
        self._compute = require("pyarrow.compute", "report")
        files = self._files()
        with self._reading():
            self._set = self._dataset.dataset(files, format=self._csv() if self._is_csv else "parquet")
            self.about = self._stated(files)
        self.columns = self._checked_columns()
        self.unfinished = _unfinished(self.path)
        kind = str(self._set.schema.field("time").type) if "time" in self.columns else "null"
        self.timed = "index" if kind == "null" else "date" if kind.startswith(("timestamp", "date")) else "time"

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
            **dict.fromkeys(("index", "label", "true_label"), arrow.int64()),
            **dict.fromkeys(("probability", "outlier_score", "p_value"), arrow.float64()),
            **dict.fromkeys(("name", "error", "cause"), arrow.string()),
            "trusted": arrow.bool_(),
        }
        convert = csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
        parse = csv.ParseOptions(newlines_in_values=True)
        return self._dataset.CsvFileFormat(parse_options=parse, convert_options=convert)

    def _stated(self, files: Sequence[str]) -> About:
        """What the first part states; that the others are of the same run is checked."""
        if self._is_csv:
            return About()
        stated = [(file, About.of(self._metadata(file), file)) for file in files]
        first = stated[0][1]
        for file, about in stated[1:]:
            for name in ("detector", "alpha", "evidence"):
                if getattr(about, name) != getattr(first, name):
                    raise DataError(f"{file} is of another run than {Path(files[0]).name}: its {name} differs")
        return first

    def _metadata(self, file: str) -> Mapping[bytes, bytes] | None:
        schema = require("pyarrow.parquet", "report").read_schema(file)
        return dict(schema.metadata) if schema.metadata else None

    def _checked_columns(self) -> frozenset[str]:
        types = {field.name: str(field.type) for field in self._set.schema}
        if missing := [name for name in REQUIRED if name not in types]:
            raise DataError(f"{self.path} lacks the columns {', '.join(missing)}. Is it a file that score wrote?")
        for name, kinds in KINDS.items():
            if name in types and not types[name].startswith(kinds):
                raise DataError(f"the column {name} of {self.path} is of type {types[name][:60]}, not {kinds[0]}")
        return frozenset(name for name in KINDS if name in types)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Errors of Arrow become ours."""
        try:
            yield
        except (self._arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path} cannot be read: {one_line(str(error))[:200]}") from error

    @cached_property
    def rows(self) -> int:
        """How many there are."""
        with self._reading():
            return int(self._set.count_rows())

    def batches(self, columns: Sequence[str], *, pictured: bool = False) -> Iterator["Batch"]:
        """The rows in order, `BATCH` at a time, with those of `columns` that the file has.

        Args:
            columns: names of `KINDS`, none of `PICTURES`.
            pictured: add a column of that name, whether a row has something to look at.
        """
        field, compute = self._dataset.field, self._compute
        wanted = {name: self._plain(name) for name in columns if name in self.columns}
        if pictured:
            wanted["pictured"] = compute.scalar(False)
            for name in self.columns.intersection(PICTURES):
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
        """A column as an expression of one type, whatever the file's is."""
        field, arrow = self._dataset.field(name), self._arrow
        kind = KINDS[name]
        if name == "time" and self.timed == "date":
            return field.cast(arrow.timestamp("us"), safe=False).cast(arrow.int64())
        if kind[0] == INTEGERS[0]:
            return field.cast(arrow.int64(), safe=False)
        if kind[0] == NUMBERS[0]:
            return field.cast(arrow.float64(), safe=False)
        return field.cast(arrow.large_string()) if kind[0] == "string" else field

    def take(self, positions: IntArray) -> list[dict[str, Any]]:
        """Whole rows, by their ascending positions in the file; only the row groups that hold them are read."""
        found: list[dict[str, Any]] = []
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
                        found += batch.take(self._arrow.array(here)).to_pylist() if len(here) else []
                        start += len(batch)
                    start = end
        return found


def _unfinished(folder: Path) -> bool:
    """Whether what a run notes beside its parts says that more are to come."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(state, dict) and state.get("complete") is False


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
        made = np.full((len(column), width), np.nan)
        if column.null_count == len(column):
            return made
        sizes = self._compute.fill_null(self._compute.list_value_length(column), -1)
        whole = np.asarray(sizes.to_numpy(zero_copy_only=False)) == width
        flat = self._compute.list_flatten(column.filter(self._arrow.array(whole))).cast("float64")
        made[whole] = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, width)
        return made
