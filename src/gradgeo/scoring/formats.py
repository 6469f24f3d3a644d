"""How columns become bytes: Parquet with everything, CSV with the scalar columns."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from gradgeo._typing import Array
from gradgeo.errors import DataError, require
from gradgeo.scoring.metadata import Metadata
from gradgeo.scoring.schema import ASKED, COLUMNS, COUNTED_COLUMNS, TEXT_COLUMNS, Columns, column
from gradgeo.scoring.summary import Summary

COMPRESSION = "zstd"
CSV_ROWS = 4096
"""Rows of CSV that are copied at a time."""

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a text may begin that a spreadsheet runs as a formula: as such, or full width. CSV has a `'` before it."""


@dataclass(frozen=True)
class VerdictSchema:
    """Which columns the rows of a run have, and the metadata of every Parquet file of them."""

    labelled: bool
    """Whether there are true labels."""

    is_datetime: bool | None
    """Whether times are dates (True) or numbers (False); None without times."""

    metadata: Metadata

    @cached_property
    def columns(self) -> list[str]:
        """Those of `COLUMNS` that the rows have, and the kept ones."""
        said = self.metadata
        present = {"true_label": self.labelled, "time": self.is_datetime is not None}
        asked = {"compared": said.compared, "q_value": said.fdr is not None}
        asked |= {"label_name": said.named, "true_label_name": said.named and self.labelled}
        names = [name for name in COLUMNS if present.get(name, True)]
        return [*names, *(name for name in ASKED if asked[name]), *said.kept]

    @property
    def scalars(self) -> list[str]:
        """The columns of CSV."""
        return [name for name in self.columns if column(name).scalar]

    @property
    def arrow(self) -> Any:
        """The Arrow schema, with the metadata."""
        fields = [(name, self.arrow_type(name)) for name in self.columns]
        return require("pyarrow", "parquet").schema(fields, metadata=self.metadata.encode())

    def arrow_type(self, name: str) -> Any:
        """The Arrow type of a column."""
        arrow = require("pyarrow", "parquet")
        if name == "time" and self.is_datetime:
            return arrow.timestamp("us")
        stored = column(name).arrow
        entry = stored.removeprefix("list:")
        kind = getattr(arrow, entry)()
        return kind if stored == entry else arrow.list_(kind)


@dataclass(frozen=True)
class Format:
    """One way to write verdicts, to read back what a resumed run needs, and to join files."""

    suffix: str
    write: Callable[[IO[bytes], Columns, VerdictSchema], None]
    count: Callable[[Path, VerdictSchema], tuple[Summary, list[int]]]
    """What a file counts, and the entries of its column `index`. Raises whatever a damaged file makes its library
    raise."""

    p_values: Callable[[Path], Array]
    """(N,) in the order of the rows, NaN where there is no verdict."""

    fill: Callable[[Path, IO[bytes], str, Array], int]
    """Copies a file with the first of some numbers, NaN for none, in a column of floats. Returns: its rows."""

    join: Callable[[Iterable[Path], IO[bytes], VerdictSchema], int]
    """Returns: how many rows it has written."""


def _write_parquet(stream: IO[bytes], columns: Columns, schema: VerdictSchema) -> None:
    arrow, target = require("pyarrow", "parquet"), schema.arrow
    arrays = [arrow.array(columns[field.name], field.type) for field in target]
    table = arrow.Table.from_arrays(arrays, schema=target)
    require("pyarrow.parquet", "parquet").write_table(table, stream, compression=COMPRESSION)


def _count_parquet(path: Path, schema: VerdictSchema) -> tuple[Summary, list[int]]:
    compute, parquet = require("pyarrow.compute", "parquet"), require("pyarrow.parquet", "parquet")
    with parquet.ParquetFile(path) as file:
        if Metadata.decode(file.schema_arrow.metadata, str(path)).run != schema.metadata.run:
            raise DataError(f"{path} belongs to another run. Pass restart=True (--restart), or another out.")
        table = file.read(columns=["index", *(name for name in COUNTED_COLUMNS if name in schema.columns)])

    def mask(values: Any) -> Any:
        return values.fill_null(False).to_numpy()

    failed = mask(table["error"].is_valid())
    nothing = np.zeros(len(table), bool)
    labelled = correct = nothing
    if schema.labelled:
        labelled = mask(table["true_label"].is_valid())
        correct = mask(compute.equal(table["label"], table["true_label"]))
    first = None
    if failed.any():
        at = int(failed.argmax())
        first = f"{table['name'][at].as_py()}: {table['error'][at].as_py()}"
    trusted = mask(table["trusted"])
    doubted = np.flatnonzero(~failed & ~trusted)
    flagged = table["name"][int(doubted[0])].as_py() if len(doubted) else None
    causes = table["cause"].to_pylist()
    return Summary.of(failed, trusted, labelled, correct, first, causes, flagged), table["index"].to_pylist()


def _p_values_parquet(path: Path) -> Array:
    with require("pyarrow.parquet", "parquet").ParquetFile(path) as file:
        column = file.read(columns=["p_value"])["p_value"]
    return np.asarray(column.to_numpy(), np.float64)  # null becomes NaN


def _fill_parquet(path: Path, stream: IO[bytes], name: str, values: Array) -> int:
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    with parquet.ParquetFile(path) as file:
        table = file.read()
    at, field = table.schema.get_field_index(name), table.schema.field(name)
    filled = arrow.array(values[: len(table)], field.type, from_pandas=True)  # NaN becomes null
    parquet.write_table(table.set_column(at, field, filled), stream, compression=COMPRESSION)
    return len(table)


def _join_parquet(parts: Iterable[Path], stream: IO[bytes], schema: VerdictSchema) -> int:
    parquet, target = require("pyarrow.parquet", "parquet"), schema.arrow
    rows = 0
    with parquet.ParquetWriter(stream, target, compression=COMPRESSION) as writer:
        for part in parts:
            with parquet.ParquetFile(part) as file:
                table = file.read()
            writer.write_table(table.replace_schema_metadata(target.metadata))
            rows += len(table)
    return rows


@contextmanager
def _text(stream: IO[bytes]) -> Iterator[TextIOWrapper]:
    """`stream` as one of text; it stays open, also after an error of the disk."""
    text = TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    try:
        yield text
    finally:
        text.detach()


def _write_csv(stream: IO[bytes], columns: Columns, schema: VerdictSchema) -> None:
    written = columns | {"trusted": [str(trusted).lower() for trusted in columns["trusted"]]}
    for name in schema.scalars:
        if name in TEXT_COLUMNS or name in schema.metadata.kept:
            written[name] = [value and _not_a_formula(value) for value in columns[name]]
    with _text(stream) as text:
        writer = csv.writer(text)
        writer.writerow(schema.scalars)
        writer.writerows(zip(*(written[name] for name in schema.scalars), strict=True))


def _not_a_formula(text: str) -> str:
    """`text`, with a quote in front where a spreadsheet would run it, also one that has quotes there already."""
    return f"'{text}" if text.lstrip("'").startswith(FORMULA) else text


def _without_quote(text: str) -> str:
    """The inverse of `_not_a_formula`."""
    return text[1:] if text[:1] == "'" and text.lstrip("'").startswith(FORMULA) else text


def _read_csv(path: Path) -> Iterator[dict[str, tuple[str, ...]]]:
    """The columns of some rows at a time, "" where there is no value."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = csv.reader(stream)
        names = next(rows)
        while some := list(islice(rows, CSV_ROWS)):
            yield dict(zip(names, zip(*some, strict=True), strict=True))


def _count_csv(path: Path, schema: VerdictSchema) -> tuple[Summary, list[int]]:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read() != b"\n":
            raise ValueError(f"{path} ends within a row")
    summary, index = Summary(), list[int]()
    for columns in _read_csv(path):
        index += map(int, columns["index"])
        present = {
            name: [_without_quote(value) or None for value in columns[name]]
            for name in COUNTED_COLUMNS
            if name in columns
        }
        summary.merge(Summary.of_columns(present | {"trusted": [value == "true" for value in columns["trusted"]]}))
    return summary, index


def _p_values_csv(path: Path) -> Array:
    values = [float(value or "nan") for columns in _read_csv(path) for value in columns["p_value"]]
    return np.array(values, np.float64)


def _fill_csv(path: Path, stream: IO[bytes], name: str, values: Array) -> int:
    rows = 0
    with _text(stream) as text:
        writer = csv.writer(text)
        for columns in _read_csv(path):
            if not rows:
                writer.writerow(columns)
            size = len(columns[name])
            some = values[rows : rows + size].tolist()
            filled = columns | {name: tuple("" if value != value else repr(value) for value in some)}
            writer.writerows(zip(*filled.values(), strict=True))
            rows += size
    return rows


def _join_csv(parts: Iterable[Path], stream: IO[bytes], schema: VerdictSchema) -> int:
    rows = 0
    with _text(stream) as text:
        writer = csv.writer(text)
        writer.writerow(schema.scalars)
        for part in parts:
            for columns in _read_csv(part):
                writer.writerows(zip(*columns.values(), strict=True))
                rows += len(columns["index"])
    return rows


FORMATS = {
    form.suffix: form
    for form in (
        Format(".parquet", _write_parquet, _count_parquet, _p_values_parquet, _fill_parquet, _join_parquet),
        Format(".csv", _write_csv, _count_csv, _p_values_csv, _fill_csv, _join_csv),
    )
}
"""By the ending of the file."""
