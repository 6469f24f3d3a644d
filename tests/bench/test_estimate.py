"""The estimate of a run before it begins: its passes against those counted in a run, and its words."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradgeo.bench import estimate
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.estimate import Passes, passes, seconds, told
from gradgeo.bench.evaluate import evaluate, generate
from gradgeo.bench.methods import METHODS
from gradgeo.bench.scenarios import SCENARIOS, Scenario, Task

FIXED = ("PGD", "FGSM", "noise in the ball")
"""Attacks that take as many passes whatever the classifier."""


class Counting(nn.Module):
    """Counts the inputs that pass it, also in a copy."""

    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        Counting.rows += len(x)
        return x


@pytest.fixture(scope="module")
def task() -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(Counting(), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.randn(360, 3, 4, generator=torch.Generator().manual_seed(1))
    return Task(ClassifierUnderTest("few", model, x, model(x).argmax(1), 120, bounds=None), 60, 30)


@pytest.mark.parametrize("name", FIXED)
def test_the_passes_of_attacks_are_about_those_counted(task: Task, name: str) -> None:
    Counting.rows = 0
    generate(task, {name: SCENARIOS[name]})
    assert 0.4 < passes(task, {name: SCENARIOS[name]}, {}).both / Counting.rows < 2.5


@pytest.mark.simulation
@pytest.mark.parametrize(("splits", "beside"), [((), False), ((), True), ((1, 2), True)])
def test_the_passes_of_methods_are_about_those_counted(task: Task, splits: tuple[int, ...], beside: bool) -> None:
    pytest.importorskip("pytorch_ood", reason="pytorch-ood is not installed")
    methods = {name: METHODS[name] for name in ("gradgeo fast", "MaxLogit", "Mahalanobis")}
    scenarios = {"far": Scenario("ood", lambda task: task.x + 3), "noisy inputs": SCENARIOS["noisy inputs"]}
    generate(task, scenarios)
    Counting.rows = 0
    evaluate(task, scenarios=scenarios, methods=methods, splits=splits, beside=beside)
    needed = passes(task, scenarios, methods, splits=len(splits), beside=beside)
    assert 0.4 < needed.forward / Counting.rows < 2.5
    assert needed.both == 0


def test_seconds_are_passes_by_what_one_lasts_here(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    scenarios = {"PGD": SCENARIOS["PGD"]}
    methods = {name: METHODS[name] for name in ("gradgeo", "MaxLogit")}
    needed = passes(task, scenarios, methods)
    lasts = iter((0.6, 1.8))  # of 60 inputs, forward alone and with the backward pass
    monkeypatch.setattr(estimate, "_timed", lambda way: (way(), next(lasts))[1])
    found = seconds(task, scenarios, methods)
    assert found == pytest.approx(0.01 * needed.forward + 0.03 * needed.both + 2 * estimate.METHOD + estimate.IMPORTS)


def test_nothing_trusted_leaves_nothing_to_do(task: Task) -> None:
    none = Task(ClassifierUnderTest("none", task.classifier.model, task.x, torch.full((60,), 9), 30, bounds=None), 10)
    assert seconds(none, SCENARIOS, METHODS) == estimate.IMPORTS


def test_more_of_anything_takes_longer(task: Task) -> None:
    few = {"far": SCENARIOS["noisy inputs"]}
    one = {"MaxLogit": METHODS["MaxLogit"]}
    least = passes(task, few, one, beside=False)
    assert isinstance(least, Passes)
    more = [
        passes(task, few, one),
        passes(task, few, one, splits=3, beside=False),
        passes(task, few, METHODS, beside=False),
        passes(task, few | {"again": SCENARIOS["noisy inputs"]}, one, beside=False),
    ]
    assert np.all([each.forward > least.forward for each in more])
    assert passes(task, few | {"PGD": SCENARIOS["PGD"]}, one).both > 0


@pytest.mark.parametrize(
    ("estimated", "words"),
    [
        (0.2, "about 10 seconds"),
        (48, "about 50 seconds"),
        (88, "about 1 minute"),
        (200, "about 3 minutes"),
        (5300, "about 88 minutes"),
        (5399, "about 1 hour"),
        (9000, "about 2 hours"),
        (23000, "about 6 hours"),
    ],
)
def test_words_have_no_more_digits_than_it_is_good_for(estimated: float, words: str) -> None:
    assert told(estimated) == words
