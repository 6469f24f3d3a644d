"""The Jacobian of a forward pass by autograd: for any number of cotangents, or within a graph of the caller's."""

import sys
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from gradgeo.classifier.optimized import OptimizedModel
from gradgeo.classifier.prepared import PreparedBatch, clean
from gradgeo.errors import ModelError, expected
from gradgeo.geometry.jacobian import BATCH, MAP_BYTES, InputJacobian, with_gradient
from gradgeo.geometry.surrogates import soft_sign
from gradgeo.geometry.vjp import RetainedGraph, gradient


class AutogradJacobian(InputJacobian):
    """A forward pass whose graph is kept. To be made, and asked, within `preserve_state`.

    Where `model` computes in another type, that is the type of the gradients alone: logits, and all that is made of
    the gradients, are in the model's own. Cost: one forward pass, then two.

    Args:
        gradients: whether they will be asked for. With False no graph is kept, and the model need not have any; with
            None `has_graph` says whether it does.
    """

    def __init__(
        self,
        model: OptimizedModel,
        batch: PreparedBatch,
        *,
        once: bool = False,
        layers: bool = False,
        gradients: bool | None = True,
    ) -> None:
        self._model = model
        n = len(batch)
        # Many models refuse an empty batch; one zero input stands in and is sliced away again.
        x = batch.x.detach() if n else batch.x.new_zeros(1, *batch.x.shape[1:])
        leaf = x.detach().to(model.dtype or x.dtype)
        self.has_graph = gradients is not False
        try:
            leaf.requires_grad_(self.has_graph or model.fuses_without_graph)
            # The clone lets the model work in place.
            logits, features, makes_logits, outputs = model(leaf.clone(), layers=layers)
            if self.has_graph:
                with_gradient(logits)
        except ModelError:
            if gradients is not None:
                raise
            logits, features, makes_logits, outputs = model(leaf.detach().clone(), layers=layers)
            self.has_graph = False
        source, weight = logits, None
        if makes_logits and features is not None and features.shape[1] < logits.shape[1] and features.requires_grad:
            source, weight = features, model.weight
        self._source = source
        self._graph = RetainedGraph(model, source, leaf) if self.has_graph else None
        if model.exact is not None:
            with torch.no_grad():
                logits, features, _, outputs = model.exact(x.clone(), layers=layers)
        super().__init__(
            PreparedBatch(x[:n], batch.usable),
            logits[:n].detach(),
            None if features is None else features[:n].detach(),
            rank=source.shape[1],
            weight=weight,
            layers=tuple(output[:n].detach() for output in outputs),
            once=once and source.dtype.itemsize >= 4,  # shorter types hold one-hot cotangents, not all others
        )

    def _rows(self, cotangents: Tensor) -> Tensor:
        cotangents = cotangents.transpose(0, 1).to(self._source.dtype)  # (K, N, R)
        rows, done = torch.empty(0), 0
        if self._graph is None:
            raise expected("Evidence.gradients", "True of evidence that asks for gradients", "False")
        for part in self._graph.vjp(cotangents):  # (k, N, *input)
            if len(part) == len(cotangents):
                rows = part.to(self.x.dtype)
            else:  # filled as they come: gathering them at the end would take the memory twice
                rows = rows if done else part.new_empty(len(cotangents), *part.shape[1:], dtype=self.x.dtype)
                rows[done : done + len(part)] = part
                done += len(part)
        rows = rows.transpose(0, 1)  # (N, K, *input)
        # Most samples show with the first gradient that they have one; only for others all are looked at.
        self.has_gradient = self.has_gradient | rows[:, 0].flatten(1).any(1)
        if not self.has_gradient.all():
            self.has_gradient = self.has_gradient | rows.flatten(1).any(1)
        return rows

    def again(self, x: Tensor) -> "AutogradJacobian":
        """Another pass, for other inputs."""
        return AutogradJacobian(self._model, clean(x))

    def logits_at(self, x: Tensor) -> Tensor:
        """The logits (N, C) of other inputs, NaN where these are not finite."""
        with torch.no_grad():
            return _logits_at(self._model.exact or self._model, x)

    def affordable_parts(self, rows: Tensor) -> Sequence[Tensor]:
        """`rows` (M,) in parts of as many inputs as another pass may take."""
        return _affordable_parts(self._model, self.x, rows)

    @property
    def graph_bytes(self) -> int:
        """About what the graph holds."""
        return 0 if self._graph is None else self._graph.bytes


class DifferentiableJacobian(InputJacobian):
    """A forward pass whose logits and maps stay in the graph of the inputs, which must require grad.

    Values are the same but for rounding; signs get the slope of `surrogates.soft_sign`. Every map takes a backward pass
    of its own, with a graph, so nothing is combined of a basis. `has_gradient` is not asked and True.
    """

    differentiable: ClassVar[bool] = True

    def __init__(self, model: OptimizedModel, batch: PreparedBatch) -> None:
        self._model = model
        logits, features, _, layers = model(batch.x.clone(), layers=True)
        super().__init__(batch, with_gradient(logits), features, layers=layers, rank=sys.maxsize)
        self.has_gradient = torch.ones_like(self.usable)

    def _rows(self, cotangents: Tensor) -> Tensor:
        rows = cotangents.to(self.logits.dtype).unbind(1)  # K of (N, C)
        return torch.stack([gradient(self.logits, self.x, row, create_graph=True) for row in rows], dim=1)

    def again(self, x: Tensor) -> "DifferentiableJacobian":
        """Another pass, for other inputs."""
        return DifferentiableJacobian(self._model, clean(x))

    def logits_at(self, x: Tensor) -> Tensor:
        """The logits (N, C) of other inputs, NaN where these are not finite."""
        return _logits_at(self._model, x)

    def affordable_parts(self, rows: Tensor) -> Sequence[Tensor]:
        """`rows` (M,) in parts of as many inputs as another pass may take."""
        return _affordable_parts(self._model, self.x, rows)

    def _sign(self, maps: Tensor) -> Tensor:
        return soft_sign(maps)


def _logits_at(model: OptimizedModel, x: Tensor) -> Tensor:
    batch = clean(x)
    return torch.where(batch.usable[:, None], model(batch.x.clone()).logits, torch.nan)


def _affordable_parts(model: OptimizedModel, x: Tensor, rows: Tensor) -> Sequence[Tensor]:
    """Of as many inputs as another pass may take within `MAP_BYTES`, at most `BATCH`."""
    entries = 2 * model.activations + x[:1].numel()  # of one input
    parts: Sequence[Tensor] = rows.split(max(1, min(BATCH, MAP_BYTES // (max(1, entries) * x.element_size()))))
    return parts
