"""Models by name: `file.py:function`, `package.module:function`, `torchvision:NAME`, `timm:NAME` or `digits`.

The code behind `file.py:function` and `package.module:function` is the user's own and is run. Weights are
read from safetensors only, a format that cannot hold code.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model as read_weights
from torch import nn

from gradgeo.errors import ArgumentError, ModelError, expected, public, require, warn

KINDS = "file.py:function, package.module:function, torchvision:NAME, timm:NAME or digits"
NAMED = {"digits": "gradgeo.data.digits:digits_classifier"}
ZOOS = ("torchvision:", "timm:")


@public
def load_model(spec: str, weights: str | Path | None = None) -> nn.Module:
    """The classifier that `spec` names, in eval mode on the CPU.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()

    Args:
        spec: `file.py:function` or `package.module:function`, called without arguments, or the name of an nn.Module
            object; `torchvision:NAME` or `timm:NAME`, the architecture with the number of classes of `weights`,
            without a download; `digits`, the classifier of the demo.
        weights: a .safetensors file whose keys are exactly those of the model.

    The model is built under the random seed 0, so that weights which no file sets are the same every time. The caller's
    random state is restored.

    Raises:
        ArgumentError: the spec, its file or function, or the weights file is missing or of the wrong kind.
        ModelError: the function fails, or the weights are not this model's. MissingDependencyError.
    """
    file = None if weights is None else _weights_file(Path(weights).expanduser())
    full = NAMED.get(spec, spec)
    in_zoo = full.startswith(ZOOS)
    place, _, name = full.partition(":") if in_zoo else full.rpartition(":")
    if not (place and name):
        raise expected("model", KINDS, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _from_zoo(place, name, file) if in_zoo else _from_code(place, name)
    if file is not None:
        _fill(model, file)
    elif in_zoo:
        warn(f"{spec} has random weights. Pass its trained ones as a .safetensors file.")
    return model.eval()


@public
def load_object(spec: str) -> Any:
    """The object that `spec` names, `file.py:name` or `package.module:name`; its module runs, it is not called.

    Raises: ArgumentError, ModelError as `load_model`.
    """
    place, _, name = spec.rpartition(":")
    if not (place and name):
        raise expected("spec", "file.py:name or package.module:name", spec)
    with _resolved(place, name) as value:
        return value


def pretrained_preprocessing(spec: str) -> dict[str, Any] | None:
    """The preprocessing that a `timm:` or `torchvision:` model was trained with, for `Preprocess.from_dict`; else None.

    timm stores it in the pretrained configuration, torchvision in the transforms of the default weights. Both
    resize the shorter side and crop the centre. Nothing is downloaded.
    """
    zoo, _, name = spec.partition(":")
    if f"{zoo}:" not in ZOOS:
        return None
    if zoo == "timm":
        require("timm", "timm")
        configuration = importlib.import_module("timm.models").get_pretrained_cfg(name)
        if configuration is None:
            return None
        config = importlib.import_module("timm.data").resolve_data_config(pretrained_cfg=configuration.to_dict())
        channels, height, width = config["input_size"]
        resize, crop = int(min(height, width) / config["crop_pct"]), [height, width]
    else:
        models = require("torchvision.models", "torchvision")
        if name not in models.list_models(module=models):
            return None
        transforms = models.get_model_weights(name).DEFAULT.transforms()
        config = {"mean": transforms.mean, "std": transforms.std, "interpolation": transforms.interpolation.value}
        channels, (resize,), crop = 3, transforms.resize_size, list(transforms.crop_size) * 2
    return {
        "resize": resize,
        "crop": crop[:2],
        "channels": channels,
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic",
    }


def is_named(spec: str) -> bool:
    """Whether `spec` names an architecture of a known library, so that building it runs no code of the user."""
    return spec in NAMED or spec.startswith(ZOOS)


def _from_code(place: str, name: str) -> nn.Module:
    """The nn.Module that `name` in the file or package `place` is, or returns."""
    with _resolved(place, name) as model:
        if not isinstance(model, nn.Module) and callable(model):
            model = _call(model, f"{place}:{name}")
    if not isinstance(model, nn.Module):
        raise expected("model", f"a torch.nn.Module from {place}:{name}", model)
    return model


@contextmanager
def _resolved(place: str, name: str) -> Iterator[Any]:
    """The object `name` of the file or package `place`; within the block, imports from its folder work."""
    file = Path(place).expanduser()
    is_file = file.suffix == ".py"
    if is_file and not file.is_file():
        raise expected("model", "a file that exists", str(file))
    with _importable(file.parent if is_file else Path.cwd()):
        try:
            code = _run(file) if is_file else importlib.import_module(place)
        # User code may raise anything, including SystemExit.
        except (Exception, SystemExit) as error:
            absent = error.name if isinstance(error, ModuleNotFoundError) else None
            if absent and f"{place}.".startswith(f"{absent}."):
                advice = "Install it or run where it lies; a file needs its ending: file.py:function."
                raise expected("model", "in a module that can be imported", place, advice) from error
            raise ModelError(f"{place} failed when imported: {type(error).__name__}: {error}") from error
        if not hasattr(code, name):
            offered = [key for key, value in vars(code).items() if callable(value) and not key.startswith("_")]
            raise _unknown("function", name, offered, place)
        yield getattr(code, name)


def _run(file: Path) -> ModuleType:
    """Import a file under a prefixed name, so that it does not hide an installed module of the same name."""
    name = f"gradgeo_model_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up their module here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Within the block, imports from `folder` work, as for `python folder/file.py`."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _call(function: Callable[[], Any], name: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name}() failed: {type(error).__name__}: {error}") from error


def _unknown(what: str, name: str, known: list[str], place: str) -> ArgumentError:
    close = get_close_matches(name, known, n=5, cutoff=0.5) or sorted(known)[:10]
    advice = f"Did you mean {', '.join(close)}?" if close else ""
    return expected("model", f"a {what} in {place}", name, advice)


def _from_zoo(zoo: str, name: str, weights: Path | None) -> nn.Module:
    """An architecture of torchvision or timm, with the number of classes that the weights have."""
    build, known = _torchvision() if zoo == "torchvision" else _timm()
    # Tags after the dot name pretrained weights; other prefixes would make timm download.
    if name.partition(".")[0] not in known:
        raise _unknown("classifier", name, known, zoo)
    model: nn.Module = _call(lambda: build(name), f"{zoo}:{name}")
    classes = None if weights is None else _classes(model, weights)
    if classes is not None:
        model = _call(lambda: build(name, num_classes=classes), f"{zoo}:{name}")
    return model


def _torchvision() -> tuple[Callable[..., nn.Module], list[str]]:
    models = require("torchvision.models", "torchvision")
    return partial(models.get_model, weights=None), models.list_models(module=models)


def _timm() -> tuple[Callable[..., nn.Module], list[str]]:
    timm = require("timm", "timm")
    return partial(timm.create_model, pretrained=False), timm.list_models()


def _classes(model: nn.Module, weights: Path) -> int | None:
    """The number of classes of the last layer in the weights; None where it is that of the model."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    own = model.get_parameter(f"{layers[-1]}.weight").shape
    shape = _shapes(weights).get(f"{layers[-1]}.weight", own)
    return None if shape[0] == own[0] else int(shape[0])


def _weights_file(file: Path) -> Path:
    """`file` itself. Raises: ArgumentError unless it exists and is safetensors."""
    if not file.is_file():
        raise expected("weights", "a file that exists", str(file))
    if file.suffix != ".safetensors":
        load = f"torch.load({file.name!r}, weights_only=True)"
        save = f"save_file({{k: v.clone().contiguous() for k, v in {load}.items()}}, {file.stem + '.safetensors'!r})"
        code = f"import torch; from safetensors.torch import save_file; {save}"
        raise expected(
            "weights",
            "a .safetensors file",
            file.name,
            "Other formats are pickles, which execute code when they are read. "
            f'Convert a state dict that you trust: python -c "{code}"',
        )
    return file


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file, from its header."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise expected("weights", "a safetensors file", file.name, f"Reading it says: {error}.") from error


def _fill(model: nn.Module, file: Path) -> None:
    """Load the weights. Raises: ModelError unless the keys and shapes are exactly those of the model."""
    shapes, own = _shapes(file), model.state_dict()
    differing = [key for key in own if key in shapes and shapes[key] != tuple(own[key].shape)]
    if differing:
        key = differing[0]
        raise ModelError(
            f"{file.name} has other shapes for {len(differing)} of the model's {len(own)} tensors: "
            f"{key} is {shapes[key]} there and {tuple(own[key].shape)} in the model."
        )
    missing, unexpected = read_weights(model, file, strict=False)
    if missing or unexpected:
        facts = [
            f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise ModelError(f"the keys of {file.name} are not those of the model: {'; '.join(facts)}.")
