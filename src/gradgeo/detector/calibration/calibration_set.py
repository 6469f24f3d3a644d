"""What `fit` keeps of the inputs set apart for calibration: p-values and explanations compare with these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgeo._typing import Array, IntArray
from gradgeo.detector.calibration import conformal
from gradgeo.detector.one_class.base import QUANTILES, Layout, checked_arrays, ensure
from gradgeo.detector.one_class.numerics import normal_scores
from gradgeo.detector.results import Reference, Statistic


@dataclass(frozen=True)
class CalibrationSet:
    """The n calibration inputs, as numbers only, without the inputs themselves."""

    LAYOUT: ClassVar[Layout] = {
        "calibration": ("f8", ("calibrated",)),
        "reference_index": ("i8", ("calibrated",)),
        "reference_label": ("i8", ("calibrated",)),
        "reference_features": ("f8", ("calibrated", "named")),
        "reference_scores": ("f8", ("calibrated", "members")),
    }

    outlier_scores: Array
    """(n,), ascending: of no particular row of the tables below."""
    rows: IntArray
    """(n,) positions in the data given to `fit`, ascending."""
    labels: IntArray
    """(n,) predicted classes."""
    features: Array
    """(n, F), those with names."""
    scores: Array
    """(n, M) of each evidence."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By the names of `LAYOUT`, as a detector file holds them."""
        columns = (self.outlier_scores, self.rows, self.labels, self.features, self.scores)
        return dict(zip(self.LAYOUT, columns, strict=True))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], size: int, num_classes: int, members: int) -> Self:
        """Of arrays read from a file; ValueError where they are not what `fit` makes."""
        read = cls(*checked_arrays(cls.LAYOUT, arrays, {"members": members}).values())
        n = len(read.outlier_scores)
        ensure(n >= 1 and bool((np.diff(read.outlier_scores) >= 0).all()), "calibration scores are not sorted")
        ensure(n == size, "calibration_size is not the number of scores")
        ensure(bool(((read.labels >= 0) & (read.labels < num_classes)).all()), "reference_label is out of range")
        ensure(bool(((read.rows >= 0) & (read.rows < 2**62)).all()), "reference_index is out of range")
        return read

    def p_value(self, outlier_scores: Tensor) -> Tensor:
        """Split-conformal p-values (N,) of outlier scores (N,), float64."""
        return torch.from_numpy(conformal.p_values(self.outlier_scores, outlier_scores.numpy()))

    def evidence_p_values(self, scores: Tensor) -> Tensor:
        """Split-conformal p-values (N, M) of the score (N, M) of each evidence alone."""
        known = np.sort(self.scores, axis=0)  # (n, M)
        columns = [conformal.p_values(k, s) for k, s in zip(known.T, scores.numpy().T, strict=True)]
        return torch.from_numpy(np.stack(columns, axis=1))

    def statistics(self, names: Sequence[str], features: Tensor) -> list[dict[str, Statistic]]:
        """The named features (N, F) of each input with the range of trusted ones, the most unusual first."""
        low, high = np.quantile(self.features, [0.05, 0.95], axis=0)  # (F,) each
        statistics = []
        for row in features.numpy():
            at_most, at_least = 1 + (self.features <= row).sum(0), 1 + (self.features >= row).sum(0)  # (F,) ranks
            two_sided = np.minimum(1, 2 * np.minimum(at_most, at_least) / (len(self.features) + 1))
            p = np.where(np.isnan(row), np.nan, two_sided)
            statistics.append(
                {
                    names[j]: Statistic(float(row[j]), float(p[j]), (float(low[j]), float(high[j])))
                    for j in np.argsort(p, kind="stable")
                }
            )
        return statistics

    def nearest(self, features: Tensor, has_gradient: Tensor) -> list[Reference | None]:
        """The calibration input whose named features (n, F) are nearest to those of each input (N, F); None without.

        Compared as normal scores, in which each feature has the same spread whatever its unit.
        """
        count = min(QUANTILES, len(self.features))
        knots = torch.from_numpy(np.quantile(self.features, np.linspace(0, 1, count), axis=0))  # (Q, F)
        ours, theirs = normal_scores(features, knots), normal_scores(torch.from_numpy(self.features), knots)
        distance, index = torch.cdist(ours.nan_to_num(0.0), theirs).min(1)  # (N,) each
        return [
            Reference(int(self.rows[j]), int(self.labels[j]), float(distance[i])) if has_gradient[i] else None
            for i, j in enumerate(index.tolist())
        ]
