"""How long a run will take, told before it begins: from one timed batch and how many of them each part needs."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gradgeo.bench.cost import BATCH, FIT_INPUTS
from gradgeo.bench.made_outliers import FAMILIES
from gradgeo.bench.made_ranking import COMPARED, OUTLIERS
from gradgeo.bench.methods import Method
from gradgeo.bench.scenarios import COSTLY, Scenario, Task, attack_kind
from gradgeo.classifier.wrapper import Classifier

ATTACKS = {
    "pgd": 85,
    "fgsm": 4,
    "minimum l2": 30,
    "csa": 560,
    "apgd ensemble": 80,
    "c&w": 150,
    "b&b": 400,
    "noise in the ball": 14,
    "rotation": 7,
}
"""Forward and backward passes over the attacked inputs that an attack lasts as long as, by kind; measured on small CNNs
and ResNet-20."""

FEWEST_ATTACKED = 85
"""Passes of an attack that is not in the table."""

OURS = {"gradgeo": (25.0, 0.7), "gradgeo fast": (15.0, 0.0), "ten statistics": (3.0, 0.7)}
"""What a verdict lasts, in forward passes: so many, and so many for each class."""

FIT = 1.6
"""What fitting ours on an input lasts, in verdicts."""

SHARED, OWN = 0.4, 3.0
"""What a peer's verdict lasts, in forward passes, beside the pass that peers share, and by itself."""

IMPORTS, METHOD = 8.0, 0.6
"""Seconds for the libraries, and for each method that is timed."""


def seconds(task: Task, scenarios: Mapping[str, Scenario], methods: Mapping[str, Method]) -> float:
    """Of a whole run on this machine, within a factor of about two; less where an earlier run finished some of it.

    Cost: a few passes over 64 inputs.
    """
    classifier, x = Classifier(task.classifier.model), task.x[:BATCH]
    if not len(x):
        return IMPORTS
    forward = _timed(lambda: classifier.logits(x)) / len(x)
    both = _timed(lambda: _both(classifier, x)) / len(x)
    attacked, judged, made = 0.0, float(len(task.x)), OUTLIERS * len(FAMILIES) + COMPARED
    for name, scenario in scenarios.items():
        if not scenario.applies(task):
            continue
        kind = attack_kind(name)
        most = COSTLY if kind in ("apgd ensemble", "c&w", "b&b") else task.size
        tried = min(len(task.x), task.attacked or task.size, most)
        if scenario.cause == "attack":
            attacked += tried * ATTACKS.get(kind, FEWEST_ATTACKED)
        judged += {"attack": tried, "mistake": len(task.misclassified)}.get(scenario.cause, task.size)
    classes = task.classifier.logits.shape[1]
    verdicts = {name: OURS[name][0] + OURS[name][1] * classes for name in methods if name in OURS}
    fitted = 1.5 * len(task.classifier.trusted)  # by two fits
    ours = max(verdicts.values(), default=0.0) * (judged + made + FIT * fitted)
    ours += sum(verdicts.values()) * (5 * BATCH + FIT * FIT_INPUTS)  # to be timed, each by itself
    peers = sum(SHARED if method.shared else OWN for name, method in methods.items() if name not in verdicts)
    others = (1 + peers) * (judged + made) if peers else 0.0
    return both * attacked + forward * (ours + others) + METHOD * len(methods) + IMPORTS


def told(estimate: float) -> str:
    """In words, of no more digits than it is good for.

    Example:
        >>> told(48), told(200), told(9000)
        ('about 50 seconds', 'about 3 minutes', 'about 3 hours')
    """
    for unit, size, step in (("second", 1, 10), ("minute", 60, 1), ("hour", 3600, 1)):
        count = max(step, round(estimate / size / step) * step)
        if unit == "hour" or count * size < {"second": 90, "minute": 5400}[unit]:
            return f"about {count} {unit}{'s' * (count != 1)}"
    raise AssertionError


def _both(classifier: Classifier, x: Tensor) -> None:
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        logits = classifier(classifier.prepare(leaf).x.clone())
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), leaf)


def _timed(way: Callable[[], object]) -> float:
    """Of the least of three, after one that warms up."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return min(times[1:])
