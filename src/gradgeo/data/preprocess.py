"""Preprocessing of every input, stored with the detector, so that scoring repeats it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from gradgeo.data import limits
from gradgeo.errors import DataError, choice, expected, is_finite, is_integer, one_line

LARGEST = 8192
"""Pixels of the longest side that images are resized to."""

ORDERS = ("rgb", "bgr")
INTERPOLATIONS = ("bilinear", "bicubic")

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""

_LATER = ("bits", "window", "stretch")
"""Which earlier versions do not know, and refuse in a file."""

SIXTEEN_BITS = 2**16 - 1
"""The largest value of a 16-bit image, which is read as 1."""


class Preparation(Protocol):
    """What a source does to every value that it reads."""

    raw: ClassVar[bool]
    """Whether it takes values as they are read, pictures as PIL images, rather than float32 tensors."""

    def __call__(self, value: Any, /) -> Tensor:
        """The input."""
        ...

    def undone(self, x: Tensor) -> Tensor:
        """The input as people look at it."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, for the detector file."""
        ...

    def declared(self) -> dict[str, Any]:
        """What `fit` prints of it."""
        ...


@dataclass(frozen=True)
class Preprocess:
    """Depth, window, channels, size, channel order and normalisation, applied in this order; None skips a step.

    Example:
        >>> import torch
        >>> Preprocess(size=(32, 32), channels=3)(torch.rand(1, 28, 56)).shape
        torch.Size([3, 32, 32])
        >>> Preprocess(resize=256, crop=(224, 224))(torch.rand(3, 300, 500)).shape
        torch.Size([3, 224, 224])

    Attributes:
        size: (height, width) in pixels: the largest centred part of that aspect ratio, resized.
        channels: 1 or 3: grey is repeated, RGB weighted to grey (ITU-R BT.601).
        mean, std: subtracted, then divided by; one number, or one per channel.
        resize: pixels of the shorter side, with the aspect ratio preserved; an alternative to `size`.
        crop: (height, width) of the centre crop after `resize`; a smaller image is padded with zeros.
        order: "rgb", or "bgr" for models trained on images of OpenCV.
        interpolation: "bilinear" or "bicubic", of resizing, antialiased.
        stretch: whether `size` takes the whole image, whatever its aspect ratio, in place of its centre.
        bits: 8..15: of the camera, where 16-bit files hold its numbers as they are: 12 makes 4095 white.
        window: (centre, width) of the values that become [0, 1], others clipped: (40, 400) for soft tissue in CT.

    Raises:
        ArgumentError: a value is out of range. DataError, when called: a step needs an image and the input is not of
            shape (C, H, W), or the number of channels is not that of `mean` or `std`, or it has more than `bits`.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    crop: tuple[int, int] | None = None
    order: str = "rgb"
    interpolation: str = "bilinear"
    bits: int | None = None
    window: tuple[float, float] | None = None
    stretch: bool = False
    raw: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, sides in (("size", self.size), ("crop", self.crop)):
            if sides is not None and not (len(sides) == 2 and all(map(_is_side, sides))):
                raise expected(name, f"a height and a width in 1..{LARGEST}", sides)
        if self.resize is not None and not _is_side(self.resize):
            raise expected("resize", f"pixels in 1..{LARGEST}", self.resize)
        if self.size is not None and self.resize is not None:
            raise expected("resize", "None where size is set", self.resize)
        if not isinstance(self.stretch, bool):
            raise expected("stretch", "True or False", self.stretch)
        if self.channels not in (None, 1, 3):
            raise expected("channels", "1, 3 or None", self.channels)
        if self.bits is not None and not (is_integer(self.bits) and 8 <= self.bits <= 15):
            raise expected("bits", "8..15 or None", self.bits)
        if self.window is not None and not (
            len(self.window) == 2 and all(map(is_finite, self.window)) and self.window[1] > 0
        ):
            raise expected("window", "a centre and a width above 0", self.window)
        choice("order", self.order, ORDERS)
        choice("interpolation", self.interpolation, INTERPOLATIONS)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (values and all(math.isfinite(value) for value in values)):
                raise expected(name, "finite numbers, one or one per channel", values)
        if self.std is not None and min(self.std) <= 0:
            raise expected("std", "above 0", self.std)

    def __call__(self, x: Tensor) -> Tensor:
        """The preprocessed input: `x` is (C, H, W), or of any shape (C, *) where only `mean` and `std` are set."""
        if (self.size or self.channels or self.resize or self.crop) and x.ndim != 3:
            raise DataError(f"expected an image of shape (C, H, W) to resize, got shape {tuple(x.shape)}")
        if self.bits:
            x = _of_bits(x, self.bits)
        if self.window:
            centre, width = self.window
            x = ((x - centre) / width + 0.5).clamp(0, 1)
        if self.channels:
            x = in_channels(x, self.channels)
        if self.size and x.shape[1:] != self.size:
            x = self._resized(x if self.stretch else self._centre(x), self.size)
        if self.resize and min(x.shape[1:]) != self.resize:
            x = self._resized(x, _by_shorter_side(x.shape[1], x.shape[2], self.resize))
        if self.crop:
            x = _cropped(x, *self.crop)
        if self.order == "bgr":
            if len(x) != 3:
                raise DataError(f"expected 3 channels to order as BGR, got {len(x)}")
            x = x.flip(0)
        if self.mean is not None:
            x = x - _per_channel("mean", self.mean, x)
        if self.std is not None:
            x = x / _per_channel("std", self.std, x)
        return x.contiguous()

    def undone(self, x: Tensor) -> Tensor:
        """The inverse of `mean`, `std` and `order` on a preprocessed `x`: the image for people."""
        if self.std is not None:
            x = x * _per_channel("std", self.std, x)
        if self.mean is not None:
            x = x + _per_channel("mean", self.mean, x)
        return x.flip(0) if self.order == "bgr" else x

    def kept(self, size: tuple[int, int]) -> float:
        """The share of the area of an image of this height and width that is not cut away."""
        height, width = size
        if self.size and not self.stretch:
            tall, wide = self._part(height, width)
            return tall * wide / (height * width)
        if self.resize:
            height, width = _by_shorter_side(height, width, self.resize)
        if self.crop:
            return min(self.crop[0], height) * min(self.crop[1], width) / (height * width)
        return 1.0

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values; those of `_LATER` only where they are set."""
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return {name: value for name, value in settings.items() if name not in _LATER or value not in (None, False)}

    def declared(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        defaults = Preprocess().as_dict()
        return {name: value for name, value in self.as_dict().items() if value != defaults.get(name)}

    @classmethod
    def from_dict(cls, settings: object) -> "Preprocess":
        """The inverse of `as_dict`; checks settings from a file. Raises: ArgumentError."""
        if settings is None:
            return cls()
        if isinstance(settings, Mapping) and "transform" in settings:
            name = one_line(str(settings["transform"]))
            raise DataError(f"{name}, code, prepared the inputs of fit, and is run only where it is named again")
        known = {field.name for field in fields(cls)}
        if not isinstance(settings, Mapping) or not set(settings) <= known:
            raise expected("preprocess", f"a mapping with the keys {', '.join(sorted(known))}", settings)
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
        for name in ("size", "crop", "mean", "std", "window"):
            numbers = values.get(name)
            if numbers is not None and not (
                isinstance(numbers, tuple) and all(isinstance(n, int | float) for n in numbers)
            ):
                raise expected(f"preprocess {name}", "a list of numbers", numbers)
        return cls(**values)

    def _resized(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if size[0] * size[1] > limits.MOST_PIXELS:  # by its shorter side, a long thin image grows without limit
            raise DataError(f"resized it would be {size[0]} x {size[1]} pixels, more than {limits.MOST_PIXELS}")
        return F.interpolate(x[None], size, mode=self.interpolation, antialias=True)[0]

    def _centre(self, x: Tensor) -> Tensor:
        """The largest centred part of `x` with the aspect ratio of `size`.

        Cropping before resizing bounds the memory that a long thin image takes.
        """
        height, width = x.shape[1:]
        tall, wide = self._part(height, width)
        top, left = (height - tall) // 2, (width - wide) // 2
        return x[:, top : top + tall, left : left + wide]

    def _part(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the largest part with the aspect ratio of `size`."""
        assert self.size is not None
        h, w = self.size
        return min(height, max(1, round(width * h / w))), min(width, max(1, round(height * w / h)))


def in_channels(x: Tensor, channels: int) -> Tensor:
    """An image (C, H, W) in 1 or 3 channels: grey is repeated, RGB weighted to grey. Raises: DataError."""
    if len(x) == channels:
        return x
    if len(x) not in (1, 3):
        raise DataError(f"expected 1 or 3 channels to make {channels} of, got {len(x)}")
    grey = x if len(x) == 1 else (x * x.new_tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    return grey.expand(channels, -1, -1)


def _of_bits(x: Tensor, bits: int) -> Tensor:
    """An image of a 16-bit file, in which the camera's `bits` are the lowest, in [0, 1]."""
    x = x * (SIXTEEN_BITS / (2**bits - 1))
    if x.numel() and float(x.max()) > 1 + 1e-3:
        raise DataError(f"expected 16 bits of which {bits} are used, got larger values: an 8-bit or full 16-bit image?")
    return x


def _is_side(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _by_shorter_side(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width with a shorter side of `side`; the longer is rounded down, as in torchvision."""
    return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


def _cropped(x: Tensor, height: int, width: int) -> Tensor:
    """The centred part of this size, a smaller image padded with zeros, as in torchvision's CenterCrop."""
    down, right = max(0, height - x.shape[1]), max(0, width - x.shape[2])
    if down or right:
        x = F.pad(x, (right // 2, (right + 1) // 2, down // 2, (down + 1) // 2))
    top, left = round((x.shape[1] - height) / 2), round((x.shape[2] - width) / 2)
    return x[:, top : top + height, left : left + width]


def _per_channel(name: str, values: tuple[float, ...], x: Tensor) -> Tensor:
    if len(values) not in (1, len(x)):
        raise DataError(f"{name} has {len(values)} numbers, the input {len(x)} channels")
    return torch.tensor(values, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))
