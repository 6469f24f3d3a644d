"""Tables with named columns (pandas, polars, Arrow) as arrays of numbers, in the order of the names of `fit`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradgeo._typing import Array
from gradgeo.errors import expected, listed, one_line, require


def is_table(data: object) -> bool:
    """Whether `data` is a table or a column of one, which a Dataset resembles: it has a length and can be indexed."""
    return hasattr(data, "to_numpy") or hasattr(data, "__dataframe__") or hasattr(data, "__arrow_c_stream__")


def names_of(table: Any) -> tuple[str, ...]:
    """The names of a table's columns, in order.

    Raises:
        ArgumentError: it is a column, or a table that is not in memory; a name is not text, or stands there twice.
        MissingDependencyError: narwhals is not installed.
    """
    return tuple(_frame(table).columns)


def numbers_of(table: Any, columns: Sequence[str] | None = None) -> Array:
    """The columns of a table as an array (N, F), float64, with NaN for what is missing.

    Args:
        table: of pandas, polars, Arrow or whatever else narwhals knows, in memory.
        columns: their names, in order; others are left aside. None: all of them, in the table's order.

    Raises:
        ArgumentError: as `names_of`; one of `columns` is missing, or holds something other than numbers.
    """
    narwhals, frame = require("narwhals", "tables"), _frame(table)
    if columns is not None:
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise expected("x", f"a table with the columns of fit: {listed(columns)}", f"none called {listed(missing)}")
        frame = frame.select(*columns)
    other = [name for name, kind in frame.schema.items() if not (kind.is_numeric() or kind == narwhals.Boolean)]
    if other:
        raise expected(
            "every column of the table",
            "numbers",
            f"{frame.schema[other[0]]} in {listed(other)}",
            "Encode them as for training the classifier, or leave them out.",
        )
    filled = frame.with_columns(narwhals.all().cast(narwhals.Float64))
    return np.asarray(filled.to_numpy(), dtype=np.float64)  # (N, F)


def _frame(table: Any) -> Any:
    narwhals = require("narwhals", "tables")
    try:
        frame = narwhals.from_native(table, eager_only=True)
    except TypeError:
        raise expected(
            "data",
            "a table in memory (pandas, polars, Arrow)",
            table,
            "Of a column make a table (df[['name']]); texts take a model made by gradgeo.text(model, tokenizer); what "
            "is lazy must be collected.",
        ) from None
    except narwhals.exceptions.DuplicateError as error:
        raise expected("the names of the table's columns", "distinct", one_line(str(error))) from None
    if not all(isinstance(name, str) for name in frame.columns):
        raise expected("the names of the table's columns", "texts", frame.columns, "Use df.rename(columns=str).")
    return frame
