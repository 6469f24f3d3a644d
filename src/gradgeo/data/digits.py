"""scikit-learn's 1,797 handwritten digits, 8 x 8, and a classifier trained on them: data and model of every example.

Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gradgeo.data.arrays import Arrays
from gradgeo.errors import DataError

PARTS = {"train": slice(0, 700), "fit": slice(700, 1400), "test": slice(1400, None)}
"""Places in the shuffled order: to train a classifier, to fit its detector, to report on."""

SEED = 0

WEIGHTS = Path(__file__).with_name("digits.safetensors")
"""Trained by `python -m benchmarks.digits`. Shipped, because training on another processor ends at other weights:
rounding differs, and every step carries the difference further."""


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


def digits_classifier() -> nn.Module:
    """A small convolutional network trained on the digits of "train", (N, 1, 8, 8) -> logits (N, 10), in eval mode.

    The weights are shipped with the package, so every machine judges by the same ones; 99 % of the test digits are
    classified right. Loading takes milliseconds and leaves torch's random state as it was.

    Example:
        >>> digits_classifier()(split()["test"][0]).shape
        torch.Size([397, 10])
    """
    with torch.device("meta"):  # draws no weights, so the caller's random state stays
        net = network().to_empty(device="cpu")
    net.load_state_dict(load_file(WEIGHTS))
    return net.requires_grad_(False).eval()


def network() -> nn.Sequential:
    """The untrained architecture: three convolutions of 32, 64 and 64 channels, then one linear layer."""
    return nn.Sequential(
        *(layer for widths in ((1, 32), (32, 64), (64, 64)) for layer in _convolution(*widths)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10)),
    )


def _convolution(channels_in: int, channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()


def open_digits(spec: str) -> Arrays:
    """Open `digits`, all in their original order, or `digits/train`, `digits/fit`, `digits/test`."""
    part = spec.partition("/")[2]
    if part not in ("", *PARTS):
        raise DataError(f"expected digits, {' or '.join(f'digits/{name}' for name in PARTS)}, got {spec}.")
    x, y = split()[part] if part else _digits()
    return Arrays(x.numpy(), y.tolist(), place=spec, classes=tuple("0123456789"))


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.from_numpy(x).float().view(-1, 1, 8, 8) / 16, torch.from_numpy(y).long()
