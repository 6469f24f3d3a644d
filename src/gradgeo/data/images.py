"""Images: one file, a folder of them, or a folder with one sub-folder per class."""

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from gradgeo.errors import DataError, require

# EPS and other formats that Pillow hands to outside programs are left out.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MOST_PIXELS = 1 << 26
"""Pixels of the largest image that is read: 67 million."""


class Images:
    """Image files, named by their path within `root`."""

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        labels: Sequence[int | None] | None = None,
        classes: tuple[str, ...] = (),
    ) -> None:
        require("PIL.Image", "images")
        self._root = root
        self._files = files
        self.labels = labels
        self.classes = classes

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """The path within the folder."""
        return self._files[index].relative_to(self._root).as_posix()

    def load(self, index: int) -> Tensor:
        """The image (C, H, W)."""
        file = self._files[index]
        if not file.is_file():  # opening a named pipe would wait for ever
            raise DataError("not a regular file")
        with file.open("rb") as stream:
            return decode(stream)


def open_image(file: Path) -> Images:
    """A single image."""
    return Images(file.parent, [file])


def open_folder(folder: Path) -> Images:
    """The images below `folder` in sorted order; sub-folders that hold any give the labels, sorted too.

    Files with other endings, names that begin with a dot and links to folders in sub-folders are passed over.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    loose = [entry for entry in entries if entry.suffix.lower() in ENDINGS and not entry.is_dir()]
    inside = [(file, number) for number, sub in enumerate(folders) for file in _below(sub)]
    files = [*loose, *(file for file, _ in inside)]
    if not files:
        raise DataError(
            f"no images in {folder}: looked there and in {len(folders)} sub-folders for "
            f"{', '.join(sorted(ENDINGS))}. Put images there, or pass a .parquet, .npz or .npy file."
        )
    if not inside:
        return Images(folder, files)
    labels = [*(None for _ in loose), *(number for _, number in inside)]
    return Images(folder, files, labels, tuple(sub.name for sub in folders))


def _below(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(where, name)
            if file.suffix.lower() in ENDINGS and not name.startswith("."):
                yield file


def decode(data: bytes | IO[bytes]) -> Tensor:
    """The image in `data`, (C, H, W) float32 in [0, 1]: C = 1 for grey, else 3; 16-bit grey keeps its depth.

    Transparency is dropped, the first frame of a moving image taken, and the camera's orientation mark
    ignored, as torchvision's loader does.

    Raises:
        DataError: empty, truncated, in none of `FORMATS`, or more than `MOST_PIXELS`.
    """
    pillow = require("PIL.Image", "images")
    stream = BytesIO(data) if isinstance(data, bytes) else data
    if not stream.read(1):
        raise DataError("empty (0 bytes)")
    stream.seek(0)
    try:
        with pillow.open(stream, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise DataError(f"{width} x {height} pixels are too many; at most {MOST_PIXELS} are read")
            return _pixels(image)
    except DataError:
        raise
    except pillow.DecompressionBombError as error:
        raise DataError(f"too many pixels: {error}") from error
    except OSError as error:
        if type(error).__name__ == "UnidentifiedImageError":  # whose text is a memory address
            raise DataError(f"not an image ({', '.join(FORMATS)})") from error
        raise DataError(f"unreadable image: {error}") from error


def _pixels(image: Any) -> Tensor:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's conversions would clip to 8 bits
        grey = np.asarray(image).astype(np.float32) / 65535
        return torch.from_numpy(grey)[None].clamp(0, 1)
    converted = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    pixels = torch.from_numpy(np.array(converted, dtype=np.uint8))
    return (pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)).float() / 255
