"""Gradients of the loss of every class with respect to the logits: the cotangents that one Jacobian turns into maps.

With z = F(x), J = dz/dx and L_i the loss of class i, grad_x L_i = J^T dL_i/dz. Only dL_i/dz depends on the loss, the
temperature and the rescaling. Everything here is float64 and returns a *direction* of full precision and a
positive *scale*, because a confident softmax makes the gradient itself too small for float32 while its direction,
which is all that a sign or a cosine sees, stays well defined.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.errors import choice, expected, number

LOSSES = ("cross_entropy", "mse", "logit")


@dataclass(frozen=True)
class Loss:
    """Which loss is differentiated: L_i(z / temperature), after the authors' rescaling of z if `rescale`."""

    name: str = "cross_entropy"
    temperature: float | None = None
    rescale: bool = False

    def __post_init__(self) -> None:
        choice("loss", self.name, LOSSES)
        if self.temperature is not None and not 0 < number(self.temperature) < float("inf"):
            raise expected("temperature", "a positive number or None", self.temperature)

    @property
    def balanced(self) -> bool:
        """Whether the entries of every cotangent sum to zero: what the softmax sees does not change where all logits
        rise alike."""
        return self.name != "logit" and not self.rescale

    @property
    def differs_as_logits(self) -> bool:
        """Whether the losses of two classes differ as their logits do: temperature (L_i - L_j) is z_j - z_i, or its
        negative."""
        return self.name != "mse" and not self.rescale

    def cotangents(self, logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """dL_i/dz for each class i in `classes`, as direction * scale.

        Args:
            logits: (N, C).
            classes: (N, K) class indices.

        Differentiable in the logits; pass detached ones where that is not wanted.

        Returns:
            Directions (N, K, C) and scales (N, K), float64; each gradient is direction * scale. Scales are positive
            but underflow to 0 where a class's gradient is below 1e-308.
        """
        z = logits.double()
        slope = torch.ones_like(z[:, :1])
        if self.rescale:
            largest, at = z.abs().max(1, keepdim=True)
            raw, z, slope = z, z * (10 / largest.clamp_min(1e-300)), 10 / largest.clamp_min(1e-300)
        slope = slope / (self.temperature or 1.0)
        gradient = {"cross_entropy": _cross_entropy, "mse": _mse, "logit": _logit}[self.name]
        direction, scale = gradient(z / (self.temperature or 1.0), classes)
        if self.rescale:
            # z' = 10 z / |z_a| with a the largest in magnitude: dz'_j/dz_l = 10/|z_a| (delta_jl - z_j/z_a delta_la).
            along = torch.einsum("nkc,nc->nk", direction, raw) / raw.gather(1, at)
            direction = direction.scatter_add(2, at[:, None].expand(*classes.shape, 1), -along[..., None])
        return direction, scale * slope


def _others(z: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax over the other classes r (N, K, C) with r_i = 0, and log p_i, log(1 - p_i), each (N, K)."""
    masked = z[:, None, :].expand(-1, classes.shape[1], -1).scatter(2, classes[..., None], -torch.inf)
    log_rest, log_all = masked.logsumexp(2), z.logsumexp(1, keepdim=True)
    return masked.softmax(2), z.gather(1, classes) - log_all, log_rest - log_all


def _cross_entropy(z: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """L_i = -log p_i: p - e_i = (1 - p_i) (r - e_i)."""
    others, _, log_rest = _others(z, classes)
    return others.scatter(2, classes[..., None], -1.0), log_rest.exp()


def _mse(z: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """L_i = mean_j (p_j - delta_ij)^2, whose gradient is 2 (1 - p_i)^2 / C times the u below, free of cancellation.

    u_i = -p_i (1 + |r|^2) and u_j = r_j (r_j - |r|^2 + p_i (1 + |r|^2)); for the largest r_j the difference
    r_j - |r|^2 is summed over the others as sum_l r_l (r_j - r_l).
    """
    r, log_own, log_rest = _others(z, classes)
    own, square = log_own.exp()[..., None], (r * r).sum(2, keepdim=True)
    top = r.argmax(2, keepdim=True)
    largest = r.gather(2, top)
    rest = r.scatter(2, top, 0.0)
    gap = (r - square).scatter(2, top, (rest * (largest - r)).sum(2, keepdim=True))
    u = (r * (gap + own * (1 + square))).scatter(2, classes[..., None], -own * (1 + square))
    size = u.abs().amax(2, keepdim=True).clamp_min(1e-300)
    return u / size, (2 * log_rest).exp() * size[..., 0] * (2 / z.shape[1])


def _logit(z: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """L_i = z_i: the gradient of the raw score."""
    n, k = classes.shape
    direction = z.new_zeros(n, k, z.shape[1]).scatter_(2, classes[..., None], 1.0)
    return direction, z.new_ones(n, k)
