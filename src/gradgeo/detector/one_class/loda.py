"""LODA: the one-class model of the paper, histograms of random directions."""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, IntArray
from gradgeo.detector.one_class.base import Layout, OneClass, ensure
from gradgeo.detector.one_class.numerics import interpolate

CUTS = 100
"""Random directions, as in Schwinn et al. 2021."""

GRID = 2.0**30
"""Places within a histogram and surprisals are multiples of its inverse. Statistics of signs are few numbers that many
inputs share: rounding must not put one of these to either side of an edge, nor order equal scores by the order of a
sum, which is exact of such numbers."""

MOST_BINS = 500
"""Bins of a histogram at most."""


@dataclass(frozen=True)
class Loda(OneClass):
    """Lightweight on-line detector of anomalies: minus the mean log probability of the features' bins, over histograms
    of `CUTS` random directions, each a normal draw in about sqrt(F) of the F features (Pevny, Machine Learning 102,
    2016).

    It knows of no predicted class, and of no scale: a feature of larger numbers counts for more. Deviations: all
    histograms have one number of bins, that of the largest mean penalised likelihood (Birge and Rozenholc 2006, which
    Pevny takes for each); a bin that no trusted input fell into, and what lies outside, counts as half of one. Slopes,
    which a histogram has none of, are those of the line through the middles of its bins.
    """

    LAYOUT: ClassVar[Layout] = {
        "directions": ("f8", ("width", "cuts")),
        "low": ("f8", ("cuts",)),
        "high": ("f8", ("cuts",)),
        "surprisal": ("f8", ("cuts", "bins")),
    }

    directions: Array
    """(F, D)."""
    low: Array
    """(D,) the least projection of a trusted input."""
    high: Array
    """(D,) the largest."""
    surprisal: Array
    """(D, B + 1): minus the log probability of each of B bins of equal width, and of what lies outside."""

    @classmethod
    def fit(cls, features: Array, predicted: IntArray, num_classes: int, *, bins: int | None = None) -> Self:
        """As `OneClass.fit`; `bins` in place of a number that is found."""
        n, width = features.shape
        rng = np.random.default_rng(0)
        directions = rng.standard_normal((width, CUTS))
        kept = rng.random((width, CUTS)).argsort(axis=0) < max(1, round(width**0.5))  # sqrt(F) of F, at random
        directions = directions * kept
        low, high = _ends(features @ directions)
        projected = torch.from_numpy(features @ directions)
        place = _place(projected, torch.from_numpy(low), torch.from_numpy(high))  # (n, D) in 0..1
        if bins is None:
            bins = max(_candidates(n), key=lambda b: _penalised_likelihood(_counts(place, b), n))
        return cls(directions, low, high, _surprisal(_counts(place, bins), n))

    def validate(self) -> None:
        """As `OneClass.validate`."""
        ensure(self.directions.shape[1] >= 1, "directions are none")
        ensure(self.surprisal.shape[1] >= 2, "surprisal has no bins")
        ensure(bool((self.low < self.high).all()), "high is not above low")
        ensure(bool((self.surprisal >= 0).all()), "surprisal is negative")

    def score(self, features: Tensor, predicted: Tensor) -> Tensor:
        """As `OneClass.score`."""
        low, high, surprisal = map(torch.from_numpy, (self.low, self.high, self.surprisal))
        bins = surprisal.shape[1] - 1
        place = _place(features @ torch.from_numpy(self.directions), low, high)  # (N, D), 0..1 within
        inside = place.nan_to_num(-1.0)  # NaN has no bin; it is put back below
        outside = (inside < 0) | (inside > 1)
        at = torch.where(outside, bins, (inside * bins).floor().clamp(0, bins - 1)).long()  # (N, D)
        scores: Tensor = surprisal.T.gather(0, at).sum(1) / surprisal.shape[0]
        if features.requires_grad:
            scores = scores + self._slope(place)
        return torch.where(features.isnan().any(1), torch.nan, scores)

    def _slope(self, place: Tensor) -> Tensor:
        """Zero (N,), with the slope of the line through the middles of the bins, which leads back from outside."""
        surprisal = torch.from_numpy(self.surprisal)
        bins = surprisal.shape[1] - 1
        middles = ((torch.arange(bins, dtype=place.dtype) + 0.5) / bins).expand(len(surprisal), bins).contiguous()
        rows = place.T.contiguous()  # (D, N)
        line = interpolate(rows, middles, surprisal[:, :-1].contiguous())
        line = line + surprisal[:, -1:] * (rows - rows.detach().clamp(0, 1)).abs()
        return line.mean(0) - line.mean(0).detach()


def _ends(projected: Array) -> tuple[Array, Array]:
    """The least and the largest of each column; apart where all are equal."""
    low, high = projected.min(0), projected.max(0)
    narrow = high - low <= 1e-9 * np.maximum(1.0, np.abs(low))
    return np.where(narrow, low - 0.5, low), np.where(narrow, high + 0.5, high)


def _place(projected: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where projections (N, D) lie between the ends, 0..1, on `GRID`; beyond them outside."""
    place = (projected - low) / (high - low)
    return place + ((place.detach() * GRID).round() / GRID - place.detach())  # rounding has no slope


def _counts(place: Tensor, bins: int) -> Array:
    """How many of the places (n, D) fall into each bin (D, B)."""
    at = (place * bins).floor().clamp(0, bins - 1).long()  # (n, D)
    counts = torch.zeros(place.shape[1], bins, dtype=torch.float64)
    return counts.scatter_add_(1, at.T, torch.ones_like(place.T)).numpy()


def _candidates(n: int) -> list[int]:
    """Numbers of bins that are tried: up to n / log n, as Birge and Rozenholc do, by steps of about an eighth."""
    most = int(min(MOST_BINS, max(2, n / np.log(max(3, n)))))
    return sorted({int(b) for b in np.geomspace(2, most, num=1 + int(6 * np.log2(most)))})


def _penalised_likelihood(counts: Array, n: int) -> float:
    """Of histograms (D, B) over n inputs, their mean: sum_j n_j log(B n_j / n) - (B - 1 + (log B)^2.5)."""
    bins = counts.shape[1]
    likelihood = (counts * np.log(np.maximum(counts, 1) * bins / n)).sum(1).mean()
    return float(likelihood - (bins - 1 + np.log(bins) ** 2.5))


def _surprisal(counts: Array, n: int) -> Array:
    """Minus the log of the share of n inputs in each bin (D, B), and outside of all."""
    outside = np.zeros((len(counts), 1))
    surprisal = -np.log(np.maximum(np.hstack([counts, outside]), 0.5) / n)
    return np.asarray(np.abs(np.round(surprisal * GRID)) / GRID)  # never -0.0
