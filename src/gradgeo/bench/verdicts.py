"""Whether one detector beats all others on a column, is beaten by any of them, or neither can be told.

With d_k the AUROC of ours less that of peer k, what is asked is the smallest of the true d_k, against the best peer:

- Ours has won where it beats every peer. Each d_k is tested by itself and the largest p counts; no correction for the
  number of peers is due, as one false rejection does not make a false win (an intersection-union test, Berger 1982).
- Ours has lost where some peer beats it. The largest of the K test statistics is compared with the distribution of the
  largest of K normal variables with their correlation (Dunnett 1955; Hothorn, Bretz and Westfall 2008), so that peers
  that rank alike count as one.

Both together are Hsu's multiple comparisons with the best (1984, Annals of Statistics 12), with an interval of the
smallest d_k. All inputs serve. To choose the best peer on one half of them and test it on the other is valid too and
tests a single peer, but it doubles every variance, and it does not find a loss where the halves disagree about the
best: in simulation it finds fewer, `python -m benchmarks coverage` says how many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from gradgeo._typing import Array
from gradgeo.metrics import UNDECIDED, placements

LEVEL = 0.05
"""Of a verdict, and of what an interval leaves out."""
DRAWS = 500
"""Of normal vectors for each peer, for the distribution of the largest."""
ROUNDING = 1e-6
"""Normal variables that differ by less are the same one."""
VERDICTS = ("won", "not told apart", "lost")

Pair = tuple[Array, Array]
"""Scores of the trusted (N,) and of the untrustworthy inputs (M,) by one method."""


@dataclass(frozen=True)
class FromBest:
    """The AUROC of ours less that of the best of the others, in -1..1."""

    best: int
    """Which of the others has the highest AUROC here."""
    value: float
    """Against that one. It is chosen by these scores, which makes the value a little too low on average."""
    low: float
    """Lower end of the 95 % interval of the difference from the truly best."""
    high: float
    """Upper end."""
    p: float
    """Two-sided p-value of "as good as the best", at most 1."""

    @property
    def verdict(self) -> str:
        """By this column alone, at `LEVEL`."""
        return verdict(self.p, self.low, self.high)


def verdict(p: float, low: float, high: float) -> str:
    """Of `VERDICTS`, from a p-value, corrected or not, and the interval that says to which side."""
    if p > LEVEL:
        return "not told apart"
    return "won" if low > -high else "lost"


def from_best(ours: Pair, others: Sequence[Pair], refits: Sequence[tuple[Pair, Sequence[Pair]]] = ()) -> FromBest:
    """Ours against the best of the others, on the same inputs in the same order.

    The covariance of the differences is that of DeLong, DeLong and Clarke-Pearson 1988 with the degrees of freedom and
    the undecided inputs of `metrics.auroc_difference`, which this equals where there is one other. With `refits` the
    covariance over fits is added.

    Args:
        ours: scores of our method.
        others: scores of each of the others, at least one.
        refits: the same of detectors fitted on other halves of the fit inputs, which may score fewer inputs. For a
            figure that is linear in the fit inputs, the variance over random halves is that of the whole (Shao and Wu
            1989, Annals of Statistics 17).
    """
    differences, parts = _differences(ours, others)  # (K,), [(covariance, degrees of freedom)]
    if len(refits) > 1:
        over_fits = np.array([_differences(*refit)[0] for refit in refits])  # (S, K)
        parts.append((np.atleast_2d(np.cov(over_fits, rowvar=False)), len(refits) - 1))
    covariance = np.sum([part for part, _ in parts], axis=0)  # (K, K)
    variance = np.diag(covariance)
    # Satterthwaite's degrees of freedom of each difference.
    freedom = variance**2 / np.sum([np.diag(part) ** 2 / degrees for part, degrees in parts], axis=0)
    error = np.sqrt(variance)
    wins = special.stdtr(freedom, -differences / error)  # (K,) one-sided p-values of "ours is no better"
    largest = Largest(covariance / np.outer(error, error))
    lost = largest.tail(float(np.max(-special.ndtri(special.stdtr(freedom, differences / error)))))
    half = special.stdtrit(freedom, 1 - LEVEL / 2) * error
    reach = special.stdtrit(freedom, special.ndtr(largest.quantile(LEVEL / 2))) * error
    best = int(np.argmin(differences))
    return FromBest(
        best,
        float(differences[best]),
        max(-1.0, float(np.min(differences - half))),
        min(1.0, float(np.min(differences + reach))),
        min(1.0, 2 * min(float(np.max(wins)), lost)),
    )


class Largest:
    """The distribution of the largest of K standard normal variables with a correlation matrix.

    Its tail is a sum over k of P(Z_k >= c) E[1 / number of variables >= c, given Z_k >= c] (Naiman and Priebe 2001,
    Journal of Computational and Graphical Statistics 10), whose relative error stays small however far the tail; the
    draws are the same on every call.
    """

    def __init__(self, correlation: Array) -> None:
        self._correlation = correlation
        values, vectors = np.linalg.eigh(correlation)
        draws = np.random.default_rng(0).standard_normal((DRAWS, len(correlation)))
        self._normal = draws @ (vectors * np.sqrt(np.where(values < ROUNDING, 0, values))).T  # (R, K)
        self._uniform = (np.arange(DRAWS) + 0.5) / DRAWS  # (R,)

    def tail(self, c: float) -> float:
        """P(max Z >= c)."""
        one = float(special.ndtr(-c))
        at = -special.ndtri(self._uniform * one)  # (R,) of a variable given that it is at least c
        total = 0.0
        for k, row in enumerate(self._correlation):
            given = self._normal + np.outer(at - self._normal[:, k], row)  # (R, K)
            total += float((1 / np.maximum(1, (given >= c - ROUNDING).sum(1))).mean())
        return min(1.0, total * one)

    def quantile(self, tail: float) -> float:
        """The c that the largest reaches with this probability."""
        count = len(self._correlation)
        low, high = (float(-special.ndtri(share)) for share in (tail, tail / count))
        if count == 1 or self.tail(low) <= tail * (1 + ROUNDING):
            return low
        return float(optimize.brentq(lambda c: self.tail(c) - tail, low, high + 1e-6, xtol=1e-4))


def _differences(ours: Pair, others: Sequence[Pair]) -> tuple[Array, list[tuple[Array, float]]]:
    """The differences in AUROC (K,); of trusted and of untrustworthy inputs their covariance and degrees of freedom."""
    above, below = placements(*ours)  # (N,), (M,)
    placed = [placements(*other) for other in others]
    by_group = [np.stack([own - other[i] for other in placed]) for i, own in enumerate((above, below))]
    values = by_group[1].mean(1)  # (K,)
    # Two detectors place an undecided input independently: its differences share ours' placement, of variance 1/12.
    undecided = np.outer(values, values) + (1 + np.eye(len(values))) / 12
    parts = []
    for group in by_group:
        size, deviations = group.shape[1], group - values[:, None]
        degrees = size - 1 + UNDECIDED
        parts.append(((deviations @ deviations.T + UNDECIDED * undecided) / degrees / size, degrees))
    return values, parts
