"""One way to walk over what a detector accepts: tensors, arrays, data sets and loaders, with or without labels."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from gradgeo.classifier.prepared import refuse_sparse
from gradgeo.detector import tables
from gradgeo.errors import expected

Data = ArrayLike | Dataset[Any] | DataLoader[Any]
"""A tensor or array (N, *input), a table (N rows, F columns), or a Dataset or DataLoader whose items are x,
(x, y, ...) or mappings with keys of `INPUTS` and `LABELS`."""

INPUTS = ("image", "pixel_values", "inputs_embeds", "input_values", "x", "input", "inputs", "data", "features")
"""Keys of the input in items that are mappings, as MONAI, Hugging Face and others name it."""

LABELS = ("label", "labels", "y", "target", "targets")
"""Keys of the class."""

RULE = "a tensor, an array, a table, a Dataset or a DataLoader"


def batches(
    data: Data,
    labels: ArrayLike | None = None,
    *,
    batch_size: int,
    labelled: bool = True,
    columns: Sequence[str] | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches (x, y or None) of `data`, in its own order.

    Args:
        data: a tensor or array (N, *input), a table, or a Dataset or DataLoader whose items are x or (x, y, ...).
        labels: (N,) integers for a tensor, array or table; data sets and loaders bring their own.
        batch_size: inputs in a batch; a loader has its own.
        labelled: whether labels are wanted at all.
        columns: of a table, in order; None for all of them.
    """
    if tables.is_table(data):
        data = tables.numbers_of(data, columns)
    if isinstance(data, Tensor | np.ndarray):
        yield from _slices(data, None if labels is None else _labels(labels), batch_size)
        return
    if labels is not None:
        raise expected("labels", "None for a Dataset or DataLoader, whose items bring their own", labels)
    if isinstance(data, DataLoader):
        loader = _in_order(data, batch_size)
    elif isinstance(data, Dataset) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        if isinstance(data, str | bytes | dict | list):
            raise expected("data", RULE, data)
        loader = _loader(data, batch_size)
    else:
        raise expected("data", RULE, data)
    for batch in _iterate(loader):
        x, y = _input_and_label(batch)
        if not isinstance(x, Tensor):
            raise expected("each item of data", "x or (x, y, ...) with x a tensor", x, "Wrap the data set so.")
        yield x, _labels(y) if labelled and y is not None else None


def _input_and_label(batch: Any) -> tuple[Any, Any]:
    """What a batch of a loader holds: x, (x, y, ...) or a mapping with one of `INPUTS` and perhaps one of `LABELS`."""
    if isinstance(batch, Mapping):
        found = [name for name in INPUTS if name in batch]
        if len(found) != 1:
            raise expected(
                "each item of data",
                f"a mapping with one of the keys {', '.join(INPUTS)}",
                f"one with {', '.join(map(str, batch))}",
                "Wrap the data set to give (x, y).",
            )
        return batch[found[0]], next((batch[name] for name in LABELS if name in batch), None)
    x, y = (batch[0], batch[1]) if isinstance(batch, tuple | list) and len(batch) > 1 else (batch, None)
    return (x[0] if isinstance(x, tuple | list) and len(x) == 1 else x), y


def _loader(dataset: Any, batch_size: int | None, **options: Any) -> DataLoader[Any]:
    """A loader in order, which does not draw its base seed out of the caller's random state."""
    return DataLoader(dataset, batch_size=batch_size, generator=torch.Generator(), **options)


def _in_order(loader: DataLoader[Any], batch_size: int) -> DataLoader[Any]:
    """`loader`, or one over the whole of its data set in order where it shuffles or drops the last batch.

    Row i of a result belongs to input i, and `fit` reads twice.
    """
    if isinstance(loader.dataset, IterableDataset):
        return loader  # its order is its own, and it cannot be indexed
    batched = loader.batch_sampler
    plain = batched is None or type(batched) is BatchSampler
    if not plain or not isinstance(loader.sampler, SequentialSampler | RandomSampler):
        sampler = type(loader.sampler if plain else batched).__name__
        raise expected(
            "data", "a DataLoader without a sampler of its own", f"one with {sampler}", "For a part use Subset."
        )
    if isinstance(loader.sampler, SequentialSampler) and not loader.drop_last:
        return loader
    size = None if batched is None else loader.batch_size or batch_size
    return _loader(loader.dataset, size, num_workers=loader.num_workers, collate_fn=loader.collate_fn)


def _iterate(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; the global random state, from which it draws a base seed at its start, is restored."""
    with torch.random.fork_rng(devices=[], enabled=threading.active_count() == 1):
        return iter(loader)


def _slices(x: Tensor | NDArray[Any], y: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    if isinstance(x, np.ndarray) and x.dtype.kind not in "fiub":
        raise expected("x", "an array of numbers", x)
    if isinstance(x, Tensor):
        refuse_sparse(x)
    if x.ndim < 2:
        raise expected("x", "of shape (N, *input)", x, "For a single input add the batch axis: x[None].")
    if y is not None and len(y) != len(x):
        raise expected("labels", f"of shape ({len(x)},), one per input", y)
    for start in range(0, len(x), size):  # (size, *input) and (size,)
        yield _tensor(x[start : start + size]), None if y is None else y[start : start + size]


def _tensor(part: Tensor | NDArray[Any]) -> Tensor:
    if isinstance(part, Tensor):
        return part
    if isinstance(part, np.ma.MaskedArray) and part.dtype.kind == "f":
        part = part.filled(np.nan)  # an input with a missing value cannot be judged
    return torch.from_numpy(np.array(part, dtype=part.dtype.newbyteorder("=")))


def within_classes(y: Tensor | None, num_classes: int) -> None:
    """ArgumentError for a label (N,) that is none of the model's classes."""
    if y is not None and len(y) and not (int(y.min()) >= 0 and int(y.max()) < num_classes):
        raise expected("labels", f"within 0..{num_classes - 1}", f"{int(y.min())}..{int(y.max())}")


def _labels(labels: ArrayLike) -> Tensor:
    """Integers (N,) of a tensor, an array, a list or a column of a table."""
    rule = "integers of shape (N,)"
    if isinstance(labels, Tensor):
        y = labels.cpu()
    else:
        try:
            array = np.array(labels)  # a copy: arrays of a table's columns are read-only
        except (TypeError, ValueError, RuntimeError) as error:
            raise expected("labels", rule, labels) from error
        if array.dtype.kind not in "iu":
            advice = "Number the classes as the model does, from 0." if array.dtype.kind in "OUS" else ""
            raise expected("labels", rule, labels, advice)
        y = torch.from_numpy(array.astype(np.int64))
    if y.ndim != 1 or y.is_floating_point() or y.dtype == torch.bool:
        raise expected(
            "labels", rule, labels, "For a table name the column: df['label'].to_numpy()." * tables.is_table(labels)
        )
    return y.long()
