"""DeepFool: a small perturbation by steps to the nearest boundary of the linearised classifier."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from gradgeo.attacks.descent import AttackBatch, descend, gradient_of
from gradgeo.attacks.norms import Bounds, ball, per_input
from gradgeo.attacks.runner import AttackResult, AttackRunner
from gradgeo.classifier.wrapper import Model
from gradgeo.errors import expected, is_finite, positive_integer, public

MARGIN = 1e-4
"""Added to the length of each step, so that a point on the boundary still crosses it."""


@public
def minimum_norm(
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    epsilon: float | None = None,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    bounds: Bounds = (0.0, 1.0),
    targeted: bool = False,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> AttackResult:
    """A small L2 perturbation that changes the prediction (DeepFool).

    Each step goes to the nearest boundary of the classifier linearised at the current point: over classes k,
    the one with the smallest |z_k - z_label| / |grad z_k - grad z_label|.

    Example:
        >>> import torch
        >>> from gradgeo.attacks import minimum_norm
        >>> model = torch.nn.Linear(4, 3)
        >>> x = torch.rand(5, 4)
        >>> minimum_norm(model, x, model(x).argmax(1), bounds=None).success
        tensor([True, True, True, True, True])

    Args: as in `pgd`, and
        epsilon: the largest length of a perturbation; None for no limit.
        steps: the largest number of steps; each input ends at its first success.
        overshoot: by what share each step is longer than the distance to the boundary.
        candidates: only the boundaries between the label and the `candidates` - 1 most likely other classes are
            considered. With a target, only the boundary between it and the most likely other class.

    Returns:
        AttackResult as in `pgd`; `distance` is the L2 norm. An input that is misclassified already is its own
        adversarial example at distance 0.

    Cost: per step and input still attacked, 1 forward and `candidates` - 1 backward passes; usually 2 to 5
        steps.

    Raises: as `pgd`.

    Source: Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep neural networks",
        CVPR 2016.
    """
    region = ball("l2", 1.0 if epsilon is None else epsilon, bounds)
    region = replace(region, epsilon=math.inf) if epsilon is None else region
    if not is_finite(overshoot) or overshoot < 0:
        raise expected("overshoot", "zero or a positive number", overshoot)
    if positive_integer("candidates", candidates) < 2:
        raise expected("candidates", "at least 2", candidates)
    runner = AttackRunner(
        model, x, labels, norm=region, targeted=targeted, targets=targets, generator=generator, batch_size=batch_size
    )
    positive_integer("steps", steps)

    def step_fn(point: Tensor, logits: Tensor, batch: AttackBatch) -> Tensor:
        return (1 + overshoot) * _to_boundary(point, logits, batch, candidates - 1)

    def attack(batch: AttackBatch, start: Tensor) -> tuple[Tensor, Tensor]:
        return descend(runner.classifier, batch, start, step_fn=step_fn, norm=region, steps=steps, early_stop=True)

    return runner.run(attack, random_start=False)


def _to_boundary(point: Tensor, logits: Tensor, batch: AttackBatch, rivals: int) -> Tensor:
    """The step (n, *input) to the nearest linearised boundary; 0 where no rival's gradient differs from the class's."""
    classes = batch.classes[:, None]  # (n, 1)
    own, others = logits.gather(1, classes), logits.detach().scatter(1, classes, -torch.inf)
    rivals = 1 if batch.targeted else min(rivals, logits.shape[1] - 1)
    lead = own - logits.gather(1, others.topk(rivals, dim=1).indices)  # (n, rivals), zero on each boundary
    step, nearest = torch.zeros_like(point), torch.full_like(own, torch.inf)
    for i in range(rivals):
        gradient = gradient_of([(lead[:, i].sum(), None)], point, retain_graph=i + 1 < rivals)  # (n, *input)
        slope = torch.linalg.vector_norm(gradient.flatten(1), dim=1, keepdim=True)  # (n, 1)
        distance = lead[:, i : i + 1].detach().abs() / slope  # first order: lead / |grad lead|
        nearer = distance < nearest  # False where the gradient is zero: inf or NaN
        nearest = torch.where(nearer, distance, nearest)
        # distance * gradient / |gradient|, up the lead of a target and down that of a label.
        factor = (distance + MARGIN) / slope * (1 if batch.targeted else -1)
        step = torch.where(per_input(nearer, point), per_input(factor, point) * gradient, step)
    return step
