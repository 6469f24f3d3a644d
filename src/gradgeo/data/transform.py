"""What makes a model's input of a raw value: settings that JSON can say, or code that the user named.

Settings are stored in the detector file and applied by every command and the server. Code is stored by its name and the
SHA-256 of its file, and is run only where the user names it again and it has not changed.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from gradgeo.classifier.text import TextClassifier
from gradgeo.data.images import as_picture, from_picture, is_picture
from gradgeo.data.preprocess import Preparation as Preparation
from gradgeo.data.preprocess import Preprocess
from gradgeo.data.user_code import call, load_object, source_sha256
from gradgeo.errors import DataError, describe, expected, one_line

KINDS = "file.py:function, timm:NAME, torchvision:WEIGHTS, hf:ORG/NAME or hf:FOLDER, or monai:FOLDER, a bundle"


@dataclass(frozen=True)
class Transform:
    """A function of the user's, or of a library's, from a raw value to an input.

    The value is a PIL image where the data are image files, else what the data hold: a tensor, a text, whatever the
    user's own data set gives.
    """

    name: str
    """As the user wrote it."""
    sha256: str
    """Of the file that defines it, or of its settings."""
    function: Callable[[Any], Any] = field(compare=False)
    raw: ClassVar[bool] = True

    def __call__(self, value: Any, /) -> Tensor:
        """The input as float32. Raises: DataError for a result that is none; whatever the function raises."""
        if isinstance(value, Tensor) and is_picture(value):
            value = as_picture(value)
        x = self.function(value)
        if isinstance(x, Mapping):
            x = next((x[name] for name in ("pixel_values", "input_values", "image") if name in x), x)
        if isinstance(x, np.ndarray):
            x = torch.from_numpy(np.array(x))
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise DataError(f"expected {self.name} to return a tensor of floating-point numbers, got {describe(x)}")
        return x.detach().float().cpu().contiguous()

    def undone(self, x: Tensor) -> Tensor:
        """`x`: what the function did to it is not known."""
        return x

    def as_dict(self) -> dict[str, Any]:
        """Its name and hash."""
        return {"transform": self.name, "sha256": self.sha256}

    def declared(self) -> dict[str, Any]:
        """The same."""
        return self.as_dict()

    def __reduce__(self) -> Any:
        return _again, (self.name, self.sha256)


class TextPreparation:
    """Texts as the inputs of a model that `gradgeo.text` made.

    Attributes:
        model: it.
    """

    raw: ClassVar[bool] = True

    def __init__(self, model: TextClassifier) -> None:
        self.model = model

    def __call__(self, value: Any, /) -> Tensor:
        """Its embeddings and tokens (L, D + 1). Raises: DataError for what is no text, or has no tokens."""
        if not isinstance(value, str):
            raise DataError(f"expected a text, got {describe(value)}")
        x: Tensor = self.model.encode([value])[0]
        if bool(x.isnan().any()):
            raise DataError("no text")
        return x

    def undone(self, x: Tensor) -> Tensor:
        """Nothing that could be drawn."""
        return x.new_empty(0, 0, 0, 0)

    def as_dict(self) -> dict[str, Any]:
        """How many tokens, and the SHA-256 of the tokenizer."""
        return {"text": {"max_length": self.model.max_length, "tokenizer": self.model.tokenizer_sha256}}

    def declared(self) -> dict[str, Any]:
        """The number of tokens."""
        return {"text": f"{self.model.max_length} tokens"}

    def __reduce__(self) -> Any:
        raise TypeError("a text model is made anew in each process")


def _again(name: str, sha256: str) -> Any:
    """A transform in another process."""
    made = load_transform(name)
    require_same({"transform": name, "sha256": sha256}, made, name)
    return made


def load_transform(spec: str, model: str | None = None) -> Preprocess | Transform:
    """The preparation that `spec` names: as settings where these say the same, else as code.

    Args:
        spec: `file.py:function`, a function of one value, or one without arguments that returns such a function, a
            torchvision transform or a `Preprocess`; `timm:NAME` and `torchvision:WEIGHTS`, or `timm` and `torchvision`
            for what `model` was trained with; `hf:ORG/NAME` or `hf:FOLDER`, an image processor; `monai:FOLDER`, the
            preprocessing of a bundle, whose code is run, or `monai` for that of `model`.
        model: the model's name.

    Raises: ArgumentError for a name that is not there; DataError where the code fails; MissingDependencyError.
    """
    kind = spec.partition(":")[0]
    if spec in ("timm", "torchvision", "monai"):
        if model is None or not model.startswith(f"{spec}:"):
            what = "FOLDER" if spec == "monai" else "NAME"
            raise expected("transform", f"{spec}:{what} where the model is no {spec}: model", spec)
        spec = model
        kind = spec.partition(":")[0]
    if kind in ("timm", "torchvision"):
        from gradgeo.data.models.zoo import zoo_preprocessing

        return Preprocess.from_dict(zoo_preprocessing(spec))
    if kind == "hf":
        from gradgeo.data.models.hub import image_processor

        processor, sha256 = image_processor(spec)
        return simplified(Transform(spec, sha256, processor))
    if kind == "monai":
        from gradgeo.data.models.bundle import bundle_preprocessing

        function, sha256 = bundle_preprocessing(spec)
        return Transform(spec, sha256, function)
    if not spec.rpartition(":")[0]:
        raise expected("transform", KINDS, spec)
    value = load_object(spec, "transform", DataError)
    sha256 = source_sha256(spec, value)
    if not isinstance(value, type) and inspect.isfunction(value) and not inspect.signature(value).parameters:
        value = call(value, f"{spec}()", DataError)
    if isinstance(value, Preprocess):
        return value
    if isinstance(value, Mapping):
        return Preprocess.from_dict(value)
    if not callable(value):
        raise expected("transform", f"a function of one value in {spec}", value)
    return simplified(Transform(spec, sha256, value))


def simplified(transform: Transform) -> Preprocess | Transform:
    """The settings that do the same to a picture as `transform`, to within the rounding of pixels; else itself."""
    from gradgeo.data.models.settings_of import settings_of

    settings = settings_of(transform.function)
    if settings is None:
        return transform
    picture = _example()
    try:
        preprocess = Preprocess.from_dict(settings)
        there, here = transform(picture), preprocess(from_picture(picture))
    except Exception:  # code of the user's or a library's, on a picture that is not theirs
        return transform
    # Pillow rounds to 8 bits after resizing, and once more between two passes.
    close = here.shape == there.shape and bool(
        ((here - there).abs() * _scale(preprocess, here)).mean() < 1 / 255
        and ((here - there).abs() * _scale(preprocess, here)).max() < 4 / 255
    )
    return preprocess if close else transform


def _scale(preprocess: Preprocess, x: Tensor) -> Tensor:
    """What one unit of an input is in the range 0 to 1 of pixels."""
    return torch.tensor(preprocess.std or (1.0,)).view(-1, *[1] * (x.ndim - 1))


def _example() -> Any:
    """A picture of smooth colours and edges, neither square nor of a usual size."""
    from gradgeo.errors import require

    rows, columns = np.mgrid[0:301, 0:389]
    waves = [np.sin(rows / (9.0 + 5 * i) + columns / (31.0 - 4 * i)) for i in range(3)]
    pixels = np.stack([(wave + 1) * 100 + 40 * (columns > 150 + 60 * i) for i, wave in enumerate(waves)], axis=2)
    return require("PIL.Image", "images").fromarray(pixels.clip(0, 255).astype(np.uint8))


def require_same(known: Mapping[str, Any], made: Preprocess | Transform, spec: str) -> None:
    """DataError unless `made`, by the name `spec`, is the code that the detector was fitted with."""
    if isinstance(made, Transform) and made.sha256 == known.get("sha256"):
        return
    name = one_line(str(known.get("transform")))
    raise DataError(
        f"{spec} is not what prepared the inputs of fit, {name}: its file or settings have another SHA-256. Pass that "
        "one as --transform, or fit again."
    )


def preparation_of(notes: Mapping[str, Any], transform: str | None, model: str | None = None) -> Preprocess | Transform:
    """What prepares inputs for a detector with these notes.

    Args:
        notes: of the detector file: settings, or the name and hash of code, which is never run for standing there.
        transform: what the user names now.
        model: the model's name.

    Raises: DataError where the detector was fitted with code that the user did not name, or that has changed.
    """
    known = notes.get("preprocess")
    fitted = known if isinstance(known, Mapping) and "transform" in known else None
    if transform is None:
        if fitted is not None:
            name = one_line(str(fitted["transform"]))
            raise DataError(f"pass --transform {name}: code prepared the inputs of fit, and is run only if named")
        if isinstance(known, Mapping) and "text" in known:
            raise DataError("the detector judges texts, and what is asked here is of inputs without words.")
        return Preprocess.from_dict(known)
    made = load_transform(transform, model)
    if fitted is not None:
        require_same(fitted, made, transform)
    return made
