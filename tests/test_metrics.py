"""AUROC and TNR at 95 % TPR against scikit-learn, torchmetrics and brute force; their intervals and paired tests."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from gradgeo import GradgeoError
from gradgeo.metrics import UNDECIDED, augrc, aurc, auroc, auroc_difference, risk_coverage, tnr_at_tpr, tnr_difference

Pair = tuple[np.ndarray, np.ndarray]


def draw(seed: int, n: int = 300, m: int = 200, shift: float = 1) -> Pair:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(n).round(1), (rng.standard_normal(m) + shift).round(1)  # with ties


@st.composite
def tied(draw: st.DrawFn) -> Pair:
    seed, n, m = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 60)), draw(st.integers(1, 60))
    levels, shift = draw(st.integers(1, 40)), draw(st.integers(0, 10))
    rng = np.random.default_rng(seed)
    return rng.integers(levels, size=n) / 64, (rng.integers(levels, size=m) + shift) / 64


@given(tied())
@settings(max_examples=60, deadline=None)
def test_values_equal_scikit_learn(pair: Pair) -> None:
    a, b = pair
    labels, scores = np.r_[np.zeros(len(a)), np.ones(len(b))], np.r_[a, b]
    assert auroc(a, b).value == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    false_alarms, caught, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert tnr_at_tpr(a, b).value == pytest.approx(caught[false_alarms <= 0.05 + 1e-12].max(), abs=1e-9)


@given(tied())
@settings(max_examples=60, deadline=None)
def test_values_equal_torchmetrics(pair: Pair) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    a, b = map(torch.from_numpy, pair)
    outlier, untrustworthy = torch.cat([a, b]), torch.cat([torch.zeros(len(a)), torch.ones(len(b))]).long()
    torch.set_default_dtype(torch.float64)  # what it divides counts in
    try:
        area = functional.binary_auroc(outlier, untrustworthy)
        # Its positive class is the one whose sensitivity is kept: the trusted inputs, larger scores being more trusted.
        caught, _ = functional.binary_specificity_at_sensitivity(1 - outlier, 1 - untrustworthy, min_sensitivity=0.95)
    finally:
        torch.set_default_dtype(torch.float32)
    assert auroc(*pair).value == pytest.approx(float(area), abs=1e-9)
    assert tnr_at_tpr(*pair).value == pytest.approx(float(caught), abs=1e-9)


def brute_force(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (b[:, None] > a).astype(float) + 0.5 * (b[:, None] == a)


def undecided(variance: float, size: int, square: float) -> tuple[float, float]:
    """A group's variance and its degrees of freedom once it holds a fifth of an undecided input."""
    return ((size - 1) * variance + UNDECIDED * square) / (size - 1 + UNDECIDED) / size, size - 1 + UNDECIDED


def total(parts: list[tuple[float, float]]) -> tuple[float, float]:
    variance = sum(part for part, _ in parts)
    return variance, variance**2 / sum(part**2 / freedom for part, freedom in parts)


def test_auroc_interval_by_brute_force() -> None:
    a, b = draw(0, 40, 30)
    wins = brute_force(a, b)
    value = wins.mean()
    groups = ((wins.mean(1), 30), (wins.mean(0), 40))
    variance, freedom = total([undecided(p.var(ddof=1), size, (value - 0.5) ** 2 + 1 / 12) for p, size in groups])
    centre = (30 * value + UNDECIDED / 2) / (30 + UNDECIDED)
    found = auroc(a, b)
    assert found.value == pytest.approx(value, abs=1e-12)
    for end in (found.low, found.high):  # Wilson: the ends are where the distance is t standard errors there
        there = variance * end * (1 - end) / (centre * (1 - centre))
        assert abs(end - centre) == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(there), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_paired_delong_by_brute_force_covariance(seed: int) -> None:
    a, b = draw(seed, 40, 30)
    c, d = draw(seed + 100, 40, 30, 0.5)
    c, d = (a + c).round(1), (b + d).round(1)
    first, second = brute_force(a, b), brute_force(c, d)
    value = first.mean() - second.mean()
    by_input = [np.cov(first.mean(axis), second.mean(axis)) for axis in (1, 0)]
    spreads = [s[0, 0] + s[1, 1] - 2 * s[0, 1] for s in by_input]
    variance, freedom = total([undecided(s, n, value**2 + 1 / 6) for s, n in zip(spreads, (30, 40), strict=True)])
    found = auroc_difference(a, b, c, d)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(variance), rel=1e-9)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(value) / np.sqrt(variance), freedom), rel=1e-9)


def test_differences_turn_their_sign_when_the_detectors_change_places() -> None:
    a, b = draw(0), draw(1, shift=1.5)
    there, back = auroc_difference(*a, *b), auroc_difference(*b, *a)
    assert (there.value, there.low, there.high, there.p) == pytest.approx((-back.value, -back.high, -back.low, back.p))
    assert there.p < 0.05
    assert there.high < 0
    assert tnr_difference(*a, *b).value == tnr_at_tpr(*a).value - tnr_at_tpr(*b).value


@pytest.mark.parametrize("difference", [auroc_difference, tnr_difference])
@pytest.mark.parametrize("pair", [draw(0), (np.zeros(30), np.ones(30)), (np.zeros(5), np.zeros(4)), ([1.0], [2.0])])
def test_identical_detectors_do_not_differ(difference: object, pair: Pair) -> None:
    found = difference(*pair, *pair)
    assert (found.value, found.p) == (0, 1)
    assert found.low == -found.high < 0


@pytest.mark.parametrize("difference", [auroc_difference, tnr_difference])
def test_perfect_against_useless(difference: object) -> None:
    a, b = np.arange(200.0), np.arange(200.0)
    found = difference(a, b + 200, a, b - 200)
    assert found.value == found.high == 1
    assert 0.9 < found.low < 1
    assert found.p < 1e-6


def test_intervals_are_the_same_on_every_call() -> None:
    a, b = draw(0), draw(1)
    assert tnr_at_tpr(*a) == tnr_at_tpr(*a)
    assert tnr_difference(*a, *b) == tnr_difference(*a, *b)


def test_inputs_that_cannot_be_judged_count_as_caught() -> None:
    assert auroc([0.0, 1.0, 2.0], [np.nan, np.nan]).value == 1
    assert tnr_at_tpr([0.0, 1.0], [np.nan, 0.5]).value == 0.5
    assert auroc([0.0, np.nan], [np.nan, np.inf]).value == 0.75  # the largest, as infinity is
    assert auroc_difference([0.0, 1.0], [np.nan, 2.0], [0.0, 1.0], [2.0, 3.0]).value == 0
    assert tnr_difference([0.0, 1.0], [np.nan, 2.0], [0.0, 1.0], [2.0, 0.0]).value == 0.5


def test_perfect_separation_keeps_an_honest_interval() -> None:
    found = auroc(np.zeros(30), np.ones(60))
    assert (found.value, found.high) == (1, 1)
    assert 0.85 < found.low < 0.95
    assert 0.99 < auroc(np.zeros(1000), np.ones(1000)).low < 1


def test_few_inputs_all_or_none_caught_keep_an_honest_interval() -> None:
    trusted = np.arange(1000.0)
    every, none = tnr_at_tpr(trusted, np.full(4, 2000.0)), tnr_at_tpr(trusted, np.zeros(4))
    exact = stats.binomtest(4, 4).proportion_ci(0.95)  # Clopper and Pearson's: 0.398 .. 1
    assert (every.value, every.high) == (1, 1)
    assert every.low == pytest.approx(exact.low, abs=0.03)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - exact.low, abs=0.03)
    # So few trusted inputs that the threshold may lie above all of them, and above the untrustworthy ones.
    assert tnr_at_tpr(trusted[:20], np.full(100, 2000.0)).low == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (5, 1)])
def test_a_single_input_says_almost_nothing(n: int, m: int) -> None:
    found = auroc(np.zeros(n), np.ones(m))
    assert (found.value, found.high) == (1, 1)
    assert found.low < 0.2


def areas_by_loop(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """AURC and AUGRC, one threshold after the other from the largest score down."""
    scores, wrong = np.r_[a, b], np.r_[np.zeros(len(a)), np.ones(len(b))]
    points = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        kept = [mistake for score, mistake in zip(scores, wrong, strict=True) if score <= threshold]
        points.append((len(kept) / len(scores), sum(kept) / len(kept), sum(kept) / len(scores)))
    points.append((0.0, points[-1][1], 0.0))
    areas = [0.0, 0.0]
    for (right, *above), (left, *below) in pairwise(points):
        for i in (0, 1):
            areas[i] += (right - left) * (above[i] + below[i]) / 2
    return areas[0], areas[1]


@given(tied())
@settings(max_examples=60, deadline=None)
def test_areas_under_risk_against_coverage_equal_a_loop(pair: Pair) -> None:
    selective, generalised = areas_by_loop(*pair)
    assert aurc(*pair) == pytest.approx(selective, abs=1e-9)
    found = augrc(*pair)
    assert found.value == pytest.approx(generalised, abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 0.5


def test_areas_are_those_of_torch_uncertainty() -> None:
    """Of its release 0.13.0, in float32. It starts at a coverage of 1/N, below which nothing is added here, and divides
    by what is left of 1."""
    confidence = np.array([0.55, 0.9, 0.62, 0.71, 0.98, 0.84, 0.66, 0.93, 0.77, 0.59])
    wrong = np.array([1, 0, 1, 0, 0, 1, 0, 1, 0, 0], bool)
    pair = -confidence[~wrong], -confidence[wrong]
    assert aurc(*pair) == pytest.approx(0.3623016 * 0.9, abs=1e-6)
    assert augrc(*pair).value == pytest.approx(0.2 * 0.9, abs=1e-6)


def test_the_accuracy_weighs_the_groups() -> None:
    a, b = draw(0)
    repeated = np.repeat(a, 6), b  # 1,800 right and 200 wrong: an accuracy of 90 %
    assert augrc(a, b, accuracy=0.9).value == pytest.approx(augrc(*repeated).value, abs=1e-9)
    assert aurc(a, b, accuracy=0.9) == pytest.approx(aurc(*repeated), abs=1e-9)
    risk, coverage = risk_coverage(a, b, accuracy=0.9)
    assert (risk[-1], coverage[-1]) == (pytest.approx(0.1), pytest.approx(1))
    assert np.all(np.diff(coverage) > 0)
    with pytest.raises(GradgeoError, match="expected accuracy to be above 0 and below 1, or None, got 1"):
        aurc(a, b, accuracy=1)


def test_bad_arguments() -> None:
    with pytest.raises(GradgeoError, match=r"expected trusted to be scores of shape \(N,\)"):
        auroc([], [1.0])
    with pytest.raises(GradgeoError, match="expected untrustworthy to be scores of shape"):
        auroc([1.0], [[1.0]])
    with pytest.raises(GradgeoError, match="expected tpr to be above 0"):
        tnr_at_tpr([1.0], [1.0], tpr=0)
    with pytest.raises(GradgeoError, match="expected trusted_b to be scores of the same 2 inputs"):
        auroc_difference([1.0, 2.0], [1.0], [1.0], [1.0])
    with pytest.raises(GradgeoError, match="expected untrustworthy_b to be scores of the same 1 inputs"):
        tnr_difference([1.0], [1.0], [1.0], [1.0, 2.0])
