"""Architectures of torchvision and timm by name, and how their inputs are prepared."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from gradgeo.data.models.weights import shapes_in
from gradgeo.data.user_code import call, unknown
from gradgeo.errors import require

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


def from_zoo(zoo: str, name: str, weights: Path | None) -> nn.Module:
    """An architecture of torchvision or timm, with the number of classes that the weights have."""
    build, known = _torchvision() if zoo == "torchvision" else _timm()
    # Tags after the dot name pretrained weights; other prefixes would make timm download.
    if name.partition(".")[0] not in known:
        raise unknown("classifier", name, known, zoo)
    model: nn.Module = call(lambda: build(name), f"{zoo}:{name}")
    classes = None if weights is None else _classes(model, weights)
    if classes is not None:
        model = call(lambda: build(name, num_classes=classes), f"{zoo}:{name}")
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
