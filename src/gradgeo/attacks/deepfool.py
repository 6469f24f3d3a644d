"""The nearest adversarial example: DeepFool's steps to the boundary of the locally linear classifier."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from gradgeo.attacks.descent import Samples, descend, gradient_of
from gradgeo.attacks.norms import Bounds, ball
from gradgeo.attacks.runner import AttackResult, Problem, count
from gradgeo.classifier.wrapper import Model
from gradgeo.errors import expected, public

STEP = 1e-4  # added to each step's length, so that a step at the boundary still crosses it


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
        epsilon: no perturbation grows longer than this; None for no limit.
        steps: at most so many; each input ends at its first success.
        overshoot: by how much each step is longer than the way to the boundary.
        candidates: only the boundaries to the label and the `candidates` - 1 most likely other classes are
            looked at. Towards a target only the strongest class in its way is.

    Returns:
        AttackResult as in `pgd`; `distance` is the L2 norm. An input that is misclassified from the start is
        its own adversarial example at distance 0.

    Cost: per step and input still attacked, 1 forward and `candidates` - 1 backward passes; usually 2 to 5
        steps.

    Raises: as `pgd`.

    Source: Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep neural networks",
        CVPR 2016.
    """
    region = ball("l2", 1.0 if epsilon is None else epsilon, bounds)
    region = replace(region, epsilon=math.inf) if epsilon is None else region
    if isinstance(overshoot, bool) or not isinstance(overshoot, int | float) or not 0 <= overshoot < math.inf:
        raise expected("overshoot", "zero or a positive number", overshoot)
    if count("candidates", candidates) < 2:
        raise expected("candidates", "at least 2", candidates)
    problem = Problem(
        model, x, labels, norm=region, targeted=targeted, targets=targets, generator=generator, batch_size=batch_size
    )
    count("steps", steps)

    def move(point: Tensor, logits: Tensor, samples: Samples) -> Tensor:
        return (1 + overshoot) * _to_boundary(point, logits, samples, candidates - 1)

    def attack(samples: Samples, start: Tensor) -> tuple[Tensor, Tensor]:
        return descend(problem.classifier, samples, start, move=move, norm=region, steps=steps, early_stop=True)

    return problem.solve(attack, random_start=False)


def _to_boundary(point: Tensor, logits: Tensor, samples: Samples, rivals: int) -> Tensor:
    """The step (n, *input) to the nearest linearised boundary; 0 where no gradient leads to any."""
    classes = samples.classes[:, None]
    own, others = logits.gather(1, classes), logits.detach().scatter(1, classes, -torch.inf)
    count = 1 if samples.targeted else min(rivals, logits.shape[1] - 1)
    lead = own - logits.gather(1, others.topk(count, dim=1).indices)  # (n, rivals), to be brought to zero
    step, nearest = torch.zeros_like(point), torch.full_like(own, torch.inf)
    for i in range(count):
        gradient = gradient_of([(lead[:, i].sum(), None)], point, retain_graph=i + 1 < count)
        length = torch.linalg.vector_norm(gradient.flatten(1), dim=1, keepdim=True)
        distance = lead[:, i : i + 1].detach().abs() / length
        nearer = distance < nearest  # not where the gradient is zero or NaN
        nearest = torch.where(nearer, distance, nearest)
        towards = (distance + STEP) / length * (1 if samples.targeted else -1)
        shape = (-1, *[1] * (point.ndim - 1))
        step = torch.where(nearer.view(shape), towards.view(shape) * gradient, step)
    return step
