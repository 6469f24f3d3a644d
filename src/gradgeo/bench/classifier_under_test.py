"""A classifier under test: the model, test inputs it was not trained on, and the budgets of its attacks."""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from gradgeo.bench.cache import CHUNK
from gradgeo.classifier.wrapper import Classifier
from gradgeo.detector.fit.fitting import typical_temperature


@dataclass(frozen=True)
class ClassifierUnderTest:
    """A classifier with labelled test inputs: the first `half` to fit detectors on, the rest to report on."""

    name: str
    """As the page calls it."""
    model: nn.Module
    """In eval mode."""
    x: Tensor
    """Inputs (N, *input)."""
    y: Tensor
    """Their classes (N,); -1 where unknown."""
    half: int
    """How many of them detectors are fitted on."""
    budgets: tuple[float, ...] = (8 / 255, 2 / 255, 1 / 255)
    """Of L-inf attacks, the largest first."""
    bounds: tuple[float, float] | None = (0.0, 1.0)
    """Of the input space; None where it has none."""
    split: int = 0
    """0: detectors are fitted on the whole first half; else on a random half of it, by this seed."""
    channel_axis: int = 1
    """The axis of a batch that is no position: 2 for embedded text (N, positions, width)."""

    @cached_property
    def logits(self) -> Tensor:
        """Of all inputs (N, C)."""
        return logits_of(self.model, self.x)

    @cached_property
    def temperature(self) -> float:
        """The temperature that a detector fitted on the trusted inputs of the first half would choose."""
        margins = self.margin[: self.half][self.correct[: self.half]]
        return typical_temperature(margins.double().numpy())

    @cached_property
    def folded(self) -> nn.Module:
        """A copy for attacks, faster and the same up to rounding: batch norms inside convolutions, channels last."""
        model = copy.deepcopy(self.model).eval()
        try:
            return fuse(model).to(memory_format=torch.channels_last)
        except Exception:  # torch.fx cannot trace every model, and raises many kinds of error
            return model

    @property
    def correct(self) -> Tensor:
        """Which inputs are classified correctly (N,); those without a label count as such."""
        return (self.logits.argmax(1) == self.y) | (self.y < 0)

    @property
    def margin(self) -> Tensor:
        """Largest minus second logit (N,)."""
        return -self.logits.topk(2, dim=1).values.diff(dim=1)[:, 0]

    @property
    def trusted(self) -> Tensor:
        """The correctly classified inputs of the first half, which detectors are fitted on."""
        return self.x[self._fitted_on]

    @property
    def trusted_classes(self) -> Tensor:
        """The predicted classes of `trusted`, which are its labels, also where there are none."""
        return self.logits[self._fitted_on].argmax(1)

    @cached_property
    def with_mistakes(self) -> tuple[Tensor, Tensor]:
        """`trusted` and, behind them, the inputs of the first half that are misclassified, with all their labels (n,):
        what a user fits a detector of ours on. Peers have no use for mistakes."""
        wrong = (~self.correct[: self.half]).nonzero()[:, 0]
        rows = torch.cat([self._fitted_on, self._kept_of_split(wrong)[0]])
        return self.x[rows], torch.cat([self.trusted_classes, self.y[rows[len(self._fitted_on) :]]])

    def refitted(self, split: int) -> "ClassifierUnderTest":
        """The same with detectors fitted on another half of the first half; what does not depend on it is kept."""
        other = copy.copy(self)
        vars(other).pop("with_mistakes", None)
        object.__setattr__(other, "split", split)
        return other

    @property
    def held_out(self) -> Tensor:
        """The correctly classified inputs of the first half that detectors are not fitted on: none but for a split."""
        return self.x[self._shared_out[1]]

    @property
    def _fitted_on(self) -> Tensor:
        """The indices (n,) of `trusted`."""
        return self._shared_out[0]

    @property
    def _shared_out(self) -> tuple[Tensor, Tensor]:
        """The indices of `trusted` and of `held_out`."""
        return self._kept_of_split(self.correct[: self.half].nonzero()[:, 0])

    def _kept_of_split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The `rows` that the split fits on, and the others."""
        if not self.split:
            return rows, rows[:0]
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.split))
        return rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (N, C)."""
    classifier = Classifier(model)
    return torch.cat([classifier.logits(part).logits for part in torch.split(x, CHUNK)])


def predicted_classes(model: nn.Module, x: Tensor) -> Tensor:
    """Predicted classes (N,)."""
    return logits_of(model, x).argmax(1)
