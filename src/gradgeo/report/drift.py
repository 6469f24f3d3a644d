"""Whether traffic still is what the detector was calibrated on: p-values are uniform when it is.

All tests compare with the n calibration inputs, not with a perfect uniform distribution: the p-values of any number of
new inputs are ranks among the same n scores, and share that sample's accidents. A test that forgets this raises false
alarms without end once there is more traffic than calibration data.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from gradgeo._typing import Array, IntArray

BINS = 200
"""Steps of p-value that traffic is counted in; step b holds (b / BINS, (b + 1) / BINS]."""

LEVEL = 0.01
"""Chance that all windows of undisturbed traffic raise an alarm, over all windows of a report."""


def steps(p: Array) -> IntArray:
    """The step each p-value falls in."""
    return np.clip(np.ceil(p * BINS - 1e-9).astype(np.int64) - 1, 0, BINS - 1)


def uniform(calibration_size: int) -> Array:
    """P(p <= b / BINS), b = 0 ... BINS, for p uniform on 1 / (n + 1), ..., 1, as split-conformal p-values are."""
    n = calibration_size + 1
    return np.floor(np.arange(BINS + 1) * n / BINS + 1e-9) / n


@dataclass(frozen=True)
class Shift:
    """How far the p-values of some trusted-looking inputs are from uniform."""

    distance: float
    """The largest gap between shares below any p; above 0 where p-values are smaller than they should be."""

    p: float
    """Of the two-sample Kolmogorov-Smirnov test."""


def shift(counts: IntArray, alpha: float, calibration_size: int) -> Shift | None:
    """The p-values of inputs that the detector trusts, against those of the calibration inputs it would trust.

    Both are cut at alpha, a rank of the calibration scores, so they stay exchangeable when nothing has changed:
    the two-sample Kolmogorov-Smirnov test on the `BINS` steps (which can only make it more cautious). What is flagged
    does not count here; `expected_share` judges it.

    Args:
        counts: (BINS,) inputs in each step, trusted ones only.
        alpha: the detector's.
        calibration_size: n.

    Returns: None where there is nothing to compare.
    """
    total = int(counts.sum())
    below = uniform(calibration_size)
    flagged = np.floor(alpha * (calibration_size + 1) + 1e-9) / (calibration_size + 1)
    trusted_calibration = round((1 - flagged) * (calibration_size + 1)) - 1
    if not total or trusted_calibration < 1:
        return None
    should = np.clip((below - flagged) / (1 - flagged), 0, 1)
    gaps = np.r_[0, np.cumsum(counts) / total] - should
    distance = float(gaps[np.abs(gaps).argmax()])
    effective = max(1, round(total * trusted_calibration / (total + trusted_calibration)))
    return Shift(distance, float(stats.kstwo.sf(abs(distance), effective)))


def expected_share(count: int, alpha: float, calibration_size: int, level: float) -> tuple[float, float]:
    """Where the share of flagged inputs lies among `count` trusted ones, but for a chance of `level`.

    The number is beta-binomial with parameters k and n + 1 - k, k = floor(alpha (n + 1)) (Vovk 2012, "Conditional
    validity of inductive conformal predictors"); its quantiles are those of the beta distribution with the same mean
    and variance, which `scipy.stats.betabinom` gives exactly in 2 seconds for a million inputs.
    """
    n = calibration_size
    k = np.floor(alpha * (n + 1) + 1e-9)
    mean = k / (n + 1)
    if not count or not 0 < mean < 1:
        return mean, mean
    variance = mean * (1 - mean) * (n + 1 + count) / (count * (n + 2))
    sure = mean * (1 - mean) / variance - 1
    low, high = stats.beta.ppf([level / 2, 1 - level / 2], mean * sure, (1 - mean) * sure)
    return float(low), float(high)
