"""The data room: from the name of some data to numbered inputs, one file per kind of source."""

from collections.abc import Callable
from pathlib import Path

from gradgeo.data.arrays import open_npy, open_npz
from gradgeo.data.digits import open_digits
from gradgeo.data.hub import open_hub
from gradgeo.data.images import ENDINGS, open_folder, open_image
from gradgeo.data.parquet import Parquet
from gradgeo.data.preprocess import Preprocess
from gradgeo.data.source import Item, Reader, Source
from gradgeo.data.ucr import open_ucr
from gradgeo.data.usable import Usable
from gradgeo.errors import DataError, public

__all__ = ["Item", "Preprocess", "Source", "Usable", "open_source"]

KINDS = "an image, a folder of images, a .parquet, .npz or .npy file, hf:NAME, ucr:NAME or digits"
OPENERS: dict[str, Callable[[Path], Reader]] = {
    ".parquet": Parquet,
    ".npz": open_npz,
    ".npy": open_npy,
    **dict.fromkeys(ENDINGS, open_image),
}
"""What opens a file, by its ending."""


@public
def open_source(
    spec: str | Path,
    *,
    preprocess: Preprocess | None = None,
    start: int = 0,
    limit: int | None = None,
    data_root: str | Path | None = None,
    numbering: tuple[str, ...] = (),
) -> Source:
    """The items of the data that `spec` names.

    Example:
        >>> source = open_source("digits/test", start=10, limit=2)
        >>> [(item.index, item.label, tuple(item.x.shape)) for item in source]
        [(10, 3, (1, 8, 8)), (11, 8, (1, 8, 8))]

    Args:
        spec: an image; a folder of images, or of one sub-folder per class; a .parquet file in the Hugging
            Face image layout or with number lists; an .npz file with `x` and, if there are labels, `y`; an
            .npy file; `hf:OWNER/NAME:SPLIT` or `hf:OWNER/NAME:CONFIG:SPLIT` of the Hugging Face hub, or `hf:` with
            a file or folder that its library reads; `ucr:NAME`, `ucr:NAME/train`, `ucr:NAME/test`; `digits`,
            `digits/train`, `digits/fit`, `digits/test` (write ./digits for a folder of that name).
        preprocess: what is done to every input.
        start, limit: the part of the data to take.
        numbering: class names in the order that numbers them elsewhere: labels of data that names its classes are
            renumbered by name, None for names that are not there.
        data_root: folder that holds the UCR archive; default $UCR_DATA_HOME.

    Returns:
        A sized sequence of items, each read when asked for. An item that cannot be read (truncated, empty,
        not an image, too large) has `x` None and an `error`; asking for it never raises. Images are float32
        in [0, 1], (C, H, W). Nothing that a file holds is executed.

    Raises:
        DataError: the data is missing or of another kind. ArgumentError: `start` or `limit` out of range.
        MissingDependencyError: Pillow, pyarrow, datasets or aeon is needed.
    """
    root = None if data_root is None else Path(data_root).expanduser()
    try:
        reader = _reader(str(spec), root)
    except OSError as error:
        raise DataError(f"{spec} cannot be read: {error}") from error
    return Source(
        reader, str(spec), preprocess=preprocess or Preprocess(), start=start, limit=limit, numbering=numbering
    )


def _reader(spec: str, root: Path | None) -> Reader:
    if spec == "digits" or spec.startswith("digits/"):
        return open_digits(spec)
    if spec.startswith("hf:"):
        return open_hub(spec)
    if spec.startswith("ucr:"):
        return open_ucr(spec, root)
    path = Path(spec).expanduser()
    if path.is_dir():
        return open_folder(path)
    if not path.exists():
        raise DataError(f"{spec} is not here: looked at {path.absolute()}. Data can be {KINDS}.")
    ending = path.suffix.lower()
    if ending not in OPENERS:
        raise DataError(f"{spec} is of no kind that can be read. Data can be {KINDS}.")
    return OPENERS[ending](path)
