"""Every detector in every scenario on the shipped classifiers; with several processes the work is shared among them.

Each attack on each classifier is a task of a process; once these are done, so is each group of methods that share
passes. What the processes compute stays in the cache, where `evaluate` finds it.
"""

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks import protocol
from benchmarks.networks.columns import network_scenarios
from benchmarks.networks.registry import base
from benchmarks.scenarios import shipped_scenarios
from benchmarks.shipped import Suite, default_names, shipped_tasks
from gradgeo.bench.cache import CHUNK
from gradgeo.bench.classifier_under_test import logits_of
from gradgeo.bench.evaluate import Say, evaluate, fits, generate, seeds_of_fits, silent
from gradgeo.bench.methods import Method
from gradgeo.bench.page.results import parse
from gradgeo.bench.page.write import write
from gradgeo.bench.scenarios import Scenario, Task
from gradgeo.bench.scores import shared_groups
from gradgeo.bench.user_model import select_methods
from gradgeo.errors import expected


@dataclass(frozen=True)
class Choice:
    """What is compared on what; small enough to be sent to another process."""

    folder: Path | None
    """The folder with data/ and models/; None for the digits alone."""
    names: tuple[str, ...] | None
    """Of the classifiers; None for all but those too costly."""
    inputs: int
    """In a scenario."""
    methods: tuple[str, ...] | None = None
    """Built-in methods; None for all."""
    more: tuple[str, ...] = ()
    """Further methods, by spec."""
    splits: int = 0
    """Further fits of each method, for intervals over fits."""
    opened: bool = False
    """Whether the sealed part of the protocol is measured too."""

    def selected(self) -> dict[str, Method]:
        """The methods."""
        return select_methods(self.methods, self.more)

    def tasks(self) -> tuple[list[Task], dict[str, Scenario]]:
        """The task of each classifier, and the scenarios."""
        suite = Suite(self.folder or Path(), inputs=self.inputs)
        names, scenarios = self.names, self.all_scenarios(suite)
        if not self.opened:
            names, scenarios = self.allowed(), protocol.read().scenarios_allowed(scenarios)
        return shipped_tasks(suite, names, self.folder), scenarios

    def all_scenarios(self, suite: Suite) -> dict[str, Scenario]:
        """Those for choosing and those sealed."""
        return network_scenarios(suite.folder, shipped_scenarios(suite))

    def allowed(self) -> tuple[str, ...]:
        """The classifiers for choosing; ArgumentError where a sealed one is named."""
        return protocol.read().networks_allowed(self.names, default_names())

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the further fits."""
        return protocol.read().fits(self.splits, opened=self.opened)


def run(
    choice: Choice, out: Path, name: str, command: str, *, reason: str | None = None, jobs: int = 1, say: Say = silent
) -> list[Path]:
    """Compare, and write the page NAME into `out` after each network; returns the paths of its files.

    Networks that the page holds and this run does not measure stay there as they were, so that the battery may be
    measured in parts; the page says which networks it lacks.

    Args:
        reason: why the sealed part of the protocol is opened, which is written down before anything is measured; None
            leaves it closed.
    """
    methods, held = choice.selected(), on_page(out / f"{name}.json")
    suite = Suite(choice.folder or Path(), inputs=choice.inputs)
    choice = replace(choice, opened=reason is not None)
    tasks, scenarios = choice.tasks()  # first, so that what is refused opens nothing
    told = protocol.closed(choice.all_scenarios(suite)) if reason is None else protocol.opening(reason, command)
    if jobs > 1:
        share(choice, jobs, say)
    paths: list[Path] = []
    for task in tasks:
        result = evaluate(task, scenarios=scenarios, methods=methods, splits=choice.seeds, command=command, say=say)
        result["made"]["protocol"] = told
        held[task.classifier.name] = result
        lacking = _lacking(held, opened=choice.opened)
        for each in held.values():
            each["made"]["lacking"] = lacking
        paths = write(list(held.values()), out, name)
    return paths


def on_page(file: Path) -> dict[str, dict[str, Any]]:
    """The results by network that a page holds; none where there is no page.

    Raises:
        ArgumentError: the file holds something else, which is not to be written over.
    """
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
        parse(found)
        return {result["model"]["name"]: result for result in found}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise expected(
            "--out", f"a folder whose {file.name} is a page of this command", file, "Move it away."
        ) from error


def _lacking(held: Iterable[str], *, opened: bool) -> str:
    """Which networks a page lacks, in words; nothing where it lacks none."""
    sealed, measured = protocol.read(), {base(name) for name in held}
    missing = [
        name for name in default_names() if name not in measured and (opened or not sealed.network_is_sealed(name))
    ]
    return f"Not measured yet: {', '.join(missing)}." if missing and measured != {"digits"} else ""


def share(choice: Choice, jobs: int, say: Say = silent) -> None:
    """Do the work in processes of one thread each, so that `evaluate` finds it in the cache.

    The largest groups and the slowest classifiers go first, so that no process is left with them at the end. A task
    that fails leaves the others alone; `evaluate` meets its error again and reports it.

    Networks as small as ours gain next to nothing from a second thread: two processes do in an hour what one of two
    threads does in an hour and a half.

    Args:
        say: called in each process with what it is at; a function that can be pickled.
    """
    tasks, scenarios = choice.tasks()
    slowest_first = sorted(tasks, key=_cost, reverse=True)
    attacks = [
        partial(_attack, task.classifier.name, name)
        for task in slowest_first
        for name, scenario in scenarios.items()
        if scenario.cause == "attack" and scenario.applies(task)
    ]
    largest_first = sorted(shared_groups(choice.selected()), key=len, reverse=True)
    scores = [
        partial(_score, task.classifier.name, tuple(group), split)
        for group in largest_first
        for task in slowest_first
        for split in seeds_of_fits(choice.seeds)
    ]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for steps in (attacks, scores):
            list(pool.map(partial(_work, choice, say), steps))


def _cost(task: Task) -> float:
    """An estimate of how long a classifier takes, to sort by: a forward pass, once for each class."""
    start = time.perf_counter()
    logits = logits_of(task.classifier.model, task.classifier.x[:CHUNK])
    return (time.perf_counter() - start) * logits.shape[1]


_Step = Callable[[Choice, Say], None]


def _work(choice: Choice, say: Say, step: _Step) -> None:
    torch.set_num_threads(1)
    try:
        step(choice, say)
    except Exception as error:  # in whatever way a method or an attack may fail
        say(f"{type(error).__name__}: {error}; to be tried again")


def _attack(classifier: str, name: str, choice: Choice, say: Say) -> None:
    task, scenarios = _task(choice, classifier)
    generate(task, {name: scenarios[name]}, say)


def _score(classifier: str, methods: tuple[str, ...], split: int, choice: Choice, say: Say) -> None:
    task, scenarios = _task(choice, classifier)
    _, inputs = generate(task, scenarios)
    (group,) = (group for group in shared_groups(choice.selected()) if tuple(group) == methods)
    say(f"{classifier}: scoring with {', '.join(methods)}" + (f", fit {split}" if split else ""))
    fit = fits(task.classifier, inputs, choice.seeds).get(split)
    if fit:
        fit.scores(group)


@cache
def _task(choice: Choice, classifier: str) -> tuple[Task, dict[str, Scenario]]:
    """One for all steps of a process."""
    (task,), scenarios = replace(choice, names=(classifier,)).tasks()
    return task, scenarios
