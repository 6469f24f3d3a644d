"""Labels of data as class numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo.errors import DataError, describe


def encode_labels(values: NDArray[Any], place: str) -> tuple[list[int | None], tuple[str, ...]]:
    """Labels as integers, and the class names where they are text.

    Integers stay as they are, text is numbered in sorted order, missing values are None.

    Args:
        values: (N,), integers, whole floats, booleans or text.
        place: the file or column, for the message.
    """
    if values.ndim == 1 and values.dtype.kind in "iub":
        return (values.astype(np.int8) if values.dtype.kind == "b" else values).tolist(), ()
    if values.ndim == 1 and values.dtype.kind == "f" and _whole(values):
        return [None if np.isnan(value) else int(value) for value in values], ()
    if values.ndim == 1 and values.dtype.kind in "UO" and all(isinstance(v, str | None) for v in values):
        classes = tuple(sorted({str(value) for value in values if value is not None}))
        rank = {name: number for number, name in enumerate(classes)}
        return [rank.get(value) for value in values], classes
    raise DataError(f"expected the labels in {place} to be one integer or text per item, got {describe(values)}.")


def _whole(values: NDArray[Any]) -> bool:
    """Whether every value is a whole number or missing."""
    return bool((np.isnan(values) | (np.isfinite(values) & (np.floor(values) == values))).all())
