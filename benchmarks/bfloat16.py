"""What cheaper gradients change: in bfloat16 signs, similarities, and what the ten statistics detect; the latter also
where the gradient is taken at an inner feature map."""

import time
from importlib import import_module

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.page import Page
from benchmarks.shipped import Suite, pgd_examples
from benchmarks.ten_statistics import TenStatistics
from gradgeo.bench.cache import CHUNK
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.classifier.split import tap
from gradgeo.classifier.wrapper import PRECISIONS
from gradgeo.detector.one_class.base import ClassConditionalCopula
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps
from gradgeo.geometry.saliency import saliency_maps
from gradgeo.geometry.similarity import cosine_similarity_matrix, csm_of, csm_statistics
from gradgeo.metrics import auroc

SIZE = 200  # inputs in a scenario
FIT = 400  # inputs that the one-class model is fitted on


def screened(page: Page, suite: Suite, *, quick: bool) -> None:
    """Add both tables to `page`, if `quick` a part of the first."""
    ten, hundred, beats = (suite[name] for name in ("cifar10", "cifar100", "ecg5000"))
    models: dict[str, tuple[nn.Module, Tensor, int | None]] = {
        "ResNet-20, C 10": (ten.model, ten.x[:8], None),
        "1-D CNN, C 5": (beats.model, beats.x[:8], None),
    }
    if not quick:
        photo = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        resnet: nn.Module = import_module("torchvision").models.resnet18(weights=None)
        models["ResNet-20, C 100"] = (hundred.model, hundred.x[:2], None)
        models["ResNet-18 224, random weights, 8 classes"] = (resnet.eval(), photo, 8)
    page.say(
        '`precision="bfloat16"`: gradients in bfloat16, all else in float32. Signs that differ from float32 and what '
        "that does to the cosines of signed maps:"
    )
    page.table(
        ["model", "signs that differ, %", "cosines apart, mean", "most"],
        [_apart(page, name, *which) for name, which in models.items()],
    )
    if not quick:
        _detection(page, suite)


def _apart(page: Page, name: str, model: nn.Module, x: Tensor, classes: int | None) -> list[str]:
    chosen = None if classes is None else torch.arange(classes)
    exact, rounded = (saliency_maps(model, x, classes=chosen, precision=precision) for precision in PRECISIONS)
    apart = (cosine_similarity_matrix(exact) - cosine_similarity_matrix(rounded)).abs()
    differences = {
        "flips": float((exact != rounded).float().mean()),
        "mean": float(apart.mean()),
        "most": float(apart.max()),
    }
    page.data.setdefault("screening", {})[name] = differences
    return [name, f"{100 * differences['flips']:.2f}", f"{differences['mean']:.4f}", f"{differences['most']:.3f}"]


def _detection(page: Page, suite: Suite) -> None:
    classifier = suite["cifar10"]
    scenarios = _scenarios(suite, classifier)
    temperatures = (classifier.temperature, 1.0)
    rows: dict[str, dict[str, float]] = {scenario: {} for scenario in list(scenarios)[2:]}
    for precision in PRECISIONS:
        statistics = {
            scenario: _statistics(classifier.model, x, temperatures, precision) for scenario, x in scenarios.items()
        }
        for i, name in enumerate((f"{classifier.temperature:.1f}", "1")):
            for scenario, area in _areas({c: sample[i] for c, sample in statistics.items()}, classifier).items():
                rows[scenario][f"{name}, {precision}"] = area
    page.data["screening_auroc"] = rows
    page.say(
        f"AUROC in % of the ten statistics alone on CIFAR-10 (fitted on {FIT} trusted inputs; {SIZE} of each, "
        "attacked by way of the float32 model), at the detector's temperature and at 1:"
    )
    headings = list(next(iter(rows.values())))
    page.table(
        ["inputs", *headings], [[scenario, *(f"{row[h]:.1f}" for h in headings)] for scenario, row in rows.items()]
    )
    _tapped(page, classifier, scenarios)


def _scenarios(suite: Suite, classifier: ClassifierUnderTest) -> dict[str, Tensor]:
    """What a one-class model is fitted on, other trusted inputs, and three scenarios to be told apart from them."""
    right = classifier.correct.numpy()
    fit = np.flatnonzero(right[: classifier.half])[:FIT]
    clean = classifier.half + np.flatnonzero(right[classifier.half :])[:CHUNK]
    return {
        "fit": classifier.x[fit],
        "trusted": classifier.x[clean[:SIZE]],
        "PGD 2/255": pgd_examples(classifier, classifier.x[clean], classifier.y[clean], 2 / 255)[:SIZE],
        "CIFAR-100": suite.read("cifar100", SIZE)[0],
        "uniform noise": torch.rand(SIZE, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    }


def _areas(statistics: dict[str, TenStatistics], classifier: ClassifierUnderTest) -> dict[str, float]:
    """AUROC in % of each scenario, by a one-class model of the inputs it is fitted on."""
    fitted = statistics["fit"]
    model = ClassConditionalCopula.fit(fitted.features, fitted.label, classifier.logits.shape[1])
    scores = {scenario: sample.score(model) for scenario, sample in statistics.items() if scenario != "fit"}
    trusted = scores.pop("trusted")
    return {scenario: 100 * auroc(trusted, score).value for scenario, score in scores.items()}


def _tapped(page: Page, classifier: ClassifierUnderTest, scenarios: dict[str, Tensor]) -> None:
    """The ten statistics of gradients at the input and at the outputs of the residual stages, each with its cost."""
    rows, base = [], 0.0
    for layer in (None, "net.layer1", "net.layer2", "net.layer3"):
        front, model = (
            (nn.Identity(), classifier.model) if layer is None else tap(classifier.model, layer, classifier.x[:2])
        )
        split = {scenario: torch.cat([front(part) for part in x.split(CHUNK)]) for scenario, x in scenarios.items()}
        where = "the input" if layer is None else f"the output of {layer.removeprefix('net.')}"
        began = time.process_time()
        statistics = {
            scenario: _statistics(model, x, (classifier.temperature,), "float32")[0] for scenario, x in split.items()
        }
        took = time.process_time() - began
        base = base or took
        areas = _areas(statistics, classifier)
        page.data.setdefault("tap", {})[where] = {"auroc": areas, "cost": took / base}
        rows.append([where, *(f"{area:.1f}" for area in areas.values()), f"{took / base:.2f}"])
    page.say(
        "`tap`: gradients at an inner feature map instead of the input, the same ten statistics: AUROC in %, and the "
        "cost as a share of that at the input, the way to the feature map left out:"
    )
    page.table(["gradient at", *list(scenarios)[2:], "cost"], rows)


def _statistics(model: nn.Module, x: Tensor, temperatures: tuple[float, ...], precision: str) -> list[TenStatistics]:
    """The ten statistics and predicted classes of `x`, at each temperature."""
    options = [Maps(Loss("cross_entropy", temperature)) for temperature in temperatures]

    def measure(forward: InputJacobian, rows: slice) -> list[Tensor]:
        return [csm_statistics(csm_of(forward, maps), forward.predicted).double() for maps in options] + [
            forward.predicted
        ]

    parts = map_chunks(model, [x], Maps(), measure, precision=precision)
    *features, label = (torch.cat(scenario).numpy() for scenario in zip(*parts, strict=True))
    return [TenStatistics(table, label) for table in features]
