"""One way to walk over what a detector accepts: tensors, arrays, data sets and loaders, with or without labels."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from gradgeo.classifier.isolated_copy import Model, unwrapped
from gradgeo.classifier.items import input_and_label
from gradgeo.classifier.prepared import refuse_sparse
from gradgeo.classifier.text import TextClassifier
from gradgeo.detector import tables
from gradgeo.errors import expected

Data = ArrayLike | Dataset[Any] | DataLoader[Any]
"""A tensor or array (N, *input), a table (N rows, F columns), or a Dataset or DataLoader whose items are x,
(x, y, ...) or mappings (`gradgeo.classifier.items`)."""


@dataclass(frozen=True)
class Texts:
    """Data whose items are texts, or may be, and what makes inputs of them."""

    data: Any
    encode: Callable[[Sequence[Any]], Tensor]


RULE = "a tensor, an array, a table, a Dataset or a DataLoader"


def for_model(model: Model, data: Any) -> Any:
    """`data`, or for a model of texts `Texts`: lists, arrays and columns of texts among them.

    Raises: ArgumentError for a table, of which the column of texts must be named.
    """
    inner = unwrapped(model) if isinstance(model, torch.nn.Module) else model
    if not isinstance(inner, TextClassifier) or isinstance(data, Tensor | Texts):
        return data
    if tables.is_table(data) and not isinstance(data, Tensor):
        if getattr(data, "ndim", 1) != 1 or hasattr(data, "columns"):
            raise expected("data", "a list or a column of texts", data, "Name the column: df['text'].")
        data = data.to_pylist() if hasattr(data, "to_pylist") else list(data)
    elif isinstance(data, np.ndarray) and data.ndim == 1:
        data = data.tolist()
    elif isinstance(data, str):
        raise expected("data", "a list of texts", data, "For a single text pass [text].")
    return Texts(list(data) if isinstance(data, tuple) else data, inner.encode)


def one_batch(model: Model, x: ArrayLike) -> Tensor | NDArray[Any]:
    """Inputs (N, *input) as one tensor or array; of a list of texts its tokens, for a model that takes texts."""
    texts = for_model(model, x)
    if isinstance(texts, Texts) and isinstance(texts.data, list):
        return texts.encode(texts.data)
    if not isinstance(x, Tensor | np.ndarray):
        raise expected("x", "a tensor or array (N, *input)", x, "For a data set use predict, or judge its batches.")
    return x


def batches(
    data: Data | Texts,
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
    encode: Callable[[Sequence[Any]], Tensor] | None = None
    if isinstance(data, Texts):
        encode, data = data.encode, data.data
        if isinstance(data, list):
            y = None if labels is None else _labels(labels)
            if y is not None and len(y) != len(data):
                raise expected("labels", f"of shape ({len(data)},), one per text", y)
            for start in range(0, len(data), batch_size):
                yield encode(data[start : start + batch_size]), None if y is None else y[start : start + batch_size]
            return
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
            texts = isinstance(data, list) and data and isinstance(data[0], str)
            advice = "Texts take a model made by gradgeo.text(model, tokenizer)." if texts else ""
            raise expected("data", RULE, data, advice)
        loader = _loader(data, batch_size)
    else:
        raise expected("data", RULE, data)
    for batch in _iterate(loader):
        x, y = input_and_label(batch)
        if encode is not None and isinstance(x, list | tuple):
            x = encode(x)
        if not isinstance(x, Tensor):
            raise expected("each item of data", "x or (x, y, ...) with x a tensor", x, "Wrap the data set so.")
        yield x, _labels(y) if labelled and y is not None else None


def size_of(data: Data | Texts) -> int | None:
    """How many inputs `data` has; None where it does not know before it is read."""
    if isinstance(data, Texts):
        return size_of(data.data)
    of = data.dataset if isinstance(data, DataLoader) else data
    known = getattr(of, "size_hint", None)
    if isinstance(known, int):
        return known
    try:
        return len(of)  # type: ignore[arg-type]
    except TypeError:
        return None


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
