"""The detectors that are compared, each fitted on the same trusted inputs: ours, and pytorch-ood's.

A method of your own takes one line: `METHODS["mine"] = Method(lambda model, x: my_detector)`, where `my_detector` has
pytorch-ood's two methods: `fit(loader)`, and `predict(x)` with outlier scores (N,), larger = less trustworthy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.bench.cache import DETECTOR_CODE, GEOMETRY_CODE, source_hash
from gradgeo.bench.penultimate import Penultimate
from gradgeo.detector.detector import Detector
from gradgeo.detector.pytorch_ood import OodDetector
from gradgeo.errors import require

PEER_CODE = (*GEOMETRY_CODE, "bench/methods.py", "bench/penultimate.py")
"""The code of ours that a peer's scores depend on, besides its own version."""


@dataclass(frozen=True)
class Method:
    """A detector that is compared."""

    make: Callable[[nn.Module, Tensor], Any]
    """The detector for a model, given a few of its inputs."""
    peer: bool = True
    """Whether it is another's; ours is tested against all peers."""
    passes: str = "1 forward"
    """What it costs for one input, for the page."""
    shared: bool = False
    """Whether it makes an `OodDetector` of ours, which differs from the others in its evidence alone: one set of passes
    serves them all."""

    @property
    def version(self) -> str:
        """What its scores depend on besides the model and the data."""
        if not self.peer:
            return source_hash(*DETECTOR_CODE)
        library = f"pytorch-ood {version('pytorch-ood')}" if find_spec("pytorch_ood") else ""
        return f"{library} {source_hash(*PEER_CODE)}"


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
    head = Penultimate(model, x).head.weight  # shares memory with the layer of `model` that it copies
    last = {name for name, value in model.named_parameters() if value.data_ptr() == head.data_ptr()}
    return require("pytorch_ood.detector", "bench").GradNorm(model, param_filter=lambda name: name in last)


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
