"""Whether traffic still is what the detector was given when it was fitted, the classifier's mistakes included.

A classifier that errs has mistakes in its traffic when all is well; they look odd, if not odd enough to be flagged.
Were right predictions alone the measure, every classifier that errs would set the alarm off. All tests compare with the
n calibration inputs, and as many mistakes as there were with them, not with a perfect uniform distribution: the
p-values of any number of new inputs are ranks among the same n scores, and share that sample's accidents. A test that
forgets this raises false alarms without end once there is more traffic than calibration data.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from gradgeo._typing import Array, IntArray
from gradgeo.scoring.metadata import STEPS

BINS = STEPS
"""Steps of p-value that traffic is counted in."""

LEVEL = 0.01
"""Chance that all windows of undisturbed traffic raise an alarm, over all windows of a report."""


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


@dataclass(frozen=True)
class Usual:
    """What traffic is compared with: the calibration inputs and, in their natural share, mistakes of the classifier."""

    alpha: float
    """The p-value up to which an input is flagged."""
    calibration_size: int
    mistakes: IntArray
    """(1 + STEPS,) as `Metadata.mistakes`."""

    @property
    def ranks(self) -> int:
        """Ranks among the calibration scores that are flagged."""
        return int(np.floor(self.alpha * (self.calibration_size + 1) + 1e-9))

    @property
    def trusted(self) -> int:
        """Inputs that are trusted."""
        return max(0, self.calibration_size - self.ranks) + int(self.mistakes[1:].sum())

    @property
    def below(self) -> Array:
        """(STEPS + 1,) the share of the trusted ones whose p-value is at most b / STEPS, b = 0 ... STEPS."""
        flagged = self.ranks / (self.calibration_size + 1)
        calibration = np.clip((uniform(self.calibration_size) - flagged) / (1 - flagged), 0, 1)
        ours = max(0, self.calibration_size - self.ranks)
        counts = ours * calibration + np.r_[0, np.cumsum(self.mistakes[1:])]
        return np.asarray(counts / max(1, self.trusted), np.float64)

    def expected_share(self, count: int, level: float) -> tuple[float, float]:
        """Where the share of flagged inputs lies among `count`, but for a chance of about `level`: the calibration
        inputs and mistakes are taken for one set that the ranks are of."""
        size = self.calibration_size + int(self.mistakes.sum())
        return expected_share(count, (self.ranks + int(self.mistakes[0])) / (size + 1), size, level)

    def quantile(self, q: float) -> float:
        """Of the trusted ones' p-values."""
        if not self.mistakes[1:].any():
            return self.alpha + (1 - self.alpha) * q
        return float(np.interp(q, self.below, np.arange(BINS + 1) / BINS))


def shift(counts: IntArray, usual: Usual) -> Shift | None:
    """The p-values of inputs that the detector trusts, against those of the usual ones that it would trust.

    Both are cut at alpha, a rank of the calibration scores, so they stay exchangeable when nothing has changed:
    the two-sample Kolmogorov-Smirnov test on the `BINS` steps (which can only make it more cautious). What is flagged
    does not count here; `Usual.expected_share` judges it.

    Args:
        counts: (BINS,) inputs in each step, trusted ones only.
        usual: what they are compared with.

    Returns: None where there is nothing to compare.
    """
    total = int(counts.sum())
    if not total or usual.trusted < 1 or usual.ranks > usual.calibration_size:
        return None
    gaps = np.r_[0, np.cumsum(counts) / total] - usual.below
    distance = float(gaps[np.abs(gaps).argmax()])
    effective = max(1, round(total * usual.trusted / (total + usual.trusted)))
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
