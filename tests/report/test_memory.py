"""A report needs the same memory for any file: what unpacks to much is kept once, cut, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import made_scores
from gradgeo import report
from gradgeo.data import limits
from gradgeo.errors import DataError
from gradgeo.report.summary import summarise
from gradgeo.scoring.reader import Scores
from gradgeo.scoring.schema import SCHEMA

ROWS = 600
LONG = 1 << 19
POOLS: list[pa.MemoryPool] = []
"""They must live longer than what Arrow takes from them."""


def flagged(**columns: Any) -> pa.Table:
    """Rows that are all flagged, so that the page looks at them, with other `columns`."""
    table = made_scores.table(made_scores.columns(ROWS, errors=0.0, pictures=0), made_scores.metadata())
    for name, values in ({"trusted": pa.array(np.zeros(ROWS, bool))} | columns).items():
        if name in table.schema.names:
            table = table.drop_columns(name)
        table = table.append_column(name, values)
    return table


def once(value: str | bytes, rows: int = ROWS) -> pa.DictionaryArray:
    """One value in every row, kept once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))


def peak(work: Callable[[], object]) -> int:
    """Bytes that Arrow holds at most while `work` is done."""
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        work()
    finally:
        pa.set_memory_pool(usual)
    return int(pool.max_memory())


@pytest.mark.page
@pytest.mark.grid
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("name", ["name", "error", "cause", "thumbnail"])
def test_one_long_value_in_every_row_is_kept_once(tmp_path: Path, name: str, stored: bool) -> None:
    value = b"\x89" * LONG if name == "thumbnail" else "a" * LONG
    path = tmp_path / "a.parquet"
    table = flagged(**{name: once(value)})
    pq.write_table(table, path, compression="zstd", store_schema=stored, dictionary_pagesize_limit=1 << 30)
    assert path.stat().st_size < 200_000
    pages: list[str] = []
    assert peak(lambda: pages.append(report.html(path))) < 40 * LONG
    assert len(pages[0]) < 3_000_000
    if name != "thumbnail":
        assert "aaaa" in pages[0]


@pytest.mark.page
def test_a_large_row_group_is_not_unpacked_as_a_whole(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.parquet", 1_000_000
    required = [name for name, column in SCHEMA.items() if column.required]
    pq.write_table(flagged().select(required).take(np.zeros(rows, int)), path, row_group_size=rows)
    assert path.stat().st_size < 100_000
    assert peak(lambda: summarise(Scores(path))) < 20 * rows  # one column of numbers takes 8


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_texts_in_other_encodings_are_read_too(tmp_path: Path, encoding: str) -> None:
    for name, options in (("a", {"use_dictionary": False, "column_encoding": {"cause": encoding}}), ("b", {})):
        pq.write_table(flagged(cause=pa.array([f"cause {i % 7}" for i in range(ROWS)])), tmp_path / name, **options)
        (tmp_path / name).rename(tmp_path / f"{name}.parquet")
    one, two = (summarise(Scores(tmp_path / f"{name}.parquet")).causes for name in "ab")
    assert one == two
    assert len(one) == 7


@pytest.mark.page
def test_values_that_extend_the_one_before_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, texts = tmp_path / "a.parquet", pa.array(["a" * 100_000 + f"{i:04}" for i in range(ROWS)])
    options = {"use_dictionary": False, "column_encoding": {"cause": "DELTA_BYTE_ARRAY"}, "compression": "none"}
    pq.write_table(flagged(cause=texts), path, **options)
    assert path.stat().st_size < 300_000
    monkeypatch.setattr(limits, "LARGEST_VERDICTS", 1 << 20)
    assert peak(lambda: summarise(Scores(path))) < ROWS * 100_000 / 4


def test_lists_and_columns_that_are_too_long_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    for name, most in (("evidence", 64), ("signal", 256), ("csm", 100), ("csm_classes", 10)):
        lists = pa.array([np.zeros(most + 1, np.float32)] * ROWS)
        pq.write_table(flagged(**{name: lists}), path)
        with pytest.raises(DataError, match=f"^html: the column {name} of .* holds lists of more than {most} entries"):
            report.html(path)
    pq.write_table(flagged(evidence=pa.array([[{"a": 1}]] * ROWS)), path)
    with pytest.raises(DataError, match=r"the column evidence of .* is of type a list of struct<a: int64>, not list"):
        report.html(path)
    monkeypatch.setattr(limits, "LARGEST_VERDICTS", 1 << 16)
    pq.write_table(flagged(name=pa.array([f"{i:0200}" for i in range(ROWS)])), path)
    with pytest.raises(DataError, match=r"the column name of .* takes 1\d\d,\d+ bytes in one row group, more than 65,"):
        report.html(path)


@pytest.mark.page
def test_classes_beyond_number_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(flagged(label=pa.array(np.arange(ROWS))), tmp_path / "a.parquet")
    for module in ("summary", "kinds"):
        monkeypatch.setattr(f"gradgeo.report.{module}.MOST_LABELS", 7)
    counted = summarise(Scores(tmp_path / "a.parquet")).by_class
    assert len(counted) == 8
    assert counted[-1] == [ROWS - 7, ROWS - 7]
    assert "other classes" in report.html(tmp_path / "a.parquet")
