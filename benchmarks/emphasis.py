"""What a user gains, and pays, by saying what matters most: `emphasis=` on the networks that are for choosing."""

from typing import Any

import numpy as np
import torch

from benchmarks.battery import Choice
from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.bench.averages import means
from gradgeo.bench.evaluate import generate
from gradgeo.bench.scenarios import Scenario, Task
from gradgeo.bench.shared_passes import DetectorGroup
from gradgeo.detector.detector import Detector
from gradgeo.detector.weighing import EMPHASES
from gradgeo.metrics import auroc

NAMES = (
    *("mnist", "cifar10", "ecg5000", "diamonds"),
    *("factory_tops", "factory_shirts", "factory_animals", "factory_outdoors"),
)
KINDS = {"attack": "attacks", "near": "near OOD", "far": "far OOD", "spoilt": "spoilt", "mistake": "mistakes"}
CONFIDENCE = "confidence alone"
"""The surprise of the softmax probability by itself: what MaxSoftmax ranks by."""


def run(suite: Suite) -> Page:
    """AUROC by cause, with no emphasis and with each."""
    page = Page("Emphasis: what saying what matters gains, and what it costs")
    page.say(
        "`full`, fitted on the labelled inputs of the first half with the mistakes among them, as the battery fits it; "
        f"up to {suite.inputs} inputs in a scenario of the protocol that is for choosing. AUROC in %: the mean over "
        "causes, and of each cause the mean over its scenarios. The same inputs, the same passes: the emphasis changes "
        f"how the questions are joined and nothing else. *{CONFIDENCE}* is what MaxSoftmax ranks by."
    )
    names = suite.wanted(NAMES)
    # One network at a time: the inputs of all would be held at once.
    for name in names:
        (task,), scenarios = Choice(suite.folder, (name,), suite.inputs).tasks()
        page.data[name] = _measured(task, scenarios)
    page.table(["network", "emphasis", "mean", *KINDS.values()], [row for n in names for row in _rows(n, page.data[n])])
    page.say("## Mean over the networks")
    rows = []
    for emphasis in page.data[names[0]]:
        found = [page.data[name][emphasis] for name in names]
        mean = {kind: float(np.mean([each[kind] for each in found if kind in each])) for kind in ("mean", *KINDS)}
        page.data.setdefault("all", {})[emphasis] = mean
        rows.append([emphasis, *(f"{100 * value:.1f}" for value in mean.values())])
    page.table(["emphasis", "mean", *KINDS.values()], rows)
    return page


def _measured(task: Task, scenarios: dict[str, Scenario]) -> dict[str, dict[str, float]]:
    """By emphasis the mean AUROC over causes, and that of each."""
    described, inputs = generate(task, scenarios)
    model, (x, y) = task.classifier.model, task.classifier.with_mistakes
    every = {"none": None, **{name: name for name in EMPHASES}}
    group = DetectorGroup([Detector(model, emphasis=emphasis) for emphasis in every.values()]).fit(x, y)
    alone = Detector(model, evidence=["confidence"]).fit(x, y)
    scores: dict[str, dict[str, Any]] = {name: {} for name in (*every, CONFIDENCE)}
    for scenario, part in inputs.items():
        for name, predictions in zip(scores, [*group.predict(part), alone.predict(part)], strict=True):
            scores[name][scenario] = torch.nan_to_num(predictions.outlier_score, nan=torch.inf).numpy()
    kinds = {scenario: described[scenario]["kind"] for scenario in inputs if scenario != "trusted"}
    measured = {}
    for name, found in scores.items():
        areas = {scenario: auroc(found["trusted"], found[scenario]).value for scenario in kinds}
        mean, by_kind = means(areas, kinds)
        measured[name] = {"mean": mean, **by_kind}
    return measured


def _rows(name: str, measured: dict[str, dict[str, float]]) -> list[list[str]]:
    return [
        [name, emphasis, *(f"{100 * found[kind]:.1f}" if kind in found else "" for kind in ("mean", *KINDS))]
        for emphasis, found in measured.items()
    ]
