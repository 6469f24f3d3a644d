"""Data that the user's own code gives: `file.py:function`, called without arguments, or an object of that name.

Its items are x, (x, y, ...) or mappings; an x is a tensor, an array, numbers, a PIL image or a text.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import local
from typing import Any

import numpy as np
from torch import Tensor

from gradgeo.classifier.items import input_and_label
from gradgeo.data.arrays import as_input
from gradgeo.data.images import from_picture
from gradgeo.data.source import Reader, Record, StreamReader
from gradgeo.data.user_code import call, load_object, source_sha256
from gradgeo.errors import ArgumentError, DataError, describe, expected, one_line

RULE = "a Dataset, a sequence, an iterable of x, (x, y) or mappings, or a pair of arrays"


def is_own(spec: str) -> bool:
    """Whether `spec` names code: `file.py:function`."""
    return spec.rpartition(":")[0].endswith(".py")


def open_own(spec: str, keys: Sequence[str] = (), *, raw: bool = False) -> Reader | StreamReader:
    """What the code gives. It runs: only the user may name it.

    Args:
        spec: `file.py:function` or `file.py:object`.
        keys: of input and label in items that are mappings.
        raw: give inputs as the code does, rather than as float32.

    Raises: ArgumentError for a name that is not there; DataError where the code fails or gives no data.
    """
    if len(keys) > 2 or not all(keys):
        raise expected("keys", "the name of the input, or of input and label: image,label", ",".join(keys))
    value = load_object(spec, "data", DataError)
    content_id = source_sha256(spec, value)[:16]
    give = value if _is_function(value) else lambda: value
    data = call(give, f"{spec}()", DataError)
    if hasattr(data, "collate_fn") and hasattr(data, "dataset"):  # a DataLoader: batches are made here
        if data.collate_fn.__module__.partition(".")[0] != "torch":
            raise DataError(f"{spec} gives a DataLoader with a collate_fn of its own. Give its items, or its dataset.")
        data = data.dataset
    if hasattr(data, "to_numpy") or hasattr(data, "__arrow_c_stream__"):
        raise DataError(f"{spec} gives a table. Give its numbers and labels as (x.to_numpy(), y), or pass its file.")
    if isinstance(data, tuple) and len(data) == 2 and all(hasattr(part, "__len__") for part in data):
        if len(data[0]) != len(data[1]):
            raise DataError(f"{spec} gives {len(data[0])} inputs and {len(data[1])} labels.")
        data = _Pairs(*data)
    if isinstance(data, str | bytes | dict):
        raise DataError(f"expected {RULE} from {spec}, got {describe(data)}.")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return OwnItems(data, spec, keys, content_id, raw=raw)
    if hasattr(data, "__iter__"):
        if iter(data) is data and give is not value:
            raise DataError(f"{spec} can be read once only. Name a function, which is called at each reading.")
        classes = tuple(map(str, getattr(data, "classes", None) or ()))
        return OwnStream(give, spec, keys, content_id, classes, raw=raw)
    raise DataError(f"expected {RULE} from {spec}, got {describe(data)}.")


class OwnItems:
    """Items with random access and a length; an item is asked for once, by the thread that reads it.

    Class names are those in `classes`, as torchvision's data sets have them. Whether there are labels is what the first
    item that can be read shows.
    """

    times = None

    def __init__(self, items: Any, spec: str, keys: Sequence[str], content_id: str, *, raw: bool = False) -> None:
        self._items, self._keys, self._raw = items, tuple(keys), raw
        self._last = local()
        self.classes: tuple[str, ...] = tuple(map(str, getattr(items, "classes", None) or ()))
        if not len(items):
            raise DataError(f"{spec} gives no items.")
        self.content_id = hashlib.sha256(f"{content_id} {len(items)}".encode()).hexdigest()[:16]
        self.labels: Sequence[int | None] | None = _Labels(self) if self._is_labelled() else None

    def __len__(self) -> int:
        return len(self._items)

    def name(self, index: int) -> str:
        """The number of the item."""
        return str(index)

    def load(self, index: int) -> Any:
        """The input of the item: float32, or as the code gives it."""
        x = self.item(index)[0]
        return x if self._raw else as_tensor(x)

    def item(self, index: int) -> tuple[Any, int | None]:
        """Input and label; whatever the code raises."""
        last = getattr(self._last, "item", None)
        if last is None or last[0] != index:
            self._last.item = None
            last = self._last.item = index, _checked(self._items[index], self._keys, self.classes)
        found: tuple[Any, int | None] = last[1]
        return found

    def _is_labelled(self) -> bool:
        for index in range(len(self._items)):
            try:
                value = self._items[index]
            except Exception:  # the user's code; such an item is an item with an error
                continue
            return input_and_label(value, self._keys)[1] is not None  # a key that is missing is said at once
        return False


class _Labels(Sequence[int | None]):
    """The labels of items, each known when its item is read."""

    def __init__(self, items: OwnItems) -> None:
        self._of = items

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self._of.item(index)[1]
        except Exception:  # reading its input says why
            return None


class OwnStream:
    """Items of an iterable, which the function gives anew for each reading."""

    is_datetime = None

    def __init__(
        self,
        give: Callable[[], Any],
        spec: str,
        keys: Sequence[str],
        content_id: str,
        classes: tuple[str, ...],
        *,
        raw: bool = False,
    ) -> None:
        self._give, self._spec, self._keys, self._raw = give, spec, tuple(keys), raw
        self.classes, self.content_id = classes, content_id
        first = next(self._values(), None)
        if first is None:
            raise DataError(f"{spec} gives no items.")
        self.labelled = input_and_label(first[1], self._keys)[1] is not None

    def records(self, skip: int) -> Iterator[Record]:
        """The items from number `skip` on."""
        for number, value in self._values():
            if number >= skip:
                label: int | None = None
                try:
                    x, label = _checked(value, self._keys, self.classes)
                    load = partial(_given if self._raw else as_tensor, x)
                except (ArgumentError, DataError) as error:
                    load = partial(_failing, error)
                yield Record(str(number), load, label)

    def count(self) -> int:
        """By reading all items."""
        return sum(1 for _ in self._values())

    def _values(self) -> Iterator[tuple[int, Any]]:
        number = -1
        try:
            for number, value in enumerate(self._give()):
                yield number, value
        except GeneratorExit:
            raise
        except (Exception, SystemExit) as error:  # a generator that failed cannot go on
            raise DataError(
                f"{self._spec} failed after {number + 1} items: {type(error).__name__}: {one_line(str(error))}"
            ) from error


class _Pairs:
    """Inputs and labels that lie in two arrays."""

    def __init__(self, x: Any, y: Any) -> None:
        self._x, self._y = x, y

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self._x[index], self._y[index]


def _is_function(value: Any) -> bool:
    """Whether it is to be called: a function or a class, or an object that holds no data itself."""
    return callable(value) and (isinstance(value, type) or not hasattr(value, "__getitem__"))


def _checked(value: Any, keys: Sequence[str], classes: Sequence[str]) -> tuple[Any, int | None]:
    """Input and label of an item. Raises: ArgumentError for a mapping without the keys, DataError for other labels."""
    x, y = input_and_label(value, keys)
    if hasattr(y, "item") and not isinstance(y, np.ndarray | list) and getattr(y, "ndim", 0) == 0:
        y = y.item()
    elif getattr(y, "shape", None) == (1,):
        y = y[0].item()
    if isinstance(y, str) and y in classes:
        y = list(classes).index(y)
    if isinstance(y, float) and y.is_integer():
        y = int(y)
    if y is not None and (not isinstance(y, int) or isinstance(y, bool)):
        raise DataError(f"expected the label of an item to be the number of its class, got {describe(y)}")
    return x, y


def as_tensor(value: Any) -> Tensor:
    """A raw value as float32: a tensor, array, number or numbers as they are, 8-bit ones and pictures within [0, 1].

    Raises: DataError for a text, or anything else.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value.float() if value.is_floating_point() else as_input(value.numpy())
    if isinstance(value, str):
        raise DataError("a text, which takes a model that was made by gradgeo.text(model, tokenizer), or --transform")
    if hasattr(value, "convert") and hasattr(value, "getbands"):
        return from_picture(value)
    try:
        return as_input(np.asarray(value))
    except (ValueError, TypeError) as error:
        raise DataError(f"expected a tensor, an array, numbers or a picture, got {describe(value)}") from error


def _given(x: Any) -> Any:
    return x


def _failing(error: Exception) -> Any:
    raise error
