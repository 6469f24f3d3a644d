"""When an item was taken: a number in whatever unit, or a date and time."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo.errors import DataError, describe

Timestamp = float | datetime
"""A finite number, or a date and time without a zone: UTC where a zone was given."""


def moment(value: object) -> Timestamp | None:
    """`value` as a moment: a number, a datetime of Python or NumPy, or ISO 8601 text; None for anything else.

    Example:
        >>> moment("2024-05-01T12:00:00+02:00"), moment(3)
        (datetime.datetime(2024, 5, 1, 10, 0), 3.0)
    """
    if isinstance(value, np.generic):
        value = value.item()  # NaT, and what is beyond the years 1 to 9999, is no datetime then
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


def moments(values: Sequence[Any] | NDArray[Any], place: str) -> NDArray[Any]:
    """A column of moments as one array: float64, or datetime64[us] where they are dates; NaN or NaT where missing.

    Args:
        values: (N,) numbers, dates or ISO 8601 text.
        place: where they stand, for the message.
    """
    array = np.asarray(values)
    if array.ndim == 1 and array.dtype.kind in "iuf":
        return array.astype(np.float64)
    if array.ndim == 1 and array.dtype.kind == "M":
        return array.astype("datetime64[us]")
    if array.ndim == 1 and array.dtype.kind in "UO":
        found = [moment(value) for value in array]
        known = {type(value) for value in found} - {type(None)}
        if known == {datetime}:
            return np.array(found, dtype="datetime64[us]")
        if known == {float}:
            return np.array(found, dtype=np.float64)
    raise DataError(
        f"expected the times in {place} to be a number, date or ISO 8601 text per item, got {describe(array)}."
    )
