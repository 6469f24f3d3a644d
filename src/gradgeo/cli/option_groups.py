"""Options that commands have in common, stated once as groups: a command takes a group as one argument."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from gradgeo.cli.options import (
    Bits,
    Channels,
    Crop,
    DataRoot,
    Device,
    Interpolation,
    Keys,
    Mean,
    Order,
    Resize,
    SameModel,
    Sha256,
    Size,
    Start,
    Std,
    Streaming,
    Transform,
    Weights,
    Window,
    numbers,
    sides,
)
from gradgeo.errors import DataError

if TYPE_CHECKING:
    from gradgeo.data import Preprocess


@dataclass(frozen=True)
class PreparationOptions:
    """What makes an input of a picture, or of whatever the data hold."""

    size: Size = None
    channels: Channels = None
    mean: Mean = None
    std: Std = None
    resize: Resize = None
    crop: Crop = None
    order: Order = None
    interpolation: Interpolation = None
    bits: Bits = None
    window: Window = None
    transform: Transform = None

    def over(self, base: "Preprocess") -> "Preprocess":
        """`base` with what the user passed in place of its own."""
        passed: dict[str, Any] = {
            "size": self.size and sides("--size", self.size),
            "channels": self.channels,
            "mean": self.mean and numbers("--mean", self.mean, ",", float),
            "std": self.std and numbers("--std", self.std, ",", float),
            "resize": self.resize,
            "crop": self.crop and sides("--crop", self.crop),
            "order": self.order,
            "interpolation": self.interpolation,
            "bits": self.bits,
            "window": self.window and numbers("--window", self.window, ",", float),
        }
        if self.size or self.resize:  # one takes the other's place, and what was cut out of it goes too
            base = replace(base, size=None, resize=None, crop=None, stretch=False)
        return replace(base, **{name: value for name, value in passed.items() if value is not None})

    def refuse(self, beside: str, *, transform: bool = True) -> None:
        """DataError for options of pictures, and --transform unless told otherwise, `beside` what takes their place."""
        from gradgeo.data import Preprocess

        passed = ["--transform"] if transform and self.transform is not None else []
        passed += [f"--{name}" for name in self.over(Preprocess()).declared()]
        if passed:
            raise DataError(f"leave out {', '.join(passed)}, which cannot stand beside {beside}.")


@dataclass(frozen=True)
class AskedOptions:
    """The model of a detector that is asked, and how the data it is asked about are read."""

    model: SameModel = None
    weights: Weights = None
    sha256: Sha256 = None
    start: Start = 0
    data_root: DataRoot = None
    stream: Streaming = False
    keys: Keys = None
    device: Device = "cpu"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command, each field of its arguments that are groups an option of its own."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            parameters += [
                parameter.replace(name=field.name, default=field.default, annotation=field.type)
                for field in fields(parameter.annotation)
            ]
        else:
            parameters.append(parameter)

    @wraps(command)
    def told(**passed: Any) -> None:
        given = {
            name: group(**{field.name: passed.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**passed, **given)

    by_name = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    vars(told)["__signature__"] = inspect.Signature(by_name)  # both are what Typer reads
    told.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return told
