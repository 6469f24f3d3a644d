"""scikit-learn's 1,797 handwritten digits, 8 x 8, which every installation has: the data of the demo.

Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.
"""

import numpy as np
import torch
from torch import Tensor

from gradgeo.data.arrays import Arrays
from gradgeo.errors import DataError

PARTS = {"train": slice(0, 700), "fit": slice(700, 1400), "test": slice(1400, None)}
"""Places in the shuffled order: to train a classifier, to fit its detector, to report on."""

SEED = 0


def split() -> dict[str, tuple[Tensor, Tensor]]:
    """The digits in three parts of 700, 700 and 397, always the same.

    Example:
        >>> x, y = split()["test"]
        >>> x.shape, y.shape
        (torch.Size([397, 1, 8, 8]), torch.Size([397]))

    Returns:
        "train", "fit" and "test", each x (N, 1, 8, 8) float32 in [0, 1] and y (N,) int64.
    """
    x, y = _digits()
    # RandomState's stream, unlike that of newer generators and of torch, is promised never to change.
    order = torch.from_numpy(np.random.RandomState(SEED).permutation(len(x)))
    return {part: (x[order[place]], y[order[place]]) for part, place in PARTS.items()}


def open_digits(spec: str) -> Arrays:
    """`digits` for all in their original order, or `digits/train`, `digits/fit`, `digits/test`."""
    part = spec.partition("/")[2]
    if part not in ("", *PARTS):
        raise DataError(f"expected digits, {' or '.join(f'digits/{name}' for name in PARTS)}, got {spec}.")
    x, y = split()[part] if part else _digits()
    return Arrays(x.numpy(), y.tolist(), place=spec, classes=tuple("0123456789"))


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x).float().view(-1, 1, 8, 8) / 16, torch.from_numpy(y).long()
