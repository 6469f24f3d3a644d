"""How long a run will take, told before it begins: from one timed batch and how many passes each part needs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.bench.cost import BATCH, FIT_INPUTS
from gradgeo.bench.evaluate import SPLIT_INPUTS, seeds_of_fits
from gradgeo.bench.made_ranking import COMPARED, OUTLIERS
from gradgeo.bench.methods import Method
from gradgeo.bench.scenarios import COSTLY, Scenario, Task, attack_kind
from gradgeo.classifier.wrapper import Classifier
from gradgeo.detector.fit.fitting import LIKELIEST
from gradgeo.detector.fit.made_outliers import FAMILIES
from gradgeo.detector.fit.suspects import KINDS, SOURCES

ATTACKS = {
    "pgd": (100, 0),
    "fgsm": (4, 0),
    "minimum l2": (20, 0),
    "csa": (200, 36),
    "apgd ensemble": (100, 0),
    "c&w": (170, 0),
    "b&b": (400, 0),
    "noise in the ball": (15, 0),
    "rotation": (7, 0),
}
"""Passes forward and backward over the attacked inputs that an attack takes, by kind: so many, and so many for each
class; counted on a small CNN, that of CSA timed."""

UNKNOWN_ATTACK = (100, 0)
"""The same of an attack that is not in the table."""

FEW = ("apgd ensemble", "c&w", "b&b")
"""Attacks that are tried on `COSTLY` inputs at most."""

OURS = {"gradgeo": (10.0, 0.7), "gradgeo fast": (9.0, 0.0), "gradgeo lite": (4.0, 0.0), "ten statistics": (3.0, 0.7)}
"""What a verdict lasts, in forward passes: so many, and so many for each class."""

FIT = 1.6
"""What fitting ours on an input lasts, in verdicts."""

SHARED, OWN = 0.4, 3.0
"""What a peer's verdict lasts, in forward passes, beside the pass that peers share, and by itself."""

TIMED = 5 * (BATCH + 1) + 8
"""Inputs that a method judges to be timed, about."""

IMPORTS, METHOD = 8.0, 0.6
"""Seconds for the libraries, and for each method."""


@dataclass(frozen=True)
class Passes:
    """Inputs that pass the classifier in a run, each as often as it does."""

    forward: float
    """Forward alone."""
    both: float
    """Forward and backward."""


def seconds(
    task: Task,
    scenarios: Mapping[str, Scenario],
    methods: Mapping[str, Method],
    *,
    splits: int = 0,
    beside: bool = True,
) -> float:
    """Of a whole run on this machine, within a factor of about three; less where an earlier run finished some of it.

    Cost: a few passes over 64 inputs.

    Args:
        splits: the number of further fits.
        beside: as in `evaluate`.
    """
    classifier, x = Classifier(task.classifier.model), task.x[:BATCH]
    if not len(x):
        return IMPORTS
    needed = passes(task, scenarios, methods, splits=splits, beside=beside)
    forward, both = _timed(lambda: classifier.logits(x)), _timed(lambda: _both(classifier, x))
    return (needed.forward * forward + needed.both * both) / len(x) + METHOD * len(methods) + IMPORTS


def passes(
    task: Task,
    scenarios: Mapping[str, Scenario],
    methods: Mapping[str, Method],
    *,
    splits: int = 0,
    beside: bool = True,
) -> Passes:
    """How many a run needs; arguments as in `seconds`."""
    classes = task.classifier.logits.shape[1]
    attacked, judged = 0.0, [len(task.x)]
    for name, scenario in scenarios.items():
        if not scenario.applies(task):
            continue
        if scenario.cause == "attack":
            kind = attack_kind(name)
            tried = min(len(task.x), task.attacked or task.size, COSTLY if kind in FEW else task.size)
            attacked += tried * _by_class(ATTACKS.get(kind, UNKNOWN_ATTACK), classes)
            judged.append(tried)
        else:
            judged.append(len(task.misclassified) if scenario.cause == "mistake" else task.size)
    inputs = sum(judged) + splits * sum(min(each, SPLIT_INPUTS) for each in judged)
    fits = 1 + splits
    if beside:
        inputs += OUTLIERS * len(FAMILIES) + COMPARED
        fits = len(seeds_of_fits(range(splits)))
    with_mistakes = len(task.classifier.with_mistakes[0])
    fitted, fitted_ours = (
        count * (1 + (fits - 1) / 2) for count in (len(task.classifier.trusted), with_mistakes)
    )  # further ones are on a half
    verdicts = {name: _by_class(OURS[name], min(classes, LIKELIEST)) for name in methods if name in OURS}
    made = fits * SOURCES * len(KINDS)
    ours = max(verdicts.values(), default=0.0) * (inputs + FIT * fitted_ours + made)  # they share their passes
    by_itself = {name: SHARED if method.shared else OWN for name, method in methods.items() if name not in verdicts}
    peers = (1 + sum(by_itself.values())) * (inputs + fitted) if by_itself else 0.0
    timed = 0.0
    if beside:
        timed = sum((verdicts | by_itself).values()) * (TIMED + FIT * FIT_INPUTS)
    return Passes(ours + peers + timed, attacked)


def told(estimate: float) -> str:
    """In words, of no more digits than it is good for.

    Example:
        >>> told(48), told(200), told(10_000)
        ('about 50 seconds', 'about 3 minutes', 'about 3 hours')
    """
    for unit, size, step, below in (("second", 1, 10, 90), ("minute", 60, 1, 5400)):
        count = max(step, round(estimate / size / step) * step)
        if count * size < below:
            return _counted(count, unit)
    return _counted(max(1, round(estimate / 3600)), "hour")


def _counted(count: int, unit: str) -> str:
    return f"about {count} {unit}{'s' * (count != 1)}"


def _by_class(passes: tuple[float, float], classes: int) -> float:
    return passes[0] + passes[1] * classes


def _both(classifier: Classifier, x: Tensor) -> None:
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        logits = classifier(classifier.prepare(leaf).x.clone())
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), leaf)


def _timed(way: Callable[[], object]) -> float:
    """The seconds of the fastest of three, after one that warms up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return min(times[1:])
