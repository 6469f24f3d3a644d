"""What `check` and `recalibrate` are both told, stated once."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from gradgeo.cli.options import (
    BatchSize,
    Channels,
    Crop,
    DataRoot,
    Device,
    Groups,
    Interpolation,
    Keys,
    Label,
    Limit,
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
    Workers,
)

Labels = Annotated[
    bool, typer.Option("--labels", help="Count right predictions only, by the labels of the data. Else all inputs.")
]
DecisionsPath = Annotated[
    Path | None, typer.Option("--decisions", help="What a person decided in the review queue of a report, .json.")
]


@dataclass(frozen=True)
class SiteOptions:
    """What `check` and `recalibrate` are told of the detector's model, of the data and of how to read them."""

    model: SameModel = None
    weights: Weights = None
    sha256: Sha256 = None
    labels: Labels = False
    groups: Groups = None
    decisions: DecisionsPath = None
    start: Start = 0
    limit: Limit = None
    size: Size = None
    channels: Channels = None
    mean: Mean = None
    std: Std = None
    resize: Resize = None
    crop: Crop = None
    order: Order = None
    interpolation: Interpolation = None
    label: Label = None
    data_root: DataRoot = None
    stream: Streaming = False
    keys: Keys = None
    transform: Transform = None
    device: Device = "cpu"
    batch_size: BatchSize = 64
    workers: Workers = 1

    @property
    def preparation(self) -> dict[str, Any]:
        """The options of `options.preprocess_for`."""
        names = ("size", "channels", "mean", "std", "resize", "crop", "order", "interpolation")
        return {name: getattr(self, name) for name in names}


def with_site_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command whose argument `given` stands for all fields of `SiteOptions`, each an option of its own."""
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "given":
            parameters += [
                parameter.replace(name=field.name, default=field.default, annotation=field.type)
                for field in fields(SiteOptions)
            ]
        else:
            parameters.append(parameter)

    @wraps(command)
    def told(**passed: Any) -> None:
        given = SiteOptions(**{field.name: passed.pop(field.name) for field in fields(SiteOptions)})
        command(**passed, given=given)

    by_name = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    vars(told)["__signature__"] = inspect.Signature(by_name)  # both are what Typer reads
    told.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return told
