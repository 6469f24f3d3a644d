"""Feature squeezing: how far the probabilities move when an image loses what its class should not depend on."""

from collections.abc import Iterable
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor

from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.errors import expected


class FeatureSqueezing:
    """The largest L1 distance between the probabilities of an image and of its squeezed copies.

    The squeezers are the paper's: fewer grey levels (1 bit for grey images, 5 bits a channel for colour) and the median
    of 2 x 2 pixels; its third, non-local means on colour images, is left out.

    Args:
        model: the classifier.
        x: a few images (N, 1 or 3, H, W) in [0, 1]; ArgumentError for other inputs.

    Source: Xu, Evans and Qi 2018, section V.
    """

    def __init__(self, model: Model, x: Tensor) -> None:
        image = x.ndim == 4 and x.shape[1] in (1, 3)
        if not image or not bool(((x >= 0) & (x <= 1)).all()):
            raise expected("x", "images (N, 1 or 3, H, W) in [0, 1], which can be squeezed", x)
        self._classifier = Classifier(model)
        self._levels = 2 ** (1 if x.shape[1] == 1 else 5) - 1

    def fit(self, loader: Iterable[Any]) -> "FeatureSqueezing":
        """Nothing is learned."""
        return self

    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (N,) between 0 and 2."""
        probabilities = self._probabilities(x)  # (N, C)
        squeezed = (self.fewer_levels(x), self.median(x))
        return torch.stack([(self._probabilities(s) - probabilities).abs().sum(1) for s in squeezed]).amax(0)

    def fewer_levels(self, x: Tensor) -> Tensor:
        """Each channel rounded to as many levels as its bits allow."""
        return (x * self._levels).round() / self._levels

    def median(self, x: Tensor) -> Tensor:
        """The median of the pixel and those above and left of it, of an even number the upper one."""
        return torch.from_numpy(ndimage.median_filter(x.numpy(), size=(1, 1, 2, 2), mode="reflect"))

    def _probabilities(self, x: Tensor) -> Tensor:
        return self._classifier.logits(x).logits.double().softmax(1)
