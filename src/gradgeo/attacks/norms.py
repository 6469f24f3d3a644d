"""L-infinity and L2 balls: random starts, steepest directions and projections of an attack with a budget."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.errors import choice, expected, positive_number

Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Norm(ABC):
    """A ball of radius `epsilon` around each clean input, intersected with the `bounds` of the input space."""

    epsilon: float
    """Radius, in input units."""
    bounds: Bounds
    """(low, high) of every entry; None for an unbounded space."""

    @abstractmethod
    def diameter(self, width: float, entries: int) -> float:
        """The largest distance between two inputs with `entries` entries within bounds that are `width` apart."""

    @abstractmethod
    def length(self, delta: Tensor) -> Tensor:
        """The norm of each perturbation (N, *input) -> (N,)."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The perturbation of length 1 along which the loss rises most (N, *input); 0 where the gradient is zero."""

    @abstractmethod
    def within(self, delta: Tensor) -> Tensor:
        """The nearest perturbation to `delta` (N, *input) within the ball, as if there were no bounds."""

    @abstractmethod
    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A random perturbation of each input (N, *input), uniform in the ball."""

    def project(self, point: Tensor, x: Tensor) -> Tensor:
        """`point` (N, *input) brought into the ball around `x`, then into the bounds.

        `x` lies within the bounds, so clamping to them only shortens the way from `x`: the result is in both.
        """
        inside = self.within(point - x).add_(x)
        return inside.clamp_(*self.bounds) if self.bounds else inside

    def round_into_ball(self, point: Tensor, x: Tensor) -> Tensor:
        """`point` projected in float64, then rounded to the dtype of `x` so that it does not leave the ball.

        Rounding to nearest may move an entry away from `x`, beyond epsilon; such an entry takes the next
        representable number towards `x` instead.
        """
        exact, centre = self.project(point.double(), x.double()), x.double()  # (N, *input) float64
        rounded = exact.to(x.dtype)
        beyond = (rounded.double() - centre).abs() > (exact - centre).abs()
        return torch.where(beyond, torch.nextafter(rounded, x), rounded)


class _Linf(Norm):
    """The largest change of any entry."""

    def diameter(self, width: float, entries: int) -> float:
        return width

    def length(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def within(self, delta: Tensor) -> Tensor:
        return delta.clamp(-self.epsilon, self.epsilon)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        # The unit ball of this norm is the cube [-1, 1]^d.
        uniform: Tensor = 2 * torch.rand(x.shape, generator=generator, device=generator.device) - 1
        return uniform.to(x) * self.epsilon


class _L2(Norm):
    """The Euclidean length of the change."""

    def diameter(self, width: float, entries: int) -> float:
        return width * math.sqrt(entries)

    def length(self, delta: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def direction(self, gradient: Tensor) -> Tensor:
        # Dividing by the largest entry first keeps the squares of small float32 gradients from underflowing. A row that
        # is not zero then has norm >= 1, so the lower limit of 0.5 only turns 0 / 0 of a zero row into 0.
        rows = gradient.flatten(1)  # (N, d)
        rows = rows / rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(0.5)
        return unit.view_as(gradient)

    def within(self, delta: Tensor) -> Tensor:
        length = self.length(delta).clamp_min(torch.finfo(delta.dtype).tiny)  # (N,), never 0
        shrink: Tensor = (self.epsilon / length).clamp_max(1.0)
        return delta * per_input(shrink, delta)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        # A normal vector points in a uniform direction. The volume within radius r grows as r^d, so the radius of a
        # uniform point of the ball is epsilon u^(1/d), with u uniform in [0, 1].
        normal = torch.randn(x.shape, generator=generator, device=generator.device)
        uniform = torch.rand(len(x), generator=generator, device=generator.device)
        radius = self.epsilon * uniform ** (1 / max(1, math.prod(x.shape[1:])))
        drawn: Tensor = self.direction(normal) * per_input(radius, x)
        return drawn.to(x)


NORMS: dict[str, type[Norm]] = {"linf": _Linf, "l2": _L2}


def per_input(values: Tensor, like: Tensor) -> Tensor:
    """One value per input, (n,) or (n, 1), as (n, 1, ..., 1), which broadcasts against `like` (n, *input)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def ball(name: str, epsilon: float, bounds: Bounds) -> Norm:
    """The norm called `name`. Raises: ArgumentError for another name, a bad budget or bad bounds."""
    choice("norm", name, tuple(NORMS))
    if bounds is not None:
        if not (
            isinstance(bounds, tuple | list)
            and len(bounds) == 2
            and all(isinstance(bound, int | float) for bound in bounds)
            and -math.inf < bounds[0] < bounds[1] < math.inf
        ):
            raise expected("bounds", "(low, high) with low < high, or None", bounds)
        bounds = (float(bounds[0]), float(bounds[1]))
    return NORMS[name](positive_number("epsilon", epsilon), bounds)
