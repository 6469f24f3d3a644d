"""Classifiers and their preparation of MONAI bundles, folders of a network's weights and configuration: `monai:FOLDER`.

The `$` expressions of a configuration are Python, and a bundle may bring modules of its own: both are run, as a file of
`file.py:function` is. So only the user names a bundle, never a detector file. Its weights hold no code.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.data.models.weights import fill_from, tensors_in
from gradgeo.data.user_code import call, importable
from gradgeo.errors import DataError, GradgeoError, ModelError, describe, expected, require

CONFIGURATIONS = tuple(f"configs/inference.{ending}" for ending in ("json", "yaml", "yml"))
METADATA, WEIGHTS = "configs/metadata.json", "models/model.pt"

ANY_SIDE = 64
"""Of an input whose metadata leave a side open, as "*" or "16*n"."""

_brought: dict[str, str] = {}
"""Names of imported modules of a bundle, and its folder."""


def from_bundle(spec: str) -> nn.Module:
    """The network that the configuration defines, with its weights; `bundle_class_names` are those of the metadata.

    Raises: ArgumentError for another folder; ModelError for a bundle without a network or weights, or whose network
        gives a class to each pixel or voxel, and where its code fails; MissingDependencyError.
    """
    with _configuration(spec, "model", ModelError) as (folder, parser):
        network = _resolved(parser, ("network_def", "network"), spec, ModelError)
        if not isinstance(network, nn.Module):
            raise ModelError(f"expected the network of {spec} to be a torch.nn.Module, got {describe(network)}.")
        file = folder / WEIGHTS
        if not file.is_file():
            raise ModelError(
                f"{spec} has no weights: expected {file}. Of a bundle with models/model.ts alone, pass that file as "
                "--model, for it is a whole model."
            )
        fill_from(network, tensors_in(file), file)
        metadata = parser.get("_meta_")
        shape = _output_shape(network.eval(), metadata)
        if len(shape) > 2:
            raise ModelError(
                f"expected {spec} to classify whole inputs, with logits (N, C), got {shape} for one input: a class for "
                "each pixel or voxel, as of segmentation, which is not judged here."
            )
        names = _channel_names(metadata)
        network.bundle_class_names = names if (1, len(names)) == shape else ()  # type: ignore[assignment]
    return network


def bundle_preprocessing(spec: str) -> tuple[Callable[[Any], Any], str]:
    """The preprocessing of the bundle as a function of one value, and the SHA-256 of all its configuration and code.

    Raises: ArgumentError for another folder; DataError for a bundle without one, and where its code fails.
    """
    with _configuration(spec, "transform", DataError) as (folder, parser):
        steps = _resolved(parser, ("preprocessing",), spec, DataError)
        if not callable(steps):
            raise DataError(f"expected the preprocessing of {spec} to be a transform, got {describe(steps)}.")
        return _Preprocessing(steps), _sha256(folder)


class _Preprocessing:
    """MONAI's transforms of a mapping or an array; a picture stands for the file that the first of them would read."""

    def __init__(self, steps: Any) -> None:
        transforms = require("monai.transforms", "monai")
        self._steps = steps if isinstance(steps, transforms.Compose) else transforms.Compose([steps])
        first = next(iter(self._steps.transforms), None)
        self._key = first.keys[0] if isinstance(first, transforms.MapTransform) else None
        self._loader: Any = first if isinstance(first, transforms.LoadImage | transforms.LoadImaged) else None

    def __call__(self, value: Any) -> Any:
        """The input. Raises: DataError for what is neither a picture nor a path, where the transforms read files."""
        if self._loader is None or isinstance(value, Path):
            result = self._steps(self._named(value))
        else:
            reader = _holding(_as_picture(value), getattr(self._loader, "_loader", self._loader).readers)
            result = self._steps(self._loader(self._named("picture.png"), reader=reader), start=1)
        if self._key is not None:
            result = result[self._key]
        return result.as_tensor() if hasattr(result, "as_tensor") else result  # of a MetaTensor

    def _named(self, value: Any) -> Any:
        return value if self._key is None else {self._key: value}


def _holding(picture: Any, readers: Sequence[Any]) -> Any:
    """A reader that has read `picture`, as that of pictures among the loader's own would."""
    kind = require("monai.data", "monai").PILReader
    own = next((reader for reader in reversed(readers) if isinstance(reader, kind)), None) or kind()
    held = own.converter(picture) if callable(own.converter) else picture
    return SimpleNamespace(read=lambda names: held, get_data=own.get_data)


def _as_picture(value: Any) -> Any:
    """A picture as it is, or the one channel of a slice or frame as a picture of floats."""
    if isinstance(value, Tensor) and value.ndim == 3 and len(value) == 1:
        return require("PIL.Image", "images").fromarray(value[0].float().numpy())
    if hasattr(value, "getbands"):
        return value
    raise DataError(f"expected a picture, a slice (1, H, W) or a pathlib.Path to read, got {describe(value)}")


@contextmanager
def _configuration(spec: str, argument: str, failure: type[GradgeoError]) -> Iterator[tuple[Path, Any]]:
    """The folder and its parsed configuration; within the block, imports from the folder work."""
    folder = Path(spec.removeprefix("monai:")).expanduser()
    file = next((folder / name for name in CONFIGURATIONS if (folder / name).is_file()), None)
    if file is None:
        raise expected(argument, f"the folder of a MONAI bundle, with {CONFIGURATIONS[0]} or .yaml", str(folder))
    parser = require("monai.bundle", "monai").ConfigParser()
    with importable(folder), _modules_of(folder):
        call(lambda: parser.read_config(str(file)), file.name, failure)
        if (folder / METADATA).is_file():
            call(lambda: parser.read_meta(str(folder / METADATA)), METADATA, failure)
        parser["bundle_root"] = str(folder)
        yield folder, parser


@contextmanager
def _modules_of(folder: Path) -> Iterator[None]:
    """Within the block, imports do not find the modules of another bundle: bundles share names, as `scripts`."""
    top = f"{folder.resolve()}{os.sep}"
    for name, place in list(_brought.items()):
        if place != top:
            sys.modules.pop(name, None)
            del _brought[name]
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            if type(module) is ModuleType:
                files = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
                if any(file is not None and file.startswith(top) for file in files):
                    _brought[name] = top


def _resolved(parser: Any, names: Sequence[str], spec: str, failure: type[GradgeoError]) -> Any:
    """What the first of `names` that the configuration has stands for: its code runs."""
    name = next((name for name in names if name in parser), None)
    if name is None:
        raise failure(f"the configuration of {spec} defines no {names[0]}.")
    return call(lambda: parser.get_parsed_content(name), f"{name} of {spec}", failure)


def _output_shape(network: nn.Module, metadata: Any) -> tuple[int, ...]:
    """Of one input as the metadata state it; empty where they do not, or not as the network has it: `fit` will see."""
    try:
        (stated,) = metadata["network_data_format"]["inputs"].values()
        sides = [side if isinstance(side, int) else ANY_SIDE for side in stated["spatial_shape"]]
        with torch.no_grad():
            return tuple(network(torch.zeros(1, stated["num_channels"], *sides)).shape)
    except Exception:  # metadata of anything, and a network of anybody's
        return ()


def _channel_names(metadata: Any) -> tuple[str, ...]:
    """Of the one output; none where the metadata do not number them from 0 on."""
    try:
        (stated,) = metadata["network_data_format"]["outputs"].values()
        return tuple(str(stated["channel_def"][str(number)]) for number in range(len(stated["channel_def"])))
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()


def _sha256(folder: Path) -> str:
    """Of all that a bundle's preprocessing may be made of: its configurations and modules, with their names."""
    found = hashlib.sha256()
    for file in sorted({*folder.glob("configs/*"), *folder.rglob("*.py")}):
        if file.is_file():
            found.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()
