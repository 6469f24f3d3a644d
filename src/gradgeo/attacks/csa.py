"""CSA: the paper's attack on gradient geometry itself, which aligns saliency maps while it changes the prediction."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradgeo.attacks.descent import Samples, Terms, gradient_of
from gradgeo.attacks.losses import class_loss, pull
from gradgeo.attacks.norms import Bounds, ball, positive
from gradgeo.attacks.pgd import descent
from gradgeo.attacks.runner import AttackResult, Problem
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.errors import expected, public
from gradgeo.geometry.surrogates import SmoothReLU

BATCH = 32  # samples in one pass: the graphs of all maps are alive at once


@public
def csa(
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    weight: float = 1.0,
    temperature: float = 1.0,
    maps: int | None = 2,
    sharpness: float | None = 5.0,
    norm: str = "linf",
    loss: str = "cross_entropy",
    steps: int = 100,
    step_size: float | None = None,
    bounds: Bounds = (0.0, 1.0),
    random_start: bool = True,
    restarts: int = 1,
    early_stop: bool = False,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> AttackResult:
    """Targeted PGD that also aligns the saliency maps of the classes that are not predicted.

    It descends L(F(x), target) - weight * L_CSA(x, k), where L_CSA is the mean of the cosines c_ij over S1,
    the pairs without the class k predicted at the current point. Whether alignment hides an input depends on
    the model: where trusted inputs are less aligned than their targeted PGD examples, try a negative weight.

    Example:
        >>> import torch
        >>> from gradgeo.attacks import csa
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))
        >>> x = torch.rand(3, 4)
        >>> csa(model, x, model(x).argmax(1), epsilon=0.1, steps=5).adversarial.shape
        torch.Size([3, 4])

    Args: as in `pgd`, always targeted, and
        weight: of L_CSA beside the loss itself; 0 is targeted PGD, a negative weight pulls the maps apart.
        temperature: divides the logits in L_CSA, as in `csm`.
        maps: of so many classes, drawn anew for each input and step among those not predicted, at least 2. Each
            pair of S1 is equally likely, so the gradient is that of L_CSA on average. None: all of them.
        sharpness: ReLUs are differentiated as softplus when L_CSA is, with a bend of width (root mean square
            of the layer's input) / sharpness. None: differentiated as they are.

    Returns: AttackResult as in `pgd`.

    Cost: per step and input, 2 forward passes and about 3 `maps` backward passes; memory for the graphs of `maps`
    backward passes of one batch (default 32 inputs).

    Raises: as `pgd`; ArgumentError too if the model has fewer than 3 classes, which leave S1 empty.

    What makes L_CSA differentiable: the cosine is that of the gradients themselves instead of their signs. It
    is exact and has no scale to choose; with tanh(g / scale) for the sign, the mean of S1 of the signed CSM
    ended up within 0.03 of it, more or less aligned, on Fashion-MNIST and CIFAR-10.

    What makes its gradient useful: in a ReLU network J = dz/dx is piecewise constant, so double backward sees
    the maps J^T (p - e_i) turn only with the probabilities and aligns next to nothing. `sharpness` lets it see
    the kinks that a step may cross. results/adaptive.md measures both, and two maps a step against all of them.
    It changes derivatives of L_CSA alone: every forward value and the gradient of L(F(x), target) are the
    model's own.

    Source: Schwinn et al. 2021 (CSA, the adaptive attack). Smoothing: Dombrowski et al., "Explanations can be
    manipulated and geometry is to blame", NeurIPS 2019.
    """
    region = ball(norm, epsilon, bounds)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise expected("weight", "a finite number", weight)
    if maps is not None and (isinstance(maps, bool) or not isinstance(maps, int) or maps < 2):
        raise expected("maps", "at least 2, or None for all", maps)
    positive("temperature", temperature)
    if sharpness is not None:
        positive("sharpness", sharpness)
    problem = Problem(
        model,
        x,
        labels,
        norm=region,
        targeted=True,
        targets=targets,
        generator=generator,
        batch_size=BATCH if batch_size is None else batch_size,
        min_classes=3,
    )
    towards = class_loss(loss, sized=weight != 0)
    draws = problem.generators() if weight else []
    aligned = alignment(problem.classifier, maps, temperature, sharpness, draws)

    def objective(point: Tensor, logits: Tensor, samples: Samples) -> Terms:
        terms = towards(point, logits, samples)
        return [*terms, (-weight * aligned(point, logits, samples).sum(), None)] if weight else terms

    attack = descent(problem.classifier, region, objective, steps, step_size, early_stop=early_stop)
    return problem.solve(attack, random_start=random_start, restarts=restarts)


def alignment(
    classifier: Classifier,
    maps: int | None,
    temperature: float,
    sharpness: float | None,
    generators: list[torch.Generator],
) -> Callable[[Tensor, Tensor, Samples], Tensor]:
    """L_CSA(x, k) (n,) at a point, through a forward pass of its own if its ReLUs are to be smooth."""

    def aligned(point: Tensor, logits: Tensor, samples: Samples) -> Tensor:
        if sharpness is not None:
            with SmoothReLU(sharpness):
                logits = classifier(point.clone())
        own = [generators[row] for row in samples.rows.tolist()]
        return csa_loss(point, logits / temperature, others(logits.detach(), maps, own))

    return aligned


def others(logits: Tensor, maps: int | None, generators: list[torch.Generator]) -> Tensor:
    """So many classes of each input, drawn without replacement among those not predicted: (n, C) -> (n, m).

    Each input draws from its own generator, so that no other input of its batch changes what it gets.
    """
    total = logits.shape[1]
    rank = logits
    if maps is not None and maps < total - 1:
        rank = torch.stack([torch.rand(total, generator=generator) for generator in generators]).to(logits)
    rank = rank.scatter(1, logits.argmax(1, keepdim=True), -torch.inf)
    return rank.topk(total - 1 if maps is None else min(maps, total - 1), dim=1).indices


def csa_loss(point: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
    """The mean cosine over all pairs of the unsigned maps of `classes` (n, m), differentiable in `point` -> (n,).

    With unit maps u_i the mean over pairs i < j of <u_i, u_j> is (|sum u_i|^2 - m) / (m (m - 1)): the pairs are not
    needed. A map that is zero has no direction and its cosines are 0.
    """
    total, squares = torch.zeros_like(point.flatten(1)), logits.new_zeros(len(logits))
    for own in torch.split(classes, 1, dim=1):
        rows = gradient_of([(logits, pull(logits, own))], point, create_graph=True).flatten(1)
        rows = rows / rows.detach().abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        unit = rows / rows.square().sum(1, keepdim=True).clamp_min(0.5).sqrt()
        total, squares = total + unit, squares + unit.square().sum(1)
    m = classes.shape[1]
    return (total.square().sum(1) - squares) / (m * (m - 1))
