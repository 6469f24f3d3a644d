"""Penultimate features: what enters the linear layer that makes the logits, found without being told where it is."""

from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.classifier import Classifier, Model, traceless
from gradgeo.errors import ModelError


class Penultimate(nn.Module):
    """A classifier split at its last linear layer: `self(x)` gives features (N, F), `head` makes the logits of them.

    Args:
        model: the classifier; a private copy that shares its weights is used.
        x: a few inputs (N, *input), with which the layer is found: the linear layer whose output is the logits.

    Raises:
        ModelError: no linear layer makes the logits.
    """

    def __init__(self, model: Model, x: Tensor) -> None:
        super().__init__()
        classifier = Classifier(model)
        found: list[tuple[nn.Linear, Tensor]] = []

        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(module, nn.Linear) and isinstance(output, Tensor) and output.ndim == 2:
                found.append((module, output))

        body = classifier.module
        linear = [m for m in body.modules() if isinstance(m, nn.Linear)] if isinstance(body, nn.Module) else []
        handles = [m.register_forward_hook(keep) for m in linear]
        try:
            logits = classifier.judge(x).logits
        finally:
            for handle in handles:
                handle.remove()
        heads = [layer for layer, output in found if output.shape == logits.shape and torch.equal(output, logits)]
        if not heads:
            raise ModelError("no linear layer of the model makes its logits, so it has no penultimate features.")
        self.head = heads[-1]
        self.body = body
        self._classifier = [classifier]  # not a sub-module

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Features (N, F) of inputs (N, *input)."""
        found: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
        try:
            with traceless(x):
                self._classifier[0](x)
        finally:
            handle.remove()
        return found[-1]
