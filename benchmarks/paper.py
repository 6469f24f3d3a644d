"""The paper's tables on our classifiers: detection (Table 1), adaptive attacks (Table 2), fewer maps (Table 3)."""

import time
from typing import Any

import numpy as np
import torch

from benchmarks import adaptive
from benchmarks.page import Page
from benchmarks.scenarios import shipped_scenarios
from benchmarks.shipped import Suite
from benchmarks.ten_statistics import SHARES, TenStatistics, fit_ten_statistics, number_of_maps, ten_statistics
from gradgeo import attacks
from gradgeo._typing import Array
from gradgeo.bench.attacked import attacked
from gradgeo.bench.cache import cached, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.evaluate import generate
from gradgeo.bench.scenarios import Task
from gradgeo.geometry.similarity import STATISTICS, csm
from gradgeo.metrics import Estimate, auroc, tnr_at_tpr

NAMES = ("mnist", "cifar10", "cifar100", "ecg5000")
FEWER = ("cifar10", "cifar100")
ADAPTIVE = ("CSA",)  # in Table 2 instead
LINES = 30  # inputs whose way to their adversarial example is followed
POINTS = 41  # of each
BLIND = 0.7  # an AUROC that is of no use
TIMED = 20  # inputs whose maps are timed


def run(suite: Suite) -> Page:
    """Tables 1 to 3 and the decision figure, each beside what the paper claims."""
    page = Page("The paper's tables on our classifiers")
    page.say(
        f"The ten statistics alone, fitted on the correctly classified inputs of the first half of each test split, "
        f"reported on the second; up to {suite.inputs} inputs a scenario. In %, with 95 % intervals (DeLong; "
        "bootstrap). Own: the temperature that `Detector` chooses; 1: the paper's."
    )
    _detection(page, suite)
    page.say("## Table 2: adaptive attacks")
    page.say(
        "The paper counts 561 / 1354 / 857 of 10,000 inputs (MNIST / CIFAR-10 / CIFAR-100) misclassified by CSA "
        "against 10,000 by PGD, and fewer the heavier the cosine term. How ours are made: [adaptive.md](adaptive.md)."
    )
    adaptive.tables(page, suite, "###")
    _fewer_maps(page, suite)
    _decisions(page, suite)
    return page


def _inputs(suite: Suite, classifier: ClassifierUnderTest) -> dict[str, torch.Tensor]:
    """Inputs by scenario, the trusted ones first; without data that is not at hand, of which the battery's page says
    how to get it."""
    scenarios = {name: each for name, each in shipped_scenarios(suite).items() if name not in ADAPTIVE}
    _, inputs = generate(Task(classifier, suite.inputs), scenarios)
    return {name: x for name, x in inputs.items() if len(x) > 1}


def _detection(page: Page, suite: Suite) -> None:
    page.say("## Table 1: detection")
    for name in suite.wanted(NAMES):
        classifier = suite[name]
        scenarios = _inputs(suite, classifier)
        rows = {scenario: [str(len(x))] for scenario, x in scenarios.items() if scenario != "trusted"}
        means: list[float] = []
        for temperature in (classifier.temperature, 1.0):
            model = fit_ten_statistics(classifier, temperature)
            scores = {
                scenario: ten_statistics(classifier, x, temperature).score(model) for scenario, x in scenarios.items()
            }
            by_scenario = {scenario: _figures(scores["trusted"], scores[scenario]) for scenario in rows}
            for scenario, figures in by_scenario.items():
                rows[scenario] += [str(figure) for figure in figures]
            means += [float(np.mean([figures[i].value for figures in by_scenario.values()])) for i in (0, 1)]
            kind = "temperature 1" if temperature == 1.0 else "own temperature"
            page.data.setdefault("detection", {}).setdefault(name, {})[kind] = {
                scenario: {k: (e.value, e.low, e.high) for k, e in zip(("auroc", "tnr95"), figures, strict=True)}
                for scenario, figures in by_scenario.items()
            }
        page.say(f"### {name}, own temperature {classifier.temperature:.3g}")
        heading = [f"{figure}, {t}" for t in ("own", "1") for figure in ("AUROC", "TNR95")]
        body = [[scenario, *cells] for scenario, cells in rows.items()]
        page.table(["inputs", "number", *heading], [*body, ["mean", "", *(f"{100 * mean:.1f}" for mean in means)]])
        page.say(_reproduces(page.data["detection"][name], means))


def _reproduces(rows: dict[str, Any], means: list[float]) -> str:
    """Whether the paper's claim, that the ten statistics at temperature 1 see every cause, holds here."""
    at_one = {scenario: figures["auroc"][0] for scenario, figures in rows["temperature 1"].items()}
    blind = [scenario for scenario, area in at_one.items() if area < BLIND]
    better = "raises" if means[0] > means[2] else "does not raise"
    verdict = f"It is blind (AUROC below {100 * BLIND:.0f}) to {', '.join(blind)}." if blind else "It is blind to none."
    return (
        "The paper: the ten statistics at temperature 1 tell OOD and attacked inputs from trusted ones. Here their "
        f"mean AUROC is {100 * means[2]:.1f}. {verdict} A temperature of the classifier's own {better} it, to "
        f"{100 * means[0]:.1f}: at 1 a confident softmax saturates, and the map of each class that is not "
        "predicted is that of one difference of logits, whatever the other classes do."
    )


def _figures(trusted: Array, scores: Array) -> tuple[Estimate, Estimate]:
    return auroc(trusted, scores), tnr_at_tpr(trusted, scores)


def _fewer_maps(page: Page, suite: Suite) -> None:
    page.say("## Table 3: maps of the most likely classes only")
    page.say("The paper: with the maps of 5 % of the classes detection drops only slightly.")
    rows = []
    for name in suite.wanted(FEWER):
        classifier = suite[name]
        scenarios = _inputs(suite, classifier)
        full = float("nan")
        for share in SHARES:
            maps = number_of_maps(share, classifier.logits.shape[1])
            model = fit_ten_statistics(classifier, classifier.temperature, share=share)
            statistics: dict[str, TenStatistics] = {
                c: ten_statistics(classifier, x, classifier.temperature, share=share) for c, x in scenarios.items()
            }
            scores = {scenario: sample.score(model) for scenario, sample in statistics.items()}
            areas = [auroc(scores["trusted"], s).value for c, s in scores.items() if c != "trusted"]
            caught = [tnr_at_tpr(scores["trusted"], s, resamples=1).value for c, s in scores.items() if c != "trusted"]
            mean, tnr, cost = float(np.mean(areas)), float(np.mean(caught)), _seconds(classifier, maps)
            full = mean if share == 1.0 else full
            page.data.setdefault("fewer maps", {}).setdefault(name, {})[str(share)] = {
                **{"maps": maps, "auroc": mean, "tnr95": tnr, "loss": full - mean, "ms_per_input": 1000 * cost}
            }
            figures = [f"{100 * v:.1f}" for v in (mean, tnr, full - mean)]
            rows.append([name, f"{share:.0%}", str(maps), *figures, f"{1000 * cost:.0f} ms"])
    page.table(["model", "share", "maps", "mean AUROC", "mean TNR95", "lost AUROC", "an input"], rows)
    for name in suite.wanted(FEWER):
        few = page.data["fewer maps"][name]["0.05"]
        page.say(
            f"With {few['maps']} of {name}'s {suite[name].logits.shape[1]} maps the mean AUROC over all scenarios is "
            f"{100 * abs(few['loss']):.1f} points {'lower' if few['loss'] > 0 else 'higher'} than with all of them."
        )


def _seconds(classifier: ClassifierUnderTest, maps: int) -> float:
    """Wall time of one input's CSM from `maps` maps, the median of five runs of a small batch."""

    def measure() -> dict[str, Any]:
        x, times = classifier.x[:TIMED], []
        for _ in range(5):
            start = time.perf_counter()
            csm(classifier.model, x, classes=maps)
            times.append((time.perf_counter() - start) / len(x))
        return {"seconds": np.array(np.median(times))}

    return float(cached(measure, "seconds", weights_key(classifier.model), maps)["seconds"])


def _decisions(page: Page, suite: Suite) -> None:
    page.say("## The decision figure")
    page.say(
        "The paper: along the line from an input to its adversarial example the mean of the CSM marks where the "
        f"decision flips. Measured at temperature 1 on lines of {POINTS} points to PGD examples: how often the largest "
        "step of a mean falls on the switch of the label, to within one point; by chance about 3 in 40 would."
    )
    rows = []
    for name in suite.wanted(NAMES):
        classifier = suite[name]
        task = Task(classifier, suite.inputs)
        attack_result = attacked(classifier, task.x, task.y, attacks.pgd, epsilon=classifier.budgets[0])
        x, end = task.x[attack_result.success][:LINES], attack_result.adversarial[attack_result.success][:LINES]
        along = torch.linspace(0, 1, POINTS).view(-1, *[1] * (x.ndim - 1))
        hits = {"s1_mean": 0, "s2_mean": 0}
        for one, other in zip(x, end, strict=True):
            statistics = ten_statistics(classifier, one + along * (other - one), 1.0)
            switch = int((np.diff(statistics.label) != 0).argmax())
            for name in hits:
                steps = np.abs(np.diff(statistics.features[:, STATISTICS.index(name)]))
                hits[name] += bool(abs(int(steps.argmax()) - switch) <= 1)
        page.data.setdefault("decisions", {})[classifier.name] = {"lines": len(x), **hits}
        rows.append(
            [classifier.name, str(len(x)), *(f"{hit} ({100 * hit / max(1, len(x)):.0f} %)" for hit in hits.values())]
        )
    page.table(["model", "lines", "S1 marks the switch", "S2 marks the switch"], rows)
