"""A batch as a classifier takes it: checked and cleaned once, then handed down instead of the caller's tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.errors import expected

_ROWS = 256
"""Inputs that are looked at together for NaN and infinity: the look takes a few bytes for each of their entries."""


@dataclass(frozen=True)
class PreparedBatch:
    """Inputs on the device and of the dtype of a classifier, without NaN or infinity. Made by `Classifier.prepare`."""

    x: Tensor
    """(N, *input), never to be changed in place: it may be the caller's own memory. Unusable rows are zeros, so that
    they cannot disturb the others of their batch."""
    usable: Tensor
    """(N,) bool: whether every entry of the caller's row is finite."""

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice) -> "PreparedBatch":
        return PreparedBatch(self.x[rows], self.usable[rows])


def clean(x: Tensor, *, traced: bool = False) -> PreparedBatch:
    """`x` (N, *input), of a classifier's device and dtype, with zeros in the place of rows that hold NaN or infinity.

    Memory: none where every row is usable, else one copy of `x`.

    Args:
        traced: read no value, as a graph for other runtimes demands; this always copies.
    """
    if traced:
        usable = _finite_rows(x)
        return PreparedBatch(_replaced(x, usable), usable)
    with torch.inference_mode(False):  # a tensor made in it cannot be differentiated; a copy can
        usable = _finite_rows(x) if len(x) <= _ROWS else torch.cat([_finite_rows(part) for part in x.split(_ROWS)])
        if not bool(usable.all()):
            return PreparedBatch(_replaced(x, usable), usable)
        return PreparedBatch(x.clone() if x.is_inference() else x, usable)


def refuse_sparse(x: Tensor) -> None:
    """ArgumentError for a tensor that does not hold its entries one by one: gradients are of every entry."""
    if x.layout != torch.strided:
        raise expected("x", "a dense tensor", x, "Use x.to_dense().")


def _finite_rows(x: Tensor) -> Tensor:
    """(N,) bool."""
    return torch.isfinite(x).flatten(1).all(1)


def _replaced(x: Tensor, usable: Tensor) -> Tensor:
    return torch.where(usable.view(-1, *[1] * (x.ndim - 1)), x, 0)
