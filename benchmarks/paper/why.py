"""Why the statistics tell inputs apart, or not: S1 and local minima by cause, and the way across a decision."""

from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.page import Page
from benchmarks.paper.measured import Measured
from benchmarks.paper.settings import LOGITS, SETTINGS, statistics
from benchmarks.paper.tables import OURS
from gradgeo import attacks
from gradgeo.bench.attacked import attacked
from gradgeo.bench.cache import CHUNK, GEOMETRY_CODE, cached, source_hash, tensor_hash, weights_key
from gradgeo.bench.scenarios import Task
from gradgeo.geometry.neighbourhood import zeta
from gradgeo.geometry.similarity import STATISTICS

RADIUS, DIRECTIONS, AROUND = 0.01, 8, 25
LINES, POINTS = 30, 41


def means(page: Page, each: Measured) -> None:
    """The mean of S1 by cause under each setting, zeta beside, and where misclassified inputs lie."""
    page.say("### What the maps have in common, by cause")
    page.say(
        "Mean over inputs of the mean of S1, the cosines between the maps of the classes not predicted. zeta < 0: the "
        f"share of {DIRECTIONS} directions at a radius of {RADIUS} in which descent from there leads away from the "
        f"input (Theorem 1; {AROUND} inputs at most). A cause that differs from trusted inputs in neither is not seen."
    )
    names = SETTINGS if each.case.classifier.x.shape[1] > 1 else LOGITS
    rows = []
    for cause, known in each.by_cause.items():
        s1 = {name: float(known.of(name)[:, STATISTICS.index("s1_mean")].mean()) for name in names}
        away = _away(each, cause)
        page.data.setdefault("why", {}).setdefault(each.case.setup.name, {})[cause] = {"s1": s1, "zeta < 0": away}
        rows.append([cause, *(f"{value:.2f}" for value in s1.values()), f"{away:.2f}"])
    page.table(["inputs", *names, "zeta < 0"], rows)
    page.say(_box(page, each))


def _away(each: Measured, cause: str) -> float:
    classifier = each.case.classifier
    x = Task(classifier, 2 * each.case.suite.inputs).x if cause == "trusted" else each.inputs[cause].x
    directions = torch.randn(DIRECTIONS, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    directions /= directions.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (x.ndim - 1))

    def run(x: torch.Tensor) -> dict[str, Any]:
        return {"zeta": zeta(classifier.model, x, radius=RADIUS, directions=directions).numpy()}

    key = ("zeta of the paper", weights_key(classifier.model), source_hash(*GEOMETRY_CODE), RADIUS, DIRECTIONS)
    parts = [cached(partial(run, part), *key, tensor_hash(part)) for part in x[:AROUND].split(CHUNK)]
    return float(np.mean(np.concatenate([part["zeta"] for part in parts]) < 0))


def _box(page: Page, each: Measured) -> str:
    """The paper's box plot of misclassified inputs, in words."""
    if "misclassified" not in each.by_cause:
        return "Misclassified inputs were not measured."
    scores = each.scores(OURS)
    rank = np.searchsorted(np.sort(scores["trusted"]), scores["misclassified"]) / len(scores["trusted"])
    low, middle, high = np.quantile(rank, [0.25, 0.5, 0.75])
    page.data.setdefault("misclassified", {})[each.case.setup.name] = [low, middle, high]
    return (
        "The paper's box plot of misclassified inputs: the median one scores above "
        f"{100 * middle:.0f} % of the trusted inputs, the middle half of them above {100 * low:.0f} to "
        f"{100 * high:.0f} % (ours; 50 where they are like trusted ones)."
    )


def line(page: Page, each: Measured) -> None:
    """How often the largest step of a mean falls on the switch of the label."""
    page.say("### The decision figure")
    classifier, task = each.case.classifier, Task(each.case.classifier, each.case.suite.inputs)
    result = attacked(classifier, task.x, task.y, attacks.pgd, epsilon=each.case.setup.epsilon, steps=70)
    x, end = task.x[result.success][:LINES], result.adversarial[result.success][:LINES]
    along = torch.linspace(0, 1, POINTS).view(-1, *[1] * (x.ndim - 1))
    hits = {(setting, name): 0 for setting in LOGITS for name in ("s1_mean", "s2_mean")}
    for one, other in zip(x, end, strict=True):
        known = statistics(classifier, one + along * (other - one))
        switch = int((np.diff(known.label) != 0).argmax())
        for setting, name in hits:
            steps = np.abs(np.diff(known.of(setting)[:, STATISTICS.index(name)]))
            hits[setting, name] += bool(abs(int(steps.argmax()) - switch) <= 1)
    page.data.setdefault("line", {})[each.case.setup.name] = {
        "lines": len(x),
        **{f"{setting}, {name}": count for (setting, name), count in hits.items()},
    }
    page.say(
        f"Along {len(x)} lines of {POINTS} points from an input to its PGD example the largest step of the mean falls "
        "on the switch of the label, to within one point (by chance about 3 of 40 would):"
    )
    page.table(
        ["maps", "S1", "S2"],
        [[setting, *(f"{hits[setting, name]}" for name in ("s1_mean", "s2_mean"))] for setting in LOGITS],
    )
