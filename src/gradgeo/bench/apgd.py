"""An ensemble of automatic projected gradient descents like AutoAttack, at a cost that a benchmark can bear."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradgeo.attacks import AttackResult
from gradgeo.attacks.descent import AttackBatch, gradient_of
from gradgeo.attacks.norms import Bounds, Norm, ball, per_input
from gradgeo.attacks.runner import AttackRunner
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.geometry.jacobian import with_gradient

STEPS = 30
"""Of each attack of the ensemble; AutoAttack has 100."""

MOMENTUM, RISES = 0.75, 0.75
"""The paper's alpha and rho."""

TINY = 1e-12

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (n, C), classes (n,), logits at the clean inputs (n, C)) -> what is maximised (n,)."""


def apgd_ensemble(
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int = STEPS,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> AttackResult:
    """The first success among APGD on the cross-entropy, on the DLR loss, and on that towards the 3 likeliest others.

    AutoAttack has 9 targets, 100 steps, and two attacks more: FAB and Square.

    Args: as in `pgd`, untargeted, in the L-inf norm.

    Cost: `steps` forward and backward passes per input for each attack that it takes to succeed; 5 where all fail.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020: algorithm 1, equations 6 and 7.
    """
    region = ball("linf", epsilon, bounds)
    outcome = _outcome(model, x, labels, region, cross_entropy, steps, generator)
    for loss in (dlr, *(_towards(rank) for rank in range(3))):
        rows = (~outcome.success).nonzero()[:, 0]
        if not len(rows):
            break
        found = _outcome(model, x[rows], labels[rows], region, loss, steps, generator)
        for name in ("adversarial", "success", "distance"):
            getattr(outcome, name)[rows] = getattr(found, name)
    return outcome


def _outcome(
    model: Model, x: Tensor, labels: Tensor, norm: Norm, loss: Loss, steps: int, generator: torch.Generator | None
) -> AttackResult:
    """Of one attack of the ensemble, in tensors of its own."""
    options: dict[str, Any] = {"norm": norm, "targeted": False, "targets": None, "batch_size": None}
    runner = AttackRunner(model, x, labels, generator=generator, **options)
    found = runner.run(_attack(runner.classifier, norm, loss, steps), random_start=True)
    return AttackResult(
        found.adversarial.clone(), found.success.clone(), found.distance.clone(), found.masked.clone(), None
    )


def cross_entropy(logits: Tensor, classes: Tensor, clean: Tensor) -> Tensor:
    """log(1 / p - 1), which rises with the cross-entropy and does not underflow where p is near 1."""
    own = classes[:, None]
    return logits.scatter(1, own, -torch.inf).logsumexp(1) - logits.gather(1, own)[:, 0]


def dlr(logits: Tensor, classes: Tensor, clean: Tensor) -> Tensor:
    """The difference of logits ratio: the lead of the best other class over that of the first on the third."""
    own, order = classes[:, None], logits.sort(1, descending=True).values
    lead = logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own)[:, 0]
    return lead / (order[:, 0] - order[:, min(2, logits.shape[1] - 1)] + TINY)


def _towards(rank: int) -> Loss:
    """The DLR loss of the class that is the `rank`-th likeliest of the others at the clean input."""

    def loss(logits: Tensor, classes: Tensor, clean: Tensor) -> Tensor:
        own, order = classes[:, None], logits.sort(1, descending=True).values
        others = clean.scatter(1, own, -torch.inf).argsort(1, descending=True)
        target = others[:, min(rank, clean.shape[1] - 2)][:, None]
        last = logits.shape[1] - 1
        span = order[:, 0] - (order[:, min(2, last)] + order[:, min(3, last)]) / 2
        return (logits.gather(1, target) - logits.gather(1, own))[:, 0] / (span + TINY)

    return loss


def _attack(
    classifier: Classifier, norm: Norm, loss: Loss, steps: int
) -> Callable[[AttackBatch, Tensor], tuple[Tensor, Tensor]]:
    """Algorithm 1 on a batch: the point of the highest loss, and whether the first gradient was zero."""

    def attack(batch: AttackBatch, start: Tensor) -> tuple[Tensor, Tensor]:
        clean = classifier.logits(batch.x).logits

        def at(point: Tensor) -> tuple[Tensor, Tensor]:
            leaf = point.detach().requires_grad_()
            values = loss(with_gradient(classifier(leaf.clone())), batch.classes, clean)  # (n,)
            return values.detach(), gradient_of([(values.sum(), None)], leaf)

        point = previous = start
        value, gradient = at(point)
        zero_gradient = ~gradient.flatten(1).any(1)
        best, best_value, best_gradient = point, value, gradient
        size = torch.full_like(value, 2 * norm.epsilon)  # (n,)
        rises, reduced, then, checked = torch.zeros_like(value), torch.ones_like(value).bool(), value, 0
        checks = checkpoints(steps)
        for step in range(1, steps + 1):
            ahead = norm.project(point + per_input(size, point) * norm.direction(gradient), batch.x)
            alpha = 1.0 if step == 1 else MOMENTUM
            moved = norm.project(point + alpha * (ahead - point) + (1 - alpha) * (point - previous), batch.x)
            previous, point, last = point, moved, value
            value, gradient = at(point)
            rises += value > last
            better = value > best_value
            best_value = torch.where(better, value, best_value)
            best, best_gradient = _where(better, point, best), _where(better, gradient, best_gradient)
            if step in checks:
                stuck = (rises < RISES * (step - checked)) | (~reduced & (then >= best_value))
                reduced, then, checked, rises = stuck, best_value, step, torch.zeros_like(rises)
                size, value = torch.where(stuck, size / 2, size), torch.where(stuck, best_value, value)
                point, previous = _where(stuck, best, point), _where(stuck, best, previous)
                gradient = _where(stuck, best_gradient, gradient)
        return best, zero_gradient

    return attack


def _where(rows: Tensor, values: Tensor, others: Tensor) -> Tensor:
    return torch.where(per_input(rows, values), values, others)


def checkpoints(steps: int) -> list[int]:
    """The steps at which the size may be halved, at shares p_0 = 0, p_1 = .22, p_(j+1) = p_j + max(p_j - p_(j-1) -
    .03, .06) of all."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return [math.ceil(round(share * steps, 6)) for share in shares[1:-1]]  # .41 * 100 is a little more than 41
