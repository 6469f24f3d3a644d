"""CSA: the paper's adaptive attack, which aligns saliency maps while it changes the prediction."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradgeo.attacks.descent import AttackBatch, Terms, gradient_of
from gradgeo.attacks.losses import class_loss, unit_cotangent
from gradgeo.attacks.norms import Bounds, ball
from gradgeo.attacks.pgd import descent
from gradgeo.attacks.runner import AttackResult, AttackRunner
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.errors import expected, is_finite, is_integer, positive_number, public
from gradgeo.geometry.surrogates import SmoothReLU

BATCH = 32
"""Inputs in one pass unless `batch_size` says otherwise: the graphs of all their maps are in memory at once."""


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
        weight: of L_CSA relative to the loss; 0 is targeted PGD, a negative weight pushes the maps apart.
        temperature: divides the logits in L_CSA, as in `csm`.
        maps: number of classes whose maps enter L_CSA, at least 2, drawn for each input and step among those not
            predicted. Each pair of S1 is equally likely, so the gradient is that of L_CSA on average. None: all.
        sharpness: ReLUs are differentiated as softplus in the derivatives of L_CSA, with a bend of width (root mean
            square of the layer's input) / sharpness. None: differentiated as they are.

    Returns: AttackResult as in `pgd`.

    Cost: per step and input, 2 forward passes and about 3 `maps` backward passes; memory for the graphs of `maps`
    backward passes of one batch (default 32 inputs).

    Raises: as `pgd`; also ArgumentError if the model has fewer than 3 classes, because S1 is empty then.

    Differentiability: L_CSA uses the cosines of the gradients themselves instead of their signs, which are not
    differentiable. This is exact and needs no scale; with tanh(g / scale) in place of the sign, the mean of S1 of the
    signed CSM differed by at most 0.03, in either direction, on Fashion-MNIST and CIFAR-10.

    Smoothing: in a ReLU network J = dz/dx is piecewise constant, so the maps J^T (p - e_i) change within a linear piece
    only through the probabilities, and double backward aligns almost nothing. `sharpness` smooths the kinks that a step
    may cross. It changes derivatives of L_CSA alone: every forward value and the gradient of L(F(x), target) stay those
    of the model. results/adaptive.md measures both, and two maps per step against all.

    Source: Schwinn et al. 2021 (CSA, the adaptive attack). Smoothing: Dombrowski et al., "Explanations can be
    manipulated and geometry is to blame", NeurIPS 2019.
    """
    region = ball(norm, epsilon, bounds)
    if not is_finite(weight):
        raise expected("weight", "a finite number", weight)
    if maps is not None and (not is_integer(maps) or maps < 2):
        raise expected("maps", "at least 2, or None for all", maps)
    positive_number("temperature", temperature)
    if sharpness is not None:
        positive_number("sharpness", sharpness)
    runner = AttackRunner(
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
    loss_fn = class_loss(loss, sized=weight != 0)
    generators = runner.generators() if weight else []
    alignment_fn = alignment(runner.classifier, maps, temperature, sharpness, generators)

    def objective(point: Tensor, logits: Tensor, batch: AttackBatch) -> Terms:
        terms = loss_fn(point, logits, batch)
        return [*terms, (-weight * alignment_fn(point, logits, batch).sum(), None)] if weight else terms

    attack = descent(runner.classifier, region, objective, steps, step_size, early_stop=early_stop)
    return runner.run(attack, random_start=random_start, restarts=restarts)


def alignment(
    classifier: Classifier,
    maps: int | None,
    temperature: float,
    sharpness: float | None,
    generators: list[torch.Generator],
) -> Callable[[Tensor, Tensor, AttackBatch], Tensor]:
    """The function (point, logits, batch) -> L_CSA(x, k) (n,); smooth ReLUs need a forward pass of their own."""

    def alignment_fn(point: Tensor, logits: Tensor, batch: AttackBatch) -> Tensor:
        if sharpness is not None:
            with SmoothReLU(sharpness):
                logits = classifier(point.clone())  # the same values, other derivatives
        own = [generators[row] for row in batch.rows.tolist()]
        return csa_loss(point, logits / temperature, draw_classes(logits.detach(), maps, own))

    return alignment_fn


def draw_classes(logits: Tensor, maps: int | None, generators: list[torch.Generator]) -> Tensor:
    """`maps` classes per input, drawn without replacement among those not predicted: (n, C) -> (n, m).

    Each input draws from its own generator, so that its classes do not depend on the rest of the batch.
    """
    total = logits.shape[1]
    keys = logits  # (n, C), the m largest are taken; with all classes any keys will do
    if maps is not None and maps < total - 1:
        keys = torch.stack([torch.rand(total, generator=generator) for generator in generators]).to(logits)
    keys = keys.scatter(1, logits.argmax(1, keepdim=True), -torch.inf)  # the predicted class comes last
    return keys.topk(total - 1 if maps is None else min(maps, total - 1), dim=1).indices


def csa_loss(point: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
    """The mean cosine over all pairs of the unsigned maps of `classes` (n, m), differentiable in `point` -> (n,).

    With unit maps u_i the mean over pairs i < j of <u_i, u_j> is (|sum_i u_i|^2 - sum_i |u_i|^2) / (m (m - 1)), which
    needs m maps instead of m (m - 1) / 2 products. A map that is zero has u_i = 0, and all its cosines are 0.
    """
    total = torch.zeros_like(point.flatten(1))  # (n, d), sum_i u_i
    squares = logits.new_zeros(len(logits))  # (n,), sum_i |u_i|^2: the number of maps that are not zero
    for own in torch.split(classes, 1, dim=1):  # (n, 1)
        cotangent = unit_cotangent(logits, own)  # (n, C)
        rows = gradient_of([(logits, cotangent)], point, create_graph=True).flatten(1)  # (n, d)
        # Dividing by the largest entry, a constant for the derivative, keeps squares from underflowing. A row that is
        # not zero then has |row|^2 >= 1; the lower limit of 0.5 only keeps the derivative of a zero row finite.
        rows = rows / rows.detach().abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        unit = rows / rows.square().sum(1, keepdim=True).clamp_min(0.5).sqrt()
        total, squares = total + unit, squares + unit.square().sum(1)
    m = classes.shape[1]
    return (total.square().sum(1) - squares) / (m * (m - 1))
