"""What one fitted detector's own false-alarm rate is: an order statistic, to the last rank."""

from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from gradgeo import Detector
from gradgeo.detector.calibration import conformal
from gradgeo.detector.calibration.conformal import Level
from gradgeo.detector.file import serialization
from gradgeo.errors import ArgumentError
from helpers.nets import inputs, network

X = inputs(300, shape=(12,))


def exceeds(n: int, rank: int, rate: float) -> float:
    """P(at least `rank` of n uniform numbers lie below `rate`): one minus that of the order statistic's being larger."""
    return sum(comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(rank, n + 1))


@pytest.mark.parametrize(("n", "bound"), [(99, 9.0), (339, 7.1), (999, 6.2), (4999, 5.5)])
def test_the_bound_is_that_of_the_order_statistic(n: int, bound: float) -> None:
    rate = Level(0.05).rate(n)
    assert rate.ranks == (n + 1) // 20
    assert rate.expected == 0.05
    assert 100 * rate.at_most == pytest.approx(bound, abs=0.05)
    assert rate.at_most == pytest.approx(stats.beta.ppf(0.95, rate.ranks, n + 1 - rate.ranks), rel=1e-9)
    if n < 1000:
        assert exceeds(n, rate.ranks, rate.at_most) == pytest.approx(0.95, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_rank_is_the_largest_that_keeps_the_confidence(alpha: float, confidence: float) -> None:
    for n in (1, 7, 58, 59, 99, 339, 512):
        rank = conformal.flagged_ranks(n, alpha, confidence)
        without = conformal.flagged_ranks(n, alpha)
        assert rank <= without == max(k for k in range(n + 1) if k / (n + 1) <= alpha)
        assert not rank or exceeds(n, rank, alpha) >= confidence
        assert rank == without or exceeds(n, rank + 1, alpha) < confidence
        assert Level(alpha, confidence).rate(n).at_most <= alpha * (1 + 1e-12)
    least = conformal.min_calibration_size(alpha, confidence)
    assert conformal.flagged_ranks(least, alpha, confidence) == 1
    assert conformal.flagged_ranks(least - 1, alpha, confidence) == 0


def test_the_rank_of_the_issue() -> None:
    assert conformal.flagged_ranks(339, 0.05, 0.95) == 11
    assert conformal.min_calibration_size(0.05, 0.95) == 59
    assert conformal.min_calibration_size(0.05) == 19


@pytest.mark.simulation
@pytest.mark.parametrize("confidence", [None, 0.95])
def test_the_share_of_detectors_beyond_their_bound(confidence: float | None) -> None:
    """Of continuous scores it is one minus the confidence exactly; whoever is off by a rank is seen."""
    n, draws = 339, 4000
    level = Level(0.05, confidence)
    rate = level.rate(n)
    scores = np.sort(np.random.default_rng(0).random((draws, n)), axis=1)
    own = 1 - scores[:, n - rate.ranks]  # the share of new scores above the last that is not flagged
    p = conformal.p_values(scores[0], np.array([scores[0, n - rate.ranks] + d for d in (-1e-12, 1e-12)]))
    assert (p <= level.threshold(n)).tolist() == [False, True]
    low, high = stats.binom.interval(0.999, draws, 0.05)
    assert low <= (own > rate.at_most).sum() <= high
    assert np.mean(own) == pytest.approx(rate.expected, abs=0.001)


def test_ties_are_flagged_less() -> None:
    scores = np.sort(np.random.default_rng(0).integers(0, 30, 339).astype(float))
    flagged = conformal.p_values(scores, np.arange(30.0)) <= Level(0.05).threshold(339)
    assert flagged.mean() <= Level(0.05).rate(339).at_most


def test_a_detector_says_its_rate_and_flags_by_confidence(tmp_path: Path) -> None:
    plain = Detector(network(), evidence=["confidence"], alpha=0.05).fit(X)
    sure = Detector(network(), evidence=["confidence"], alpha=0.05, confidence=0.95).fit(X)
    assert (plain.calibration_size_, sure.calibration_size_) == (159, 159)
    assert str(plain.false_alarm_rate_) == "5.0 % expected, at most 8.1 % with 95 % confidence (flagged: p <= 8/160)"
    assert str(sure.false_alarm_rate_) == "2.5 % expected, at most 4.8 % with 95 % confidence (flagged: p <= 4/160)"
    assert str(plain.false_alarm_rate_) in plain._repr_html_().replace("&lt;", "<")
    assert "confidence=0.95" in repr(sure)
    for x in (X, torch.cat([X, 3 * X])):
        assert torch.equal(plain.p_value(x), sure.p_value(x))
        assert torch.equal(sure.predict(x).trusted, plain.p_value(x) > 4 / 160)
    assert sure.digest() != plain.digest()
    plain.confidence = 0.95
    assert sure.digest() == plain.digest()
    sure.save(tmp_path / "d.gradgeo")
    again = Detector.load(tmp_path / "d.gradgeo", network())
    assert (again.confidence, repr(again), again.digest()) == (0.95, repr(sure), sure.digest())
    told = serialization.inspect(tmp_path / "d.gradgeo")["false_alarms"]
    assert told["all"]["all"] == sure.false_alarm_rate_.as_dict()
    assert [told["by_class"][str(c)] for c in range(4)] == [
        rate.as_dict() for rate in sure.false_alarm_rates().values()
    ]


@pytest.mark.parametrize("confidence", [0, 1, 95, True, "95%"])
def test_what_is_no_confidence(confidence: object) -> None:
    with pytest.raises(ArgumentError, match=r"expected confidence to be None or a number between 0 and 1, got "):
        Detector(network(), confidence=confidence)


def test_too_few_for_the_confidence() -> None:
    with pytest.raises(ArgumentError, match=r"61 trusted inputs \(59 to calibrate alpha = 0\.05 with confidence 0\.95"):
        Detector(network(), evidence=["confidence"], alpha=0.05, confidence=0.95).fit(X[:60])
    assert Detector(network(), evidence=["confidence"], confidence=0.95).fit(X[:61]).calibration_size_ == 59
    detector = Detector(network(), evidence=["confidence"], alpha=0.05).fit(X[:60])
    detector.confidence = 0.95
    with pytest.warns(UserWarning, match="no input can be flagged at alpha = 0.05 with confidence 0.95 with 39"):
        assert detector.predict(X[:5]).trusted.all()
