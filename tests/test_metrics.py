"""AUROC and TNR at 95 % TPR against scikit-learn, plain counting, and simulated coverage of their intervals."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from gradgeo import GradgeoError
from gradgeo.metrics import auroc, tnr_at_tpr


def draw(seed: int, n: int = 300, m: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n).round(2), (rng.standard_normal(m) + 1).round(2)  # with ties


@pytest.mark.parametrize("seed", range(5))
def test_values_equal_scikit_learn(seed: int) -> None:
    a, b = draw(seed)
    labels, scores = np.r_[np.zeros(len(a)), np.ones(len(b))], np.r_[a, b]
    assert auroc(a, b).value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    false_alarms, caught, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert tnr_at_tpr(a, b).value == pytest.approx(caught[false_alarms <= 0.05 + 1e-12].max(), abs=1e-12)


def test_delong_variance_by_brute_force() -> None:
    a, b = draw(0, 40, 30)
    wins = (b[:, None] > a).astype(float) + 0.5 * (b[:, None] == a)
    error = np.sqrt(wins.mean(1).var(ddof=1) / len(b) + wins.mean(0).var(ddof=1) / len(a))
    found = auroc(a, b)
    value = wins.mean()
    width = 1.959964 * error / (value * (1 - value))
    assert np.log(found.high / (1 - found.high)) - np.log(value / (1 - value)) == pytest.approx(width, rel=1e-9)


def test_intervals_cover_as_stated() -> None:
    from scipy.stats import norm

    true_area, true_caught = norm.cdf(1 / np.sqrt(2)), 1 - norm.cdf(norm.ppf(0.95) - 1)
    inside = np.zeros(2)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = rng.standard_normal(200), rng.standard_normal(150) + 1
        area, caught = auroc(a, b), tnr_at_tpr(a, b, resamples=200)
        inside += [area.low <= true_area <= area.high, caught.low <= true_caught <= caught.high]
    # 200 simulations of a 95 % interval: 98 % of the time between 91 and 98.5 %
    assert 0.91 <= inside[0] / 200 <= 0.99
    assert 0.90 <= inside[1] / 200 <= 0.99


def test_inputs_that_cannot_be_judged_count_as_caught() -> None:
    assert auroc([0.0, 1.0, 2.0], [np.nan, np.nan]).value == 1
    assert tnr_at_tpr([0.0, 1.0], [np.nan, 0.5]).value == 0.5


def test_perfect_separation_keeps_an_honest_interval() -> None:
    found = auroc(np.zeros(30), np.ones(60))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(0.9)


def test_bad_arguments() -> None:
    with pytest.raises(GradgeoError, match=r"expected trusted to be scores of shape \(N,\)"):
        auroc([], [1.0])
    with pytest.raises(GradgeoError, match="expected tpr to be above 0"):
        tnr_at_tpr([1.0], [1.0], tpr=0)
