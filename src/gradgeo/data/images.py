"""Images: one file, a folder of them, or a folder with one sub-folder per class."""

import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import torch
from torch import Tensor

from gradgeo.data import dicom, limits
from gradgeo.data.files import content_id_below
from gradgeo.errors import DataError, one_line, require, warn

# EPS and other formats that Pillow hands to outside programs are left out.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
ENDINGS = dicom.ENDINGS | {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
SCAN_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
"""What ends a scan or starts a segment: any marker but those within scans, FF00 and restarts FFD0 to FFD7."""

WITHOUT_LENGTH = (b"\xff\x01", b"\xff\xd8")

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
"""TIFF tags, and the value of the second for grey that counts from white."""


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
        self.content_id = content_id_below(root, self._files)

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

    Files with other endings, names that begin with a dot and links to folders are skipped; links next to the images or
    classes, which a person may miss, with a warning. Where no name ends as that of an image, files without an ending
    that begin as DICOM does are taken.
    """
    with os.scandir(folder) as entries:
        listing = sorted((e.name, e.is_dir(), e.is_symlink()) for e in entries if not e.name.startswith("."))
    folders = [name for name, is_folder, is_link in listing if is_folder and not is_link]
    links = [name for name, is_folder, is_link in listing if is_folder and is_link]
    labels: list[int | None] = []

    def all_files(wanted: Callable[[str, str], bool]) -> Iterator[str]:
        labels.clear()
        for name, is_folder, _ in listing:
            if not is_folder and wanted(str(folder), name):
                labels.append(None)
                yield name
        for number, sub in enumerate(folders):
            for name in _below(folder, sub, wanted):
                labels.append(number)
                yield name

    images = Images(folder, all_files(_named_so))
    if not len(images):
        images = Images(folder, all_files(_begins_so))
    skipped = f"{len(links)} links to folders, the first {one_line(links[0])}, are skipped" if links else ""
    if not len(images):
        raise DataError(
            f"no images in {folder}: looked there and in {len(folders)} sub-folders for "
            f"{', '.join(sorted(ENDINGS))}. {f'{skipped}. ' if skipped else ''}"
            "Put images there, or pass a .parquet, .npz, .npy or .tar file."
        )
    if skipped:
        warn(f"in {folder} {skipped}: what they point to may lie outside. Put the images of those classes there.")
    if any(label is not None for label in labels):
        images.labels, images.classes = labels, tuple(folders)
    return images


def is_image(name: str) -> bool:
    """Whether the ending of a file name is that of an image."""
    return os.path.splitext(name)[1].lower() in ENDINGS  # noqa: PTH122, many times faster than a Path


def _named_so(where: str, name: str) -> bool:
    return is_image(name)


def _begins_so(where: str, name: str) -> bool:
    """Whether a file without an ending begins as DICOM does, as exported studies have them."""
    path = Path(where, name)
    if "." in name or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return dicom.is_dicom(stream)
    except OSError:
        return False


def _below(folder: Path, sub: str, wanted: Callable[[str, str], bool]) -> Iterator[str]:
    """The wanted files in a sub-folder, by their paths within `folder`."""
    for where, folders, names in os.walk(folder / sub):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        place = os.path.relpath(where, folder)
        here = (name for name in sorted(names) if not name.startswith(".") and wanted(where, name))
        yield from (os.path.join(place, name) for name in here)  # noqa: PTH118


def decode(data: bytes | IO[bytes], *, most_pixels: int | None = None) -> Tensor:
    """The image in `data`, (C, H, W) float32 in [0, 1]: C = 1 for grey, else 3; 16-bit grey keeps its depth.

    Transparency is dropped, only the first frame of an animation is used, and the camera's orientation tag is ignored,
    as in torchvision's loader. DICOM is known by its beginning, see `gradgeo.data.dicom`.

    Args:
        data: a file, its kind told by its bytes alone.
        most_pixels: that its header may state; None for `limits.MOST_PIXELS`, above which none is decoded.

    Raises:
        DataError: empty, truncated, in none of `FORMATS`; TIFF of floats or of signed or 32-bit integers, whose range
            no tag states; above a limit of `gradgeo.data.limits`: pixels, scans of a JPEG, bytes.
    """
    stream = BytesIO(data) if isinstance(data, bytes) else data
    size = stream.seek(0, os.SEEK_END)
    if not size:
        raise DataError("empty (0 bytes)")
    limits.check_size("the image", size, limits.LARGEST_ITEM)
    most = limits.MOST_PIXELS if most_pixels is None else min(most_pixels, limits.MOST_PIXELS)
    if dicom.is_dicom(stream):
        return dicom.pixels(stream, most)
    pillow = require("PIL.Image", "images")
    try:
        with pillow.open(stream, formats=FORMATS) as image:
            width, height = image.size
            if width * height > most:
                raise limits.TooManyPixelsError(f"{width} x {height} pixels are too many; at most {most} are read")
            if image.format in ("JPEG", "MPO"):
                _check_scans(stream)
            return from_picture(image)
    except DataError:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise limits.TooManyPixelsError(f"too many pixels: {error}") from error
    except Exception as error:  # for a broken header Pillow raises whatever its int() or struct raised
        if type(error).__name__ == "UnidentifiedImageError":  # whose text is a memory address
            raise DataError(f"not an image ({', '.join(FORMATS)})") from error
        raise DataError(f"unreadable image: {error}") from error


def to_pillow(image: Tensor) -> Any:
    """An image (C, H, W) for Pillow: grey of one or two channels, the first three as RGB.

    Values within [0, 1] are taken as they are, others stretched to that range.
    """
    pillow = require("PIL.Image", "images")
    image = image[:3] if len(image) >= 3 else image[:1]
    low, high = float(image.min()), float(image.max())
    if low < -0.01 or high > 1.01:
        image = (image - low) / max(high - low, 1e-12)
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (H, W, C)
    return pillow.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))


def _check_scans(stream: IO[bytes]) -> None:
    """Raises: DataError for a JPEG of too many scans. Leaves the position as it is."""
    position = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(position)
    # Counting the marker's bytes takes no time and counts every scan, besides what metadata or a film behind the image
    # hold by chance.
    if data.count(START_OF_SCAN) > limits.MOST_SCANS and (scans := _scans(data)) > limits.MOST_SCANS:
        raise DataError(f"the JPEG has {scans} scans; at most {limits.MOST_SCANS} are decoded, each takes a whole pass")


def _scans(data: bytes) -> int:
    """The scans of a JPEG, up to its end of image.

    Source: ITU-T T.81, B.1.1: segments have lengths; within a scan FF is followed by 00 or a restart marker.
    """
    at, scans = 2, 0
    while (marker := SCAN_MARKER.search(data, at)) is not None and marker[0] != END_OF_IMAGE:
        scans += marker[0] == START_OF_SCAN
        at = marker.end()
        if marker[0] not in WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


_BITS = "gradgeo_bits"
"""The attribute of a tensor that was a picture: bits of a pixel. It is gone as soon as the tensor is changed."""


def is_picture(x: Tensor) -> bool:
    """Whether `x` is a decoded picture as it is, of which `as_picture` makes the image again."""
    return hasattr(x, _BITS)


def as_picture(x: Tensor) -> Any:
    """The PIL image (mode L, RGB or I;16) that `from_picture` made `x` (C, H, W) of, bit by bit."""
    pillow, bits = require("PIL.Image", "images"), getattr(x, _BITS)
    pixels = (x * (2**bits - 1)).round().numpy().astype(np.uint8 if bits <= 8 else np.uint16)
    return pillow.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def from_picture(image: Any) -> Tensor:
    """A PIL image as (C, H, W) float32 in [0, 1]; see `decode`."""
    tiff = image.format == "TIFF"
    bits = 8
    if image.mode.startswith("I"):
        bits = int(image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0]) if tiff else 16
    x = _pixels(image)
    setattr(x, _BITS, bits)
    return x


def _pixels(image: Any) -> Tensor:
    tiff = image.format == "TIFF"
    if image.mode == "F" or (tiff and image.mode == "I"):
        numbers = "floats" if image.mode == "F" else "signed or 32-bit integers"
        raise DataError(
            f"an image of {numbers}, and no tag says which of them are black and white. Save it with 8 or 16 bits a "
            "channel, or as .npy with numbers as the model takes them"
        )
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's conversions would clip to 8 bits
        bits = int(image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0]) if tiff else 16  # Pillow leaves 12 bits as they are
        grey = torch.from_numpy(np.asarray(image).astype(np.float32))[None].div_(2**bits - 1).clamp_(0, 1)
        return 1 - grey if tiff and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey
    mode = "L" if image.mode in ("1", "L", "LA") else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode), dtype=np.uint8)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)  # (C, H, W)
    return torch.from_numpy(np.array(pixels, order="C")).float().div_(255)
