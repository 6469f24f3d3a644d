"""A classifier and its gradient as two graphs of tensor operators: one forward, one that pulls cotangents back.

Logits, features and the gradient for one cotangent are traced together, as autograd computes them; the trace is then
cut by what depends on the cotangent. So the forward graph runs once an input, and the backward graph, which takes what
the forward one saved, once for all cotangents: they go through it as further rows of the batch.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from gradgeo.classifier.optimized import OptimizedModel
from gradgeo.classifier.prepared import clean
from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.errors import ExportError
from gradgeo.export import torch_internals
from gradgeo.export.partition import Partition, partition
from gradgeo.export.rules import backward_rules
from gradgeo.geometry.vjp import gradient


class GradientGraphs(nn.Module):
    """The two graphs, for any batch size.

    Args:
        halves: of the joint trace.
        rank: how many gradients span all others, R: those of the features where these are what is differentiated.
        has_features: whether the features are among what the forward graph gives.
        layers: how many outputs of layers are, behind them.
        weight: (C, F), which makes the logits of the features, where these are what is differentiated.
    """

    def __init__(self, halves: Partition, *, rank: int, has_features: bool, layers: int, weight: Tensor | None) -> None:
        super().__init__()
        self.forward_graph, self.backward_graph, self._axes = halves.forward, halves.backward, halves.axes
        self.rank, self._has_features, self._layers = rank, has_features, layers
        self.weight = None if weight is None else nn.Buffer(weight.contiguous())
        self.tiles = True
        """Whether cotangents are further rows of one backward pass, or have one each."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...], list[Tensor]]:
        """Logits (N, C) of finite inputs, features (N, F) or None, the outputs (N, F) of layers, and what the backward
        graph wants to know."""
        logits, *rest = self.forward_graph(x)
        features = rest.pop(0) if self._has_features else None
        return logits, features, tuple(rest[: self._layers]), rest[self._layers :]

    def vjp(self, saved: list[Tensor], cotangents: Tensor) -> Tensor:
        """J^T v for each of the cotangents: (K, N, R) -> (K, N, *input)."""
        k, n, _ = cotangents.shape
        if not self.tiles:
            return torch.stack([self.backward_graph(row, *saved) for row in cotangents.unbind(0)])
        rows = [t if axis is None else _tiled(t, axis, k) for t, axis in zip(saved, self._axes, strict=True)]
        gradients: Tensor = self.backward_graph(cotangents.flatten(0, 1), *rows)  # (K N, *input)
        return gradients.view(k, n, *gradients.shape[1:])

    def in_float64(self) -> "GradientGraphs":
        """The same operators on the same constants in float64, which rounds so finely that no unit of a network lies
        within rounding of where its slope changes."""
        forward, backward = (torch_internals.in_float64(half) for half in (self.forward_graph, self.backward_graph))
        lifted = GradientGraphs(
            Partition(forward, backward, self._axes),
            rank=self.rank,
            has_features=self._has_features,
            layers=self._layers,
            weight=None if self.weight is None else self.weight.double(),
        )
        lifted.tiles = self.tiles
        return lifted


def _tiled(tensor: Tensor, axis: int, times: int) -> Tensor:
    return tensor.repeat(*[times if d == axis else 1 for d in range(tensor.ndim)]) if times > 1 else tensor


@dataclass(frozen=True)
class Differentiate:
    """The function that is traced: logits and the gradient for one cotangent. To be called within `preserve_state`."""

    model: OptimizedModel
    rank: int
    """Of how many outputs the gradient is taken, R: the features' where these are fewer than logits, or the logits'."""
    has_features: bool
    of_features: bool
    layers: int
    """How many layers have outputs that are looked at."""

    @classmethod
    def of(cls, classifier: Classifier, x: Tensor, *, dtype: torch.dtype | None = None) -> Self:
        """That of a classifier, whose model is prepared on inputs `x` and computes in `dtype` if not in its own."""
        model = OptimizedModel(classifier.module, private=classifier.private, x=x, traced=True, dtype=dtype)
        leaf = x.to(dtype or x.dtype, copy=True).requires_grad_()
        logits, features, makes_logits, layers = model(leaf.clone(), layers=True)
        if features is None:
            return cls(model, logits.shape[1], has_features=False, of_features=False, layers=len(layers))
        fewer = makes_logits and features.shape[1] < logits.shape[1] and features.requires_grad
        rank = (features if fewer else logits).shape[1]
        return cls(model, rank, has_features=True, of_features=fewer, layers=len(layers))

    @property
    def weight(self) -> Tensor | None:
        """The weight (C, F) that makes logits of the features, where these are what is differentiated."""
        return self.model.head.weight.detach() if self.of_features and self.model.head is not None else None

    def __call__(self, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
        """Logits (N, C), features (N, F) if there are any, the outputs (N, F) of layers, and J^T v (N, *input), for a
        cotangent v (N, R)."""
        leaf = x.detach().requires_grad_()
        logits, features, _, layers = self.model(leaf.clone(), layers=True)  # the clone lets the model work in place
        if features is None:
            return logits, *layers, gradient(logits, leaf, cotangent)
        return logits, features, *layers, gradient(features if self.of_features else logits, leaf, cotangent)


@dataclass(frozen=True)
class TracedClassifier:
    """A classifier's graphs, and what they were traced from."""

    graphs: GradientGraphs
    joint: torch_internals.Trace
    function: Differentiate
    """What was traced: it gives the same by autograd."""

    @classmethod
    def of(cls, classifier: Classifier, x: Tensor) -> Self:
        """Trace a classifier.

        Args:
            classifier: the model's.
            x: prepared inputs (N, *input), N >= 2, for the trial of folding and for shapes.

        Raises:
            ExportError: the model cannot be traced.
        """
        x = clean(x).x
        with preserve_state(x, recurrent=classifier.recurrent):
            function = Differentiate.of(classifier, x)
            joint = _traced(function, x)
        halves = partition(joint.graph, 1 + function.has_features + function.layers)
        graphs = GradientGraphs(
            halves,
            rank=function.rank,
            has_features=function.has_features,
            layers=function.layers,
            weight=function.weight,
        )
        return cls(graphs, joint, function)


def _traced(function: Differentiate, x: Tensor) -> torch_internals.Trace:
    world = torch_internals.Symbolic()
    batch = world.batch(x)
    known = torch_internals.known_rules()
    inputs = (batch, world.beside(batch, function.rank))
    try:
        graph = world.trace(function, inputs, {**known, **backward_rules(known)})
    except Exception as error:  # whatever foreign code does when its tensors have no values
        raise ExportError(_why(error)) from error
    if torch_internals.fixed(batch):
        raise ExportError(
            "the model fixes the batch size, by len(x) or int(x.shape[0]) in its forward. Write x.shape[0], or -1 in a "
            "reshape."
        )
    return torch_internals.Trace(world, graph, inputs)


def _why(error: BaseException) -> str:
    """What of the model cannot be traced, in words."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    deepest = chain[-1]
    if any(isinstance(link, torch_internals.READS_VALUES) for link in chain):
        return (
            "the model decides by the values of its tensors (an if, a loop, .item(), or indexing by a mask), and a "
            "graph holds one course of events only. Write the choice with torch.where, or serve the model in Python."
        )
    text = str(deepest).strip().splitlines()
    return (
        f"the model cannot be traced with a batch size that varies: {type(deepest).__name__}: "
        f"{text[0][:200] if text else ''}. Serve it in Python instead, or rewrite that part of it."
    )
