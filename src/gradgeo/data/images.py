"""Images: one file, a folder of them, or a folder with one sub-folder per class."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import torch
from torch import Tensor

from gradgeo.errors import DataError, require

# EPS and other formats that Pillow hands to outside programs are left out.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MOST_PIXELS = 1 << 26
"""Pixels of the largest image that is decoded: 67 million."""


class Names(Sequence[str]):
    """File names in one block of bytes, a fifth of the memory of strings, for folders with millions of files."""

    def __init__(self, names: Iterable[str]) -> None:
        block, ends = bytearray(), array("q", [0])
        for name in names:
            block += os.fsencode(name)
            ends.append(len(block))
        self._block, self._ends = bytes(block), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return os.fsdecode(self._block[self._ends[index] : self._ends[index + 1]])

    @property
    def hash(self) -> str:
        """A hash of all names in their order."""
        return hashlib.sha256(self._block + self._ends.tobytes()).hexdigest()[:16]


class Images:
    """Image files, named by their path within `root`."""

    times = None

    def __init__(
        self,
        root: Path,
        files: Iterable[str],
        labels: Sequence[int | None] | None = None,
        classes: tuple[str, ...] = (),
    ) -> None:
        require("PIL.Image", "images")
        self._root = root
        self._files = Names(files)
        self.labels = labels
        self.classes = classes
        self.content_id = self._files.hash

    def __len__(self) -> int:
        return len(self._files)

    def name(self, index: int) -> str:
        """The path within the folder."""
        return Path(self._files[index]).as_posix()

    def load(self, index: int) -> Tensor:
        """The image (C, H, W)."""
        file = self._root / self._files[index]
        if not file.is_file():  # opening a named pipe would block
            raise DataError("not a regular file")
        with file.open("rb") as stream:
            return decode(stream)


def open_image(file: Path) -> Images:
    """A single image."""
    return Images(file.parent, [file.name])


def open_folder(folder: Path) -> Images:
    """The images below `folder` in sorted order; the sorted sub-folders are the classes.

    Files with other endings, names that begin with a dot and links to folders in sub-folders are skipped.
    """
    with os.scandir(folder) as entries:
        listing = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    folders = [name for name, is_folder in listing if is_folder]
    loose = [name for name, is_folder in listing if not is_folder and is_image(name)]
    labels: list[int | None] = [None] * len(loose)

    def all_files() -> Iterator[str]:
        yield from loose
        for number, sub in enumerate(folders):
            for name in _below(folder, sub):
                labels.append(number)
                yield name

    images = Images(folder, all_files())
    if not len(images):
        raise DataError(
            f"no images in {folder}: looked there and in {len(folders)} sub-folders for "
            f"{', '.join(sorted(ENDINGS))}. Put images there, or pass a .parquet, .npz, .npy or .tar file."
        )
    if len(labels) > len(loose):
        images.labels, images.classes = labels, tuple(folders)
    return images


def is_image(name: str) -> bool:
    """Whether the ending of a file name is that of an image."""
    return os.path.splitext(name)[1].lower() in ENDINGS  # noqa: PTH122, many times faster than a Path


def _below(folder: Path, sub: str) -> Iterator[str]:
    """The images in a sub-folder, by their paths within `folder`."""
    for where, folders, names in os.walk(folder / sub):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = os.path.relpath(where, folder)
        yield from (os.path.join(place, name) for name in sorted(names) if is_image(name) and not name.startswith("."))  # noqa: PTH118


def decode(data: bytes | IO[bytes]) -> Tensor:
    """The image in `data`, (C, H, W) float32 in [0, 1]: C = 1 for grey, else 3; 16-bit grey keeps its depth.

    Transparency is dropped, only the first frame of an animation is used, and the camera's orientation tag is ignored,
    as in torchvision's loader.

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
    except Exception as error:  # for a broken header Pillow raises whatever its int() or struct raised
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
