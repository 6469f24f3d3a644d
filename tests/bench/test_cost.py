"""What a method costs: times over plain inference in turns, the time of fit by input, the height of memory."""

import json
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradgeo.bench import cost
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.methods import Method
from gradgeo.bench.scores import score


class Clock:
    """A process time that only `passes` moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "process_time", lambda: self.now)

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Plain(nn.Module):
    """A classifier that takes a second for each input."""

    def __init__(self, clock: Clock, calls: list[str]) -> None:
        super().__init__()
        self.clock, self.calls = clock, calls

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.calls.append("plain")
        self.clock.passes(len(x) / 1000)
        return x.flatten(1)[:, :2]


class Slow:
    """A method that takes `times` as long, that of each call in turn, and half a second to fit for each input."""

    def __init__(self, clock: Clock, calls: list[str], times: list[float], fewest: int = 0) -> None:
        self.clock, self.calls, self.times, self.fewest = clock, calls, times, fewest

    def fit(self, loader: Any) -> None:
        n = sum(len(x) for x, _ in loader)
        if n < self.fewest:
            raise ValueError("too few")
        self.clock.passes(n / 2)

    def predict(self, x: Tensor) -> Tensor:
        self.calls.append("method")
        self.clock.passes(self.times[self.calls.count("method") % len(self.times)] * len(x) / 1000)
        return x.flatten(1)[:, 0]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(cost, "ROUNDS", 9)
    return Clock(monkeypatch)


def test_the_ratio_is_the_median_of_turns_with_its_range(clock: Clock) -> None:
    calls: list[str] = []
    plain, slow = Plain(clock, calls), Slow(clock, calls, [5.0, 3.0, 50.0])
    (middle, low, high), seconds = cost.over_plain(plain, slow.predict, torch.rand(10, 4))
    assert [middle, low, high] == pytest.approx([5, 3, 50])
    assert seconds == pytest.approx(0.05)
    assert calls == ["plain", "method"] * (len(calls) // 2)
    assert cost.FEWEST <= len(calls) // 2 <= cost.ROUNDS


def test_what_takes_long_is_timed_in_fewer_rounds(clock: Clock) -> None:
    for times, rounds in (([1.0], cost.ROUNDS), ([40.0], cost.FEWEST), ([1000.0], 1)):
        calls: list[str] = []
        cost.over_plain(Plain(clock, calls), Slow(clock, calls, times).predict, torch.rand(10, 4))
        assert calls == ["plain", "method"] * rounds


def test_fit_is_by_input_and_of_all_where_the_first_are_too_few(clock: Clock) -> None:
    x, y = torch.rand(300, 4), torch.zeros(300)
    assert cost.fit_milliseconds(lambda: Slow(clock, [], [1.0]), x, y) == pytest.approx(500)
    assert cost.fit_milliseconds(lambda: Slow(clock, [], [1.0], fewest=200), x, y) == pytest.approx(500)


def test_a_figure_that_cannot_be_had_leaves_the_others(clock: Clock) -> None:
    class Picky(Slow):
        def predict(self, x: Tensor) -> Tensor:
            if len(x) == 1:
                raise ValueError("a batch, please")
            return super().predict(x)

    calls: list[str] = []
    made = Picky(clock, calls, [2.0], fewest=1000)
    x = torch.rand(80, 4)
    costs = cost.measured(lambda: made, made, Plain(clock, calls), x, (x, torch.zeros(80)))
    facts = cost.facts(costs)
    assert facts is not None
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["n64"] == pytest.approx(2)
    assert facts["n64_range"] == pytest.approx([2, 2])
    assert facts["n1"] is facts["fit_ms_per_input"] is None
    assert facts["n1_range"] == [None, None]
    assert float(costs["ms_per_input"]) == pytest.approx(2)  # 64 of 80 inputs, 2 ms each


def test_costs_are_cached_with_the_scores() -> None:
    calls: list[int] = []

    class Counting:
        def fit(self, loader: object) -> None:
            pass

        def predict(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return x.flatten(1).sum(1)

    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    x = torch.rand(90, 4, generator=torch.Generator().manual_seed(0))
    classifier = ClassifierUnderTest("few", model, x, model(x).argmax(1), 40)
    first, second = (score({"a": Method(lambda model, x: Counting())}, classifier, {"t": x[40:]})["a"] for _ in "12")
    assert {50, 1, 8} <= set(calls)
    assert calls.count(1) == 1  # in one round, one time
    assert first.costs is not None
    assert second.costs is not None
    for name, each in first.costs.items():
        assert np.array_equal(each, second.costs[name], equal_nan=True)
    assert set(cost.facts(first.costs) or {}) == {
        *("n64", "n64_range", "n1", "n1_range", "fit_ms_per_input", "peak_mib")
    }


def test_memory_is_that_held_at_most_also_where_some_was_free_before() -> None:
    if np.isnan(cost.peak_mib(lambda: None)):
        pytest.skip("the system does not tell")

    def hold() -> None:
        np.ones(40 << 20, np.uint8).sum()

    hold()  # now 40 MiB lie free
    assert 39 <= cost.peak_mib(hold) < 60
    assert cost.peak_mib(lambda: None) < 20


def test_a_system_that_does_not_tell_memory_says_nan(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(cost, "FORGET", tmp_path / "missing" / "clear_refs")
    assert np.isnan(cost.peak_mib(lambda: None))


def test_the_front_holds_what_none_beats_at_its_cost() -> None:
    points = {"dear": (9.0, 0.9), "cheap": (1.0, 0.8), "worse": (1.0, 0.7), "beaten": (3.0, 0.8), "middle": (4.0, 0.85)}
    assert cost.front(points) == ["cheap", "middle", "dear"]
    assert cost.front({}) == []
