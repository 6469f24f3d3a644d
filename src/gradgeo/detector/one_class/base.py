"""One-class models: what the features of one kind of evidence look like over trusted inputs, as one outlier score.

Each is a frozen dataclass of arrays, whose names, types and shapes `LAYOUT` states; a detector file holds them as they
are, and each class checks its own when they are read. `score` is written in torch, so that attacks can differentiate it
and exports can carry it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from gradgeo._typing import Array, IntArray
from gradgeo.detector.one_class.numerics import inverse_root, normal_scores

RIDGE = 1e-6  # variance of a normal score that is added to all, so that a constant feature has a finite inverse
HABIT = 0.1  # the same where trusted inputs of a class may be alike by habit
PER_CLASS = 1  # samples per feature from which a predicted class gets a Gaussian of its own
QUANTILES = 200
NEIGHBOUR = 10  # the distance is that to the so-manyth nearest
KEPT = 0.9  # of the probability of trusted inputs' classes, without which the mirror image is another thing
FLAT = 1e-3  # of the typical spread of a layer's entries, below which no entry's own is believed
REFERENCES = 4096  # inputs that a nearest-neighbour model keeps at most

Layout = dict[str, tuple[str, tuple[str, ...]]]
"""Of each array: its dtype, and the names of its dimensions. One name is one size throughout a model; "classes" is the
classifier's."""


class OneClass(ABC):
    """What learns the features of trusted inputs and scores those of others: a frozen dataclass of arrays."""

    LAYOUT: ClassVar[Layout]

    @classmethod
    @abstractmethod
    def fit(cls, features: Array, predicted: IntArray, num_classes: int) -> Self:
        """Fit to features (n, F) of trusted inputs and their predicted classes (n,)."""

    @abstractmethod
    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """Outlier score (N,), larger = less like the trusted inputs; NaN for rows that hold NaN; differentiable.

        Args:
            features: (N, F) float64 on the CPU.
            predicted: (N,) classes; not read where the features are NaN.
        """

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], num_classes: int) -> Self:
        """A model of arrays read from a file; ValueError where they are not what `fit` makes."""
        model = cls(**checked_arrays(cls.LAYOUT, arrays, {"classes": num_classes}))
        model.validate()
        return model

    @property
    def width(self) -> int | None:
        """F, how many features it scores; None where its `LAYOUT` does not say."""
        for name, (_, dimensions) in self.LAYOUT.items():
            if "width" in dimensions:
                return int(getattr(self, name).shape[dimensions.index("width")])
        return None

    def validate(self) -> None:  # noqa: B027  # not every model has more to check
        """Raise ValueError where values are not what `fit` makes; types and shapes are known to be those of `LAYOUT`,
        and all numbers finite."""


@dataclass(frozen=True)
class ClassConditionalCopula(OneClass):
    """Negative log density, up to constants, of the features' normal scores given the predicted class.

    Each feature is first mapped to a normal score by its quantiles over all trusted inputs: the statistics are bounded
    and skewed, and plain distances see little but their longest tail. Then each predicted class with at least
    `PER_CLASS` samples per feature gets a Gaussian of its own, and the other classes share one fitted on all.
    Covariances are shrunk (Ledoit and Wolf 2004, J. Multivariate Analysis 88), so few samples or constant features do
    no harm. Chosen by measurement among scikit-learn's one-class models: `python -m benchmarks one-class`,
    results/one-class.md.
    """

    LAYOUT: ClassVar[Layout] = {
        "quantiles": ("f8", ("levels", "width")),
        "center": ("f8", ("groups", "width")),
        "precision": ("f8", ("groups", "width", "width")),
        "log_volume": ("f8", ("groups",)),
        "group": ("i8", ("classes",)),
    }

    quantiles: Array
    """(Q, F), ascending, of each feature."""
    center: Array
    """(G, F), row 0 shared by the classes without a Gaussian of their own."""
    precision: Array
    """(G, F, F), the inverse covariances."""
    log_volume: Array
    """(G,) log determinants of the covariances, which make the classes comparable."""
    group: IntArray
    """(C,) the row of each class."""

    @classmethod
    def fit(
        cls, features: Array, predicted: IntArray, num_classes: int, *, per_class: int = PER_CLASS, ridge: float = RIDGE
    ) -> Self:
        """Fit on features (n, F) of trusted inputs and their predicted classes (n,)."""
        # Only fitting needs scikit-learn, and it takes longer to import than all the rest of us.
        from sklearn.covariance import LedoitWolf
        from sklearn.preprocessing import QuantileTransformer

        n, width = features.shape
        quantiles = QuantileTransformer(n_quantiles=min(QUANTILES, n), subsample=None).fit(features).quantiles_
        normal = normal_scores(torch.from_numpy(features), torch.from_numpy(quantiles)).numpy()  # (n, F)
        own = [c for c in range(num_classes) if (predicted == c).sum() >= per_class * width]
        group = np.zeros(num_classes, np.int64)
        group[own] = np.arange(1, len(own) + 1)
        fits = [LedoitWolf().fit(rows) for rows in (normal, *(normal[predicted == c] for c in own))]
        covariance = np.stack([f.covariance_ for f in fits]) + ridge * np.eye(width)  # (G, F, F)
        return cls(
            quantiles=quantiles,
            center=np.stack([f.location_ for f in fits]),
            precision=np.asarray(np.linalg.inv(covariance), np.float64),
            log_volume=np.asarray(np.linalg.slogdet(covariance)[1], np.float64),
            group=group,
        )

    def validate(self) -> None:
        """As `OneClass.validate`."""
        ensure(
            len(self.quantiles) >= 2 and bool((np.diff(self.quantiles, axis=0) >= 0).all()), "quantiles are not sorted"
        )
        ensure(bool(((self.group >= 0) & (self.group < len(self.center))).all()), "group is out of range")
        # An inverse covariance with a negative direction calls trusted whatever lies far along it.
        skew = np.abs(self.precision - self.precision.swapaxes(1, 2)).max(initial=0.0)
        ensure(skew <= 1e-6 * np.abs(self.precision).max(initial=0.0), "precision is not symmetric")
        try:
            roots = np.linalg.cholesky(self.precision)  # (G, F, F)
        except np.linalg.LinAlgError:
            raise ValueError("precision is not positive definite") from None
        volume = -2 * np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(1)  # (G,)
        ensure(bool(np.allclose(self.log_volume, volume, rtol=1e-3, atol=1e-3)), "log_volume is not that of precision")

    def normal_scores(self, features: Tensor) -> Tensor:
        """Features (N, F) as normal scores, differentiable."""
        return normal_scores(features, torch.from_numpy(self.quantiles))

    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """As `OneClass.score`."""
        group = torch.from_numpy(self.group)[predicted]  # (N,)
        center, precision, volume = map(torch.from_numpy, (self.center, self.precision, self.log_volume))
        deviation = self.normal_scores(features) - center[group]  # (N, F)
        # The squared Mahalanobis distance to the predicted class's Gaussian, and what makes classes comparable.
        return torch.einsum("nf,nfg,ng->n", deviation, precision[group], deviation) + volume[group]


@dataclass(frozen=True)
class SmoothCopula(ClassConditionalCopula):
    """`ClassConditionalCopula` for features that many trusted inputs have exactly alike, as pictures their white: that
    of a class all do is no law, and the first that does not is no more surprising than others so far out."""

    @classmethod
    def fit(
        cls, features: Array, predicted: IntArray, num_classes: int, *, per_class: int = PER_CLASS, ridge: float = HABIT
    ) -> Self:
        """As `ClassConditionalCopula.fit`."""
        return super().fit(features, predicted, num_classes, per_class=per_class, ridge=ridge)


@dataclass(frozen=True)
class UpperTail(OneClass):
    """The largest of the features, each as a multiple of how far its 95 % quantile lies above its median.

    For features that are suspicious when they are large and never when they are small.
    """

    LAYOUT: ClassVar[Layout] = {"median": ("f8", ("width",)), "spread": ("f8", ("width",))}

    median: Array
    """(F,)"""
    spread: Array
    """(F,) from the median to the 95 % quantile, positive."""

    @classmethod
    def fit(cls, features: Array, predicted: IntArray, num_classes: int) -> Self:
        """As `OneClass.fit`."""
        median, high = np.quantile(features, [0.5, 0.95], axis=0)
        return cls(median, np.maximum(high - median, 1e-12))

    def validate(self) -> None:
        """As `OneClass.validate`."""
        ensure(bool((self.spread > 0).all()), "spread is not positive")

    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """As `OneClass.score`."""
        return ((features - torch.from_numpy(self.median)) / torch.from_numpy(self.spread)).amax(1)


@dataclass(frozen=True)
class MirroredTail(OneClass):
    """`UpperTail` of the log odds against a class: of the mean over an input and its mirror image, where trusted inputs
    keep their probability there (`KEPT`); where left and right mean something to the classifier, of the input alone."""

    LAYOUT: ClassVar[Layout] = {"median": ("f8", ("one",)), "spread": ("f8", ("one",)), "column": ("i8", ("one",))}

    median: Array
    """(1,)"""
    spread: Array
    """(1,) from the median to the 95 % quantile, positive."""
    column: IntArray
    """(1,) 0 for the odds at the input, 1 for those of the mean."""

    @classmethod
    def fit(cls, features: Array, predicted: IntArray, num_classes: int) -> Self:
        """As `OneClass.fit`, of features (n, 2)."""
        own, mean = expit(-features).T  # (n,) probabilities of the predicted class
        column = int((2 * mean - own).mean() >= KEPT * own.mean())
        tail = UpperTail.fit(features[:, [column]], predicted, num_classes)
        return cls(tail.median, tail.spread, np.array([column], np.int64))

    def validate(self) -> None:
        """As `OneClass.validate`."""
        ensure(len(self.column) == 1 and self.column[0] in (0, 1), "column is out of range")
        ensure(bool((self.spread > 0).all()), "spread is not positive")

    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """As `OneClass.score`."""
        return (features[:, int(self.column[0])] - float(self.median[0])) / float(self.spread[0])


@dataclass(frozen=True)
class NearestNeighbours(OneClass):
    """Cosine distance to the tenth nearest of at most `REFERENCES` trusted inputs (Sun et al., ICML 2022)."""

    LAYOUT: ClassVar[Layout] = {"references": ("f4", ("references", "width"))}

    references: NDArray[np.float32]
    """(R, F), each of length 1."""

    @classmethod
    def fit(cls, features: Array, predicted: IntArray, num_classes: int) -> Self:
        """As `OneClass.fit`."""
        chosen = np.linspace(0, len(features) - 1, min(len(features), REFERENCES)).astype(int)
        return cls(_unit(torch.from_numpy(features[chosen])).numpy().astype(np.float32))

    def validate(self) -> None:
        """As `OneClass.validate`."""
        ensure(len(self.references) >= 1, "references are none")

    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """As `OneClass.score`."""
        references = torch.from_numpy(self.references).double()  # (R, F)
        similar = _unit(features) @ references.T  # (N, R) cosines
        # NaN has no order; as the least similar of all it leaves the others' order alone, and is put back below.
        distance = 1 - similar.nan_to_num(-1.0).topk(min(NEIGHBOUR, len(references)), dim=1).values[:, -1]
        return torch.where(features.isnan().any(1), torch.nan, distance)


@dataclass(frozen=True)
class ClassMeans(OneClass):
    """Squared Mahalanobis distance of features to the nearest class mean.

    All classes share one covariance, of the deviations from their means, shrunk (Ledoit and Wolf 2004), so that few
    inputs of many features do no harm. Deviation from the sources: classes are those predicted, and the shrinkage.
    """

    LAYOUT: ClassVar[Layout] = {"whitening": ("f8", ("width", "width")), "means": ("f8", ("groups", "width"))}

    whitening: Array
    """(F, F), whose product with its transpose is the inverse covariance."""
    means: Array
    """(G, F) of the classes that were predicted, each times `whitening`."""

    @staticmethod
    def prepared(features: Tensor) -> Tensor:
        """The features (N, F) whose distance is measured."""
        return features

    @classmethod
    def fit(cls, features: Array, predicted: IntArray, num_classes: int) -> Self:
        """As `OneClass.fit`."""
        from sklearn.covariance import ledoit_wolf

        rows = cls.prepared(torch.from_numpy(features)).numpy()
        _, group = np.unique(predicted, return_inverse=True)
        counts = np.bincount(group)
        sums = np.zeros((len(counts), rows.shape[1]))
        np.add.at(sums, group, rows)
        means = sums / counts[:, None]  # (G, F)
        several = counts[group] > 1  # of a class seen once the deviation is zero, and says nothing
        deviations = (rows - means[group])[several] if several.any() else rows - rows.mean(0)
        covariance, _ = ledoit_wolf(deviations, assume_centered=True)
        # Features that never vary leave no variance at all; the ridge keeps the inverse finite.
        covariance += (1e-9 * np.trace(covariance) / len(covariance) + 1e-12) * np.eye(len(covariance))
        whitening = inverse_root(covariance)
        return cls(whitening, means @ whitening)

    def validate(self) -> None:
        """As `OneClass.validate`."""
        ensure(len(self.means) >= 1, "means are none")

    def _squares(self, features: Tensor) -> Tensor:
        """(N,) of features (N, F), 0 or more."""
        rows = self.prepared(features) @ torch.from_numpy(self.whitening)  # (N, F)
        means = torch.from_numpy(self.means)
        # |a - b|^2 by its three terms, (N, G): the differences themselves would be (N, G, F).
        squares = rows.square().sum(1, keepdim=True) - 2 * rows @ means.T + means.square().sum(1)
        return squares.amin(1).clamp_min(0)


@dataclass(frozen=True)
class NearestMean(ClassMeans):
    """`ClassMeans` of features of length 1 (Mueller and Hein, ICML 2025)."""

    @staticmethod
    def prepared(features: Tensor) -> Tensor:
        """As `ClassMeans.prepared`."""
        return _unit(features)

    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """As `OneClass.score`."""
        return self._squares(features)


@dataclass(frozen=True)
class NearestLayerMean(ClassMeans):
    """The logarithm of `ClassMeans` of a layer's outputs, whose length is part of what they say (Lee et al., NeurIPS
    2018): distances there grow by orders of magnitude. Each entry has units of its own, its spread over trusted inputs,
    so that the shrinkage is not that of the largest alone."""

    @classmethod
    def fit(cls, features: Array, predicted: IntArray, num_classes: int) -> Self:
        """As `OneClass.fit`."""
        spread = features.std(0)  # (F,)
        # An entry that hardly varies must not make another processor's rounding a distance.
        least = FLAT * np.maximum(np.sqrt(np.square(spread).mean()), np.abs(features).mean(0) / 10)
        units = np.maximum(np.maximum(spread, least), 1e-12)
        model = super().fit(features / units, predicted, num_classes)
        return replace(model, whitening=np.ascontiguousarray(model.whitening / units[:, None]))

    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """As `OneClass.score`."""
        return self._squares(features).clamp_min(1e-12).log()


@dataclass(frozen=True)
class Residual(OneClass):
    """Log of the distance to the affine space that holds most of the trusted features' variance (Wang et al., "ViM",
    CVPR 2022): half of the principal directions span it, and the other half measure the distance."""

    LAYOUT: ClassVar[Layout] = {"mean": ("f8", ("width",)), "minor": ("f8", ("width", "directions"))}

    mean: Array
    """(F,)"""
    minor: Array
    """(F, D), the directions of least variance."""

    @classmethod
    def fit(cls, features: Array, predicted: IntArray, num_classes: int) -> Self:
        """As `OneClass.fit`."""
        mean = features.mean(0)  # (F,)
        # eigh sorts by rising variance, so the first half of the columns are the minor directions.
        _, directions = np.linalg.eigh(np.cov(features - mean, rowvar=False).reshape(len(mean), -1))
        return cls(mean, np.ascontiguousarray(directions[:, : max(1, len(mean) // 2)]))

    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """As `OneClass.score`."""
        minor = (features - torch.from_numpy(self.mean)) @ torch.from_numpy(self.minor)  # (N, D)
        return minor.square().sum(1).clamp_min(1e-24).log() / 2


def checked_arrays(
    layout: Layout, arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, int]
) -> dict[str, NDArray[Any]]:
    """The arrays that `layout` names; ValueError unless they have its types and shapes, with the `sizes` that are known
    and one size for each name throughout, and all numbers are finite."""
    known = dict(sizes)
    for name, (dtype, dimensions) in layout.items():
        ensure(name in arrays, f"{name} is missing")
        array = arrays[name]
        ensure(array.dtype == dtype and array.ndim == len(dimensions), f"{name} has the wrong type or dimensions")
        for dimension, size in zip(dimensions, array.shape, strict=True):
            ensure(known.setdefault(dimension, size) == size, f"{name} has the wrong shape")
        ensure(bool(np.isfinite(array).all()), f"{name} is not finite")
    return {name: arrays[name] for name in layout}


def ensure(holds: bool, otherwise: str) -> None:
    """ValueError, which the reader of a file turns into an error that names the file."""
    if not holds:
        raise ValueError(otherwise)


def _unit(features: Tensor) -> Tensor:
    return features / features.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
