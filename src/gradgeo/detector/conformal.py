"""Split-conformal p-values: what turns an outlier score into a stated false-alarm rate."""

import numpy as np

from gradgeo._typing import Array


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


def min_calibration_size(alpha: float) -> int:
    """The fewest calibration scores with which any input can be flagged at `alpha`: 1 / (n + 1) <= alpha."""
    # 1 / alpha may round to just above an integer, which must not count as the next one.
    return int(np.ceil(1 / alpha - 1e-9)) - 1


def calibration_size(n: int, share: float, alpha: float, *, at_most: int) -> int:
    """How many of `n` inputs to calibrate on: about `share`, so that alpha (n + 1) is an integer where 1/alpha is.

    Then the false-alarm rate is alpha itself rather than the next smaller multiple of 1 / (n + 1).
    """
    step = min_calibration_size(alpha) + 1
    steps = min(round(share * n / step), (at_most + 1) // step)
    return max(1, steps) * step - 1
