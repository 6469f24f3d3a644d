"""How a detector is to be fitted: the arguments of `Detector`, checked."""

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

from gradgeo.detector.calibration.conformal import Level
from gradgeo.detector.evidence import resolve
from gradgeo.detector.weighing import EMPHASES
from gradgeo.errors import choice, expected, number
from gradgeo.geometry.losses import LOSSES, Loss
from gradgeo.geometry.options import Classes


@dataclass(frozen=True)
class Settings:
    """The arguments of `Detector` but the model; ArgumentError where one is not as described there."""

    evidence: str | Sequence[str]
    alpha: float
    classes: Classes | str
    loss: str
    temperature: float | str
    calibration: float
    seed: int
    batch_size: int
    confidence: float | None = None
    rescale: bool = False
    channel_max: bool = False
    one_class: str = "copula"
    noise: float | None = None
    emphasis: str | None = None

    def __post_init__(self) -> None:
        resolve(self.evidence, self.one_class)
        choice("loss", self.loss, LOSSES)
        for name in ("alpha", "calibration"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 < float(value) < 1:
                raise expected(name, "a number between 0 and 1", value)
        if self.confidence is not None and (
            not isinstance(self.confidence, Real) or isinstance(self.confidence, bool) or not 0 < self.confidence < 1
        ):
            raise expected("confidence", "None or a number between 0 and 1", self.confidence)
        if self.noise is not None and (isinstance(self.noise, bool) or not 0 < number(self.noise) < math.inf):
            raise expected("noise", "None or a number above 0, in input units", self.noise)
        for name, least in (("seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise expected(name, "a positive integer" if least else "an integer, 0 or more", value)
        for name in ("rescale", "channel_max"):
            if not isinstance(getattr(self, name), bool):
                raise expected(name, "True or False", getattr(self, name))
        if self.emphasis is not None:
            choice("emphasis", self.emphasis, tuple(EMPHASES))
        if isinstance(self.classes, str):
            choice("classes", self.classes, ("auto",))
        if isinstance(self.temperature, str):
            choice("temperature", self.temperature, ("auto",))
        else:
            Loss(self.loss, self.temperature)
        if isinstance(self.classes, Tensor) and (self.classes.ndim != 1 or len(self.classes) < 2):
            raise expected("classes", '"auto", None, an int, or an integer tensor of shape (K,), K >= 2', self.classes)

    @property
    def level(self) -> Level:
        """Which p-values are flagged."""
        return Level(float(self.alpha), None if self.confidence is None else float(self.confidence))

    def plain(self) -> dict[str, Any]:
        """Numbers, strings and lists, ready for JSON.

        Later arguments are left out where they say nothing: files are then as they were before these, which earlier
        versions read.
        """
        later = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        plain = {name: _plain(value) for name, value in asdict(self).items()}
        return {name: value for name, value in plain.items() if name not in later or value != later[name]}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    return value.item() if isinstance(value, np.generic) else value
