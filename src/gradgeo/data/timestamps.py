"""The time of an item: a number in any unit, or a date and time."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo.errors import DataError, describe

Timestamp = float | datetime
"""A finite number, or a date and time without a zone, converted to UTC if it had one."""


def parse_timestamp(value: object) -> Timestamp | None:
    """`value` (a number, a datetime of Python or NumPy, or ISO 8601 text) as a timestamp; None for anything else.

    Example:
        >>> parse_timestamp("2024-05-01T12:00:00+02:00"), parse_timestamp(3)
        (datetime.datetime(2024, 5, 1, 10, 0), 3.0)
    """
    if isinstance(value, np.generic):
        value = value.item()  # NaT and years outside 1 to 9999 become None or an int
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, int | float) and not isinstance(value, bool) and -np.inf < value < np.inf:
        return float(value)
    return None


def parse_timestamps(values: Sequence[Any] | NDArray[Any], place: str) -> NDArray[Any]:
    """A column of timestamps as one array: float64, or datetime64[us] for dates; NaN or NaT where one is missing.

    Args:
        values: (N,) numbers, dates or ISO 8601 text.
        place: the file or column, for the message.
    """
    array = np.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "iuf":
        return array.astype(np.float64)
    if array.ndim == 1 and array.dtype.kind == "M":
        return array.astype("datetime64[us]")
    if array.ndim == 1 and array.dtype.kind in "UO":
        parsed = [parse_timestamp(value) for value in array]
        types = {type(value) for value in parsed} - {type(None)}
        if types == {datetime}:
            return np.array(parsed, dtype="datetime64[us]")
        if types == {float}:
            return np.array(parsed, dtype=np.float64)
    raise DataError(
        f"expected the times in {place} to be a number, date or ISO 8601 text per item, got {describe(array)}."
    )
