from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gradgeo.data import open_source
from gradgeo.data.timestamps import parse_timestamp, parse_timestamps
from gradgeo.errors import ArgumentError, DataError

NOON = datetime(2024, 5, 1, 12)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (np.float32(0.5), 0.5),
        (NOON, NOON),
        (NOON.replace(tzinfo=UTC), NOON),
        (datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))), NOON),
        (date(2024, 5, 1), datetime(2024, 5, 1)),
        ("2024-05-01T12:00:00Z", NOON),
        (np.datetime64("2024-05-01T12:00:00", "us"), NOON),
        (np.datetime64("NaT", "us"), None),
        (float("nan"), None),
        (float("inf"), None),
        ("soon", None),
        (True, None),
        (None, None),
    ],
)
def test_moment(value: object, expected: object) -> None:
    assert parse_timestamp(value) == expected


def test_moments() -> None:
    assert parse_timestamps([1, 2], "x").dtype == np.float64
    assert parse_timestamps(np.array(["2024-05-01", None], object), "x").tolist() == [datetime(2024, 5, 1), None]
    assert parse_timestamps([1.0, None], "x")[0] == 1.0
    for bad in (["soon", "later"], [1.0, "2024-05-01"], [[1.0]], [None]):
        with pytest.raises(DataError, match="expected the times in x to be a number, date or ISO 8601 text per item"):
            parse_timestamps(np.array(bad, object), "x")


@pytest.mark.parametrize(
    ("column", "is_datetime", "expected"),
    [
        (pa.array([1, None, 3]), False, [1.0, None, 3.0]),
        (pa.array([NOON, None, NOON], pa.timestamp("ns")), True, [NOON, None, NOON]),
        (pa.array([NOON, None, NOON], pa.timestamp("us", tz="Europe/Berlin")), True, [NOON, None, NOON]),
        (pa.array([date(2024, 5, 1)] * 3), True, [datetime(2024, 5, 1)] * 3),
        (pa.array(["2024-05-01T12:00:00", "", None]), True, [NOON, None, None]),
    ],
)
def test_parquet(tmp_path: Path, column: pa.Array, is_datetime: bool, expected: list) -> None:
    pq.write_table(pa.table({"x": [[0.0]] * 3, "t": column}), tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet", time="t")
    assert (source.is_datetime, source.time) == (is_datetime, "t")
    assert [item.time for item in source] == expected
    with pytest.raises(DataError, match="has no column when; it has x, t"):
        open_source(tmp_path / "a.parquet", time="when")
    assert open_source(tmp_path / "a.parquet").is_datetime is None


def test_npz_and_data_without_columns(tmp_path: Path) -> None:
    t = np.array(["2024-05-01", "2024-05-02"], "M8[D]")
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)), t=t, short=t[:1])
    assert [item.time for item in open_source(tmp_path / "a.npz", time="t")] == [datetime(2024, 5, d) for d in (1, 2)]
    with pytest.raises(DataError, match=r"expected one time per input in a\.npz, got 1 for 2"):
        open_source(tmp_path / "a.npz", time="short")
    with pytest.raises(DataError, match="expected an array named when"):
        open_source(tmp_path / "a.npz", time="when")
    with pytest.raises(ArgumentError, match="expected time to be None for data without columns"):
        open_source("digits", time="t")
