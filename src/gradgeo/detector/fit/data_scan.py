"""The first reading of the data that `fit` is given: by forward passes alone, what each input is worth."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.classifier import fingerprint
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.detector.fit import exchangeability
from gradgeo.detector.fit.data_record import DataRecord
from gradgeo.detector.fit.narration import SILENT, FitObserver, doubts
from gradgeo.detector.inputs import Data, batches, size_of, within_classes
from gradgeo.detector.noise import NO_NOISE, Noise
from gradgeo.errors import UnusableInputWarning, expected, warn


@dataclass(frozen=True)
class DataScan:
    """What one forward pass over the data shows of each input (N,), and of all."""

    input_shape: tuple[int, ...]
    """Of one input."""
    num_classes: int
    """C, of the model."""
    first_usable: Tensor
    """(1, *input), or (0, *input) where no input is usable."""
    probability: Array
    """(N,), of the predicted class."""
    margin: Array
    """(N,), the largest less the second logit."""
    usable: BoolArray
    """(N,), whether input and logits are finite."""
    correct: BoolArray
    """(N,), whether the predicted class is the label; all True without labels."""
    content: IntArray
    """(N,), the same number for inputs that are the same, entry by entry."""
    model_fingerprint: dict[str, Any]
    """Of the model, by which a later change of it is noticed."""
    predicted: IntArray
    """(N,) the predicted class."""
    labels: IntArray | None
    """(N,) the true one; None without labels."""
    low: float
    high: float
    """The least and the largest finite value of the inputs."""
    record: dict[str, Any]
    """What is written down of the data, see `DataRecord`."""

    @property
    def labelled(self) -> int | None:
        """How many usable inputs have a label; None without labels."""
        return None if self.labels is None else int(self.usable.sum())

    @property
    def right(self) -> int:
        """How many of them are predicted as that."""
        return int((self.usable & self.correct).sum())

    @property
    def copy(self) -> BoolArray:
        """Whether an earlier input that is usable and correct is the same (N,), of those that are."""
        good = self.usable & self.correct
        found = np.zeros_like(good)
        found[good] = exchangeability.repeats(self.content[good])
        return found

    @property
    def trusted(self) -> BoolArray:
        """Which inputs a detector may be fitted on (N,)."""
        return self.usable & self.correct & ~self.copy

    @property
    def unusable(self) -> int:
        """How many inputs have NaN or infinite values or logits."""
        return int((~self.usable).sum())

    @property
    def misclassified(self) -> int:
        """How many of the others have another label than is predicted."""
        return int((self.usable & ~self.correct).sum())

    @property
    def copies(self) -> int:
        """How many trusted inputs are left out because they repeat another."""
        return int(self.copy.sum())

    @property
    def exclusion_reason(self) -> str:
        """Why inputs are not trusted, with the counts."""
        copies = f", {self.copies} copies of others" if self.copies else ""
        return f"{self.misclassified} are misclassified, {self.unusable} unusable{copies}"

    def warn_if_unusable(self) -> None:
        """Warn of inputs that are left out, of copies, and of labels that look as if numbered otherwise."""
        if self.unusable:
            warn(
                f"{self.unusable} of {len(self.usable)} inputs have NaN or infinite values or logits and are left out.",
                UnusableInputWarning,
            )
        if self.copies:
            warn(
                f"{self.copies} of {len(self.usable)} inputs are copies of others and count once. Copies on both sides "
                "of the split would void the false-alarm rate, and near-copies, which cannot be seen, still do: give "
                "each input once, before augmentation, and pass together= for frames of one video or images of one "
                "patient."
            )
        doubt = doubts(self)
        if self.misclassified > self.trusted.sum() + self.copies:
            warn(
                f"{self.misclassified} of {len(self.usable)} inputs count as misclassified: are the labels numbered as "
                f"the model's classes are? {doubt or ''}".rstrip()
            )
        elif doubt is not None:
            warn(doubt)


def scan(
    model: Model,
    data: Data,
    labels: Any,
    *,
    batch_size: int,
    noise: Noise = NO_NOISE,
    observer: FitObserver = SILENT,
) -> DataScan:
    """Read `data` once, by forward passes alone, with `noise`; copies and ranges are those of the inputs without it.

    Raises: ArgumentError for no input, inputs of differing shape, labels that are none of the classes, or noise that
        says nothing: wider than the inputs' range, or for a model that draws random numbers itself.
    """
    classifier, noisy = Classifier.of(model), noise.reading()
    shape: tuple[int, ...] | None = None
    rows, content, true, seen_rows, ranges, record = [], [], [], dict[bytes, int](), [], DataRecord()
    with observer.stage("reading", size_of(data)) as advance:
        for x, y in batches(data, labels, batch_size=batch_size):
            if shape is None:
                shape, first = tuple(x.shape[1:]), x[:0]
            if tuple(x.shape[1:]) != shape:
                raise expected("every input", f"of the same shape {shape}", x)
            record.add(x, y)
            seen = classifier.logits(noisy(x))
            noise.refuse_draws(classifier.draws)
            logits, usable = seen.logits.cpu(), seen.usable.cpu()  # (n, C), (n,)
            within_classes(y, logits.shape[1])
            if not len(first) and bool(usable.any()):
                first = x[usable.to(x.device)][:1]
            predicted = logits.argmax(1)
            correct = torch.ones_like(usable) if y is None else predicted == y
            top = logits.double().topk(2, dim=1).values  # (n, 2)
            rows.append((logits.double().softmax(1).amax(1), top[:, 0] - top[:, 1], usable, correct, predicted))
            true.append(y)
            content.append(exchangeability.content_numbers(x, seen_rows))
            finite = x[usable.to(x.device)]
            ranges += [(float(finite.min()), float(finite.max()))] if finite.numel() else []
            num_classes = logits.shape[1]
            advance(len(x))
    if shape is None:
        raise expected("data", "at least one input", "none")
    low, high = min((low for low, _ in ranges), default=np.nan), max((high for _, high in ranges), default=np.nan)
    noise.refuse_wider_than(high - low)
    identity = fingerprint.of(model, shape)
    probability, margin, usable_rows, correct_rows, predicted_rows = (
        torch.cat(column).numpy() for column in zip(*rows, strict=True)
    )
    return DataScan(
        input_shape=shape,
        num_classes=num_classes,
        first_usable=first,
        probability=probability,
        margin=margin,
        usable=usable_rows,
        correct=correct_rows,
        content=np.concatenate(content),
        model_fingerprint=identity,
        predicted=predicted_rows,
        labels=torch.cat([y for y in true if y is not None]).numpy() if true[0] is not None else None,
        low=low,
        high=high,
        record=record.as_dict(),
    )
