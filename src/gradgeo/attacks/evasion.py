"""Evasion: an attack that knows the detector and looks trusted while it changes the prediction."""

import torch
from torch import Tensor

from gradgeo.attacks.descent import Samples, descend, gradient_of
from gradgeo.attacks.losses import class_loss
from gradgeo.attacks.norms import Bounds, ball, positive
from gradgeo.attacks.runner import AttackResult, Problem, count
from gradgeo.detector.detector import Detector
from gradgeo.errors import choice, public

BATCH = 32  # inputs in one pass: the graphs of all their maps are alive at once
PROBES = 1e-2  # length of a probe of the estimated gradient, as a share of epsilon


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

    A step on an input that is not misclassified yet follows the classification loss without its component along the
    outlier score; a step on one that is follows the score without its component along the loss. The misclassified
    point with the lowest outlier score is kept.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
        >>> x = torch.rand(100, 8)
        >>> detector = gradgeo.Detector(model).fit(x)
        >>> gradgeo.attacks.evasion(detector, x[:2], model(x[:2]).argmax(1), epsilon=0.2, steps=3).adversarial.shape
        torch.Size([2, 8])

    Args: as in `pgd`, and
        detector: fitted; its model is attacked with it.
        gradient: of the outlier score: "exact" differentiates it, with `Detector.differentiable_score`'s surrogates for
            signs and ReLUs; "estimated" probes it with `draws` random pairs of inputs, which needs nothing of the
            evidence, not even that it can be differentiated.
        draws: how many gradients are averaged: more than 1 where the evidence is random ("exact"), many for a good
            estimate ("estimated").

    Returns: AttackResult as in `pgd`; `success` says that the prediction changed. Whether the input is trusted as
    well is the detector's to say: `detector.predict(result.adversarial).trusted`.

    Cost: per step and input, one verdict, and per draw about 3 K backward passes ("exact") or two more verdicts
    ("estimated").

    Raises: as `pgd`; NotFittedError.

    Source: Bryniarski et al., "Evading adversarial example detection defenses with orthogonal projected gradient
    descent", ICLR 2022; the estimate is Spall's simultaneous perturbation, 1992.
    """
    region = ball(norm, epsilon, bounds)
    choice("gradient", gradient, ("exact", "estimated"))
    count("draws", draws), count("steps", steps)
    length = region.epsilon / 4 if step_size is None else positive("step_size", step_size)
    draw = generator or torch.Generator().manual_seed(0)
    problem = Problem(
        detector.model,
        x,
        labels,
        norm=region,
        targeted=targeted,
        targets=targets,
        generator=generator,
        batch_size=BATCH if batch_size is None else batch_size,
    )
    towards = class_loss(loss)

    def slope(point: Tensor) -> Tensor:
        """The gradient of the outlier score (n, *input), once."""
        if gradient == "exact":
            leaf = point.detach().requires_grad_()
            return gradient_of([(detector.differentiable_score(leaf).sum(), None)], leaf)
        probe = torch.randint(0, 2, point.shape, generator=draw).to(point) * 2 - 1
        size = PROBES * region.epsilon
        ahead, behind = (detector.outlier_score((point + side * size * probe).detach()) for side in (1.0, -1.0))
        change = ((ahead - behind) / (2 * size)).nan_to_num(0.0).to(point)
        return change.view(-1, *[1] * (point.ndim - 1)) * probe

    def score(point: Tensor) -> Tensor:
        """The outlier score (n,), averaged over the draws of random evidence."""
        repeats = draws if gradient == "exact" else 1
        scores = torch.stack([detector.outlier_score(point.detach()) for _ in range(repeats)])
        return scores.mean(0).nan_to_num(torch.inf)

    def attack(samples: Samples, start: Tensor) -> tuple[Tensor, Tensor]:
        best, lowest = start.clone(), torch.full((len(start),), torch.inf, dtype=torch.float64)
        followed = torch.zeros(len(start), dtype=torch.bool, device=start.device)

        def keep(point: Tensor, reached: Tensor) -> None:
            rows = reached.nonzero()[:, 0]
            if len(rows):
                scores = score(point[rows])
                better = scores < lowest[rows.cpu()]
                best[rows[better.to(rows.device)]] = point.detach()[rows[better.to(rows.device)]]
                lowest[rows.cpu()[better]] = scores[better]

        def move(point: Tensor, logits: Tensor, samples: Samples) -> Tensor:
            reached = samples.reached(logits)
            away = gradient_of(towards(point, logits, samples), point)
            followed.logical_or_(away.flatten(1).any(1))
            along = torch.stack([slope(point) for _ in range(draws)]).mean(0)
            keep(point, reached)
            rows = reached.view(-1, *[1] * (point.ndim - 1))
            return region.direction(torch.where(rows, _without(along, away), _without(away, along))).mul_(-length)

        final, _ = descend(problem.classifier, samples, start, move=move, norm=region, steps=steps)
        keep(final, samples.reached(problem.classifier.logits(final).logits))
        found = lowest.isfinite().to(final.device).view(-1, *[1] * (final.ndim - 1))
        return torch.where(found, best, final), ~followed

    return problem.solve(attack, random_start=random_start, restarts=restarts)


def _without(gradient: Tensor, other: Tensor) -> Tensor:
    """`gradient` (n, *input) without its component along `other`."""
    a, b = gradient.flatten(1), other.flatten(1)
    share = (a * b).sum(1) / b.square().sum(1).clamp_min(torch.finfo(b.dtype).tiny)
    return (a - share[:, None] * b).view_as(gradient)
