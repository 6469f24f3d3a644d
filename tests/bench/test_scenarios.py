"""Scenarios are what they say, within the classifier's bounds, and the same every time."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from gradgeo.attacks import fgsm
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.scenarios import KINDS, SCENARIOS, Generated, Scenario, Task
from gradgeo.errors import ArgumentError, MissingDependencyError


@pytest.mark.simulation
def test_scenarios_are_generated_from_the_second_half_and_stay_within_bounds(digits: Task) -> None:
    classifier = digits.classifier
    predicted = classifier.logits[classifier.half :][classifier.correct[classifier.half :]].argmax(1)
    assert torch.equal(predicted[:40], digits.y)
    for name, scenario in SCENARIOS.items():
        if name == "B&B" and find_spec("numba") is None:
            with pytest.raises(MissingDependencyError, match="numba is needed"):
                scenario.inputs(digits)
        elif scenario.applies(digits):
            x = scenario.inputs(digits).x
            assert x.shape[1:] == digits.input_shape, name
            assert float(x.min()) >= 0, name
            assert float(x.max()) <= 1, name
            assert torch.equal(x, scenario.inputs(digits).x), name


@pytest.mark.simulation
def test_attack_scenarios_hold_only_successes_within_budget(digits: Task) -> None:
    generated = SCENARIOS["PGD"].inputs(digits)
    predicted = digits.classifier.model(generated.x).argmax(1)
    distance = (generated.x[:, None] - digits.x).flatten(2).abs().amax(2)
    assert generated.success is not None
    assert len(generated.x) == round(generated.success * len(digits.x))
    assert generated.note == "epsilon 0.3"
    assert float(distance.amin(1).max()) <= 0.3 + 1e-6
    assert bool((predicted != digits.y[distance.argmin(1)]).all())


def test_a_costly_attack_is_tried_on_few_inputs(digits: Task) -> None:
    generated = digits.attack(fgsm, 0, 7)
    assert generated.success is not None
    assert len(generated.x) == round(7 * generated.success)
    columns = [name for name, scenario in SCENARIOS.items() if scenario.applies(digits)]
    assert len(columns) >= 10
    assert {SCENARIOS[name].kind for name in columns} == {"attack", "far", "spoilt", "mistake"}


def test_a_scenario_of_ones_own_is_one_line(digits: Task) -> None:
    dark = Scenario("ood", lambda task: torch.zeros_like(task.x))
    assert dark.applies(digits)
    generated = dark.inputs(digits)
    assert isinstance(generated, Generated)
    assert (len(generated.x), generated.success, generated.note) == (40, None, "")


@pytest.mark.parametrize(
    ("shape", "image", "signal"), [((3, 8, 8), True, False), ((1, 30), False, True), ((5,), False, False)]
)
def test_scenarios_of_images_and_of_signals(shape: tuple[int, ...], image: bool, signal: bool) -> None:
    x = torch.rand(20, *shape)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3)).eval()
    task = Task(ClassifierUnderTest("few", model, x, torch.full((20,), -1), 10), 4)
    applying = {name for name, scenario in SCENARIOS.items() if scenario.applies(task) and scenario.cause == "ood"}
    assert ("smooth blobs" in applying, "reversed" in applying) == (image, signal)
    assert "noisy inputs" in applying
    for name in applying:
        assert SCENARIOS[name].inputs(task).x.shape == (4, *shape), name


def test_a_model_that_cannot_be_traced_is_attacked_as_it_is() -> None:
    class Untraceable(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x.sum(1), x.amax(1) if float(x.sum()) > 0 else x.amin(1)], 1)

    classifier = ClassifierUnderTest("u", Untraceable(), torch.rand(4, 3), torch.zeros(4, dtype=torch.long), 2)
    assert isinstance(classifier.folded, Untraceable)


def test_a_scenario_has_a_kind_of_its_cause() -> None:
    assert {scenario.kind for scenario in SCENARIOS.values()} <= set(KINDS)
    kinds = [Scenario(cause, lambda task: task.x).kind for cause in ("ood", "attack", "mistake")]
    assert kinds == ["far", "attack", "mistake"]
    assert Scenario("ood", lambda task: task.x, kind="near").kind == "near"
    with pytest.raises(ArgumentError, match=r"kind to be that of its cause among .*, got 'near \(attack\)'"):
        Scenario("attack", lambda task: task.x, kind="near")
