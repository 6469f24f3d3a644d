"""The loss around an input: Theorem 1's zeta, Lemma 2's curvature, and whether it has a minimum there."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.classifier.microbatch import AdaptiveBatch
from gradgeo.classifier.wrapper import Classifier, Model, preserve_state
from gradgeo.errors import choice, class_labels, expected, number, public, warn
from gradgeo.geometry.autograd import AutogradJacobian
from gradgeo.geometry.jacobian import BATCH, InputJacobian
from gradgeo.geometry.losses import Loss

KINDS = ("gaussian", "sphere", "sign")

Directions = int | Tensor


@dataclass(frozen=True)
class Neighbours:
    """Which points x~ around each x are looked at: the same displacements for every x."""

    radius: float = 0.01
    directions: Directions = 16
    kind: str = "gaussian"
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        choice("kind", self.kind, KINDS)
        if not 0 < number(self.radius) < math.inf:
            raise expected("radius", "a positive number", self.radius)

    def displacements(self, x: Tensor) -> Tensor:
        """x~ - x for each direction (D, *input), in the dtype and on the device of `x`."""
        if isinstance(self.directions, Tensor):
            return _unit(_checked(self.directions, x)).mul(self.radius).to(x)
        if isinstance(self.directions, bool) or not isinstance(self.directions, int) or self.directions < 1:
            raise expected("directions", "a positive integer or a tensor (D, *input)", self.directions)
        # A generator of our own: the caller's random state is neither read nor moved.
        generator = self.generator or torch.Generator().manual_seed(0)
        shape = (self.directions, *x.shape[1:])
        drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)
        if self.kind == "sign":
            drawn = torch.where(drawn < 0, -1.0, 1.0)
        elif self.kind == "sphere":
            drawn = _unit(drawn)
        return drawn.mul(self.radius).to(x)


@dataclass(frozen=True)
class LocalMinimum:
    """Whether each input is a local minimum of the loss of its class, and the evidence; one entry per input.

    All are tensors (N,) on the model's device, float64 but for `verdict`; NaN for inputs that are not
    usable.
    """

    verdict: Tensor
    """bool: zeta < 0, beyond rounding, in none of the directions looked at."""
    negative_share: Tensor
    """Share of the directions with zeta < 0, in [0, 1]."""
    infimum: Tensor
    """Smallest zeta over the directions, in [-1, 1]."""
    curvature_min: Tensor
    """Smallest directional curvature, in loss per squared input unit: negative at saddles and maxima."""
    curvature_max: Tensor
    """Largest directional curvature."""
    gradient_norm: Tensor
    """|grad L| at the input itself, in loss per input unit: zero at a stationary point."""


@public
def zeta(
    model: Model,
    x: Tensor,
    *,
    labels: Tensor | None = None,
    radius: float = 0.01,
    directions: Directions = 16,
    kind: str = "gaussian",
    loss: str = "cross_entropy",
    temperature: float | None = None,
    rescale: bool = False,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """The cosine between steepest descent and the way back to x, at points x~ around x (Theorem 1).

    zeta(x~) = <-grad L(F(x~), i), x - x~> / (|grad L(F(x~), i)| |x - x~|), the cosine of grad L(F(x~), i)
    with the direction from x to x~. It is positive where descent from x~ comes closer to x (the loss rises
    away from x), 1 where it leads straight back, and negative where it leads further away. x is a local
    minimum of the loss of class i if and only if 0 <= liminf zeta <= limsup zeta <= 1 as x~ -> x.

    Example:
        >>> import torch
        >>> from gradgeo.geometry.neighbourhood import zeta
        >>> bowl = lambda x: torch.stack([x.square().sum(1), 0 * x[:, 0]], dim=1)  # |x|^2 as class 0's score
        >>> zeta(bowl, torch.zeros(1, 2), labels=torch.tensor([0]), loss="logit", directions=3)
        tensor([[1., 1., 1.]])
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> zeta(model, torch.rand(4, 3, 2, 2)).shape
        torch.Size([4, 16])

    Args:
        model: a classifier returning logits (N, C), as in `saliency_maps`. For a scalar function f return the
            columns (f(x), 0) and pass `loss="logit"` and labels 0.
        x: inputs (N, *any), floating point.
        labels: (N,) the class i of each input; None: the class predicted at x.
        radius: root mean square of x~ - x per input entry, in input units, so that one radius is the same
            noise level for inputs of any size. The Euclidean distance |x~ - x| is radius * sqrt(d).
        directions: how many x~ per input; or the directions themselves (D, *input), of any length, each
            stretched to the radius. All inputs get the same, so that a result does not depend on the rest of
            the batch.
        kind: how directions are drawn. "gaussian": normal entries of standard deviation `radius`; "sphere":
            the same, stretched to exactly the radius; "sign": entries +radius or -radius.
        loss, temperature, rescale: as in `saliency_maps`. Only the gradient's direction matters here, so
            confident inputs, whose gradient itself underflows, are treated like others.
        generator: draws the directions. None: the same ones in every call.
        chunk_size: points in one forward pass; default 64.

    Returns:
        (N, D) in [-1, 1] on the model's device; float64 for float64 models, else float32. 0 where the
        gradient at x~ is zero: the loss neither rises nor falls there, as around a flat minimum. NaN, with
        one warning, where x or x~ has NaN or infinite values, logits or gradients, or where x~ rounds to x.

    Cost: 1 + D forward and backward passes per input; memory for one chunk and for D displacements.

    Raises:
        ArgumentError: an option, `x` or `labels` is not as described. ModelError: as `saliency_maps`.

    Source: Schwinn et al. 2021, Theorem 1. Non-negative zeta suffices for a minimum of any function that is
    the integral of its gradient. That it is necessary is shown by Taylor expansion (Lemma 1) and fails where
    the slope changes its sign without end: x^2 (2 + sin(1/x)) has a minimum at 0 and negative zeta
    arbitrarily near.
    """
    around = Neighbours(radius, directions, kind, generator)
    result = _quotients(model, x, labels, around, Loss(loss, temperature, rescale), chunk_size)
    _warn_of_nan(result.zeta)
    return result.zeta.to(result.dtype)


@public
def directional_curvature(
    model: Model,
    x: Tensor,
    *,
    labels: Tensor | None = None,
    radius: float = 0.001,
    directions: Directions = 16,
    kind: str = "sphere",
    loss: str = "cross_entropy",
    temperature: float | None = None,
    rescale: bool = False,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Lemma 2's curvature <(grad f(x + r e) - grad f(x)) / r, e>, which tends to <Hf(x) e, e> as r -> 0.

    Example:
        >>> import torch
        >>> from gradgeo.geometry.neighbourhood import directional_curvature
        >>> saddle = lambda x: torch.stack([x[:, 0] ** 2 - 3 * x[:, 1] ** 2, 0 * x[:, 0]], dim=1)
        >>> x, axes, label = torch.ones(1, 2).double(), torch.eye(2).double(), torch.tensor([0])
        >>> directional_curvature(saddle, x, labels=label, directions=axes, loss="logit").round(decimals=6)
        tensor([[ 2., -6.]], dtype=torch.float64)

    Args: as in `zeta`. e has unit length and r = |x~ - x| = radius * sqrt(d). The quotient is off by about
        r/2 times the third derivative, and by rounding of about |grad f| u / r, where u is 1e-7 for float32
        models: small radii want a float64 model.

    Returns:
        (N, D), float64 on the model's device, in loss per squared input unit. NaN, with one warning, as in
        `zeta`. The logits of a ReLU network are piecewise linear: with `loss="logit"` the limit is zero
        almost everywhere, and what a finite radius shows are the kinks within it.

    Cost and errors: as in `zeta`.

    Source: Schwinn et al. 2021, Lemma 2.
    """
    around = Neighbours(radius, directions, kind, generator)
    result = _quotients(model, x, labels, around, Loss(loss, temperature, rescale), chunk_size)
    _warn_of_nan(result.curvature)
    return result.curvature


@public
def local_minimum(
    model: Model,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    radius: float = 0.01,
    directions: Directions = 16,
    kind: str = "gaussian",
    loss: str = "cross_entropy",
    temperature: float | None = None,
    rescale: bool = False,
    tolerance: float = 1e-6,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
) -> LocalMinimum:
    """Whether x is a local minimum of the loss of its class, as far as zeta at this radius tells (Theorem 1).

    Example:
        >>> import torch
        >>> from gradgeo.geometry.neighbourhood import local_minimum
        >>> saddle = lambda x: torch.stack([x[:, 0] ** 2 - 3 * x[:, 1] ** 2, 0 * x[:, 0]], dim=1)
        >>> local_minimum(saddle, torch.zeros(1, 2), torch.tensor([0]), loss="logit").verdict
        tensor([False])

    Args: as in `zeta`, and
        tolerance: zeta >= -tolerance is not negative for the verdict, which allows for rounding.

    Returns:
        LocalMinimum: the verdict (N,) and its evidence. One direction with zeta < 0 refutes a minimum at this
        radius; a verdict of True gains weight with more directions and smaller radii. Inputs that cannot be
        used have the verdict False and NaN as evidence, with one warning.

    Cost and errors: as in `zeta`.

    Source: Schwinn et al. 2021, Theorem 1 and Lemma 2.
    """
    if not 0 <= number(tolerance) < 1:
        raise expected("tolerance", "in [0, 1)", tolerance)
    around = Neighbours(radius, directions, kind, generator)
    result = _quotients(model, x, labels, around, Loss(loss, temperature, rescale), chunk_size)
    _warn_of_nan(result.zeta + result.curvature)
    negative = (result.zeta < 0).double()
    return LocalMinimum(
        verdict=(result.zeta >= -tolerance).all(1),
        negative_share=torch.where(result.zeta.isnan(), torch.nan, negative).mean(1),
        infimum=result.zeta.amin(1),
        curvature_min=result.curvature.amin(1),
        curvature_max=result.curvature.amax(1),
        gradient_norm=result.gradient_norm,
    )


def _checked(directions: Tensor, x: Tensor) -> Tensor:
    if not directions.is_floating_point() or directions.shape[1:] != x.shape[1:] or not len(directions):
        shape = ", ".join(["D", *map(str, x.shape[1:])])
        raise expected("directions", f"a floating-point tensor of shape ({shape})", directions)
    rows = directions.detach().double().flatten(1)
    if not bool(torch.isfinite(rows).all() and (rows != 0).any(1).all()):
        raise expected("directions", "finite, each with an entry other than zero", directions)
    return rows.view_as(directions)


def _unit(directions: Tensor) -> Tensor:
    """Each direction at a root mean square of 1 per entry."""
    rows = directions.flatten(1)
    rows = rows / rows.abs().amax(1, keepdim=True)
    return (rows / rows.square().mean(1, keepdim=True).sqrt()).view_as(directions)


@dataclass(frozen=True)
class _Quotients:
    """Zeta and curvature in each direction (N, D) and |grad L| at each input (N,), all float64."""

    zeta: Tensor
    curvature: Tensor
    gradient_norm: Tensor
    dtype: torch.dtype
    """Of results: float64 for float64 models, else float32."""


def _quotients(
    model: Model, x: Tensor, labels: Tensor | None, around: Neighbours, loss: Loss, chunk_size: int | None
) -> _Quotients:
    """Both quotients at every x~: they share all of their passes."""
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise expected("chunk_size", "a positive integer or None", chunk_size)
    classifier, size = Classifier.of(model), chunk_size or BATCH
    batch = classifier.prepare(x)
    x = batch.x
    moves = around.displacements(x)  # (D, *input)
    n, d = len(x), len(moves)
    centres, points = AdaptiveBatch(size), AdaptiveBatch(size)

    def at_centres(rows: slice) -> None:
        centre = x[rows]  # (n, *input)
        here = AutogradJacobian(optimized, batch[rows])
        classes = here.predicted if labels is None else _labels(labels, len(x), here)[rows]  # (n,)
        unit, length = slope(here, classes, loss)  # (n, d), (n,)
        norms[rows] = length

        def at_points(pairs: slice) -> None:
            pair = torch.arange(pairs.start, pairs.stop, device=x.device)
            sample, direction = pair // d, pair % d
            point = centre[sample] + moves[direction]  # (pairs, *input)
            # The displacement that rounding left, so that zeta is exact for the point it is taken at.
            moved = (point - centre[sample]).flatten(1).double()
            distance = moved.norm(dim=1)
            there, there_length = slope(here.again(point), classes[sample], loss)
            before = (unit[sample] * moved).sum(1) / distance  # (pairs,)
            along = torch.where(here.finite[sample], (there * moved).sum(1) / distance, torch.nan)
            zetas[rows.start + sample, direction] = along.clamp(-1, 1)
            curvature[rows.start + sample, direction] = (there_length * along - length[sample] * before) / distance

        deque(points(len(centre) * d, at_points), maxlen=0)

    with preserve_state(x, recurrent=classifier.recurrent):
        optimized = classifier.optimized(batch)
        zetas = x.new_full((n, d), torch.nan, dtype=torch.float64)
        curvature, norms = zetas.clone(), zetas.new_full((n,), torch.nan)
        if n:
            deque(centres(n, at_centres), maxlen=0)
    (centres if centres.shrunk else points).warn_if_shrunk()
    return _Quotients(zetas, curvature, norms, torch.float64 if x.dtype == torch.float64 else torch.float32)


def _labels(labels: Tensor, n: int, jacobian: InputJacobian) -> Tensor:
    """The classes (n,) that the caller names, on the device of the model."""
    return class_labels(labels, n, jacobian.logits.shape[1]).to(jacobian.x.device)


def slope(forward: InputJacobian, classes: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Each loss's gradient: unit vector (n, d), zero where it vanishes, and length (n,); NaN if unusable."""
    cotangents, scale = loss.cotangents(forward.logits, classes[:, None])
    gradient = forward.vjp(cotangents)[:, 0].flatten(1).double()
    # Dividing by the largest entry first keeps the squares of tiny gradients from underflowing.
    largest = gradient.abs().amax(1)
    gradient = gradient / torch.where(largest == 0, 1.0, largest)[:, None]
    norm = gradient.norm(dim=1)
    unit = gradient / torch.where(norm == 0, 1.0, norm)[:, None]
    usable = forward.usable
    return torch.where(usable[:, None], unit, torch.nan), torch.where(usable, largest * norm * scale[:, 0], torch.nan)


def _warn_of_nan(values: Tensor) -> None:
    bad = int(values.isnan().any(1).sum())
    if bad:
        warn(
            f"{bad} of {len(values)} inputs have NaN or infinite values, logits or gradients at or around them, "
            "or are too large for this radius in their precision; their results there are NaN."
        )
