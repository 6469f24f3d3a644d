"""How often the rate of one detector must exceed its bound, against draws."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.own_rate import chance_beyond


@pytest.mark.parametrize("decimals", [1, 8])  # with ties, and without
@pytest.mark.parametrize(("n", "ranks", "bound"), [(99, 2, 0.05), (99, 5, 0.0901), (339, 11, 0.05)])
def test_the_computed_chance_is_that_of_draws(decimals: int, n: int, ranks: int, bound: float) -> None:
    rng = np.random.default_rng(0)
    population = np.sort(rng.normal(size=257).round(decimals))
    drawn = np.sort(rng.choice(population, (4000, n)), axis=1)[:, n - ranks]
    own = (257 - np.searchsorted(population, drawn, side="right")) / 257
    low, high = stats.binom.interval(0.999, 4000, chance_beyond(population, n, ranks, bound))
    assert low <= (own > bound).sum() <= high


def test_of_many_different_scores_it_is_the_beta_tail() -> None:
    continuous = stats.beta(39, 961).sf(0.05)
    assert chance_beyond(np.arange(1e6), 999, 39, 0.05) == pytest.approx(continuous, rel=1e-3)
