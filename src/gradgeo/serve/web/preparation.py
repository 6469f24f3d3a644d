"""Files of images as inputs: decoded within limits and prepared as at fit.

A file is hostile until read: what it is, is told by its bytes, never by its name or the type that a client states, and
its header is held to a limit before a pixel is decoded. This runs in the process that parses, apart from the one that
speaks HTTP and from the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo.errors import ArgumentError, DataError
from gradgeo.serve.errors import ProtocolError

CHANNELS = (1, 3)
"""Of an image: grey, or red, green and blue."""


@dataclass(frozen=True)
class Preparation:
    """From files to the inputs of one model, as `gradgeo score` makes them of the same files.

    Args:
        shape: of an input, (C, H, W).
        dtype: of an input.
        settings: of `Preprocess`, as the detector file holds them.
        most_pixels: of all files of one request, as their headers state them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    settings: Mapping[str, Any]
    most_pixels: int

    def get_ready(self) -> None:
        """Import what files need, in a process that does nothing else: each has one thread of PyTorch."""
        import torch

        from gradgeo.data import images, preprocess  # noqa: F401

        torch.set_num_threads(1)

    def __call__(self, files: Sequence[bytes]) -> NDArray[Any]:
        """The inputs (N, C, H, W).

        Raises: ProtocolError with 400 for a file that is no image of this model, 413 for too many pixels. No message
            holds anything of a file but its size.
        """
        from gradgeo.data.preprocess import Preprocess  # imports torch, which the process of long JSON does without

        preprocess = Preprocess.from_dict(self.settings)
        if preprocess.channels is None:  # colour modes are brought to those of the detector
            preprocess = replace(preprocess, channels=self.shape[0])
        inputs = np.empty((len(files), *self.shape), self.dtype)
        left = self.most_pixels
        for number, file in enumerate(files):
            place = "the file" if len(files) == 1 else f"file {number} of {len(files)}"
            image = self._decoded(file, left, place)
            left -= image.shape[1] * image.shape[2]
            try:
                x = preprocess(image)
            except DataError as error:
                raise ProtocolError(400, f"{place} cannot be prepared as at fit: {error}") from None
            if tuple(x.shape) != self.shape:
                raise ProtocolError(
                    400, f"expected {place} to be of shape {self.shape} once prepared, got {tuple(x.shape)}"
                )
            inputs[number] = x.numpy()
        return inputs

    def _decoded(self, file: bytes, most_pixels: int, place: str) -> Any:
        from gradgeo.data.images import TooManyPixelsError, decode

        try:
            return decode(file, most_pixels=most_pixels)
        except TooManyPixelsError as error:
            text = f"expected at most {self.most_pixels} pixels in the files of a request; {place}: {error}"
            raise ProtocolError(413, text) from None
        except DataError as error:
            reason = "broken, or no image that is read here" if error.__cause__ is not None else str(error)
            raise ProtocolError(400, f"expected {place} to be an image (JPEG, PNG, WebP, TIFF): {reason}") from None


def preparation(shape: tuple[int, ...], dtype: np.dtype[Any], settings: object, most_pixels: int) -> Preparation | str:
    """How files become inputs of a model, or why they cannot.

    Args:
        shape, dtype: of an input.
        settings: what the detector file says of the preparation at fit; nothing where that was not `gradgeo fit`.
        most_pixels: as in `Preparation`.
    """
    from gradgeo.data.preprocess import Preprocess

    if len(shape) != 3 or shape[0] not in CHANNELS or min(shape[1:]) < 2:
        return f"an input of this model, of shape {shape}, is no image"
    if settings is None:
        return 'the detector file does not say how images were prepared at fit: save it with notes={"preprocess": ...}'
    if find_spec("PIL") is None:
        return "Pillow, which reads images, is not installed on the server: pip install '.[serve,images]'"
    try:
        return Preparation(shape, dtype, Preprocess.from_dict(settings).as_dict(), most_pixels)
    except ArgumentError:
        return "what the detector file says of the preparation at fit is not known here"
