"""Numerics of one-class models: normal scores by quantiles, in torch, and the root of an inverse covariance."""

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array

_EDGE = 1e-7  # how near the ends QuantileTransformer takes a value for the end itself
_LARGEST = 5.199337582605575  # normal quantile of 1 - _EDGE, its largest score


def normal_scores(features: Tensor, quantiles: Tensor) -> Tensor:
    """What scikit-learn's QuantileTransformer(output_distribution="normal") makes of features (N, F).

    Written in torch so that attacks can differentiate it and exports can carry it; a test holds it to scikit-learn's.
    Beyond the outermost quantiles the score is constant; its slope there is taken to be that of the whole range, for
    else nothing would lead an attack back.
    """
    x, knots = features.T.contiguous(), quantiles.T.contiguous()  # (F, N), (F, Q)
    levels = torch.linspace(0, 1, knots.shape[1], dtype=knots.dtype).expand_as(knots).contiguous()
    # Interpolating from both sides gives the middle of its levels to a value that fills several quantiles. Both at
    # once: of a single input calling an operator takes longer than its work.
    both = (torch.cat([a, b]) for a, b in ((x, -x), (knots, -knots.flip(1)), (levels, -levels.flip(1))))
    rising, falling = interpolate(*both).chunk(2)  # (F, N)
    level = (rising - falling) / 2
    level = torch.where(x - _EDGE < knots[:, :1], 0.0, torch.where(x + _EDGE > knots[:, -1:], 1.0, level))
    outside = (level <= _EDGE) | (level >= 1 - _EDGE)
    scores = torch.special.ndtri(torch.where(outside, 0.5, level)).clamp(-_LARGEST, _LARGEST)
    scores = torch.where(outside, _LARGEST * (2 * level.detach() - 1).sign(), scores)
    if x.requires_grad:
        slope = 2 * _LARGEST / (knots[:, -1:] - knots[:, :1]).clamp_min(1e-12)
        scores = scores + torch.where(outside, slope * (x - x.detach()), 0.0)
    return scores.T


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear, constant beyond the ends, each row on its own: numpy.interp."""
    right = torch.searchsorted(knots, x.detach(), right=True).clamp(1, knots.shape[1] - 1)
    x0, x1, y0, y1 = (table.gather(1, at) for table in (knots, values) for at in (right - 1, right))
    width = x1 - x0
    share = torch.where(width > 0, (x - x0) / torch.where(width > 0, width, 1.0), (x >= x1).to(x.dtype))
    return y0 + share.clamp(0, 1) * (y1 - y0)


def inverse_root(covariance: Array) -> Array:
    """W (F, F) with W W^T the inverse of a covariance (F, F); where rounding has left that no inverse, of a matrix near
    it that has one."""
    from scipy.linalg import lapack

    try:
        lower = np.linalg.cholesky(covariance)  # of thousands of features a quarter of the time that eigh takes
    except np.linalg.LinAlgError:
        values, directions = np.linalg.eigh(covariance)
        return np.ascontiguousarray(directions / np.sqrt(np.maximum(values, 1e-12)))
    inverse, _ = lapack.dtrtri(lower, lower=1)
    return np.ascontiguousarray(inverse.T)
