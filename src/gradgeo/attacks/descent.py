"""The descent loop that every attack runs on; what is descended, how far and within what are its holes."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradgeo.attacks.norms import Norm
from gradgeo.classifier.wrapper import Classifier
from gradgeo.errors import ModelError
from gradgeo.geometry.jacobian import with_gradient


@dataclass(frozen=True)
class Samples:
    """The samples of one batch that are still under attack."""

    x: Tensor
    """Clean inputs (n, *input)."""
    classes: Tensor
    """(n,) the class each is to reach if `targeted`, else the class it is to leave."""
    targeted: bool
    rows: Tensor
    """(n,) which of the caller's inputs these are."""

    def reached(self, logits: Tensor) -> Tensor:
        """Whether each sample is where the attack wants it (n,)."""
        return (logits.argmax(1) == self.classes) == self.targeted

    def take(self, rows: Tensor) -> "Samples":
        """Some of the samples."""
        return replace(self, x=self.x[rows], classes=self.classes[rows], rows=self.rows[rows])


Terms = list[tuple[Tensor, Tensor | None]]
"""A sum that is differentiated, never evaluated: tensors, each with its cotangent; None for a scalar's, which is 1."""

Objective = Callable[[Tensor, Tensor, Samples], Terms]
"""(point, logits at it, samples) -> what is descended, summed over the samples.

Objectives add up: a further term (an outlier score under a multiplier, say) is a further entry.
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
        logits = with_gradient(classifier(leaf.clone()))  # the clone lets the model work in place
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


def gradient_of(terms: Terms, point: Tensor, *, retain_graph: bool | None = None, create_graph: bool = False) -> Tensor:
    """The gradient of the sum of all terms at the point; entries that are NaN count as zero."""
    tensors, cotangents = zip(*terms, strict=True)
    try:
        (gradient,) = torch.autograd.grad(tensors, point, cotangents, retain_graph, create_graph, allow_unused=True)
    except RuntimeError as error:
        raise ModelError(f"the model cannot be differentiated: {error}") from error
    if gradient is None:
        raise ModelError("the model's output does not depend on its input, so there is no gradient to follow.")
    return gradient.nan_to_num(0.0)


def steepest(objective: Objective, norm: Norm, step_size: float) -> Move:
    """Steps of length `step_size` in the norm's own steepest descent."""

    def move(point: Tensor, logits: Tensor, samples: Samples) -> Tensor:
        gradient = gradient_of(objective(point, logits, samples), point)
        return norm.direction(gradient).mul_(-step_size)

    return move
