"""Transforms of torchvision, timm and Hugging Face in the words of our settings, where these have words for them.

What is found here is a proposal: `gradgeo.data.transform.simplified` compares both on a picture before it is used.
"""

from collections.abc import Callable, Mapping
from typing import Any

SAME = ("ToTensor", "PILToTensor", "ToImage", "ToPILImage", "ToPureTensor", "MaybeToTensor")
"""Steps that change how a picture is held, not what is on it."""

RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""

Settings = dict[str, Any]


def settings_of(function: Callable[[Any], Any]) -> Settings | None:
    """For `Preprocess.from_dict`; None for what settings cannot say, or code that is not known here."""
    try:
        if hasattr(function, "image_mean") and hasattr(function, "to_dict"):
            return _of_processor(function.to_dict())
        if hasattr(function, "crop_size") and hasattr(function, "resize_size"):
            return preset(function)
        steps = getattr(function, "transforms", None)
        return _of_steps(steps) if isinstance(steps, list | tuple) else None
    except (AttributeError, KeyError, TypeError, ValueError):  # not as the library's own look today
        return None


def preset(transforms: Any) -> Settings:
    """Of torchvision's `ImageClassification`, which comes with weights."""
    (resize,) = transforms.resize_size
    return {
        "resize": resize,
        "crop": (list(transforms.crop_size) * 2)[:2],
        "channels": 3,
        "mean": list(transforms.mean),
        "std": list(transforms.std),
        "interpolation": _interpolation(transforms.interpolation),
    }


def _of_steps(steps: "list[Any] | tuple[Any, ...]") -> Settings | None:
    """Of a `Compose`: resizing, the centre, grey, numbers, normalisation, in an order in which ours gives the same."""
    settings: Settings = {}
    for step in steps:
        name = type(step).__name__
        if not type(step).__module__.startswith(("torchvision.", "timm.")):
            return None
        if name == "Resize" and not set(settings) & {"resize", "size", "crop", "mean"} and not step.max_size:
            sides = step.size if isinstance(step.size, list | tuple) else [step.size]
            settings |= {"resize": sides[0]} if len(sides) == 1 else {"size": list(sides), "stretch": True}
            settings["interpolation"] = _interpolation(step.interpolation)
        elif name == "CenterCrop" and not set(settings) & {"crop", "mean"}:
            settings["crop"] = (list(step.size) * 2)[:2]
        elif name == "Grayscale" and not set(settings) & {"channels", "mean"} and step.num_output_channels in (1, 3):
            settings["channels"] = step.num_output_channels
        elif name in ("ToDtype", "ConvertImageDtype"):
            if name == "ToDtype" and not step.scale:
                return None
        elif name == "Normalize" and "mean" not in settings:
            settings |= {"mean": [float(value) for value in step.mean], "std": [float(value) for value in step.std]}
        elif name not in SAME:
            return None
    if len(settings.get("mean", ())) == 3:
        settings.setdefault("channels", 3)
    return settings


def _of_processor(known: Mapping[str, Any]) -> Settings | None:
    """Of a Hugging Face image processor's JSON."""
    settings: Settings = {"channels": 3}
    if known.get("do_resize"):
        size = dict(known["size"])
        if size.keys() == {"shortest_edge"}:
            settings["resize"] = size["shortest_edge"]
        elif size.keys() == {"height", "width"}:
            settings |= {"size": [size["height"], size["width"]], "stretch": True}
        else:
            return None
        settings["interpolation"] = RESAMPLING[int(known["resample"])]
    if known.get("do_center_crop"):
        settings["crop"] = [known["crop_size"]["height"], known["crop_size"]["width"]]
    scale = 255 * known["rescale_factor"] if known.get("do_rescale") else 255.0  # of pixels in the range 0 to 1
    mean, std = (known["image_mean"], known["image_std"]) if known.get("do_normalize") else ([0.0], [1.0])
    if scale != 1 or known.get("do_normalize"):
        settings |= {"mean": [m / scale for m in mean], "std": [s / scale for s in std]}
    return settings


def _interpolation(value: Any) -> str:
    """By name; KeyError for one that settings do not have."""
    name = str(getattr(value, "value", value))
    return {"bilinear": name, "bicubic": name}[name]
