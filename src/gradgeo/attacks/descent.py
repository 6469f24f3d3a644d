"""The descent loop that every attack shares; an attack brings the objective, the step and the norm."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradgeo.attacks.norms import Norm
from gradgeo.classifier.wrapper import Classifier
from gradgeo.errors import ModelError
from gradgeo.geometry.jacobian import with_gradient


@dataclass(frozen=True)
class AttackBatch:
    """The inputs of one batch that are still under attack."""

    x: Tensor
    """Clean inputs (n, *input)."""
    classes: Tensor
    """(n,) the class to reach if `targeted`, else the class to leave."""
    targeted: bool
    """Whether `classes` are targets."""
    rows: Tensor
    """(n,) positions of these inputs among all that the caller passed."""

    def succeeded(self, logits: Tensor) -> Tensor:
        """Whether the attack has reached its goal at points with these logits (n, C) -> (n,) bool."""
        return (logits.argmax(1) == self.classes) == self.targeted

    def select(self, rows: Tensor) -> "AttackBatch":
        """The inputs at these positions of the batch."""
        return replace(self, x=self.x[rows], classes=self.classes[rows], rows=self.rows[rows])


Terms = list[tuple[Tensor, Tensor | None]]
"""The terms of a sum as pairs (tensor, cotangent), which autograd takes; None is the cotangent 1 of a scalar."""

Objective = Callable[[Tensor, Tensor, AttackBatch], Terms]
"""(point, logits at the point, batch) -> the terms whose sum over the batch is minimised.

An objective with a further term, an outlier score for instance, returns a longer list.
"""

StepFn = Callable[[Tensor, Tensor, AttackBatch], Tensor]
"""(point, logits at the point, batch) -> the perturbation to add (n, *input), before projection."""


def descend(
    classifier: Classifier,
    batch: AttackBatch,
    start: Tensor,
    *,
    step_fn: StepFn,
    norm: Norm,
    steps: int,
    early_stop: bool = False,
) -> tuple[Tensor, Tensor]:
    """`steps` times: forward pass, step, projection.

    With `early_stop` an input stays at the first point where the attack succeeds, leaves the batch and costs nothing
    more.

    Returns:
        The last point of each input (n, *input), and whether its first step was zero everywhere (n,): there was no
        gradient to follow.
    """
    point, final = start, start.clone()  # (n, *input)
    active = torch.arange(len(start), device=start.device)  # (n,) rows of `final` that are still attacked
    zero_gradient = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    for step in range(steps):
        leaf = point.detach().requires_grad_()
        logits = with_gradient(classifier(leaf.clone()))  # (n, C); the clone lets the model work in place
        unsolved = None
        if early_stop:
            final[active] = point
            unsolved = (~batch.succeeded(logits)).nonzero()[:, 0]  # positions in the batch
            if not len(unsolved):
                break
        delta = step_fn(leaf, logits, batch)
        if step == 0:
            zero_gradient = ~delta.flatten(1).any(1)
        point = norm.project(point + delta, batch.x)
        # The batch shrinks after the step, whose logits were computed for all of it.
        if unsolved is not None and len(unsolved) < len(active):
            active, batch, point = active[unsolved], batch.select(unsolved), point[unsolved]
    else:
        final[active] = point
    return final, zero_gradient


def gradient_of(terms: Terms, point: Tensor, *, retain_graph: bool | None = None, create_graph: bool = False) -> Tensor:
    """The gradient of the sum of all terms at the point (n, *input); NaN entries are replaced by 0."""
    tensors, cotangents = zip(*terms, strict=True)
    try:
        (gradient,) = torch.autograd.grad(tensors, point, cotangents, retain_graph, create_graph, allow_unused=True)
    except RuntimeError as error:
        raise ModelError(f"the model cannot be differentiated: {error}") from error
    if gradient is None:
        raise ModelError("the model's output does not depend on its input, so there is no gradient to follow.")
    return gradient.nan_to_num(0.0)


def steepest(objective: Objective, norm: Norm, step_size: float) -> StepFn:
    """Steps of length `step_size` along the steepest descent of `objective` in `norm`."""

    def step_fn(point: Tensor, logits: Tensor, batch: AttackBatch) -> Tensor:
        gradient = gradient_of(objective(point, logits, batch), point)
        return norm.direction(gradient).mul_(-step_size)

    return step_fn
