"""Split-conformal p-values: what turns an outlier score into a stated false-alarm rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from gradgeo._typing import Array

CONFIDENCE = 0.95
"""With which the largest false-alarm rate of a detector is stated where `Detector` was given no other."""


EXACT = 100_000
"""Inputs up to which the beta-binomial is summed; of more its beta limit is taken."""


def exact_interval(part: ArrayLike, whole: ArrayLike, level: float = 0.05) -> tuple[Array, Array]:
    """Intervals of shares that miss them with probability `level` (Clopper and Pearson 1934, Biometrika 26)."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    low = special.betaincinv(np.maximum(part, 0.5), whole - part + 1, level / 2)
    high = special.betaincinv(part + 1, np.maximum(whole - part, 0.5), 1 - level / 2)
    return np.where(part == 0, 0.0, low), np.where(part == whole, 1.0, high)


def p_values(calibration: Array, scores: Array) -> Array:
    """(1 + #{calibration scores >= score}) / (n + 1), NaN for a NaN score.

    If a trusted input's score is exchangeable with the n calibration scores then P(p <= alpha) <= alpha for every
    alpha and every n, whatever the model and the score; equality where alpha (n + 1) is an integer and there are no
    ties (Vovk et al. 2005, "Algorithmic learning in a random world"; Bates et al. 2023, Annals of Statistics 51).

    Args:
        calibration: (n,) sorted ascending.
        scores: (N,), larger = less trustworthy.
    """
    n = len(calibration)
    at_least = n - np.searchsorted(calibration, scores, side="left")  # (N,)
    return np.where(np.isnan(scores), np.nan, (1 + at_least) / (n + 1))


def min_calibration_size(alpha: float, confidence: float | None = None) -> int:
    """The fewest calibration scores with which any input can be flagged at `alpha`: 1 / (n + 1) <= alpha.

    With a `confidence` the smallest rank must keep to it too: 1 - (1 - alpha)^n >= confidence.
    """
    # 1 / alpha may round to just above an integer, which must not count as the next one.
    least = int(np.ceil(1 / alpha - 1e-9)) - 1
    if confidence is not None:
        least = max(least, int(np.log1p(-confidence) / np.log1p(-alpha)) - 1)
        while not flagged_ranks(least, alpha, confidence):
            least += 1 + (least >> 40)  # beyond the numbers that float64 tells apart by 1
    return least


def flagged_ranks(n: int, alpha: float, confidence: float | None = None) -> int:
    """How many of the n + 1 possible p-values are flagged: p <= k / (n + 1) for the largest such k, 0 for none.

    Without `confidence` the largest k with k / (n + 1) <= alpha. With it the largest of those for which the false-alarm
    rate of the one detector with this calibration set is at most alpha with that probability, see `FalseAlarmRate`.
    """
    k = int(alpha * (n + 1)) + 1
    while k and k / (n + 1) > alpha:  # as p-values are compared, in float64
        k -= 1
    if confidence is None or k == 0:
        return k
    ranks = np.arange(1.0, k + 1)
    return int((special.betainc(ranks, n + 1 - ranks, alpha) >= confidence).sum())  # falls with the rank


@dataclass(frozen=True)
class FalseAlarmRate:
    """The share of trusted inputs that one detector flags, whose calibration set is drawn once and then stays.

    An input is flagged if its score is above the k-th largest of n calibration scores. Of a continuous score the
    probability of that, given the calibration set, is an order statistic of n uniform numbers: beta distributed with
    parameters k and n + 1 - k (Vovk 2012, "Conditional validity of inductive conformal predictors", proposition 2a).
    With ties it is stochastically smaller.

    Example:
        >>> print(Level(alpha=0.05).rate(339))
        5.0 % expected, at most 7.1 % with 95 % confidence (flagged: p <= 17/340)
        >>> print(Level(alpha=0.05, confidence=0.95).rate(339))
        3.2 % expected, at most 5.0 % with 95 % confidence (flagged: p <= 11/340)
    """

    ranks: int
    """k: the largest p-value that is flagged is k / (n + 1)."""
    calibration_size: int
    """n."""
    confidence: float
    """Of `at_most`."""

    @property
    def expected(self) -> float:
        """Its mean over calibration sets, k / (n + 1)."""
        return self.ranks / (self.calibration_size + 1)

    @property
    def at_most(self) -> float:
        """What the rate of a detector with n calibration inputs exceeds with probability 1 - `confidence` only."""
        if not self.ranks:
            return 0.0
        return float(special.betaincinv(self.ranks, self.calibration_size + 1 - self.ranks, self.confidence))

    def tail(self, judged: int) -> Array:
        """(judged + 1,) P(at least x of `judged` trusted inputs are flagged) for x = 0 ... judged.

        Inputs that are exchangeable with those of calibration: the count is beta-binomial with parameters k and
        n + 1 - k, in which both the draw of the inputs and that of the calibration set count (Vovk 2012). With ties
        it is stochastically smaller.
        """
        k, n = self.ranks, self.calibration_size
        if not k:
            return np.concatenate([np.ones(1), np.zeros(judged)])
        x = np.arange(judged + 1.0)
        ways = -np.log(judged + 1) - special.betaln(judged - x + 1, x + 1)
        mass = np.exp(ways + special.betaln(x + k, judged - x + n + 1 - k) - special.betaln(k, n + 1 - k))
        more: Array = np.clip(np.cumsum(mass[::-1])[::-1], 0, 1)
        return more

    def chance_of_more(self, flagged: int, judged: int) -> float:
        """P(at least so many of `judged` trusted inputs are flagged)."""
        if judged > EXACT and self.ranks:
            return 1.0 if not flagged else float(special.betaincc(*self._limit(judged), min(1.0, flagged / judged)))
        return float(self.tail(judged)[flagged])

    def chance_of_less(self, flagged: int, judged: int) -> float:
        """P(at most so many of `judged` trusted inputs are flagged)."""
        if judged > EXACT and self.ranks:
            return float(special.betainc(*self._limit(judged), min(1.0, flagged / judged)))
        return 1.0 if flagged == judged else 1 - float(self.tail(judged)[flagged + 1])

    def least_excess(self, judged: int, level: float) -> int:
        """The fewest flagged of `judged` that `chance_of_more` gives at most `level`; judged + 1 where none is."""
        if judged > EXACT and self.ranks:
            return int(judged * special.betaincinv(*self._limit(judged), 1 - level)) + 1
        return int((self.tail(judged) > level).sum())

    def _limit(self, judged: int) -> tuple[float, float]:
        """Parameters of the beta distribution with the mean and variance of the share of `judged` that is flagged."""
        mean = self.expected
        sure = judged * (self.calibration_size + 2) / (self.calibration_size + 1 + judged) - 1
        return mean * sure, (1 - mean) * sure

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, ready for JSON."""
        return {
            "expected": self.expected,
            "at_most": self.at_most,
            "confidence": self.confidence,
            "flagged_ranks": self.ranks,
            "calibration_size": self.calibration_size,
        }

    def __str__(self) -> str:
        if not self.ranks:
            return f"0 %: with {self.calibration_size} calibration inputs nothing can be flagged"
        expected, at_most, sure = (100 * share for share in (self.expected, self.at_most, self.confidence))
        flagged = f"flagged: p <= {self.ranks}/{self.calibration_size + 1}"
        return f"{expected:.1f} % expected, at most {at_most:.1f} % with {sure:g} % confidence ({flagged})"


@dataclass(frozen=True)
class Level:
    """Which p-values are flagged: up to `alpha` or, with a `confidence`, up to a rank that keeps this detector's own
    false-alarm rate at or below alpha."""

    alpha: float
    confidence: float | None = None

    @property
    def least(self) -> int:
        """The fewest calibration inputs with which any input can be flagged."""
        return min_calibration_size(self.alpha, self.confidence)

    def threshold(self, n: int) -> float:
        """The p-value up to which an input is flagged, with n calibration inputs."""
        return self.alpha if self.confidence is None else flagged_ranks(n, self.alpha, self.confidence) / (n + 1)

    def rate(self, n: int) -> FalseAlarmRate:
        """The false-alarm rate of a detector with n calibration inputs."""
        return FalseAlarmRate(flagged_ranks(n, self.alpha, self.confidence), n, self.confidence or CONFIDENCE)


def calibration_size(n: int, share: float, alpha: float, *, at_most: int, confidence: float | None = None) -> int:
    """How many of `n` inputs to calibrate on: about `share`, so that alpha (n + 1) is an integer where 1/alpha is.

    Then the false-alarm rate is alpha itself rather than the next smaller multiple of 1 / (n + 1). With a `confidence`
    at least as many as it takes.
    """
    step = min_calibration_size(alpha) + 1
    steps = min(round(share * n / step), (at_most + 1) // step)
    return max(max(1, steps) * step - 1, min_calibration_size(alpha, confidence))
