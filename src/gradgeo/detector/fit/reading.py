"""One pass over labelled data for a fitted detector: which inputs are right, and which repeat others."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import BoolArray, IntArray
from gradgeo.detector.fit import exchangeability
from gradgeo.detector.fitted import FittedDetector
from gradgeo.detector.inputs import Data
from gradgeo.detector.noise import Noise
from gradgeo.errors import warn


class LabelledReading:
    """The batches of `data`, iterated over once, with the noise of `fitted`; it keeps their labels, and which inputs
    are copies of others.

    Raises: ArgumentError for inputs of another shape than `fit` saw, or labels that are none of the classes.
    """

    def __init__(self, fitted: FittedDetector, data: Data, labels: Any, *, batch_size: int) -> None:
        self._batches = fitted.labelled_inputs(data, labels, batch_size=batch_size)
        self._noise = Noise(fitted.noise or 0.0)
        self._labels: list[Tensor] = []
        self._contents: list[IntArray] = []

    def __iter__(self) -> Iterator[Tensor]:
        seen: dict[bytes, int] = {}
        noisy = self._noise.reading()
        for x, y in self._batches:
            if y is not None:
                self._labels.append(y)
            self._contents.append(exchangeability.content_numbers(x, seen))
            yield noisy(x)

    @property
    def labelled(self) -> bool:
        """Whether the data has labels."""
        return bool(self._labels)

    @property
    def copies(self) -> BoolArray:
        """(N,) whether an earlier input is the same, entry by entry."""
        return exchangeability.repeats(np.concatenate([np.zeros(0, np.int64), *self._contents]))

    def right(self, predicted: IntArray, usable: BoolArray) -> BoolArray:
        """Whether each prediction (N,) is the label, all True without labels; warns where most `usable` are not."""
        if not self.labelled:
            return np.ones(len(predicted), np.bool_)
        right = np.asarray(torch.cat(self._labels).numpy() == predicted)
        wrong = int((usable & ~right).sum())
        if 2 * wrong > usable.sum():
            warn(
                f"{wrong} of {len(right)} inputs count as misclassified: are the labels numbered as the model's "
                "classes are, and of the same set?"
            )
        return right
