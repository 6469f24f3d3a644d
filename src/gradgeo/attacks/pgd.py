"""FGSM and PGD: attacks that follow the gradient of the loss within a budget."""

import torch
from torch import Tensor

from gradgeo.attacks.descent import AttackBatch, Objective, descend, steepest
from gradgeo.attacks.losses import class_loss
from gradgeo.attacks.norms import Bounds, Norm, ball
from gradgeo.attacks.runner import Attack, AttackResult, AttackRunner
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.errors import positive_integer, positive_number, public


@public
def fgsm(
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    loss: str = "cross_entropy",
    bounds: Bounds = (0.0, 1.0),
    random_start: bool = False,
    targeted: bool = False,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> AttackResult:
    """The fast gradient sign method: one step of length epsilon along the sign of the gradient ("l2": the gradient).

    Example:
        >>> import torch
        >>> from gradgeo.attacks import fgsm
        >>> model = torch.nn.Linear(4, 3)
        >>> x = torch.rand(5, 4)
        >>> fgsm(model, x, model(x).argmax(1), epsilon=0.1).adversarial.shape
        torch.Size([5, 4])

    Args, returns and errors: as in `pgd`.

    Cost: 3 forward passes and 1 backward pass per input.

    Source: Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015.
    """
    region = ball(norm, epsilon, bounds)
    runner = AttackRunner(
        model, x, labels, norm=region, targeted=targeted, targets=targets, generator=generator, batch_size=batch_size
    )
    attack = descent(runner.classifier, region, class_loss(loss), steps=1, step_size=region.epsilon)
    return runner.run(attack, random_start=random_start)


@public
def pgd(
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    loss: str = "cross_entropy",
    steps: int = 100,
    step_size: float | None = None,
    bounds: Bounds = (0.0, 1.0),
    random_start: bool = True,
    restarts: int = 1,
    early_stop: bool = False,
    targeted: bool = False,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> AttackResult:
    """Projected gradient descent: steepest steps on the loss, each projected back into budget and bounds.

    Example:
        >>> import torch
        >>> from gradgeo.attacks import pgd
        >>> model = torch.nn.Linear(4, 3)
        >>> x = torch.rand(5, 4)
        >>> result = pgd(model, x, model(x).argmax(1), epsilon=0.1, steps=10)
        >>> bool((result.distance <= 0.1).all())
        True

    Args:
        model: a classifier returning logits (N, C), as in `saliency_maps`; never changed.
        x: inputs (N, *any), floating point, within `bounds`.
        labels: (N,) true classes.
        epsilon: the budget |adversarial - x| <= epsilon, in input units.
        norm: "linf", the largest change of any entry, or "l2", the Euclidean length of the change.
        loss: "cross_entropy"; "mse", the mean squared error between probabilities and one-hot; "margin", the
            lead of the best other class.
        steps: gradient steps.
        step_size: length of a step in the norm; default epsilon / 4, as in Schwinn et al. 2021.
        bounds: (low, high) of every entry of the input space; None for unbounded signals.
        random_start: start at a uniform point of the ball instead of at x.
        restarts: how often to start, each time on the inputs where the attack has not succeeded yet.
        early_stop: stop each input at its first success: nearer to x and cheaper, but less confident than the
            last step would be.
        targeted: aim at a random class other than the label, instead of at any other class.
        targets: (N,) the classes to aim at; implies `targeted`.
        generator: draws targets and starts. None: the same draws in every call.
        batch_size: inputs in one forward pass; default 128.

    Returns:
        AttackResult: adversarial, success, distance, masked, targets.

    Cost: `steps` forward and backward passes per input and restart, and 2 more forward passes; memory for one
    batch. `early_stop` reads one number off the device per step.

    Raises:
        ArgumentError: epsilon is not positive or larger than the bounds allow, `x` is outside the bounds, a
            target is the label, or another argument is not as described. ModelError: as `saliency_maps`.

    The gradients of cross-entropy and mse are scaled to unit size at the logits (see `saliency_maps`), so that a
    confident prediction does not mask them. Inputs whose gradient is zero nevertheless are flagged as `masked`,
    with one warning.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
    """
    region = ball(norm, epsilon, bounds)
    runner = AttackRunner(
        model, x, labels, norm=region, targeted=targeted, targets=targets, generator=generator, batch_size=batch_size
    )
    attack = descent(runner.classifier, region, class_loss(loss), steps, step_size, early_stop=early_stop)
    return runner.run(attack, random_start=random_start, restarts=restarts)


def descent(
    classifier: Classifier,
    norm: Norm,
    objective: Objective,
    steps: int,
    step_size: float | None,
    *,
    early_stop: bool = False,
) -> Attack:
    """Steepest descent of `objective` in `norm`, with checked options; see `pgd` for them."""
    step_fn = steepest(objective, norm, checked_step_size(step_size, norm))
    positive_integer("steps", steps)

    def attack(batch: AttackBatch, start: Tensor) -> tuple[Tensor, Tensor]:
        return descend(classifier, batch, start, step_fn=step_fn, norm=norm, steps=steps, early_stop=early_stop)

    return attack


def checked_step_size(step_size: float | None, norm: Norm) -> float:
    """The length of a step: epsilon / 4 unless `step_size` says otherwise, as in Schwinn et al. 2021."""
    return norm.epsilon / 4 if step_size is None else positive_number("step_size", step_size)
