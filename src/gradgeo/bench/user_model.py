"""What the benchmark compares for a user: a classifier of their own with its data, or the digits; and which methods."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.bench.cache import CHUNK
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.library_attacks import is_library_attack, library_attack
from gradgeo.bench.methods import METHODS, Method
from gradgeo.bench.scenarios import SCENARIOS, Scenario, Task, attack_kind, attack_scenario
from gradgeo.data import Source, digits, open_source
from gradgeo.data.models import load_model
from gradgeo.data.preprocess import Preparation
from gradgeo.data.user_code import load_object
from gradgeo.errors import ArgumentError, DataError, expected

DIGITS_BUDGETS = (0.3, 0.1)
"""Of the attacks on the digits."""


def user_classifier(
    name: str,
    model: nn.Module,
    data: str,
    *,
    preprocess: Preparation | None = None,
    budgets: tuple[float, ...] | None = None,
) -> ClassifierUnderTest:
    """A classifier under test from a model, and data as the other commands name them.

    The data is shuffled by a fixed seed and halved; without labels every input counts as classified correctly. Inputs
    within 0..1 keep to these bounds under attack, with budgets of 8, 2 and 1 levels of 255; others are unbounded, with
    budgets of these shares of their standard deviation.
    """
    x, y = read_inputs(open_source(data, preprocess=preprocess))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    bounded = float(x.min()) >= 0 and float(x.max()) <= 1
    scale = 1.0 if bounded else float(x.std())
    if budgets is None:
        budgets = tuple(scale * levels / 255 for levels in (8, 2, 1))
    bounds = (0.0, 1.0) if bounded else None
    return ClassifierUnderTest(name, model, x, y, len(x) // 2, budgets, bounds)


def user_task(
    name: str, model: nn.Module, data: str, size: int, *, attacked: int | None = None, **options: Any
) -> Task:
    """The task of a user's own classifier, whose attacks are tried on so many inputs; options as in
    `user_classifier`."""
    return Task(user_classifier(name, model, data, **options), size, attacked)


def digits_classifier() -> ClassifierUnderTest:
    """The classifier of the demo, fitted on its `fit` part and reported on its `test` part; needs no file."""
    parts = digits.split()
    x, y = (torch.cat([parts[part][i] for part in ("fit", "test")]) for i in (0, 1))
    return ClassifierUnderTest("digits", load_model("digits"), x, y, len(parts["fit"][0]), DIGITS_BUDGETS)


def digits_task(size: int) -> Task:
    """The task of the demo's classifier."""
    return Task(digits_classifier(), size)


def read_inputs(source: Source) -> tuple[Tensor, Tensor]:
    """The inputs of a source that can be read and have the shape of the first, and their labels, -1 where unknown."""
    shape = source.first_shape()
    if shape is None:
        raise DataError(f"{source.spec} holds no input that can be read")
    items = (item for batch in source.batches(CHUNK, shape=shape) for item in batch)
    pairs = [(item.x, -1 if item.label is None else item.label) for item in items if item.x is not None]
    return torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs])


def user_scenarios(
    ood: tuple[str, ...], attacks: tuple[str, ...] | None, preprocess: Preparation | None = None
) -> dict[str, Scenario]:
    """Scenarios of the user's other data, the synthetic ones, attacks of these kinds, and the mistakes.

    Attacks: None for all of the benchmark's own; `foolbox:NAME` and `torchattacks:NAME` beside them.
    """
    kinds = {attack_kind(name) for name, scenario in SCENARIOS.items() if scenario.cause == "attack"}
    others = [kind for kind in attacks or () if is_library_attack(kind)]
    for kind in attacks or ():
        if kind.lower() not in kinds and kind not in others:
            known = f"among {', '.join(sorted(kinds))}, foolbox:NAME or torchattacks:NAME"
            raise expected("attacks", known, kind)
    wanted = kinds if attacks is None else {kind.lower() for kind in attacks}
    short = [Path(spec).name for spec in ood]
    labels = short if len({*short, *SCENARIOS}) == len(short) + len(SCENARIOS) else ood
    of_data = {label: Scenario("ood", _reader(spec, preprocess)) for label, spec in zip(labels, ood, strict=True)}
    of_libraries = {kind: attack_scenario(*library_attack(kind)) for kind in others}
    own = {
        name: scenario
        for name, scenario in SCENARIOS.items()
        if scenario.cause != "attack" or attack_kind(name) in wanted
    }
    return of_data | of_libraries | own


def _reader(spec: str, preprocess: Preparation | None) -> Callable[[Task], Tensor]:
    def read(task: Task) -> Tensor:
        x, _ = read_inputs(open_source(spec, preprocess=preprocess, limit=None))
        if x.shape[1:] != task.input_shape:
            shapes = f"{tuple(x.shape[1:])}, the classifier's are {tuple(task.input_shape)}"
            raise DataError(f"the inputs of {spec} have shape {shapes}; resize them with --size and --channels")
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        return x[order[: task.size]]

    return read


def user_method(spec: str) -> Method:
    """The method of `file.py:function` or `package.module:Class`: called with the model, it returns a detector with
    pytorch-ood's `fit` and `predict`."""
    make = load_object(spec)
    return Method(lambda model, x: make(model))


def select_methods(names: tuple[str, ...] | None, more: tuple[str, ...]) -> dict[str, Method]:
    """The built-in methods of these names (None: all), and those of the specs in `more`."""
    for name in names or ():
        if name not in METHODS:
            raise ArgumentError(f"expected methods among {', '.join(METHODS)}, got {name}")
    chosen = {name: method for name, method in METHODS.items() if names is None or name in names}
    return chosen | {spec: user_method(spec) for spec in more}
