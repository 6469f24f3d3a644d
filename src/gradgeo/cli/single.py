"""A detector that is asked about inputs, and what makes these of the data: what commands on detector files share."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgeo.cli.option_groups import AskedOptions, PreparationOptions
from gradgeo.cli.options import columns_of, item_at, keys_of, load_detector
from gradgeo.errors import warn

if TYPE_CHECKING:
    from torch import nn

    from gradgeo import Detector
    from gradgeo.data import Item
    from gradgeo.data.preprocess import Preparation
    from gradgeo.detector.file.serialization import Contents

OF_TEXTS = "a model of texts, whose tokenizer prepares them"


def preparation_for_fit(model: "nn.Module", spec: str, given: PreparationOptions) -> "Preparation":
    """What makes inputs of the data: what the user named, or else what the model's library says it was trained with."""
    from gradgeo.classifier.text import TextClassifier
    from gradgeo.data import Preprocess
    from gradgeo.data.models import pretrained_preprocessing
    from gradgeo.data.transform import TextPreparation, load_transform

    if isinstance(model, TextClassifier):
        given.refuse(OF_TEXTS)
        return TextPreparation(model)
    if given.transform is not None:
        given.refuse("--transform", transform=False)
        return load_transform(given.transform, spec)
    declared = given.over(Preprocess())
    if declared != Preprocess():
        return declared
    return (
        load_transform(spec)
        if spec.startswith(("hf:", "monai:"))
        else Preprocess.from_dict(pretrained_preprocessing(spec))
    )


def preparation_as_fitted(notes: dict[str, Any], model: str | None, given: PreparationOptions) -> "Preparation":
    """What made the inputs of a detector's `fit`, by its notes, with what the user passes now."""
    from gradgeo.data import Preprocess
    from gradgeo.data.transform import preparation_of

    prepared = preparation_of(notes, given.transform, model)
    if isinstance(prepared, Preprocess) and given.transform is None:
        return given.over(prepared)
    given.refuse("--transform", transform=False)
    return prepared


def detector_and_preparation(
    contents: "Contents", asked: AskedOptions, given: PreparationOptions
) -> "tuple[Detector, Preparation]":
    """A detector, and what made the inputs of its `fit`, with what the user passes now."""
    from gradgeo.classifier.text import TextClassifier
    from gradgeo.data import Preprocess
    from gradgeo.data.transform import TextPreparation

    known = contents.notes.get("preprocess")
    prepared: Preparation | None = None
    if not isinstance(known, dict) or "text" not in known:  # refused before the model is loaded
        prepared = preparation_as_fitted(contents.notes, asked.model, given)
    detector = load_detector(contents, asked.model, asked.weights, asked.device)
    if isinstance(detector.model, TextClassifier):
        given.refuse(OF_TEXTS)
        prepared = TextPreparation(detector.model)
    return detector, prepared or Preprocess.from_dict(known)


def detector_and_items(
    file: Path,
    data: str,
    asked: AskedOptions,
    given: PreparationOptions,
    *,
    index: Sequence[str] | None,
    limit: int | None,
) -> "tuple[Detector, Iterator[Item]]":
    """The detector of a file, and the items of --index, or else of --start and --limit.

    An item that cannot be judged has an error in place of `x`, and a warning says so.
    """
    from gradgeo.data import open_source
    from gradgeo.detector.file import serialization

    contents = serialization.read(file, sha256=asked.sha256)
    detector, preprocess = detector_and_preparation(contents, asked, given)
    part: dict[str, Any] = {} if index else {"start": asked.start, "limit": limit}
    part |= {"columns": columns_of(contents, data), "keys": keys_of(contents, data, asked.keys)}
    source = open_source(data, preprocess=preprocess, data_root=asked.data_root, streaming=asked.stream, **part)
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
