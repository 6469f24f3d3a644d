"""Architectures of torchvision and timm by name, and how their inputs are prepared."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from gradgeo.data.models.settings_of import preset
from gradgeo.data.models.weights import shapes_in
from gradgeo.data.user_code import call, unknown
from gradgeo.errors import expected, require

ZOOS = ("torchvision:", "timm:")


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
        return None if configuration is None else _of_timm(configuration.to_dict())
    models = require("torchvision.models", "torchvision")
    if name not in models.list_models(module=models):
        return None
    return preset(models.get_model_weights(name).DEFAULT.transforms())


def zoo_preprocessing(spec: str) -> dict[str, Any]:
    """The same for `--transform`, where torchvision's weights may be named too: torchvision:ResNet50_Weights.DEFAULT.

    Raises: ArgumentError for a name without a preparation.
    """
    zoo, _, name = spec.partition(":")
    if zoo == "torchvision" and "_Weights" in name:
        models = require("torchvision.models", "torchvision")
        try:
            return preset(models.get_weight(name).transforms())
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise expected("transform", "weights for a classifier in torchvision.models", name) from error
    settings = pretrained_preprocessing(spec)
    if settings is None:
        raise expected("transform", f"a model of {zoo} whose preparation it knows", name)
    return settings


def _of_timm(configuration: dict[str, Any]) -> dict[str, Any]:
    config = importlib.import_module("timm.data").resolve_data_config(pretrained_cfg=configuration)
    channels, height, width = config["input_size"]
    known = config["interpolation"] in ("bilinear", "bicubic")
    return {
        "resize": int(min(height, width) / config["crop_pct"]),
        "crop": [height, width],
        "channels": channels,
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": config["interpolation"] if known else "bicubic",
    }


def from_zoo(zoo: str, name: str, weights: Path | None) -> nn.Module:
    """An architecture of torchvision or timm, with the number of classes that the weights have."""
    build, known = _torchvision() if zoo == "torchvision" else _timm()
    # Tags after the dot name pretrained weights; other prefixes would make timm download.
    if name.partition(".")[0] not in known:
        raise unknown("classifier", name, known, zoo)
    model: nn.Module = call(lambda: build(name), f"{zoo}:{name}()")
    classes = None if weights is None else _classes(model, weights)
    if classes is not None:
        model = call(lambda: build(name, num_classes=classes), f"{zoo}:{name}()")
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
    shape = shapes_in(weights).get(f"{layers[-1]}.weight", own)
    return None if shape[0] == own[0] else int(shape[0])
