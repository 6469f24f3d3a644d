"""How well a score separates trusted from untrustworthy inputs, with 95 % intervals.

Scores are larger for less trustworthy inputs. A NaN score, an input that could not be judged, counts as the largest:
the detector does not trust it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from gradgeo.errors import expected

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def auroc(trusted: ArrayLike, untrustworthy: ArrayLike) -> Estimate:
    """Area under the ROC curve: the chance that an untrustworthy input has the larger score, ties counting half.

    Interval: DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, on the logit scale, which keeps it within 0..1.

    Example:
        >>> str(auroc([1, 2, 3, 4], [3, 5, 6, 7]))
        '90.6 [42.6, 99.2]'
    """
    a, b = _scores("trusted", trusted), _scores("untrustworthy", untrustworthy)
    value = float(roc_auc_score(np.r_[np.zeros(len(a)), np.ones(len(b))], np.r_[a, b]))
    if len(a) < 2 or len(b) < 2:
        return Estimate(value, 0.0, 1.0)
    # The share of the other group below each score, ties counting half, by ranks.
    both = stats.rankdata(np.r_[a, b])
    above = 1 - (both[: len(a)] - stats.rankdata(a)) / len(b)
    below = (both[len(a) :] - stats.rankdata(b)) / len(a)
    error = float(np.sqrt(above.var(ddof=1) / len(a) + below.var(ddof=1) / len(b)))
    if not 0 < value < 1 or error == 0:  # perfect separation: the rule of three bounds what was not seen
        bound = 3 / min(len(a), len(b))
        return Estimate(value, max(0.0, value - bound), min(1.0, value + bound))
    logit, width = np.log(value / (1 - value)), 1.959964 * error / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-np.array([logit - width, logit + width])))
    return Estimate(value, float(low), float(high))


def tnr_at_tpr(trusted: ArrayLike, untrustworthy: ArrayLike, *, tpr: float = 0.95, resamples: int = 1000) -> Estimate:
    """The share of untrustworthy inputs caught by the lowest threshold that keeps a share `tpr` of the trusted ones.

    Interval: percentile bootstrap over both groups, seeded.

    Example:
        >>> tnr_at_tpr(range(100), [50, 94, 95, 200]).value
        0.5
    """
    a, b = np.sort(_scores("trusted", trusted)), np.sort(_scores("untrustworthy", untrustworthy))
    if not 0 < tpr <= 1:
        raise expected("tpr", "above 0 and at most 1", tpr)
    rank = int(np.ceil(tpr * len(a) - 1e-9)) - 1

    def caught(a: Array, b: Array) -> float:
        return float((b > a[rank]).mean())

    rng = np.random.default_rng(0)
    draws = [
        caught(np.sort(a[rng.integers(len(a), size=len(a))]), b[rng.integers(len(b), size=len(b))])
        for _ in range(resamples)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(caught(a, b), float(low), float(high))


def _scores(name: str, values: ArrayLike) -> Array:
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or not len(scores):
        raise expected(name, "scores of shape (N,), N >= 1", scores)
    return np.where(np.isnan(scores), np.finfo(np.float64).max, scores)
