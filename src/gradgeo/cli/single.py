"""Single inputs and the detector that is asked about them: what explain and certify share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgeo.cli.options import columns_of, detector_and_preparation, item_at, keys_of
from gradgeo.errors import warn

if TYPE_CHECKING:
    from gradgeo import Detector
    from gradgeo.data import Item


def detector_and_items(
    file: Path,
    data: str,
    *,
    model: str | None,
    weights: str | None,
    sha256: str | None,
    device: str,
    index: Sequence[str] | None,
    start: int,
    limit: int | None,
    data_root: str | None,
    stream: bool,
    keys: str | None,
    transform: str | None,
    **images: Any,
) -> "tuple[Detector, Iterator[Item]]":
    """The detector of a file, and the items of --index, or else of --start and --limit.

    An item that cannot be judged has an error in place of `x`, and a warning says so.

    Args:
        images: the options of `preprocess_for`.
    """
    from gradgeo.data import open_source
    from gradgeo.detector.file import serialization

    contents = serialization.read(file, sha256=sha256)
    detector, preprocess = detector_and_preparation(contents, model, weights, device, transform, images)
    part: dict[str, Any] = {} if index else {"start": start, "limit": limit}
    part |= {"columns": columns_of(contents, data), "keys": keys_of(contents, data, keys)}
    source = open_source(data, preprocess=preprocess, data_root=data_root, streaming=stream, **part)
    source.match(tuple(contents.fitted["input_shape"]))
    items = [item_at(source, i) for i in index] if index else source
    return detector, _checked(items, detector)


def _checked(items: "Sequence[Item] | Any", detector: "Detector") -> "Iterator[Item]":
    from gradgeo.scoring import checked

    for read in items:
        item = checked(read, detector.input_shape_)
        if item.x is None:
            warn(f"{item.name} (index {item.index}) cannot be judged: {item.error}")
        yield item
