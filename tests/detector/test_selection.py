"""Q-values against scipy's and online-fdr's, and what the false discovery rate is of a whole batch."""

import numpy as np
import pytest
import torch
from scipy import stats

import gradgeo
from gradgeo import fdr
from gradgeo.detector.calibration import conformal
from gradgeo.errors import ArgumentError


@pytest.mark.parametrize("n", [1, 2, 17, 300])
def test_q_values_are_those_of_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    for p in (rng.random(n) ** 2, np.ceil(20 * rng.random(n)) / 20, np.full(n, 0.5)):
        np.testing.assert_allclose(fdr(p).numpy(), stats.false_discovery_control(p), rtol=1e-12)


def selected_by_steps(p: np.ndarray, level: float) -> set[int]:
    """Benjamini and Hochberg's own words: the largest i with p_(i) <= i level / m, and all up to it."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    passing = [i for i in range(1, len(p) + 1) if p[order[i - 1]] <= i * level / len(p)]
    return set(order[: max(passing, default=0)])


def test_a_selection_is_that_of_the_step_up_procedure() -> None:
    p = np.random.default_rng(0).beta(0.4, 1, 60)
    for level in (0.051, 0.1003, 0.2007):
        assert set(np.flatnonzero(fdr(p).numpy() <= level)) == selected_by_steps(p, level)
        share = (1 + (p > 0.5).sum()) / (0.5 * len(p))
        assert set(np.flatnonzero(fdr(p, method="storey").numpy() <= level)) == selected_by_steps(p, level / share)


def estimated_rate(p: np.ndarray, threshold: float) -> float:
    """Of what is selected up to a threshold: Storey, Taylor and Siegmund (2004, Journal of the Royal Statistical Society B
    66), for finite samples (W + 1) / ((1 - lambda) m) * t / (R(t) / m), W p-values being above lambda. The estimate is
    not cut at lambda, as it is not by Benjamini, Krieger and Yekutieli (2006, Biometrika 93)."""
    m, above, selected = len(p), (p > 0.5).sum(), (p <= threshold).sum()
    return (above + 1) / ((1 - 0.5) * m) * threshold / (max(selected, 1) / m)


@pytest.mark.parametrize("n", [1, 2, 17, 300])
def test_storeys_q_values_are_the_least_estimated_rates(n: int) -> None:
    """Storey (2002, Journal of the Royal Statistical Society B 64): the least over thresholds that select the input."""
    rng = np.random.default_rng(n)
    for p in (rng.beta(0.3, 1, n), np.ceil(20 * rng.random(n)) / 20, rng.random(n) ** 9 / 2):
        least = [min(estimated_rate(p, t) for t in p if t >= own) for own in p]
        np.testing.assert_allclose(fdr(p, method="storey").numpy(), np.minimum(least, 1), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 17, 300])
@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.9])
def test_storeys_procedure_selects_what_online_fdr_does(n: int, alpha: float) -> None:
    oracle = pytest.importorskip("online_fdr.p_values", reason="online-fdr is not installed")
    rng = np.random.default_rng(n)
    for p in (rng.beta(0.3, 1, n), np.ceil(300 * rng.beta(0.4, 1, n)) / 300, np.full(n, 0.5)):
        batch = oracle.BatchStoreyBH(alpha, 0.5)
        selected = batch.test_batch(p.tolist())
        assert (fdr(p, method="storey").numpy() <= batch.alpha_s[0]).tolist() == selected


def test_inputs_without_verdict_are_not_counted() -> None:
    p = torch.tensor([0.001, float("nan"), 0.2, 0.01, 0.9], dtype=torch.float64)
    q = fdr(p)
    assert torch.isnan(q).tolist() == [False, True, False, False, False]
    assert torch.equal(q[[0, 2, 3, 4]], fdr(p[[0, 2, 3, 4]]))
    assert len(fdr([])) == 0
    assert torch.isnan(fdr([np.nan] * 3)).all()


@pytest.mark.parametrize("p", [[[0.5]], ["a"], [1.5], [-0.1], 0.5])
def test_what_is_no_p_value(p: object) -> None:
    with pytest.raises(ArgumentError, match=r"fdr: expected p_values to be (numbers \(N,\)|within 0\.\.1)"):
        gradgeo.fdr(p)


def test_methods_are_named() -> None:
    with pytest.raises(ArgumentError, match="expected method to be one of 'bh', 'storey', got 'by'"):
        fdr([0.5], method="by")


@pytest.mark.simulation
@pytest.mark.parametrize("method", ["bh", "storey"])
def test_the_rate_is_kept_over_calibration_sets(method: str) -> None:
    """And of alpha it is not: among 100 trustworthy inputs and 10 others, a third of what alpha 0.05 flags is good."""
    rng, level, share, plain = np.random.default_rng(0), 0.2, [], []
    for _ in range(2000):
        known, new = np.sort(rng.standard_normal(499)), rng.standard_normal(110)
        new[100:] += 3
        p = conformal.p_values(known, new)
        q = fdr(p, method=method).numpy()
        share.append((q[:100] <= level).sum() / max(1, (q <= level).sum()))
        plain.append((p[:100] <= 0.05).sum() / max(1, (p <= 0.05).sum()))
    high = level + 3 * np.std(share) / len(share) ** 0.5
    assert 0.1 < np.mean(share) < high
    assert np.mean(plain) > 0.3
