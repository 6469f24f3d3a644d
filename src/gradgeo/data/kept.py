"""Columns of the data that are carried along with its items: a site, a scanner, a lot, as texts."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gradgeo.errors import DataError, expected, one_line

MOST = 16
"""Columns that may be kept."""

MISSING = "missing"
"""What a group is called of which an item has no value."""

Values = tuple[str | None, ...]
"""Of one item, in the order of the columns that were asked for."""


def checked_names(keep: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns to keep. Raises: ArgumentError for one that is named twice, or too many."""
    names = tuple(keep) if not isinstance(keep, str) else ()
    if isinstance(keep, str) or len(set(names)) < len(names) or len(names) > MOST or not all(names):
        raise expected("keep", f"at most {MOST} names of columns, each once", keep)
    return names


def as_text(value: Any) -> str | None:
    """A value on one line, None where it is missing: null, NaN or no date."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if value is None or value != value else one_line(str(value))


def texts(values: Iterable[Any]) -> list[str | None]:
    """The values of a column; equal ones are one text."""
    known: dict[Any, str | None] = {}
    column = []
    for value in values.tolist() if isinstance(values, np.ndarray) else values:
        if isinstance(value, list | dict):
            raise DataError("expected one number, text or date per item in a column that is kept, got lists.")
        if value not in known:
            known[value] = as_text(value)
        column.append(known[value])
    return column


def group_of(values: Values) -> str:
    """The name of the group that an item with these values is of."""
    return ", ".join(MISSING if value is None else value for value in values)
