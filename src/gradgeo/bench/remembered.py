"""What several detectors compute of the same batch, computed once while they are asked together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from torch import Tensor

from gradgeo.bench.cache import tensor_hash

T = TypeVar("T")

_known: ContextVar[dict[tuple[object, ...], object] | None] = ContextVar("_known", default=None)


@contextmanager
def remembered() -> Iterator[None]:
    """Within it `once` computes each thing one time; for detectors of one model. Outside, each time anew."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def once(make: Callable[[], T], *key: object) -> T:
    """What `make` returns, or returned before for this key; not to be written to.

    Args:
        key: a tensor in it counts by its values.
    """
    known = _known.get()
    if known is None:
        return make()
    values = tuple(tensor_hash(part) if isinstance(part, Tensor) else part for part in key)
    if values not in known:
        known[values] = make()
    return known[values]  # type: ignore[return-value]
