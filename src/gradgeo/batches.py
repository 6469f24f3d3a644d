"""One way to walk over what a detector accepts: tensors, arrays, data sets and loaders, with or without labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gradgeo.errors import expected

Data = Tensor | NDArray[Any] | Dataset[Any] | DataLoader[Any]


def batches(data: Data, labels: Any = None, *, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches (x, y or None) of `data`.

    Args:
        data: a tensor or array (N, *input), or a Dataset or DataLoader whose items are x or (x, y, ...).
        labels: (N,) integers for a tensor or array; data sets and loaders bring their own.
    """
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(np.ascontiguousarray(data))
    if isinstance(data, Tensor):
        yield from _slices(data, None if labels is None else _labels(labels), batch_size)
        return
    if labels is not None:
        raise expected("labels", "None for a Dataset or DataLoader, whose items bring their own", labels)
    if isinstance(data, DataLoader):
        loader = data
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | bytes | dict | list):
        # A generator of its own keeps the loader from drawing its base seed out of the caller's random state.
        loader = DataLoader(data, batch_size=batch_size, generator=torch.Generator())
    else:
        raise expected("data", "a tensor, an array, a Dataset or a DataLoader", data)
    for batch in loader:
        x, y = (batch[0], batch[1]) if isinstance(batch, tuple | list) and len(batch) > 1 else (batch, None)
        x = x[0] if isinstance(x, tuple | list) and len(x) == 1 else x
        if not isinstance(x, Tensor):
            raise expected("each item of data", "x or (x, y, ...) with x a tensor", x, "Wrap the data set so.")
        yield x, None if y is None else _labels(y)


def _slices(x: Tensor, y: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    if x.ndim < 2:
        raise expected("x", "of shape (N, *input)", x, "For a single input add the batch axis: x[None].")
    if y is not None and len(y) != len(x):
        raise expected("labels", f"of shape ({len(x)},), one per input", y)
    for start in range(0, len(x), size):
        yield x[start : start + size], None if y is None else y[start : start + size]


def _labels(labels: Any) -> Tensor:
    y = torch.as_tensor(labels)
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise expected("labels", "integers of shape (N,)", y)
    return y.long().cpu()
