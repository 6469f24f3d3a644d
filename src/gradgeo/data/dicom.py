"""DICOM: the pixels of a file as its modality measures them, the middle frame of several. Its header goes nowhere.

Source: DICOM PS3.3, C.7.6.3 (image pixel), C.11.1 (modality LUT).
"""

from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array
from gradgeo.data import limits
from gradgeo.errors import DataError, require

MAGIC, AT = b"DICM", 128
"""What a DICOM file has behind its preamble, and where."""

DEFLATED = b"1.2.840.10008.1.2.1.99"
"""The transfer syntax whose files unpack to any size before anything can be checked."""

ENDINGS = frozenset({".dcm", ".dicom"})


def is_dicom(stream: IO[bytes]) -> bool:
    """Whether the file begins as DICOM does; the position is that of the beginning again."""
    stream.seek(AT)
    found = stream.read(len(MAGIC)) == MAGIC
    stream.seek(0)
    return found


def pixels(stream: IO[bytes], most_pixels: int) -> Tensor:
    """The middle frame, (1, H, W) float32 in the units of the modality, or (3, H, W) in [0, 1] where it is in colours.

    Grey values are the stored ones times RescaleSlope plus RescaleIntercept (of CT: Hounsfield units), and of
    MONOCHROME1, where large is dark, what is left to the largest; `Preprocess(window=)` brings them to [0, 1].

    Raises:
        DataError: deflated, without pixels, more than `most_pixels` of them, or in a compression that pydicom cannot
            read here; MissingDependencyError: pydicom is not installed.
    """
    library, decoder = require("pydicom", "dicom"), require("pydicom.pixels", "dicom")
    data = stream.read()
    if DEFLATED in data:
        raise DataError("deflated DICOM is not read, for it unpacks to any size. Convert it to another transfer syntax")
    stream.seek(0)
    try:
        header = library.dcmread(stream)
        rows, columns, frames = (int(header.get(name) or 0) for name in ("Rows", "Columns", "NumberOfFrames"))
        if rows * columns > most_pixels:
            raise limits.TooManyPixelsError(f"{columns} x {rows} pixels are too many; at most {most_pixels} are read")
        stored = decoder.pixel_array(header, index=frames // 2 if frames > 1 else None)
        return torch.from_numpy(np.ascontiguousarray(_prepared(decoder, header, stored), np.float32))
    except DataError:
        raise
    except Exception as error:  # a broken or hostile header makes pydicom raise anything
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise DataError(f"unreadable DICOM: {reason}") from error


def _prepared(decoder: Any, header: Any, stored: Any) -> Array:
    """(C, H, W) of the stored values of one frame, (H, W) or (H, W, 3)."""
    kind = str(header.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        stored = decoder.apply_color_lut(stored, header)
        return stored.transpose(2, 0, 1) / np.float64(np.iinfo(stored.dtype).max)  # type: ignore[no-any-return]
    bits, signed = int(header.BitsStored), int(header.PixelRepresentation)
    if stored.ndim == 3:
        return stored.transpose(2, 0, 1) / np.float64(2**bits - 1)  # type: ignore[no-any-return]
    values = stored.astype(np.float64)
    if kind == "MONOCHROME1":  # unsigned values count from 0 to 2^bits - 1, signed ones are symmetric about -1/2
        values = (-1 if signed else 2**bits - 1) - values
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    return (values * slope + intercept)[None]  # type: ignore[no-any-return]
