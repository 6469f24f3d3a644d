"""What is done to every input before the model sees it; kept with the detector, so scoring does the same."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradgeo.errors import DataError, expected

LARGEST = 8192
"""Pixels of a side that images can be resized to."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


@dataclass(frozen=True)
class Preprocess:
    """Channels, size and normalisation, in this order; None leaves a thing as it is.

    Example:
        >>> import torch
        >>> Preprocess(size=(32, 32), channels=3)(torch.rand(1, 28, 56)).shape
        torch.Size([3, 32, 32])

    Attributes:
        size: (height, width) in pixels: the largest centred part of that aspect ratio, resized (bilinear,
            antialiased).
        channels: 1 or 3: grey is repeated, RGB weighted to grey (ITU-R BT.601).
        mean, std: subtracted and divided by, one number or one per channel.

    Raises:
        ArgumentError: a value out of range. DataError, when called: `size` or `channels` is set and the
            input is no image of shape (C, H, W), or it has another number of channels than `mean` or `std`.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not (
            len(self.size) == 2 and all(isinstance(side, int) and 1 <= side <= LARGEST for side in self.size)
        ):
            raise expected("size", f"a height and a width in 1..{LARGEST}", self.size)
        if self.channels not in (None, 1, 3):
            raise expected("channels", "1, 3 or None", self.channels)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (values and all(math.isfinite(value) for value in values)):
                raise expected(name, "finite numbers, one or one per channel", values)
        if self.std is not None and min(self.std) <= 0:
            raise expected("std", "above 0", self.std)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` (C, H, W), or any shape (C, *) where only `mean` and `std` are set, as the model wants it."""
        if (self.size or self.channels) and x.ndim != 3:
            raise DataError(f"expected an image of shape (C, H, W) to resize, got shape {tuple(x.shape)}")
        if self.channels and len(x) != self.channels:
            if len(x) not in (1, 3):
                raise DataError(f"expected 1 or 3 channels to make {self.channels} of, got {len(x)}")
            grey = x if len(x) == 1 else (x * x.new_tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
            x = grey.expand(self.channels, -1, -1)
        if self.size and x.shape[1:] != self.size:
            x = F.interpolate(self._centre(x)[None], self.size, mode="bilinear", antialias=True)[0]
        if self.mean is not None:
            x = x - _per_channel("mean", self.mean, x)
        if self.std is not None:
            x = x / _per_channel("std", self.std, x)
        return x.contiguous()

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: object) -> "Preprocess":
        """The inverse of `as_dict`, for settings that come out of a file."""
        if settings is None:
            return cls()
        known = {field.name for field in fields(cls)}
        if not isinstance(settings, Mapping) or not set(settings) <= known:
            raise expected("preprocess", f"a mapping with the keys {', '.join(sorted(known))}", settings)
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
        for name in ("size", "mean", "std"):
            numbers = values.get(name)
            if numbers is not None and not (
                isinstance(numbers, tuple) and all(isinstance(n, int | float) for n in numbers)
            ):
                raise expected(f"preprocess {name}", "a list of numbers", numbers)
        return cls(**values)

    def _centre(self, x: Tensor) -> Tensor:
        """The largest centred part of `x` with the aspect ratio of `size`.

        It is cut before resizing, which could otherwise blow a long thin image up beyond memory."""
        assert self.size is not None
        height, width = x.shape[1:]
        h, w = self.size
        tall, wide = min(height, max(1, round(width * h / w))), min(width, max(1, round(height * w / h)))
        top, left = (height - tall) // 2, (width - wide) // 2
        return x[:, top : top + tall, left : left + wide]


def _per_channel(name: str, values: tuple[float, ...], x: Tensor) -> Tensor:
    if len(values) not in (1, len(x)):
        raise DataError(f"{name} has {len(values)} numbers, the input {len(x)} channels")
    return torch.tensor(values, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))
