"""The descent loop that every attack runs on; what is descended, how far and within what are its holes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradgeo.attacks.norms import Norm
from gradgeo.classifier import Classifier
from gradgeo.errors import ModelError


@dataclass(frozen=True)
class Samples:
    """The samples of one batch that are still under attack."""

    x: Tensor
    """Clean inputs (n, *input)."""
    classes: Tensor
    """(n,) the class each is to reach if `targeted`, else the class it is to leave."""
    targeted: bool

    def reached(self, logits: Tensor) -> Tensor:
        """Whether each sample is where the attack wants it (n,)."""
        return (logits.argmax(1) == self.classes) == self.targeted

    def take(self, rows: Tensor) -> "Samples":
        """Some of the samples."""
        return replace(self, x=self.x[rows], classes=self.classes[rows])


Objective = Callable[[Tensor, Tensor, Samples], Tensor]
"""(point, logits at it, samples) -> (n,): what is descended. Only its gradient is used, never its value.

Objectives add up: a further term (an outlier score under a multiplier, say) is a further summand.
"""

Move = Callable[[Tensor, Tensor, Samples], Tensor]
"""(point, logits at it, samples) -> the perturbation to add (n, *input), before projection."""


def descend(
    classifier: Classifier,
    samples: Samples,
    start: Tensor,
    *,
    move: Move,
    norm: Norm,
    steps: int,
    early_stop: bool = False,
) -> tuple[Tensor, Tensor]:
    """Forward, move, project: `steps` times.

    With `early_stop` a sample stays where it first reaches its goal, leaves the batch and costs nothing more.

    Returns:
        The last point of each sample (n, *input), and whether its first move was zero everywhere (n,): there
        was no gradient to follow.
    """
    point, final = start, start.clone()
    left = torch.arange(len(start), device=start.device)
    masked = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    for step in range(steps):
        leaf = point.detach().requires_grad_()
        logits = classifier(leaf.clone())  # the clone lets the model work in place
        going = None
        if early_stop:
            final[left] = point
            going = (~samples.reached(logits)).nonzero()[:, 0]
            if not len(going):
                break
        delta = move(leaf, logits, samples)
        if step == 0:
            masked = ~delta.flatten(1).any(1)
        point = norm.project(point + delta, samples.x)
        if going is not None and len(going) < len(left):
            left, samples, point = left[going], samples.take(going), point[going]
    else:
        final[left] = point
    return final, masked


def gradient_of(objective: Tensor, point: Tensor, *, retain_graph: bool = False) -> Tensor:
    """The gradient of each sample's objective (n,) at its point; entries that are NaN count as zero."""
    (gradient,) = torch.autograd.grad(objective.sum(), point, retain_graph=retain_graph, allow_unused=True)
    if gradient is None:
        raise ModelError("the model's output does not depend on its input, so there is no gradient to follow.")
    return gradient.nan_to_num(0.0)


def steepest(objective: Objective, norm: Norm, step_size: float) -> Move:
    """Steps of length `step_size` in the norm's own steepest descent."""

    def move(point: Tensor, logits: Tensor, samples: Samples) -> Tensor:
        gradient = gradient_of(objective(point, logits, samples), point)
        return norm.direction(gradient).mul_(-step_size)

    return move
