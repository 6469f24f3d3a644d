"""Whether the p-values of a file of verdicts have shifted since the calibration, in the order of its rows."""

import csv
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from gradgeo.errors import require
from gradgeo.watch import Watch, WatchState

ROWS = 4096


def shift(out: Path, calibration_size: int) -> WatchState:
    """What a `Watch` makes of the p-values that `score` wrote to `out`; memory for some thousand rows."""
    watch = Watch(calibration_size)
    for p_values in _of_csv(out) if out.suffix == ".csv" else _of_parquet(out):
        watch.update(p_values)
    return watch.state


def _of_csv(out: Path) -> Iterator[list[float]]:
    with out.open(newline="", encoding="utf-8") as stream:
        rows = csv.DictReader(stream)
        while part := [float(row["p_value"] or math.nan) for row in islice(rows, ROWS)]:
            yield part


def _of_parquet(out: Path) -> Iterator[list[float]]:
    parquet = require("pyarrow.parquet", "parquet")
    for file in sorted(out.glob("part-*.parquet")) if out.is_dir() else [out]:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(ROWS, columns=["p_value"]):
                yield [math.nan if p is None else p for p in batch.column(0).to_pylist()]
