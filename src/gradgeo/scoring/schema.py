"""How rows become bytes: Parquet with everything, CSV with the scalar columns."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from gradgeo.errors import DataError, require
from gradgeo.scoring.summary import COUNTED, Row, Summary

SCALARS = {
    "index": "int64",
    "name": "string",
    "label": "int64",
    "probability": "float64",
    "outlier_score": "float64",
    "p_value": "float64",
    "trusted": "bool_",
    "error": "string",
    "true_label": "int64",
    "cause": "string",
    "time": "float64",
}
LISTS = {"evidence": "float32", "signal": "float32", "csm": "float32", "csm_classes": "int32"}
COLUMNS = ("index", "name", "label", "probability", "outlier_score", "p_value", "trusted", "error", "true_label",
           "cause", "evidence", "time", "thumbnail", "signal", "csm", "csm_classes")  # fmt: skip
"""The columns of verdicts; `true_label` only for data with labels, `time` only where it was asked for."""

SCHEMA_KEY = b"gradgeo"
COMPRESSION = "zstd"


@dataclass(frozen=True)
class Table:
    """Which columns the rows have, and what stands in the schema of every Parquet file of them."""

    labelled: bool
    is_datetime: bool | None
    metadata: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        """Those of `COLUMNS` that there are."""
        absent = {
            name for name, there in (("true_label", self.labelled), ("time", self.is_datetime is not None)) if not there
        }
        return [name for name in COLUMNS if name not in absent]

    @property
    def schema(self) -> Any:
        """Of Arrow."""
        arrow = require("pyarrow", "parquet")

        def kind(name: str) -> Any:
            if name in LISTS:
                return arrow.list_(getattr(arrow, LISTS[name])())
            if name == "thumbnail":
                return arrow.binary()
            return arrow.timestamp("us") if name == "time" and self.is_datetime else getattr(arrow, SCALARS[name])()

        return arrow.schema(
            [(name, kind(name)) for name in self.columns], metadata={SCHEMA_KEY: json.dumps(self.metadata)}
        )


@dataclass(frozen=True)
class Format:
    """One way to write rows, read counts back and join files."""

    ending: str
    write: Callable[[IO[bytes], list[Row], Table], None]
    count: Callable[[Path, Table], Summary]  # raises whatever a damaged file makes its library raise
    join: Callable[[Iterable[Path], IO[bytes], Table], None]


def _write_parquet(stream: IO[bytes], rows: list[Row], table: Table) -> None:
    arrow = require("pyarrow", "parquet")
    made = arrow.Table.from_pylist(rows, table.schema)
    require("pyarrow.parquet", "parquet").write_table(made, stream, compression=COMPRESSION)


def _count_parquet(path: Path, table: Table) -> Summary:
    with require("pyarrow.parquet", "parquet").ParquetFile(path) as file:
        known = json.loads((file.schema_arrow.metadata or {}).get(SCHEMA_KEY, b"{}"))
        if known.get("run") != table.metadata["run"]:
            raise DataError(f"{path} belongs to another run. Pass restart=True (--restart), or another out.")
        wanted = [name for name in COUNTED if name in table.columns]
        summary = Summary()
        for batch in file.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                summary.add(row)
        return summary


def _join_parquet(parts: Iterable[Path], stream: IO[bytes], table: Table) -> None:
    parquet = require("pyarrow.parquet", "parquet")
    with parquet.ParquetWriter(stream, table.schema, compression=COMPRESSION) as writer:
        for part in parts:
            with parquet.ParquetFile(part) as file:
                writer.write_table(file.read().replace_schema_metadata(table.schema.metadata))


def _text(stream: IO[bytes]) -> TextIOWrapper:
    return TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)


def _write_csv(stream: IO[bytes], rows: list[Row], table: Table) -> None:
    text = _text(stream)
    writer = csv.DictWriter(text, [name for name in table.columns if name in SCALARS], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(row | {"trusted": str(row["trusted"]).lower()} for row in rows)
    text.detach()  # which leaves `stream` open


def _read_csv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def _count_csv(path: Path, table: Table) -> Summary:
    summary = Summary()
    for row in _read_csv(path):
        empty: Row = {name: value or None for name, value in row.items()}
        summary.add(empty | {"trusted": row["trusted"] == "true"})
    return summary


def _join_csv(parts: Iterable[Path], stream: IO[bytes], table: Table) -> None:
    text = _text(stream)
    writer = csv.DictWriter(text, [name for name in table.columns if name in SCALARS])
    writer.writeheader()
    for part in parts:
        writer.writerows(_read_csv(part))
    text.detach()


FORMATS = {
    form.ending: form
    for form in (
        Format(".parquet", _write_parquet, _count_parquet, _join_parquet),
        Format(".csv", _write_csv, _count_csv, _join_csv),
    )
}
"""By the ending of the file."""
