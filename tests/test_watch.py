"""The watch over a stream: it seldom cries wolf, whatever the calibration drew, and soon sees a shift."""

import json
import math

import numpy as np
import pytest

from gradgeo.detector.calibration import conformal
from gradgeo.errors import ArgumentError
from gradgeo.watch import Watch


def p_values(rng: np.random.Generator, n: int, shifts: np.ndarray, *, ties: int | None = None) -> np.ndarray:
    """Of inputs whose normal scores are shifted, among n calibration scores; with ties, scores are rounded."""
    calibration, scores = rng.standard_normal(n), rng.standard_normal(len(shifts)) + shifts
    if ties is not None:
        calibration, scores = np.round(calibration, ties), np.round(scores, ties)
    return (1 + (calibration[None] >= scores[:, None]).sum(1)) / (n + 1)


def alarms(streams: int, length: int, n: int, *, ties: int | None = None, **options: int) -> float:
    rng = np.random.default_rng(0)
    seen = [
        Watch(n, rate=0.1, seed=s, **options).update(p_values(rng, n, np.zeros(length), ties=ties)).alarm
        for s in range(streams)
    ]
    return float(np.mean(seen))


CHANCE = 3 * math.sqrt(0.1 * 0.9 / 300)  # three standard deviations of the share of 300 streams


@pytest.mark.simulation
@pytest.mark.parametrize(("n", "ties"), [(19, None), (199, None), (199, 0)])
def test_false_alarms_stay_below_the_rate(n: int, ties: int | None) -> None:
    assert alarms(300, 200, n, ties=ties) <= 0.1 + CHANCE


@pytest.mark.simulation
@pytest.mark.parametrize("ties", [None, 0])
def test_false_alarms_stay_below_the_rate_with_a_baseline(ties: int | None) -> None:
    assert alarms(300, 150, 49, ties=ties, baseline=50) <= 0.1 + CHANCE


@pytest.mark.simulation
def test_a_test_that_takes_p_values_for_uniform_does_cry_wolf() -> None:
    """What the urn is for: one calibration set decides about the whole of a long stream."""
    rng, alarmed = np.random.default_rng(0), 0
    for _ in range(50):
        p = p_values(rng, 99, np.zeros(20_000))
        naive = np.cumsum(np.log(0.9 * p**-0.1))
        alarmed += bool(naive.max() >= math.log(1000))
    assert alarmed >= 5  # of 50, at a stated rate of 1 in 1000
    assert not any(Watch(99).update(p_values(rng, 99, np.zeros(5000))).alarm for _ in range(5))


@pytest.mark.parametrize(
    ("shift", "share", "within"), [(4.0, 1.0, 10), (2.0, 1.0, 40), (1.0, 1.0, 200), (4.0, 0.2, 200), (4.0, 0.1, 400)]
)
@pytest.mark.parametrize("baseline", [0, 300])
def test_a_shift_is_seen(shift: float, share: float, within: int, baseline: int) -> None:
    rng = np.random.default_rng(1)
    shifts = np.where(rng.random(600 + within) < share, shift, 0.0)
    shifts[:600] = 0
    p = p_values(rng, 499, shifts)
    watch = Watch(499, baseline=baseline)
    assert not watch.update(p[:600]).alarm
    state = watch.update(p[600:])
    assert state.alarm
    assert 600 < state.alarm_at <= 600 + within
    assert state.evidence <= state.peak


def test_inputs_that_all_look_alike_are_seen_with_a_baseline() -> None:
    rng = np.random.default_rng(0)
    usual, stuck = p_values(rng, 199, np.zeros(400)), np.full(60, 0.6)
    with_baseline, without = Watch(199, baseline=200), Watch(199)
    assert not with_baseline.update(usual).alarm
    assert with_baseline.update(stuck).alarm
    assert not without.update(np.concatenate([usual, stuck])).alarm


def test_a_stream_with_its_share_of_mistakes_needs_a_baseline() -> None:
    rng = np.random.default_rng(0)
    p = p_values(rng, 199, np.where(rng.random(2000) < 0.1, 5.0, 0.0))
    assert Watch(199).update(p).alarm
    assert not Watch(199, baseline=500).update(p).alarm


def test_an_alarm_stays() -> None:
    watch = Watch(99)
    first = watch.update(np.full(50, 0.01))
    assert first.alarm
    later = watch.update(np.random.default_rng(0).integers(1, 101, 3000) / 100)
    assert later.alarm
    assert later.alarm_at == first.alarm_at
    assert later.evidence < later.peak
    assert str(first) == f"after {first.alarm_at} of 50 inputs the odds of a shift reached 1,000 to 1"
    assert str(Watch(99, rate=0.01).state) == "none in 0 inputs: nothing speaks for a shift, an alarm takes 100 to 1"


def test_what_cannot_be_judged_is_counted_apart() -> None:
    watch = Watch(9)
    before = watch.update([0.5, 0.2])
    after = watch.update([math.nan] * 100)
    assert (after.inputs, after.unjudgeable, after.evidence) == (2, 100, before.evidence)


def test_the_mean_payoff_is_one() -> None:
    """What makes it a martingale: over the ranks, each as likely as the urn says, the wealth stays on average."""
    watch = Watch(4)
    watch.update([0.2, 0.4, 0.4, 1.0])
    total = 0.0
    for rank in range(1, 6):
        balls = watch._balls[rank - 1] / watch._balls.sum()
        total += balls * 10 ** Watch.from_dict(watch.as_dict()).update([rank / 5]).evidence
    assert total == pytest.approx(10**watch.state.evidence)


def test_one_by_one_or_together_is_the_same() -> None:
    p = np.random.default_rng(0).integers(1, 51, 80) / 50
    for baseline in (0, 20):
        together, single = Watch(49, baseline=baseline), Watch(49, baseline=baseline)
        together.update(p)
        for value in p:
            single.update([value])
        assert single.as_dict() == together.as_dict()


@pytest.mark.parametrize("baseline", [0, 30])
def test_it_goes_on_in_another_process(baseline: int) -> None:
    p = np.random.default_rng(0).integers(1, 51, 100) / 50
    watch = Watch(49, rate=0.01, baseline=baseline, seed=3)
    watch.update([*p[:60], math.nan])
    text = json.dumps(watch.as_dict(), allow_nan=False)
    again = Watch.from_dict(json.loads(text))
    assert again.state == watch.state
    assert again.update(p[60:]) == watch.update(p[60:])
    assert again.as_dict() == watch.as_dict()


def test_an_empty_batch_changes_nothing() -> None:
    watch = Watch(9)
    before = watch.as_dict()
    watch.update([])
    assert watch.as_dict() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration_size": 0}, "expected calibration_size to be an integer, 1 or more, got 0"),
        ({"calibration_size": True}, "expected calibration_size to be an integer, 1 or more, got True"),
        ({"calibration_size": 9, "rate": 0}, "expected rate to be a number between 0 and 1, got 0"),
        ({"calibration_size": 9, "baseline": -1}, "expected baseline to be an integer, 0 or more, got -1"),
        ({"calibration_size": 9, "seed": 0.5}, "expected seed to be an integer, 0 or more, got 0.5"),
    ],
)
def test_options_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Watch(**options)


@pytest.mark.parametrize("bad", [[0.0], [1.1], [-0.1], [0.123], [math.inf], [[0.1]]])
def test_what_is_no_p_value_of_this_detector_is_refused_and_does_not_count(bad: list) -> None:
    watch = Watch(9)
    with pytest.raises(ArgumentError, match=r"Watch\.update: expected p_values to be"):
        watch.update([0.1, *bad] if not isinstance(bad[0], list) else bad)
    assert watch.state.inputs == 0


@pytest.mark.parametrize(
    "damage",
    [{"balls": [1.0]}, {"balls": [-1.0] + [1.0] * 9}, {"inputs": 3}, {"wealth": []}, {"peak": "x"}, {"evidence": 1e9}],
)
def test_a_damaged_state_is_refused(damage: dict) -> None:
    with pytest.raises(ArgumentError, match=r"Watch.from_dict: expected state to be what Watch.as_dict gave"):
        Watch.from_dict(Watch(9).as_dict() | damage)


def test_mistakes_belong_to_what_the_stream_is_compared_with() -> None:
    """The urn starts with them; a state of such a watch goes on as it was."""
    rng, alone, known = np.random.default_rng(0), 0, 0
    for _ in range(20):
        calibration = np.sort(rng.standard_normal(199))
        stream = rng.standard_normal(400) + 2 * (rng.random(400) < 0.25)
        mistakes = 2 + rng.standard_normal(66)
        p, odd = conformal.p_values(calibration, stream), conformal.p_values(calibration, mistakes)
        alone += Watch(199, rate=0.01).update(p).alarm
        watch = Watch(199, rate=0.01, mistakes=odd)
        watch.update(p[:200])
        again = Watch.from_dict(json.loads(json.dumps(watch.as_dict())))
        assert again.update(p[200:]) == watch.update(p[200:])
        known += watch.state.alarm
    assert alone > 15
    assert known <= 2
    with pytest.raises(ArgumentError, match="expected mistakes to be None with a baseline"):
        Watch(199, baseline=10, mistakes=odd)
    with pytest.raises(ArgumentError, match="expected state to be what"):
        Watch.from_dict({**watch.as_dict(), "mistakes": 3})
