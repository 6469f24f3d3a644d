"""The one-class model of the features of trusted inputs: a Gaussian copula, one for each predicted class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import QuantileTransformer

Array = NDArray[np.float64]

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
    results/one_class.md.
    """

    quantiles: Array  # (Q, F) of each feature
    center: Array  # (G, F), row 0 shared by the classes without their own
    precision: Array  # (G, F, F)
    log_volume: Array  # (G,) log determinant of the covariance, what makes classes comparable
    group: NDArray[np.int64]  # (C,) row of each class

    @classmethod
    def fit(cls, features: Array, predicted: NDArray[np.int64], num_classes: int) -> "ClassConditionalCopula":
        """Fit on features (n, F) of trusted inputs and their predicted classes (n,)."""
        n, width = features.shape
        scores = QuantileTransformer(n_quantiles=min(QUANTILES, n), output_distribution="normal", subsample=None).fit(
            features
        )
        normal = scores.transform(features)
        own = [c for c in range(num_classes) if (predicted == c).sum() >= PER_CLASS * width]
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

    def normal_scores(self, features: Array) -> Array:
        """Features (N, F) as normal scores."""
        count, width = self.quantiles.shape
        transformer = QuantileTransformer(n_quantiles=count, output_distribution="normal")
        transformer.quantiles_, transformer.references_ = self.quantiles, np.linspace(0, 1, count)
        transformer.n_quantiles_, transformer.n_features_in_ = count, width
        return np.asarray(transformer.transform(features))

    def score(self, features: Array, predicted: NDArray[np.int64]) -> Array:
        """Outlier score (N,), larger = less like the trusted inputs; NaN for rows that hold NaN."""
        scores = np.full(len(features), np.nan)
        rows = np.isfinite(features).all(1)
        if rows.any():
            group = self.group[predicted[rows]]
            deviation = self.normal_scores(features[rows]) - self.center[group]
            scores[rows] = (
                np.einsum("nf,nfg,ng->n", deviation, self.precision[group], deviation) + self.log_volume[group]
            )
        return scores
