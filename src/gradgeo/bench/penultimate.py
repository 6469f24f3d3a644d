"""Penultimate features: what enters the linear layer that makes the logits, found without being told where it is."""

import torch
from torch import Tensor, nn

from gradgeo.classifier.wrapper import Classifier, Model, preserve_state
from gradgeo.errors import ModelError, expected


class Penultimate(nn.Module):
    """A classifier split at its last linear layer: `self(x)` gives features (N, F), `head` makes the logits of them.

    Args:
        model: the classifier; a private copy is used, whose `head` shares its weights.
        x: a few inputs (N, *input), with which the layer is found: the linear layer whose output is the logits.

    Raises:
        ModelError: no linear layer makes the logits. ArgumentError: `x` is empty or no tensor.
    """

    def __init__(self, model: Model, x: Tensor) -> None:
        super().__init__()
        classifier = Classifier(model)
        batch = classifier.prepare(x)
        if not len(batch):
            raise expected("x", "at least one input", x)
        with preserve_state(batch.x, recurrent=classifier.recurrent):
            copy = classifier.optimized(batch)
        if copy.head is None:
            raise ModelError("no linear layer of the model makes its logits, so it has no penultimate features.")
        self.head = copy.head
        self.body = copy.model
        self._copy = [copy]  # not a sub-module

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Features (N, F) of inputs (N, *input)."""
        with preserve_state(x):
            found = self._copy[0](x)
        if found.features is None or not found.makes_logits:
            raise ModelError("no linear layer of the model makes its logits here, so it has no penultimate features.")
        return found.features
