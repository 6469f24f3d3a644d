"""The distances attacks are bounded in: where a descent may start, which way it steps, and where it must stay."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.errors import choice, expected

Bounds = tuple[float, float] | None


@dataclass(frozen=True)
class Norm(ABC):
    """A ball of radius `epsilon` around each clean input, cut to the `bounds` of the input space."""

    epsilon: float
    bounds: Bounds

    @abstractmethod
    def diameter(self, width: float, entries: int) -> float:
        """The largest distance between two inputs of so many entries within bounds of this width."""

    @abstractmethod
    def length(self, delta: Tensor) -> Tensor:
        """The norm of each perturbation (N, *input) -> (N,)."""

    @abstractmethod
    def direction(self, gradient: Tensor) -> Tensor:
        """The perturbation of length 1 along which the loss rises most; 0 for a zero gradient."""

    @abstractmethod
    def within(self, delta: Tensor) -> Tensor:
        """The perturbation of the ball that is nearest to `delta`."""

    @abstractmethod
    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A perturbation of each input, uniform in the ball."""

    def project(self, point: Tensor, x: Tensor) -> Tensor:
        """The nearest point in the ball around `x`, then within the bounds."""
        inside = self.within(point - x).add_(x)
        return inside.clamp_(*self.bounds) if self.bounds else inside

    def settle(self, point: Tensor, x: Tensor) -> Tensor:
        """`point` projected in float64 and rounded to the dtype of `x` *towards* `x`, so that it stays inside."""
        exact, centre = self.project(point.double(), x.double()), x.double()
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
        # The largest entry is divided out first: squares of small float32 gradients underflow.
        rows = gradient.flatten(1)
        rows = rows / rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(0.5)
        return unit.view_as(gradient)

    def within(self, delta: Tensor) -> Tensor:
        length = self.length(delta).clamp_min(torch.finfo(delta.dtype).tiny)
        shrink: Tensor = (self.epsilon / length).clamp_max(1.0)
        return delta * shrink.view(-1, *[1] * (delta.ndim - 1))

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        # The norm of a uniform point of the d-dimensional ball is distributed as u^(1/d).
        normal = torch.randn(x.shape, generator=generator, device=generator.device)
        uniform = torch.rand(len(x), generator=generator, device=generator.device)
        radius = self.epsilon * uniform ** (1 / max(1, math.prod(x.shape[1:])))
        drawn: Tensor = self.direction(normal) * radius.view(-1, *[1] * (x.ndim - 1))
        return drawn.to(x)


NORMS: dict[str, type[Norm]] = {"linf": _Linf, "l2": _L2}


def ball(name: str, epsilon: float, bounds: Bounds) -> Norm:
    """The norm called `name` with a checked budget and bounds."""
    choice("norm", name, tuple(NORMS))
    if bounds is not None:
        pair = isinstance(bounds, tuple | list) and len(bounds) == 2
        if (
            not pair
            or not all(isinstance(b, int | float) for b in bounds)
            or not -math.inf < bounds[0] < bounds[1] < math.inf
        ):
            raise expected("bounds", "(low, high) with low < high, or None", bounds)
        bounds = (float(bounds[0]), float(bounds[1]))
    return NORMS[name](positive("epsilon", epsilon), bounds)


def positive(argument: str, value: float) -> float:
    """`value`, refused unless it is a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise expected(argument, "a positive number", value)
    return float(value)
