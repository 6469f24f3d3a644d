"""What evidence says for people of an input that lies beyond all trusted ones (`Explanation.seen`)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gradgeo.detector import columns, spectrum


class InputKind(NamedTuple):
    """Of what inputs are, what words need to know."""

    channels: int
    columns: tuple[str, ...] = ()
    """Of a table, where they have names."""


Words = Callable[[Sequence[float], Sequence[float], Sequence[float], InputKind], tuple[str, ...]]
"""In which ways features (F,) lie below the least (F,) or above the most (F,) of trusted inputs, for people."""


def of_spectrum(row: Sequence[float], low: Sequence[float], high: Sequence[float], of: InputKind) -> tuple[str, ...]:
    """As `Words`, of a `spectrum`."""
    return spectrum.seen(row, low, high, of.channels)


def of_columns(row: Sequence[float], low: Sequence[float], high: Sequence[float], of: InputKind) -> tuple[str, ...]:
    """As `Words`, of the columns of a table."""
    return columns.seen(row, low, high, of.columns)
