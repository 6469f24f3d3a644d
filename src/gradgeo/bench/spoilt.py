"""Inputs that are spoilt, and images of another sort made by code: what needs no data set."""

import io

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gradgeo._typing import Array
from gradgeo.data import digits
from gradgeo.errors import require

JPEG_QUALITY = 5
"""Of 1 to 100, where damage begins at about 25."""
CONTRAST = 0.15
"""The share of contrast that is left."""
LIGHT = 0.5
"""What is added where too much light falls, of the range."""
DARK = 0.1
"""The share of light that is left."""
LEAST_CROP = 64
"""The shortest side of a crop of a photograph, in its pixels."""


def jpeg(x: Tensor) -> Tensor:
    """Images (N, 1 or 3, H, W) in [0, 1], compressed by Pillow so that blocks show."""
    image = require("PIL.Image", "images")

    def compressed(levels: Array) -> Tensor:
        stream = io.BytesIO()
        image.fromarray(levels).save(stream, "JPEG", quality=JPEG_QUALITY)
        decoded = torch.from_numpy(np.array(image.open(stream)))
        return decoded[None] if decoded.ndim == 2 else decoded.permute(2, 0, 1)

    rows = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(-1).numpy()  # grey images have two axes
    return torch.stack([compressed(levels) for levels in rows]).to(x.dtype) / 255


def blurred(x: Tensor) -> Tensor:
    """Images blurred by a Gaussian of a sixteenth of their width."""
    sigma = max(x.shape[2:]) / 16
    size = min(2 * round(3 * sigma) + 1, 2 * min(x.shape[2:]) - 1)  # odd, and no more than padding by reflection allows
    result: Tensor = require("torchvision.transforms.v2.functional", "bench").gaussian_blur(x, [size, size], [sigma])
    return result


def low_contrast(x: Tensor) -> Tensor:
    """Images near their mean grey."""
    result: Tensor = require("torchvision.transforms.v2.functional", "bench").adjust_contrast(x, CONTRAST)
    return result


def overexposed(x: Tensor) -> Tensor:
    """Images with more light than their range holds."""
    return (x + LIGHT).clamp(0, 1)


def dark(x: Tensor) -> Tensor:
    """Images with little light, in 255 levels as a camera stores them."""
    return (DARK * x * 255).round() / 255


def random_phases(x: Tensor, generator: torch.Generator) -> Tensor:
    """Textures: the spectrum of each input (N, channels, *positions), with the phases of noise.

    Source: Galerne et al., "Random phase textures", IEEE TIP 2011.
    """
    axes = tuple(range(2, x.ndim))
    noise = torch.fft.rfftn(torch.randn(len(x), 1, *x.shape[2:], generator=generator), dim=axes)
    turn = noise / noise.abs().clamp_min(1e-12)
    turn[(..., *[0] * len(axes))] = 1  # the mean stays
    textures: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * turn, s=x.shape[2:], dim=axes)
    return textures


def photographs(n: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Random squares of scikit-learn's two photographs, resized to images (n, *shape) in [0, 1]."""
    require("PIL", "images")
    loaded = require("sklearn.datasets", "bench").load_sample_images().images
    pictures = [torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255 for picture in loaded]

    def square(picture: Tensor) -> Tensor:
        longest = min(picture.shape[1:])
        side = _integer(LEAST_CROP, longest, generator)
        top, left = (_integer(0, length - side, generator) for length in picture.shape[1:])
        return picture[:, top : top + side, left : left + side]

    return torch.stack([_resized(square(pictures[i % len(pictures)]), shape) for i in range(n)])


def house_numbers(n: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Handwritten digits beside each other, in one colour on another: images (n, *shape) in [0, 1] like SVHN's."""
    images = digits.split()["train"][0]  # (N, 1, 8, 8)
    rows = torch.randint(len(images), (n, 3), generator=generator)
    strip = torch.cat([images[rows[:, i]] for i in range(3)], dim=3)[..., 7:17]  # the digit between parts of others
    ink = F.interpolate(strip, size=tuple(shape[1:]), mode="bicubic", align_corners=False).clamp(0, 1)
    paper, colour = torch.rand(2, n, 3, 1, 1, generator=generator)
    numbers: Tensor = paper + ink * (colour - paper)
    return numbers


def _resized(picture: Tensor, shape: torch.Size) -> Tensor:
    if shape[0] == 1:
        picture = picture.mean(0, keepdim=True)
    size = tuple(shape[1:])
    return F.interpolate(picture[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (1,), generator=generator))
