"""Evasion: an attack on a model and its detector at once, for a wrong prediction that is trusted."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradgeo.attacks.descent import AttackBatch, descend, gradient_of
from gradgeo.attacks.losses import class_loss
from gradgeo.attacks.norms import NORMS, Bounds, ball, per_input
from gradgeo.attacks.pgd import checked_step_size
from gradgeo.attacks.runner import AttackResult, AttackRunner, seeded
from gradgeo.detector.detector import Detector
from gradgeo.detector.noise import Noise
from gradgeo.errors import choice, positive_integer, public
from gradgeo.geometry.jacobian import with_gradient

BATCH = 32
"""Inputs in one pass unless `batch_size` says otherwise: the graphs of all their maps are in memory at once."""

PROBE = 1e-2
"""Size of a finite difference of the estimated gradient, as a share of epsilon."""

LEFT = 0.5
"""A gradient is followed whole where less than this share of it is orthogonal to the other: the rest is no direction to
rely on, and where the score is that of the confidence there is none at all."""

_UNIT = NORMS["l2"](1.0, None)


@public
def evasion(
    detector: Detector,
    x: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str = "linf",
    loss: str = "margin",
    steps: int = 100,
    step_size: float | None = None,
    gradient: str = "exact",
    draws: int = 1,
    bounds: Bounds = (0.0, 1.0),
    random_start: bool = True,
    restarts: int = 1,
    targeted: bool = False,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> AttackResult:
    """Orthogonal projected gradient descent against a fitted detector and its model at once.

    A step on an input that is not misclassified yet follows the gradient of the classification loss without its
    component along the gradient of the outlier score; a step on one that is misclassified follows the gradient of the
    score without its component along that of the loss. Where the two are nearly parallel, as for a score that is the
    classifier's confidence, it follows the whole gradient. The result is the misclassified point with the lowest score;
    against a detector with noise the last point, for single draws say little of a point.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
        >>> x = torch.rand(100, 8)
        >>> detector = gradgeo.Detector(model).fit(x)
        >>> gradgeo.attacks.evasion(detector, x[:2], model(x[:2]).argmax(1), epsilon=0.2, steps=3).adversarial.shape
        torch.Size([2, 8])

    Args: as in `pgd`, and
        detector: fitted; its model is attacked too.
        gradient: how the gradient of the outlier score is computed. "exact": by autograd, with the surrogates of
            `Detector.differentiable_score` for signs and ReLUs. "estimated": by finite differences along `draws` random
            directions, which works for evidence that cannot be differentiated.
        draws: number of steps that are averaged: more than 1 for a detector with `noise`, each then at another draw of
            it (expectation over transformation, Athalye et al. 2018) and by what the model says there; without noise
            the number of directions of an estimated gradient.

    Returns: AttackResult as in `pgd`; `success` says that the prediction changed, and
    `detector.predict(result.adversarial).trusted` whether the detector is evaded as well.

    Cost: per step and input, one verdict (none with noise), and per draw about 3 K backward passes ("exact") or two
    more verdicts ("estimated").

    Raises: as `pgd`; NotFittedError.

    Source: Bryniarski et al., "Evading adversarial example detection defenses with orthogonal projected gradient
    descent", ICLR 2022; the estimate is Spall's simultaneous perturbation, 1992.
    """
    region = ball(norm, epsilon, bounds)
    choice("gradient", gradient, ("exact", "estimated"))
    positive_integer("draws", draws)
    positive_integer("steps", steps)
    length = checked_step_size(step_size, region)
    runner = AttackRunner(
        detector.model,
        x,
        labels,
        norm=region,
        targeted=targeted,
        targets=targets,
        generator=generator,
        batch_size=BATCH if batch_size is None else batch_size,
    )
    loss_fn = class_loss(loss)
    probes = generator or seeded()
    noisy = Noise(detector.noise_ or 0.0, seed=probes.initial_seed() % (1 << 63)).reading()
    queries = 1 if detector.noise_ is None else draws
    if gradient == "exact":
        score_gradient = _exact(detector)
    else:
        score_gradient = _estimated(detector, PROBE * region.epsilon, draws // queries, probes)

    def towards(point: Tensor, logits: Tensor, batch: AttackBatch, asked: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient to follow from `point` (n, *input), and that of the loss; the score's is taken at `asked`."""
        of_loss = gradient_of(loss_fn(point, logits, batch), point)  # (n, *input)
        of_score = score_gradient(asked)
        # To first order neither step undoes what the other has gained: each is orthogonal to the other's gradient.
        follows_score = per_input(batch.succeeded(logits), point)
        return torch.where(follows_score, _orthogonal(of_score, of_loss), _orthogonal(of_loss, of_score)), of_loss

    def over_noise(point: Tensor, batch: AttackBatch) -> tuple[Tensor, Tensor]:
        """The sum over draws of gradients of length 1, and of those of the loss (n, *input)."""
        total = torch.zeros_like(point), torch.zeros_like(point)
        for _ in range(queries):
            leaf = noisy(point.detach()).requires_grad_()
            logits = with_gradient(runner.classifier(leaf.clone()))  # (n, C)
            # An estimate asks the detector, which draws noise of its own.
            gradients = towards(leaf, logits, batch, leaf if gradient == "exact" else point)
            total = total[0] + _UNIT.direction(gradients[0]), total[1] + gradients[1]
        return total

    def attack(batch: AttackBatch, start: Tensor) -> tuple[Tensor, Tensor]:
        best, lowest = start.clone(), torch.full((len(start),), torch.inf, dtype=torch.float64)
        has_gradient = torch.zeros(len(start), dtype=torch.bool, device=start.device)

        def update_best(point: Tensor, misclassified: Tensor) -> None:
            rows = misclassified.nonzero()[:, 0]
            if len(rows):
                scores = detector.outlier_score(point[rows].detach()).nan_to_num(torch.inf)  # on the CPU, as `lowest`
                better = scores < lowest[rows.cpu()]
                best[rows[better.to(rows.device)]] = point.detach()[rows[better.to(rows.device)]]
                lowest[rows.cpu()[better]] = scores[better]

        def step_fn(point: Tensor, logits: Tensor, batch: AttackBatch) -> Tensor:
            if detector.noise_ is None:
                update_best(point, batch.succeeded(logits))
                step, of_loss = towards(point, logits, batch, point)
            else:
                step, of_loss = over_noise(point, batch)
            has_gradient.logical_or_(of_loss.flatten(1).any(1))
            return region.direction(step).mul_(-length)

        final, _ = descend(runner.classifier, batch, start, step_fn=step_fn, norm=region, steps=steps)
        if detector.noise_ is not None:
            return final, ~has_gradient
        update_best(final, batch.succeeded(runner.classifier.logits(final).logits))
        evaded = per_input(lowest.isfinite().to(final.device), final)
        return torch.where(evaded, best, final), ~has_gradient

    return runner.run(attack, random_start=random_start, restarts=restarts)


def _exact(detector: Detector) -> Callable[[Tensor], Tensor]:
    """The gradient of the outlier score (n, *input) by autograd."""

    def gradient(point: Tensor) -> Tensor:
        leaf = point.detach().requires_grad_()
        return gradient_of([(detector.differentiable_score(leaf).sum(), None)], leaf)

    return gradient


def _estimated(
    detector: Detector, size: float, directions: int, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """An estimate of that gradient from random directions: simultaneous perturbation, Spall 1992."""

    def along(point: Tensor) -> Tensor:
        signs = torch.randint(0, 2, point.shape, generator=generator).to(point) * 2 - 1  # (n, *input) of +1 and -1
        ahead, behind = (detector.outlier_score((point + side * size * signs).detach()) for side in (1.0, -1.0))
        slope = ((ahead - behind) / (2 * size)).nan_to_num(0.0).to(point)  # (n,) along `signs`
        # For independent signs s the mean of <g, s> s is g: the cross terms s_i s_j average to 0.
        return per_input(slope, point) * signs

    return lambda point: torch.stack([along(point.detach()) for _ in range(directions)]).mean(0)


def _orthogonal(gradient: Tensor, other: Tensor) -> Tensor:
    """`gradient` (n, *input) without its component along `other`, g - <g, h> / <h, h> h; whole where little is left."""
    g, h = gradient.flatten(1).double(), other.flatten(1).double()  # (n, d), whose squares do not underflow
    share = (g * h).sum(1) / h.square().sum(1).clamp_min(torch.finfo(h.dtype).tiny)
    rest = g - share[:, None] * h
    whole = rest.norm(dim=1) < LEFT * g.norm(dim=1)
    return torch.where(whole[:, None], g, rest).to(gradient.dtype).view_as(gradient)
