"""Files of images as inputs: decoded within limits and prepared as at fit.

A file is hostile until read: what it is, is told by its bytes, never by its name or the type that a client states, and
its header is held to a limit before a pixel is decoded. This runs in the process that parses, apart from the one that
speaks HTTP and from the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradgeo.errors import ArgumentError, DataError, MissingDependencyError, one_line
from gradgeo.serve.errors import ProtocolError

if TYPE_CHECKING:
    from gradgeo.data.preprocess import Preprocess
    from gradgeo.data.transform import Transform

CHANNELS = (1, 3)
"""Of an image: grey, or red, green and blue."""


@dataclass(frozen=True)
class FileReader:
    """From files to the inputs of one model, as `gradgeo score` makes them of the same files.

    Args:
        shape: of an input, (C, H, W).
        dtype: of an input.
        prepare: what prepared the inputs of `fit`.
        most_pixels: of all files of one request, as their headers state them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    prepare: "Preprocess | Transform"
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
        inputs = np.empty((len(files), *self.shape), self.dtype)
        left = self.most_pixels
        for number, file in enumerate(files):
            place = "the file" if len(files) == 1 else f"file {number} of {len(files)}"
            image = self._decoded(file, left, place)
            left -= image.shape[1] * image.shape[2]
            try:
                x = self.prepare(image)
            except DataError as error:
                raise ProtocolError(400, f"{place} cannot be prepared as at fit: {error}") from None
            if tuple(x.shape) != self.shape:
                raise ProtocolError(
                    400, f"expected {place} to be of shape {self.shape} once prepared, got {tuple(x.shape)}"
                )
            inputs[number] = x.numpy()
        return inputs

    def _decoded(self, file: bytes, most_pixels: int, place: str) -> Any:
        from gradgeo.data.images import decode
        from gradgeo.data.limits import TooManyPixelsError

        try:
            return decode(file, most_pixels=most_pixels)
        except TooManyPixelsError as error:
            text = f"expected at most {self.most_pixels} pixels in the files of a request; {place}: {error}"
            raise ProtocolError(413, text) from None
        except MissingDependencyError as error:
            raise ProtocolError(415, f"the server cannot read {place}: {error}") from None
        except DataError as error:
            reason = "broken, or no image that is read here" if error.__cause__ is not None else str(error)
            raise ProtocolError(400, f"expected {place} to be an image (JPEG, PNG, WebP, TIFF): {reason}") from None


def file_reader(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    known: object,
    most_pixels: int,
    transform: "Preprocess | Transform | None" = None,
) -> FileReader | str:
    """How files become inputs of a model, or why they cannot.

    Args:
        shape, dtype: of an input.
        known: what the detector file says of the preparation at fit; nothing where that was not `gradgeo fit`.
        most_pixels: as in `FileReader`.
        transform: the preparation, where the user named it.
    """
    from gradgeo.data.preprocess import Preprocess

    if len(shape) != 3 or shape[0] not in CHANNELS or min(shape[1:]) < 2:
        return f"an input of this model, of shape {shape}, is no image"
    if known is None and transform is None:
        return 'the detector file does not say how images were prepared at fit: save it with notes={"preprocess": ...}'
    if find_spec("PIL") is None:
        return "Pillow, which reads images, is not installed on the server: pip install '.[serve,images]'"
    if transform is None and isinstance(known, Mapping) and "transform" in known:
        return f"code prepared them at fit: start the server with --transform {one_line(str(known['transform']))}"
    try:
        prepare = transform or Preprocess.from_dict(known)
    except ArgumentError:
        return "what the detector file says of the preparation at fit is not known here"
    if isinstance(prepare, Preprocess) and prepare.channels is None:  # colours are brought to those of the detector
        prepare = replace(prepare, channels=shape[0])
    return FileReader(shape, dtype, prepare, most_pixels)
