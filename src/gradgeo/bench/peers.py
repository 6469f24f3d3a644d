"""pytorch-ood's detectors on any classifier: on its logits or its penultimate features, with the papers' defaults.

Each function makes a detector for a model and a few of its inputs. Detectors that are asked together (see `remembered`)
share their forward pass.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradgeo.bench.penultimate import Penultimate
from gradgeo.bench.remembered import once
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.errors import ModelError, require

Make = Callable[[Model, Tensor], Any]

DICE_SHARE = 0.9
"""The share of weights that DICE drops: the paper's of CIFAR, and OpenOOD's."""


class Logits(nn.Module):
    """A classifier without gradients: `self(x)` gives logits (N, C) of inputs (N, *input)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._classifier = [Classifier(model)]  # not a sub-module

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, C)."""
        return once(lambda: self._classifier[0].logits(x).logits, "logits", x).clone()


class Features(nn.Module):
    """The body of a classifier: `self(x)` gives penultimate features (N, F), and `head` makes the logits of them.

    Args:
        model: the classifier.
        x: a few inputs, as `Penultimate` needs them.
        unit: divide the features of each input by their L2 norm.

    Raises:
        ModelError: no linear layer makes the logits.
    """

    def __init__(self, model: Model, x: Tensor, *, unit: bool = False) -> None:
        super().__init__()
        self.split = once(lambda: Penultimate(model, x), "split", id(model))
        self.head: nn.Linear = self.split.head
        self._unit = unit

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, F)."""
        features = once(lambda: self.split(x), "features", x)
        return F.normalize(features, dim=1) if self._unit else features.clone()

    def maps(self, x: Tensor) -> Tensor:
        """Features as maps (N, F, 1, 1), as they leave the pooling."""
        features: Tensor = self(x)
        return features[:, :, None, None]

    @property
    def head_of_maps(self) -> nn.Module:
        """The head on what `maps` returns."""
        return nn.Sequential(nn.Flatten(), self.head)

    @property
    def weight(self) -> Tensor:
        """Of the head (C, F)."""
        return self.head.weight.detach()

    @property
    def bias(self) -> Tensor:
        """Of the head (C,), zeros where it has none."""
        return self.weight.new_zeros(len(self.weight)) if self.head.bias is None else self.head.bias.detach()


class SeenClasses:
    """A detector that takes classes 0, 1, ... without a gap, fitted where some class is absent.

    Args:
        detector: one that uses classes for their means alone.
    """

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def fit(self, loader: Iterable[Any]) -> "SeenClasses":
        """Fit, with the classes that occur renumbered."""
        batches = [(x, y) for x, y in loader]
        seen = torch.cat([y for _, y in batches]).unique()  # sorted
        self._detector.fit([(x, torch.searchsorted(seen, y)) for x, y in batches])
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (N,)."""
        scores: Tensor = self._detector.predict(x)
        return scores


class AllClasses:
    """A detector that needs inputs of every class to learn from, and says so.

    Args:
        detector: the detector.
        classes: C.
    """

    def __init__(self, detector: Any, classes: int) -> None:
        self._detector, self._classes = detector, classes

    def fit(self, loader: Iterable[Any]) -> "AllClasses":
        """Fit; ModelError where a class is absent."""
        batches = [(x, y) for x, y in loader]
        seen = set(torch.cat([y for _, y in batches]).tolist())
        if absent := sorted(set(range(self._classes)) - seen):
            raise ModelError(
                f"{type(self._detector).__name__} learns a pattern of every class, and {len(absent)} of {self._classes}"
                f" have no trusted input, the first of them {absent[0]}."
            )
        self._detector.fit(batches)
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (N,)."""
        scores: Tensor = self._detector.predict(x)
        return scores


class FastBoundary:
    """fDBD: minus the mean distance of the features to the boundaries with the other classes, over their distance to
    the mean of the trusted.

    pytorch-ood's holds the differences of all pairs of weight vectors, 5 GB for 1,000 classes of 1,280 features.

    Source: Liu and Qin 2024, equation 8.
    """

    def __init__(self, model: Model, x: Tensor) -> None:
        self._body = Features(model, x)
        weight = self._body.weight.double()
        self._lengths = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")  # (C, C)
        self._mean = torch.empty(0)

    def fit(self, loader: Iterable[Any]) -> "FastBoundary":
        """Learn the mean of the features."""
        self._mean = torch.cat([self._body(x) for x, _ in loader]).double().mean(0)
        return self

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (N,)."""
        features = self._body(x).double()  # (N, F)
        logits = features @ self._body.weight.double().T + self._body.bias.double()  # (N, C)
        best, predicted = logits.max(1)
        lengths = self._lengths[predicted].scatter(1, predicted[:, None], torch.inf)  # the own class adds 0
        distances = ((best[:, None] - logits) / lengths).sum(1) / (logits.shape[1] - 1)
        scores: Tensor = -distances / (features - self._mean).norm(dim=1).clamp_min(1e-8)
        return scores


def _library(name: str) -> Any:
    return getattr(require("pytorch_ood.detector", "bench"), name)


def on_logits(name: str) -> Make:
    """The detector `name` on logits."""
    return lambda model, x: _library(name)(Logits(model))


def on_features(name: str) -> Make:
    """The detector `name` on penultimate features."""
    return lambda model, x: _library(name)(Features(model, x))


def on_class_means(name: str, *, unit: bool = False) -> Make:
    """The detector `name`, which measures distances to the means of classes; `unit`: on features of length 1."""
    return lambda model, x: SeenClasses(_library(name)(Features(model, x, unit=unit)))


def on_features_and_head(name: str) -> Make:
    """The detector `name` on penultimate features and the linear layer after them."""

    def make(model: Model, x: Tensor) -> Any:
        body = Features(model, x)
        return _library(name)(body, body.head)

    return make


def on_maps(name: str) -> Make:
    """The detector `name` on penultimate features as maps of one pixel."""

    def make(model: Model, x: Tensor) -> Any:
        body = Features(model, x)
        return _library(name)(body.maps, body.head_of_maps)

    return make


def odin(model: Model, x: Tensor) -> Any:
    """ODIN, which differentiates the model itself."""
    return _library("ODIN")(model)


def she(model: Model, x: Tensor) -> Any:
    """SHE."""
    body = Features(model, x)
    return AllClasses(_library("SHE")(body, body.head), len(body.weight))


def vim(model: Model, x: Tensor) -> Any:
    """ViM, with half of the dimensions in the principal space."""
    body = Features(model, x)
    return _library("ViM")(body, d=max(1, body.weight.shape[1] // 2), w=body.weight, b=body.bias)


def dice(model: Model, x: Tensor) -> Any:
    """DICE."""
    body = Features(model, x)
    return _library("DICE")(body, w=body.weight, b=body.bias, p=DICE_SHARE)


def gradnorm(model: nn.Module, x: Tensor) -> Any:
    """GradNorm, by the gradient of the last linear layer."""
    head = Penultimate(model, x).head.weight  # shares memory with the layer of `model` that it copies
    last = {name for name, value in model.named_parameters() if value.data_ptr() == head.data_ptr()}
    return _library("GradNorm")(model, param_filter=lambda name: name in last)
