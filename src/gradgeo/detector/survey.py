"""The first look at the data of a fit, by forward passes alone: what is predicted, and which inputs can be trusted."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gradgeo._typing import Array, BoolArray
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.detector.inputs import Data, batches
from gradgeo.errors import UnusableInputWarning, expected, warn


@dataclass(frozen=True)
class DataScan:
    """What one forward pass over the data tells of each input (N,), and of all."""

    input_shape: tuple[int, ...]
    num_classes: int
    first_usable: Tensor  # (1, *input), or none
    probability: Array
    margin: Array
    usable: BoolArray
    correct: BoolArray  # all, where there are no labels

    @property
    def trusted(self) -> BoolArray:
        """Which inputs a detector may learn from."""
        return self.usable & self.correct

    @property
    def unusable(self) -> int:
        """How many inputs have NaN or infinite values or logits."""
        return int((~self.usable).sum())

    @property
    def misclassified(self) -> int:
        """How many of the others have another label than is predicted."""
        return int((self.usable & ~self.correct).sum())

    @property
    def lost(self) -> str:
        """Why inputs are not trusted, with the counts."""
        return f"{self.misclassified} are misclassified, {self.unusable} unusable"

    def told(self) -> None:
        """Warn of what is left out."""
        if self.unusable:
            warn(
                f"{self.unusable} of {len(self.usable)} inputs have NaN or infinite values or logits and are left out.",
                UnusableInputWarning,
            )
        if self.misclassified > self.trusted.sum():
            warn(
                f"{self.misclassified} of {len(self.usable)} inputs count as misclassified: are the labels numbered as "
                "the model's classes are?"
            )

    @classmethod
    def of(cls, model: Model, data: Data, labels: Any, *, batch_size: int) -> Self:
        """Read `data` once."""
        classifier = Classifier.of(model)
        shape: tuple[int, ...] | None = None
        rows = []
        for x, y in batches(data, labels, batch_size=batch_size):
            if shape is None:
                shape, first = tuple(x.shape[1:]), x[:0]
            if tuple(x.shape[1:]) != shape:
                raise expected("every input", f"of the same shape {shape}", x)
            judged = classifier.logits(x)
            logits, usable = judged.logits.cpu(), judged.usable.cpu()
            if y is not None and len(y) and not (int(y.min()) >= 0 and int(y.max()) < logits.shape[1]):
                raise expected("labels", f"within 0..{logits.shape[1] - 1}", f"{int(y.min())}..{int(y.max())}")
            if not len(first) and bool(usable.any()):
                first = x[usable.to(x.device)][:1]
            correct = torch.ones_like(usable) if y is None else logits.argmax(1) == y
            top = logits.double().topk(2, dim=1).values
            rows.append((logits.double().softmax(1).amax(1), top[:, 0] - top[:, 1], usable, correct))
            num_classes = logits.shape[1]
        if shape is None:
            raise expected("data", "at least one input", "none")
        columns = (torch.cat(column).numpy() for column in zip(*rows, strict=True))
        return cls(shape, num_classes, first, *columns)


def first_of(batched: Iterable[tuple[Tensor, Tensor | None]], count: int) -> Iterator[tuple[Tensor, None]]:
    """No more than `count` inputs."""
    for x, _ in batched:
        yield x[:count], None
        count -= len(x)
        if count <= 0:
            return


def rows_of(batched: Iterable[tuple[Tensor, Tensor | None]], kept: BoolArray) -> Iterator[Tensor]:
    """The inputs whose position is `kept`."""
    start = 0
    for x, _ in batched:
        part = kept[start : start + len(x)]
        if len(part) < len(x):
            raise expected("data", "the same at both readings", "more inputs at the second")
        start += len(x)
        if part.any():
            yield x[torch.from_numpy(part).to(x.device)]
