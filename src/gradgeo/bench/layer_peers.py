"""Detectors that look at several layers of a classifier, fitted on trusted inputs and predicted classes alone."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gradgeo.bench.peers import SeenClasses
from gradgeo.bench.remembered import once
from gradgeo.classifier.wrapper import Classifier, Model, preserve_state
from gradgeo.errors import ModelError, require

LAYERS = 6
"""Layers that are looked at, evenly spaced, the last among them."""

TINY = 1e-12


class Layers:
    """`self(x)` gives the outputs of convolutional and linear layers, averaged over positions, (N, F) float64 each, and
    the predicted classes (N,), from one pass.

    Args:
        model: the classifier; a private copy is used.
        x: a few inputs (N, *input), with which the layers are found.

    Raises:
        ModelError: it has no such layer, as a function has none.
    """

    def __init__(self, model: Model, x: Tensor) -> None:
        self._classifier = Classifier(model)
        module = self._classifier.module
        if not isinstance(module, nn.Module) or not self._classifier.private:
            raise ModelError("the model is a function or cannot be copied, so its layers cannot be looked at.")
        kinds = (_ConvNd, nn.Linear)
        self._chosen: list[nn.Module] = [layer for layer in module.modules() if isinstance(layer, kinds)]
        found, _ = self._pass(x)
        self._chosen = [layer for layer in found if len(found[layer]) == len(x)]
        if not self._chosen:
            raise ModelError("the model has no convolutional or linear layer whose output can be looked at.")
        last = len(self._chosen) - 1
        spaced = sorted({round(i * last / max(1, min(LAYERS, last + 1) - 1)) for i in range(min(LAYERS, last + 1))})
        self._chosen = [self._chosen[i] for i in spaced]

    def __call__(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Outputs (N, F) of each layer, and predicted classes (N,)."""
        outputs, predicted = once(lambda: self._pass(x), "layers", x)
        return list(outputs.values()), predicted

    @torch.no_grad()
    def _pass(self, x: Tensor) -> tuple[dict[nn.Module, Tensor], Tensor]:
        """Outputs by layer, in the order in which they are first called, of several calls the last; and the classes."""
        outputs: dict[nn.Module, Tensor] = {}

        def keep(layer: nn.Module, _: object, output: Tensor) -> None:
            positions = range(2, output.ndim) if isinstance(layer, _ConvNd) else range(1, output.ndim - 1)
            outputs[layer] = output.double().mean(tuple(positions)) if len(positions) else output.double()

        hooks = [layer.register_forward_hook(keep) for layer in self._chosen]
        try:
            batch = self._classifier.prepare(x)
            with preserve_state(batch.x, recurrent=self._classifier.recurrent):
                logits = self._classifier(batch.x.clone())
        finally:
            for hook in hooks:
                hook.remove()
        return outputs, logits.argmax(1)


class LayerDetector(ABC):
    """A detector on the outputs of `Layers`.

    Args:
        model: the classifier.
        x: a few inputs.
    """

    def __init__(self, model: Model, x: Tensor) -> None:
        self._layers = once(lambda: Layers(model, x), "layers of", id(model))

    def fit(self, loader: Iterable[Any]) -> "LayerDetector":
        """Learn from batches (x, y) of trusted inputs and their predicted classes."""
        batches = [(self._layers(x)[0], y) for x, y in loader]
        outputs = [torch.cat(parts) for parts in zip(*(parts for parts, _ in batches), strict=True)]
        self.learn(outputs, torch.cat([y for _, y in batches]))
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (N,)."""
        return self.score(*self._layers(x))

    @abstractmethod
    def learn(self, outputs: list[Tensor], y: Tensor) -> None:
        """Learn from the outputs (N, F) of each layer and the classes (N,)."""

    @abstractmethod
    def score(self, outputs: list[Tensor], predicted: Tensor) -> Tensor:
        """Outlier scores (N,) of the outputs (N, F) of each layer and the predicted classes (N,)."""


class LocalDimensionality(LayerDetector):
    """LID: the local intrinsic dimensionality at each layer, standardised by that of trusted inputs; the mean.

    The paper joins layers by a regression on adversarial examples, which nobody has here, and takes outputs with all
    their positions.

    Source: Ma et al. 2018, equation 4: k = 20 neighbours among 100 inputs.
    """

    NEIGHBOURS, AMONG = 20, 100

    def learn(self, outputs: list[Tensor], y: Tensor) -> None:
        """Keep 100 inputs as neighbours of others, and the mean and spread of their own dimensionality."""
        rows = torch.linspace(0, len(y) - 1, min(self.AMONG, len(y))).round().long()
        self._kept = [output[rows] for output in outputs]
        own = [self._dimensionality(kept, kept, itself=True) for kept in self._kept]
        self._scale = [(values.mean(), values.std().clamp_min(TINY)) for values in own]

    def score(self, outputs: list[Tensor], predicted: Tensor) -> Tensor:
        """The mean of the standardised dimensionalities."""
        parts = [
            (self._dimensionality(output, kept) - mean) / spread
            for output, kept, (mean, spread) in zip(outputs, self._kept, self._scale, strict=True)
        ]
        return torch.stack(parts).mean(0)

    def _dimensionality(self, x: Tensor, kept: Tensor, *, itself: bool = False) -> Tensor:
        """-1 / mean of log(r_i / r_k) over the k nearest; `itself`: the rows are the kept ones, and none is its own."""
        distances = torch.cdist(x, kept, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(TINY)
        if itself:
            distances.fill_diagonal_(torch.inf)
        k = max(2, min(self.NEIGHBOURS, len(kept) - 1))
        nearest = distances.topk(k, dim=1, largest=False, sorted=True).values  # (N, k), rising
        return -1 / (nearest / nearest[:, -1:]).log().mean(1).clamp_max(-TINY)


class NearestNeighbours(LayerDetector):
    """DkNN: how many of the nearest trusted inputs, over all layers, are of another class than the predicted one.

    The paper turns this count into a p-value, which ranks inputs alike. Neighbours are by the cosine, exactly; where
    there are fewer than 75 inputs a class, as many as there are a class.

    Source: Papernot and McDaniel 2018, algorithm 1: k = 75.
    """

    NEIGHBOURS = 75

    def learn(self, outputs: list[Tensor], y: Tensor) -> None:
        """Keep all inputs with their classes."""
        self._kept, self._y = [nn.functional.normalize(output) for output in outputs], y
        self._k = max(1, min(self.NEIGHBOURS, len(y) // len(y.unique())))

    def score(self, outputs: list[Tensor], predicted: Tensor) -> Tensor:
        """Neighbours of another class than the predicted one, over all layers."""
        pairs = zip(outputs, self._kept, strict=True)
        cosines = [nn.functional.normalize(own) @ kept.T for own, kept in pairs]  # (N, n) each
        nearest = [each.topk(self._k, dim=1).indices for each in cosines]
        return torch.stack([(self._y[rows] != predicted[:, None]).sum(1) for rows in nearest]).sum(0).double()


class LayerMahalanobis(LayerDetector):
    """The Mahalanobis distance to the nearest class mean at each layer, summed: pytorch-ood's, layer by layer.

    Source: Lee et al. 2018, without its regression on outliers and its step towards the nearest mean.
    """

    def learn(self, outputs: list[Tensor], y: Tensor) -> None:
        """Means and covariance of each layer."""
        kind = require("pytorch_ood.detector", "bench").Mahalanobis
        self._detectors = [SeenClasses(kind(nn.Identity())) for _ in outputs]
        for detector, output in zip(self._detectors, outputs, strict=True):
            detector.fit([(output.float(), y)])

    def score(self, outputs: list[Tensor], predicted: Tensor) -> Tensor:
        """The sum over layers."""
        parts = [detector.predict(output.float()) for detector, output in zip(self._detectors, outputs, strict=True)]
        return torch.stack(parts).double().sum(0)
