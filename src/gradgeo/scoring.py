"""Verdicts on a whole data source, one row per input, written to a Parquet or CSV file."""

import csv
import math
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gradgeo.data.source import Item, Source, shaped
from gradgeo.detector import Detector
from gradgeo.errors import (
    DataError,
    GradgeoWarning,
    NotFittedError,
    UnusableInputWarning,
    expected,
    public,
    require,
    warn,
)

COLUMNS = {
    "index": "int64",
    "name": "string",
    "label": "int64",
    "probability": "float64",
    "outlier_score": "float64",
    "p_value": "float64",
    "trusted": "bool_",
    "error": "string",
    "true_label": "int64",
}
"""The columns of a file of verdicts and their Arrow types; `true_label` only for data with labels."""

ROW_GROUP = 16_384
"""Rows that are held before they are written to Parquet."""

Row = dict[str, Any]
Write = Callable[[list[Row]], None]


@dataclass
class Summary:
    """What a run of `score` came to.

    Attributes:
        rows: inputs, all of which have a row.
        scored: of these, inputs with a verdict; the others have an error text.
        trusted: of the scored, those with a p-value above alpha.
        first_error: name and error of the first input without a verdict.
        labelled, correct: scored inputs whose true label is known, and those predicted correctly.
        trusted_labelled, trusted_correct: the same among the trusted.
    """

    rows: int = 0
    scored: int = 0
    trusted: int = 0
    first_error: str | None = None
    labelled: int = 0
    correct: int = 0
    trusted_labelled: int = 0
    trusted_correct: int = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        if row["error"] is not None:
            self.first_error = self.first_error or f"{row['name']}: {row['error']}"
            return
        labelled = row["true_label"] is not None
        correct = labelled and row["true_label"] == row["label"]
        self.scored += 1
        self.trusted += row["trusted"]
        self.labelled += labelled
        self.correct += correct
        self.trusted_labelled += labelled and row["trusted"]
        self.trusted_correct += correct and row["trusted"]


@public
def score(
    detector: Detector,
    source: Source,
    out: str | Path,
    *,
    batch_size: int = 64,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Judge every item of `source` and write one row per item, in order, to `out`.

    Example:
        >>> summary = score(detector, open_source("digits/test"), "verdicts.csv")  # doctest: +SKIP
        >>> summary.rows, summary.scored  # doctest: +SKIP
        (397, 397)

    Args:
        detector: fitted.
        source: any data; items of another shape than the detector's inputs become rows with an error.
        out: .parquet or .csv. It appears, or is replaced, when the last row is written; whatever goes wrong
            before leaves nothing behind. That it can be written is checked before any work.
        batch_size: inputs in one call of the detector.
        workers: threads that read ahead.
        progress: called with the number of inputs done since its last call.

    The columns are index (counted from the beginning of the data), name, label (the predicted class),
    probability, outlier_score (larger = less trustworthy), p_value, trusted, error and, for data with labels,
    true_label. A row with an error has trusted false and no verdict: null in Parquet, empty in CSV.

    Cost: that of `Detector.predict`; memory for a few batches, whatever the length of the data.

    Raises:
        ArgumentError: `out` has another ending, or is the data. DataError: `out` cannot be written.
        ModelError: the model fails on a whole batch. MissingDependencyError: Parquet without pyarrow.
    """
    out = Path(out).expanduser()
    check_out(out)
    if not hasattr(detector, "input_shape_"):
        raise NotFittedError("the detector is not fitted. Call fit(data) with trusted inputs first.")
    columns = [name for name in COLUMNS if source.labelled or name != "true_label"]
    summary = Summary()
    with replacing(out, source.spec) as temporary, WRITERS[out.suffix](temporary, columns) as write, _each_once():
        for batch in source.batches(batch_size, workers=workers):
            rows = _rows(detector, [checked(item, detector.input_shape_) for item in batch])
            write(rows)
            for row in rows:
                summary.add(row)
            if progress:
                progress(len(rows))
    if summary.scored < summary.rows:
        warn(
            f"{summary.rows - summary.scored} of {summary.rows} inputs have no verdict; "
            f"the column error says why. The first: {summary.first_error}"
        )
    return summary


def check_out(out: Path) -> None:
    """Raise as `score` does where verdicts cannot be written to `out`."""
    if out.suffix not in WRITERS:
        raise expected("out", f"a file ending in {' or '.join(WRITERS)}", str(out))
    _claim(out).unlink()


@contextmanager
def replacing(out: Path, data: str) -> Iterator[Path]:
    """A temporary file beside `out` that becomes `out` if the block ends well and disappears if not.

    Raises:
        ArgumentError: `out` is the `data`, which it would destroy. DataError: `out` cannot be written.
    """
    if out.exists() and Path(data).expanduser().resolve() == out.resolve():
        raise expected("out", "another file than the data", str(out))
    temporary = _claim(out)
    try:
        yield temporary
        temporary.replace(out.resolve())
    finally:
        temporary.unlink(missing_ok=True)


def _claim(out: Path) -> Path:
    """An empty file beside `out`, which shows that `out` can be written."""
    out = out.resolve()
    if out.exists() and not out.is_file():
        raise DataError(f"cannot write {out}: it is not a regular file")
    if out.exists() and not os.access(out, os.W_OK):
        raise DataError(f"cannot write {out}: it is read-only")
    temporary = out.with_name(f".{out.stem}.{secrets.token_hex(4)}{out.suffix}")
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror} ({out.parent})") from error
    return temporary


def checked(item: Item, shape: tuple[int, ...] | None) -> Item:
    """`item`, with an error in place of an `x` that has another shape or is not finite."""
    item = shaped(item, shape)
    if item.x is None or bool(torch.isfinite(item.x).all()):
        return item
    return replace(item, x=None, error="NaN or infinite values")


def _rows(detector: Detector, items: list[Item]) -> list[Row]:
    """A row for each item, with the verdicts on those that have an `x`."""
    rows = [dict.fromkeys(COLUMNS) | {"trusted": False, "true_label": item.label} for item in items]
    for row, item in zip(rows, items, strict=True):
        row.update(index=item.index, name=item.name, error=item.error)
    judged = [row for row, item in zip(rows, items, strict=True) if item.x is not None]
    if judged:
        found = detector.predict(torch.stack([item.x for item in items if item.x is not None]))
        for i, row in enumerate(judged):
            p_value = float(found.p_value[i])
            if math.isnan(p_value):
                row["error"] = "NaN or infinite logits, or no gradient at all"
                continue
            row.update(
                label=int(found.label[i]),
                probability=float(found.probability[i]),
                outlier_score=float(found.outlier_score[i]),
                p_value=p_value,
                trusted=bool(found.trusted[i]),
            )
    return rows


@contextmanager
def _each_once() -> Iterator[None]:
    """Warnings that differ in numbers alone, as those of many batches do, are given once, at the end.

    Those about inputs without a verdict are not: each such input has a row that says so.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GradgeoWarning)
        warnings.simplefilter("ignore", UnusableInputWarning)
        yield
    for text in dict.fromkeys(re.sub(r"\d+", "N", str(w.message)) for w in caught):
        first = next(w for w in caught if re.sub(r"\d+", "N", str(w.message)) == text)
        warnings.warn(first.message, first.category, stacklevel=2)


@contextmanager
def _csv(path: Path, columns: list[str]) -> Iterator[Write]:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        yield lambda rows: writer.writerows(row | {"trusted": str(row["trusted"]).lower()} for row in rows)


@contextmanager
def _parquet(path: Path, columns: list[str]) -> Iterator[Write]:
    arrow = require("pyarrow", "parquet")
    schema = arrow.schema([(name, getattr(arrow, COLUMNS[name])()) for name in columns])
    with require("pyarrow.parquet", "parquet").ParquetWriter(path, schema) as writer:
        waiting: list[Row] = []

        def write(rows: list[Row], at: int = ROW_GROUP) -> None:
            waiting.extend(rows)
            if len(waiting) >= at:
                writer.write_table(arrow.Table.from_pylist(waiting, schema))
                waiting.clear()

        yield write
        write([], at=1)


WRITERS: dict[str, Callable[[Path, list[str]], AbstractContextManager[Write]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
}
"""How a file is written, by its ending."""
