"""The battery's work on several classifiers, shared among processes; what they find stays in the cache."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import torch

from gradgeo.bench.cache import CHUNK
from gradgeo.bench.case import judged
from gradgeo.bench.evaluate import Say, columns_of, silent
from gradgeo.bench.scenarios import COLUMNS, Setting
from gradgeo.bench.scores import Group, attempt, groups
from gradgeo.bench.user_model import chosen_methods, shipped_settings


@dataclass(frozen=True)
class _Run:
    """What all tasks are of; as in `prepare`."""

    folder: Path | None
    inputs: int
    methods: tuple[tuple[str, ...] | None, tuple[str, ...]]
    say: Say

    @property
    def groups(self) -> list[Group]:
        """The methods, as they share passes."""
        return groups(chosen_methods(*self.methods))


def prepare(
    folder: Path | None,
    names: tuple[str, ...],
    inputs: int,
    methods: tuple[tuple[str, ...] | None, tuple[str, ...]],
    jobs: int,
    say: Say = silent,
) -> None:
    """Do the work of several classifiers in processes of one thread each, so that `evaluate` finds it in the cache.

    Each attack on each classifier is a task; once these are done, so is each group of methods that share passes. The
    largest groups and the slowest classifiers go first, lest one process be left with them at the end. One that fails
    leaves the others alone; `evaluate`, which comes to it again, says why.

    Each process says for itself what it is at by `say`, a function that can be pickled.

    Networks as small as ours gain next to nothing from a second thread: two processes do in an hour what one of two
    threads does in an hour and a half.
    """
    run = _Run(folder, inputs, methods, say)
    settings = sorted(shipped_settings(folder, names, inputs), key=_cost, reverse=True)
    attacks = [
        partial(_attack, setting.case.name, name)
        for setting in settings
        for name, column in COLUMNS.items()
        if column.cause == "attack" and column.applies(setting)
    ]
    largest = sorted(run.groups, key=len, reverse=True)
    scores = [partial(_score, setting.case.name, tuple(group)) for group in largest for setting in settings]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for tasks in (attacks, scores):
            list(pool.map(partial(_work, run), tasks))


def _cost(setting: Setting) -> float:
    """What tells of classifiers which takes longer: a forward pass, once for each class."""
    start = time.perf_counter()
    logits = judged(setting.case.model, setting.case.x[:CHUNK])
    return (time.perf_counter() - start) * logits.shape[1]


_Task = Callable[[_Run], None]


def _work(run: _Run, task: _Task) -> None:
    torch.set_num_threads(1)
    try:
        task(run)
    except Exception as error:  # in whatever way a method or an attack may fail
        run.say(f"{type(error).__name__}: {error}; to be tried again")


def _attack(case: str, column: str, run: _Run) -> None:
    columns_of(_setting(run.folder, case, run.inputs), {column: COLUMNS[column]}, run.say)


def _score(case: str, methods: tuple[str, ...], run: _Run) -> None:
    setting = _setting(run.folder, case, run.inputs)
    _, inputs = columns_of(setting, COLUMNS)
    (group,) = (group for group in run.groups if tuple(group) == methods)
    run.say(f"{case}: scoring with {', '.join(methods)}")
    attempt(group, setting.case, inputs)


@cache
def _setting(folder: Path | None, case: str, inputs: int) -> Setting:
    """One for all tasks of a process."""
    (setting,) = shipped_settings(folder, (case,), inputs)
    return setting
