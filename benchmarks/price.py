"""The price of evasion: how much farther an attacker must go for the wrong answer to be trusted as well."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo import attacks
from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.bench.cache import DETECTOR_CODE, cached, source_hash, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.scenarios import Task
from gradgeo.detector.detector import Detector

NAMES = ("mnist", "fashion", "fashion-robust", "cifar10")
DETECTORS: dict[str, str | list[str]] = {
    "MaxSoftmax": ["confidence"],
    "KNN": ["neighbours"],
    "Mahalanobis": ["mahalanobis"],
    "lite": "lite",
    "ten statistics": "paper",
    "fast": "fast",
}
COSTLY = {"cifar10": ("MaxSoftmax", "Mahalanobis", "lite")}
"""Detectors that are attacked where a step is costly."""

LADDER = tuple(2.0 ** (k / 2) / 1024 for k in range(19))
"""Epsilons of L-inf attacks, each the root of 2 times the last: 1/1024 to 1/2."""

BUDGETS = (0.01, 8 / 255)
RATES = (0.05, 0.5)
INPUTS, FIT, STEPS = 20, 600, 40

Succeeds = Callable[[float, IntArray | None], BoolArray]
"""(epsilon, rows (n,) or None for all) -> whether the attack with it succeeds on each (n,)."""


def run(suite: Suite) -> Page:
    """For each model and detector: the smallest epsilons, their ratio, and success at two budgets and two rates."""
    page = Page("The price of evasion")
    n = min(suite.inputs, INPUTS)
    page.say(
        f"{n} correctly classified inputs of the second half of the test split of each model, detectors fitted on up "
        f"to {FIT} inputs of the first half. Flips: the smallest epsilon (L-inf) with which PGD changes the answer. "
        "Flips and is trusted: the smallest with which `attacks.evasion`, which knows model and detector, gets another "
        "prediction trusted at alpha 5 %. Both by bisection on a ladder whose rungs differ by the root of 2, so that "
        f"ratios are rough; {STEPS} steps of epsilon/10, random start. Medians, and the quartiles of the ratio of the "
        "two. SR@5 and SR@50: share that is flipped and trusted at alpha 5 % and 50 % within .01 and 8/255. Each "
        "detector is attacked itself, by the same budget; MaxSoftmax, KNN and Mahalanobis are these evidences of ours "
        "alone. fashion-robust: the classifier after four epochs more under attack at .1, made by this command."
    )
    heading = ["model", "detector", "flips", "flips and is trusted", "ratio", "quartiles"]
    rows = []
    for name in suite.wanted(NAMES):
        classifier, task = suite[name], Task(suite[name], n)
        for label in COSTLY.get(name, tuple(DETECTORS)):
            found = _measured(classifier, task, label)
            page.data.setdefault(name, {})[label] = found
            low, middle, high = found["ratio"]
            rates = [f"{found['success'][f'{e:.4g}'][str(a)]:.0%}" for e in BUDGETS for a in RATES]
            shown = [f"{found['flips']:.4f}", f"{found['evades']:.4f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
            rows.append([name, label, *shown, *rates])
    rates = [f"SR@{100 * alpha:.0f}, {epsilon:.4g}" for epsilon in BUDGETS for alpha in RATES]
    page.table([*heading, *rates], rows)
    return page


def _measured(classifier: ClassifierUnderTest, task: Task, label: str) -> dict[str, Any]:
    rows = min(FIT, classifier.half)
    detector = Detector(classifier.model, evidence=DETECTORS[label])
    detector.fit(classifier.x[:rows], classifier.y[:rows])
    key = ("price", 1, weights_key(classifier.model), STEPS, tensor_hash(task.x))
    flips = cached(partial(_rungs, partial(_flips, classifier, task)), *key, "flips", source_hash("attacks/*.py"))
    code = source_hash(*DETECTOR_CODE, "attacks/*.py")
    evades = cached(partial(_rungs, partial(_evades, classifier, detector, task)), *key, label, code)
    success = cached(partial(_success, classifier, detector, task), *key, label, code, "success")
    epsilons = np.array([*LADDER, np.inf])
    cheap, dear = epsilons[flips["rung"]], epsilons[evades["rung"]]  # (n,)
    both = np.isfinite(cheap) & np.isfinite(dear)
    ratio = np.quantile(dear[both] / cheap[both], (0.25, 0.5, 0.75)) if both.any() else np.full(3, np.nan)
    return {
        "inputs": len(cheap),
        "flips": float(np.median(cheap)),
        "evades": float(np.median(dear)),
        "never": int((~np.isfinite(dear)).sum()),
        "ratio": ratio.tolist(),
        "success": {f"{e:.4g}": {str(a): float(success[f"{e:.4g} {a}"].mean()) for a in RATES} for e in BUDGETS},
    }


def _rungs(succeeds: Succeeds) -> dict[str, Any]:
    first = succeeds(LADDER[-1], None)
    return {"rung": smallest(LADDER, len(first), succeeds, known=first)}


def smallest(ladder: Sequence[float], n: int, succeeds: Succeeds, *, known: BoolArray) -> IntArray:
    """For each of n inputs the lowest rung on which it succeeds, by bisection; len(ladder) where it never does.

    Args:
        known: (n,) whether it succeeds on the last rung.
    """
    low, high = np.full(n, -1), np.where(known, len(ladder) - 1, len(ladder))  # fails at low, succeeds at high
    low[~known] = len(ladder) - 1
    while ((high - low) > 1).any():
        middle = (low + high) // 2
        for rung in np.unique(middle[high - low > 1]).tolist():
            rows = np.flatnonzero((middle == rung) & (high - low > 1))
            done = succeeds(ladder[rung], rows)
            high[rows[done]], low[rows[~done]] = rung, rung
    return high


def _part(task: Task, rows: IntArray | None) -> tuple[Tensor, Tensor]:
    chosen = slice(None) if rows is None else torch.from_numpy(rows)
    return task.x[chosen], task.y[chosen]


def _options(classifier: ClassifierUnderTest, epsilon: float) -> dict[str, Any]:
    return {"epsilon": epsilon, "steps": STEPS, "step_size": epsilon / 10, "bounds": classifier.bounds}


def _flips(classifier: ClassifierUnderTest, task: Task, epsilon: float, rows: IntArray | None) -> BoolArray:
    x, y = _part(task, rows)
    success: BoolArray = attacks.pgd(classifier.folded, x, y, **_options(classifier, epsilon)).success.numpy()
    return success


def _evaded(
    classifier: ClassifierUnderTest, detector: Detector, x: Tensor, y: Tensor, epsilon: float
) -> tuple[BoolArray, Array]:
    """Whether each is flipped (n,), and the p-value of what it became (n,)."""
    result = attacks.evasion(detector, x, y, **_options(classifier, epsilon))
    verdicts = detector.predict(result.adversarial)
    return (verdicts.label != y).numpy(), verdicts.p_value.numpy()


def _evades(
    classifier: ClassifierUnderTest, detector: Detector, task: Task, epsilon: float, rows: IntArray | None
) -> BoolArray:
    flipped, p = _evaded(classifier, detector, *_part(task, rows), epsilon)
    return flipped & (p > RATES[0])


def _success(classifier: ClassifierUnderTest, detector: Detector, task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for epsilon in BUDGETS:
        flipped, p = _evaded(classifier, detector, task.x, task.y, epsilon)
        found |= {f"{epsilon:.4g} {alpha}": flipped & (p > alpha) for alpha in RATES}
    return found
