"""The detectors that are compared, each fitted on the same trusted inputs: ours, and pytorch-ood's.

A method of your own takes one line: `METHODS["mine"] = Method(lambda model, x: my_detector)`, where `my_detector` has
pytorch-ood's two methods: `fit(loader)` and `predict(x)`, scores (N,), larger for what should not be trusted.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradgeo.benchmark.cache import CHUNK, cached, code, content, weights
from gradgeo.benchmark.cases import Array, Case
from gradgeo.detector import Detector
from gradgeo.errors import require
from gradgeo.ood import OodDetector
from gradgeo.penultimate import Penultimate

OURS = (
    *("classifier.py", "copies.py", "logits.py", "fast_copy.py", "geometry/*.py", "observation.py", "evidence.py"),
    *("measurement.py", "one_class.py", "joint.py", "conformal.py", "batches.py", "survey.py", "detector.py"),
)


@dataclass(frozen=True)
class Method:
    """How a detector is made for a model, given a few of its inputs."""

    make: Callable[[nn.Module, Tensor], Any]
    peer: bool = True
    passes: str = "1 forward"

    def scores(self, name: str, case: Case, columns: dict[str, Tensor]) -> "Scored":
        """What this method, fitted on the trusted inputs of the first half, makes of each column; cached.

        Fitting waits until a score is needed that the cache does not hold.
        """
        right = case.right[: case.half]
        x, y = case.x[: case.half][right], case.y[: case.half][right]
        key = [name, weights(case.model), content(x), content(y), _peers() if self.peer else code(*OURS)]
        fitted: list[Any] = []

        def score(part: Tensor) -> dict[str, Any]:
            with _seeded():
                if not fitted:
                    detector = self.make(case.model, x[:2])
                    detector.fit(DataLoader(TensorDataset(x, y), batch_size=64))
                    fitted.append(detector)
                start = time.perf_counter()
                scores = [fitted[0].predict(batch).detach().double().flatten() for batch in torch.split(part, 50)]
            return {"scores": torch.cat(scores).numpy(), "seconds": np.array(time.perf_counter() - start)}

        found, seconds = {}, 0.0
        for column, inputs in columns.items():
            parts = [cached(partial(score, part), "scores", *key, content(part)) for part in torch.split(inputs, CHUNK)]
            found[column] = np.concatenate([part["scores"] for part in parts])
            seconds += sum(float(part["seconds"]) for part in parts)
        return Scored(found, 1000 * seconds / max(1, sum(map(len, columns.values()))))


@dataclass(frozen=True)
class Scored:
    """Outlier scores (N,) by column, and what one cost on average."""

    scores: dict[str, Array]
    ms_per_input: float


@contextmanager
def _seeded() -> Iterator[None]:
    """Peers may draw from the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _peers() -> str:
    return f"pytorch-ood {version('pytorch-ood')}" if find_spec("pytorch_ood") else ""


def _ours(evidence: str) -> Callable[[nn.Module, Tensor], Any]:
    return lambda model, x: OodDetector(Detector(model, evidence=evidence))


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
    "gradgeo": Method(_ours("full"), peer=False, passes="up to 17 forward, min(C, F) + 12 backward"),
    "gradgeo fast": Method(_ours("fast"), peer=False, passes="up to 17 forward, 1 backward"),
    "ten statistics": Method(_ours("paper"), peer=False, passes="1 forward, min(C, F) backward"),
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
