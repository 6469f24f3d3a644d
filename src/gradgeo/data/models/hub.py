"""Classifiers of the Hugging Face hub, or of a folder as `save_pretrained` writes it: `hf:ORG/NAME`, `hf:FOLDER`.

Only safetensors weights are read and no code of the hub is run.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from gradgeo.classifier.text import text
from gradgeo.errors import DataError, ModelError, listed, one_line, require

TASKS = {"SequenceClassification": "text", "ImageClassification": "images"}
"""How the names of architectures that have logits end, and what they judge."""


def from_hub(spec: str) -> nn.Module:
    """The classifier, one of texts with its tokenizer.

    Raises: ModelError for a model that has no logits, or none that were trained; MissingDependencyError.
    """
    transformers, name = require("transformers", "transformers"), _name(spec)
    config = _read(spec, transformers.AutoConfig, name)
    known = [str(each) for each in config.architectures or ()]
    task = next((task for task in TASKS if any(each.endswith(task) for each in known)), None)
    if task is None:
        raise ModelError(
            f"expected {spec} to be a classifier of images or texts (an architecture that ends in {' or '.join(TASKS)})"
            f", got {listed(known) or 'no architecture'}, which has no logits of classes."
        )
    model, about = _read(
        spec,
        getattr(transformers, f"AutoModelFor{task}"),
        name,
        config=config,
        use_safetensors=True,
        output_loading_info=True,
    )
    if about["missing_keys"]:
        keys = sorted(map(str, about["missing_keys"]))
        raise ModelError(f"the weights of {spec} lack {listed(keys)}: they were never trained for these classes.")
    if config.num_labels < 2:
        raise ModelError(f"expected {spec} to have the logits of at least 2 classes, got {config.num_labels}.")
    if TASKS[task] == "images":
        return model.eval()  # type: ignore[no-any-return]
    return text(model, _read(spec, transformers.AutoTokenizer, name)).eval()


def image_processor(spec: str) -> tuple[Callable[[Any], Any], str]:
    """What makes inputs of pictures there, and the SHA-256 of its settings.

    Raises: DataError where there is none.
    """
    transformers = require("transformers", "transformers")
    try:
        processor = _read(spec, transformers.AutoImageProcessor, _name(spec))
    except ModelError as error:
        raise DataError(str(error)) from error
    return _OfPictures(processor), hashlib.sha256(processor.to_json_string().encode()).hexdigest()


def class_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the classes in the order of the logits, where what the model came from has them; else none.

    That is the configuration of Hugging Face, or the metadata of a MONAI bundle.
    """
    if known := getattr(model, "bundle_class_names", ()):
        return tuple(known)
    names = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(names, dict) or sorted(names) != list(range(len(names))):
        return ()
    listing = tuple(str(names[number]) for number in range(len(names)))
    return () if listing == tuple(f"LABEL_{number}" for number in range(len(names))) else listing


class _OfPictures:
    """An image processor as a function of one picture, with its settings as attributes."""

    def __init__(self, processor: Any) -> None:
        self.image_mean, self.to_dict, self._processor = processor.image_mean, processor.to_dict, processor

    def __call__(self, picture: Any) -> Any:
        if getattr(picture, "mode", "RGB") != "RGB":
            picture = picture.convert("RGB")
        return self._processor(images=picture, return_tensors="pt")["pixel_values"][0]


def _name(spec: str) -> str:
    name = spec.removeprefix("hf:")
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def _read(spec: str, kind: Any, name: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # a download, a broken file or a wrong name fails in many ways
        raise ModelError(
            f"{spec} cannot be read: transformers says {one_line(str(error).strip().split(chr(10))[0])}"
        ) from error
