"""The guarantee: P(p <= alpha) <= alpha for exchangeable scores, exactly."""

import numpy as np
import pytest
from scipy import stats

from gradgeo.detector.calibration import conformal


def test_p_values_by_hand() -> None:
    calibration = np.array([1.0, 2.0, 2.0, 5.0])
    p = conformal.p_values(calibration, np.array([0.0, 1.0, 2.0, 3.0, 5.0, 9.0, np.nan]))
    np.testing.assert_allclose(p, [1.0, 1.0, 0.8, 0.4, 0.4, 0.2, np.nan])


@pytest.mark.simulation
@pytest.mark.witness
@pytest.mark.parametrize("n", [1, 7, 19, 20, 99, 250])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_false_alarms_are_exact(n: int, alpha: float) -> None:
    rng = np.random.default_rng(0)
    trials = 20_000
    scores = rng.standard_normal((trials, n + 1))
    ranks = (scores[:, :n] >= scores[:, n:]).sum(1)
    p = (1 + ranks) / (n + 1)
    assert conformal.p_values(np.sort(scores[0, :n]), scores[0, n:])[0] == p[0]
    exact = np.floor(alpha * (n + 1) + 1e-12) / (n + 1)
    low, high = stats.binom.interval(0.999, trials, exact)
    assert low <= (p <= alpha).sum() <= high
    assert exact <= alpha + 1e-12


def test_ties_are_conservative() -> None:
    assert conformal.p_values(np.zeros(19), np.zeros(1))[0] == 1.0


@pytest.mark.parametrize("alpha", [0.3, 0.05, 1e-6, 1e-17, 1e-300])
def test_the_fewest_scores_that_keep_to_a_confidence(alpha: float) -> None:
    n = conformal.min_calibration_size(alpha, 0.95)
    assert conformal.flagged_ranks(n, alpha, 0.95) == 1
    assert n == pytest.approx(np.log(0.05) / np.log1p(-alpha), rel=0.4)


@pytest.mark.parametrize(("alpha", "least"), [(0.05, 19), (0.01, 99), (0.3, 3), (0.5, 1)])
def test_the_fewest_scores_that_can_flag(alpha: float, least: int) -> None:
    assert conformal.min_calibration_size(alpha) == least
    assert 1 / (least + 1) <= alpha + 1e-12
    assert least == 1 or 1 / least > alpha


@pytest.mark.parametrize("n", [39, 60, 151, 1000, 4567])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.1])
def test_calibration_size_makes_alpha_attainable(n: int, alpha: float) -> None:
    size = conformal.calibration_size(n, 0.5, alpha, at_most=max(n - 20, conformal.min_calibration_size(alpha)))
    assert (alpha * (size + 1)) % 1 == pytest.approx(0, abs=1e-9) or (alpha * (size + 1)) % 1 == pytest.approx(1)
    assert size >= conformal.min_calibration_size(alpha)
    if n / 2 > 1 / alpha:
        assert abs(size - n / 2) <= 1 / alpha
