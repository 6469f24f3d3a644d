"""The row of a table itself, without any pass: its columns, jointly."""

from collections.abc import Sequence

from torch import Tensor

MOST = 256
"""Columns; of more, which are no table but features of something else, the covariance would cost more than it tells."""

TOLD = 3
"""Columns that are named in words, the first ones; of the others how many there are."""


def is_row(x: Tensor) -> bool:
    """Whether each of the inputs (N, ...) is one row of two columns or more."""
    return x.ndim == 2 and 2 <= x.shape[1] <= MOST


def seen(row: Sequence[float], low: Sequence[float], high: Sequence[float], names: Sequence[str]) -> tuple[str, ...]:
    """Which columns lie beyond those of all trusted rows, in words.

    Args:
        row: (F,) the columns.
        low: (F,) the smallest of trusted rows.
        high: (F,) the largest of trusted rows.
        names: (F,) of the columns, or none, which are then called by their number from 0.

    Example:
        >>> seen([9, 5, -1], [0, 0, 0], [8, 8, 8], ["carat", "depth", "price"])
        ('carat too high', 'price too low')
    """
    called = names or [f"column {i}" for i in range(len(row))]
    beyond = [
        f"{name} too {'low' if value < least else 'high'}"
        for name, value, least, most in zip(called, row, low, high, strict=True)
        if value < least or value > most
    ]
    rest = len(beyond) - TOLD
    return (*beyond[:TOLD], *([f"{rest} other column{'s' * (rest > 1)} too low or high"] if rest > 0 else []))
