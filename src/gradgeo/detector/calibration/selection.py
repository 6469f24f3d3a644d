"""Which of many inputs to pull out so that few of these are trustworthy: false discovery rates."""

from __future__ import annotations  # signatures say ArrayLike, not the union behind it

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gradgeo._typing import Array
from gradgeo.errors import choice, expected, public

METHODS = ("bh", "storey")

LAMBDA = 0.5
"""P-values above it are taken to be of trustworthy inputs, in Storey's estimate of their share."""


@public
def fdr(p_values: ArrayLike, *, method: str = "bh") -> Tensor:
    """Q-values (N,) of the p-values of a whole batch: select where q <= 0.1, and on average at most a tenth is
    trustworthy.

    With alpha a share of all *trustworthy* inputs is flagged: of a batch without one untrustworthy input, every flag is
    false. The false discovery rate is the mean share of trustworthy inputs among those *selected*.

    What is guaranteed: conformal p-values of one calibration set depend on each other positively, so the procedure of
    Benjamini and Hochberg, and with Storey's estimate of the share of trustworthy inputs, controls the false discovery
    rate for trustworthy inputs that are exchangeable with the calibration inputs and independent of the rest of the
    batch (Bates et al. 2023, "Testing for outliers with conformal p-values", Annals of Statistics 51). What is not: the
    share among those selected in *this* batch with *this* calibration set, of which the rate is the mean; a batch that
    was chosen by its own p-values; batches one after the other taken as one; p-values of different detectors, or among
    different classes or groups, together.
    P-values start at 1 / (n + 1): of N inputs k are selected only where n + 1 >= N / (k * rate).

    Example:
        >>> fdr([0.001, 0.2, 0.01, 0.9])
        tensor([0.0040, 0.2667, 0.0200, 0.9000], dtype=torch.float64)

    Args:
        p_values: (N,) as `Detector.p_value` gives them; NaN, an input without verdict, is not counted and stays NaN.
        method: "bh" or, which selects more where many inputs are untrustworthy, "storey" (1 + #{p > 1/2}) / (N / 2).

    Raises: ArgumentError for other than numbers in 0..1, or another method.
    """
    choice("method", method, METHODS)
    values = np.asarray(p_values.detach().cpu() if isinstance(p_values, Tensor) else p_values)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise expected("p_values", "numbers (N,)", p_values)
    p = values.astype(np.float64)
    known = ~np.isnan(p)
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise expected("p_values", "within 0..1", f"{p[known].min()}..{p[known].max()}")
    q = np.full(len(p), np.nan)
    q[known] = _benjamini_hochberg(p[known]) * (_storey(p[known]) if method == "storey" else 1.0)
    return torch.from_numpy(np.minimum(q, 1.0))


def _benjamini_hochberg(p: Array) -> Array:
    order = np.argsort(p, kind="stable")[::-1]  # the largest first
    ranks = np.arange(len(p), 0, -1)
    q = np.empty(len(p))
    q[order] = np.minimum.accumulate(p[order] * len(p) / ranks)
    return q


def _storey(p: Array) -> float:
    """The estimated share of trustworthy inputs, which may come out above 1."""
    return float((1 + (p > LAMBDA).sum()) / (len(p) * (1 - LAMBDA))) if len(p) else 1.0
