"""The detectors that are compared, each fitted on the same trusted inputs: ours, and pytorch-ood's.

A method of your own takes one line: `METHODS["mine"] = Method(lambda model, x: my_detector)`, where `my_detector` has
pytorch-ood's two methods: `fit(loader)` and `predict(x)`, scores (N,), larger for what should not be trusted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.bench.cache import code
from gradgeo.bench.penultimate import Penultimate
from gradgeo.detector.detector import Detector
from gradgeo.detector.pytorch_ood import OodDetector
from gradgeo.errors import require

OURS = (
    *("classifier.py", "copies.py", "logits.py", "fast_copy.py", "geometry/*.py", "observation.py", "evidence.py"),
    *("measurement.py", "one_class.py", "joint.py", "conformal.py", "batches.py", "survey.py", "fitting.py"),
    *("detector.py", "panel.py"),
)


@dataclass(frozen=True)
class Method:
    """How a detector is made for a model, given a few of its inputs.

    Those that are `shared` make an `OodDetector` and differ in their evidence alone: one set of passes serves them all.
    """

    make: Callable[[nn.Module, Tensor], Any]
    peer: bool = True
    passes: str = "1 forward"
    shared: bool = False

    @property
    def version(self) -> str:
        """What its scores depend on beside the model and the data."""
        if not self.peer:
            return code(*OURS)
        return f"pytorch-ood {version('pytorch-ood')}" if find_spec("pytorch_ood") else ""


def _ours(evidence: str, passes: str) -> Method:
    return Method(lambda model, x: OodDetector(Detector(model, evidence=evidence)), False, passes, shared=True)


def _peer(name: str, *, features: bool = False, **options: Any) -> Callable[[nn.Module, Tensor], Any]:
    """A detector of pytorch-ood on the model, or on its penultimate features."""

    def make(model: nn.Module, x: Tensor) -> Any:
        kind = getattr(require("pytorch_ood.detector", "bench"), name)
        return kind(Penultimate(model, x) if features else model, **options)

    return make


def _vim(model: nn.Module, x: Tensor) -> Any:
    body = Penultimate(model, x)
    bias = body.head.bias if body.head.bias is not None else torch.zeros(body.head.out_features)
    kind = require("pytorch_ood.detector", "bench").ViM
    return kind(body, d=max(1, body.head.in_features // 2), w=body.head.weight, b=bias)


def _gradnorm(model: nn.Module, x: Tensor) -> Any:
    head = Penultimate(model, x).head.weight  # shares its memory with the layer of `model` that it is a copy of
    own = {name for name, value in model.named_parameters() if value.data_ptr() == head.data_ptr()}
    return require("pytorch_ood.detector", "bench").GradNorm(model, param_filter=lambda name: name in own)


def _react(model: nn.Module, x: Tensor) -> Any:
    body = Penultimate(model, x)
    return require("pytorch_ood.detector", "bench").ReAct(body, body.head)


def _ash(model: nn.Module, x: Tensor) -> Any:
    body = Penultimate(model, x)

    def maps(x: Tensor) -> Tensor:
        features: Tensor = body(x)
        return features[:, :, None, None]

    return require("pytorch_ood.detector", "bench").ASH(maps, nn.Sequential(nn.Flatten(), body.head))


METHODS: dict[str, Method] = {
    "gradgeo": _ours("full", "up to 17 forward, min(C, F) + 12 backward"),
    "gradgeo fast": _ours("fast", "up to 17 forward, 1 backward"),
    "ten statistics": _ours("paper", "1 forward, min(C, F) backward"),
    "MaxSoftmax": Method(_peer("MaxSoftmax")),
    "MaxLogit": Method(_peer("MaxLogit")),
    "EnergyBased": Method(_peer("EnergyBased")),
    "GEN": Method(_peer("GEN")),
    "ODIN": Method(_peer("ODIN"), passes="2 forward, 1 backward"),
    "Mahalanobis": Method(_peer("Mahalanobis", features=True)),
    "KNN": Method(_peer("KNN", features=True)),
    "ViM": Method(_vim),
    "GradNorm": Method(_gradnorm, passes="1 forward, 1 backward of the last layer"),
    "ReAct": Method(_react),
    "ASH": Method(_ash),
}
"""Every method by name; peers at pytorch-ood's defaults, on penultimate features where they take features."""
