"""The one-class model of the features of trusted inputs: a Gaussian copula, one for each predicted class."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

_EDGE = 1e-7  # how near the ends QuantileTransformer takes a value for the end itself
_LARGEST = 5.199337582605575  # normal quantile of 1 - _EDGE, its largest score

PER_CLASS = 1  # samples per feature from which a predicted class gets a Gaussian of its own
QUANTILES = 200


@dataclass(frozen=True)
class ClassConditionalCopula:
    """Negative log density, up to constants, of the features' normal scores given the predicted class.

    Each feature is first mapped to a normal score by its quantiles over all trusted inputs: the statistics are bounded
    and skewed, and plain distances see little but their longest tail. Then each predicted class with at least
    `PER_CLASS` samples per feature gets a Gaussian of its own, and the other classes share one fitted on all.
    Covariances are shrunk (Ledoit and Wolf 2004, J. Multivariate Analysis 88), so few samples or constant features do
    no harm. Chosen by measurement among scikit-learn's one-class models: `gradgeo bench one-class`,
    results/one-class.md.
    """

    quantiles: Array  # (Q, F) of each feature
    center: Array  # (G, F), row 0 shared by the classes without their own
    precision: Array  # (G, F, F)
    log_volume: Array  # (G,) log determinant of the covariance, what makes classes comparable
    group: NDArray[np.int64]  # (C,) row of each class

    @classmethod
    def fit(
        cls, features: Array, predicted: NDArray[np.int64], num_classes: int, *, per_class: int = PER_CLASS
    ) -> "ClassConditionalCopula":
        """Fit on features (n, F) of trusted inputs and their predicted classes (n,)."""
        # Only fitting needs scikit-learn, and it takes longer to import than all the rest of us.
        from sklearn.covariance import LedoitWolf
        from sklearn.preprocessing import QuantileTransformer

        n, width = features.shape
        scores = QuantileTransformer(n_quantiles=min(QUANTILES, n), output_distribution="normal", subsample=None).fit(
            features
        )
        normal = scores.transform(features)
        own = [c for c in range(num_classes) if (predicted == c).sum() >= per_class * width]
        group = np.zeros(num_classes, np.int64)
        group[own] = np.arange(1, len(own) + 1)
        fits = [LedoitWolf().fit(rows) for rows in (normal, *(normal[predicted == c] for c in own))]
        covariance = np.stack([f.covariance_ for f in fits]) + 1e-6 * np.eye(width)
        return cls(
            quantiles=scores.quantiles_,
            center=np.stack([f.location_ for f in fits]),
            precision=np.asarray(np.linalg.inv(covariance), np.float64),
            log_volume=np.asarray(np.linalg.slogdet(covariance)[1], np.float64),
            group=group,
        )

    def normal_scores(self, features: Tensor) -> Tensor:
        """Features (N, F) as normal scores, differentiable."""
        return normal_scores(features, torch.from_numpy(self.quantiles))

    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """Outlier score (N,), larger = less like the trusted inputs; NaN for rows that hold NaN; differentiable.

        Args:
            features: (N, F) float64 on the CPU.
            predicted: (N,) classes; not read where the features are NaN.
        """
        group = torch.from_numpy(self.group)[predicted]
        center, precision, volume = map(torch.from_numpy, (self.center, self.precision, self.log_volume))
        deviation = self.normal_scores(features) - center[group]
        return torch.einsum("nf,nfg,ng->n", deviation, precision[group], deviation) + volume[group]


def normal_scores(features: Tensor, quantiles: Tensor) -> Tensor:
    """What scikit-learn's QuantileTransformer(output_distribution="normal") makes of features (N, F).

    Written in torch so that attacks can differentiate it and exports can carry it; a test holds it to scikit-learn's.
    Beyond the outermost quantiles the score is constant; its slope there is taken to be that of the whole range, for
    else nothing would lead an attack back.
    """
    x, knots = features.T.contiguous(), quantiles.T.contiguous()
    levels = torch.linspace(0, 1, knots.shape[1], dtype=knots.dtype).expand_as(knots).contiguous()
    # Interpolating from both sides gives the middle of its levels to a value that fills several quantiles.
    rising = _interpolate(x, knots, levels)
    falling = -_interpolate(-x, -knots.flip(1), -levels.flip(1))
    level = (rising + falling) / 2
    level = torch.where(x - _EDGE < knots[:, :1], 0.0, torch.where(x + _EDGE > knots[:, -1:], 1.0, level))
    outside = (level <= _EDGE) | (level >= 1 - _EDGE)
    scores = torch.special.ndtri(torch.where(outside, 0.5, level)).clamp(-_LARGEST, _LARGEST)
    scores = torch.where(outside, _LARGEST * (2 * level.detach() - 1).sign(), scores)
    if x.requires_grad:
        slope = 2 * _LARGEST / (knots[:, -1:] - knots[:, :1]).clamp_min(1e-12)
        scores = scores + torch.where(outside, slope * (x - x.detach()), 0.0)
    return scores.T


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear, constant beyond the ends, each row on its own: numpy.interp."""
    right = torch.searchsorted(knots, x.detach(), right=True).clamp(1, knots.shape[1] - 1)
    x0, x1, y0, y1 = (table.gather(1, at) for table in (knots, values) for at in (right - 1, right))
    width = x1 - x0
    share = torch.where(width > 0, (x - x0) / torch.where(width > 0, width, 1.0), (x >= x1).to(x.dtype))
    return y0 + share.clamp(0, 1) * (y1 - y0)
