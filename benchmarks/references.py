"""What a detector without rows of features of its trusted inputs loses."""

from dataclasses import asdict

import torch
from torch import Tensor

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.attacks import pgd
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.detector.detector import Detector
from gradgeo.detector.evidence import without_rows
from gradgeo.metrics import auroc

CASES = ("digits", "mnist", "cifar10")
PRESET = "fast"
FITTED = 1000


def run(suite: Suite) -> Page:
    """AUROC of the preset as it is and with moments in place of rows."""
    page = Page("A detector file without rows of features")
    page.say(
        f"The evidence `{PRESET}` keeps rows of features of trusted inputs (`neighbours`); `fit --references 0` takes "
        "the Mahalanobis distance to class means in their place. AUROC in % of right predictions against other "
        f"inputs, {suite.inputs} of each at most, with 95 % intervals; both detectors are fitted on the same inputs."
    )
    rows = []
    for name in suite.wanted(CASES):
        classifier = suite[name]
        trusted, cases = _inputs(classifier, suite.inputs)
        right = torch.nonzero(classifier.correct[: classifier.half])[:FITTED, 0]
        scores = []
        for evidence in (PRESET, without_rows(PRESET)):
            detector = Detector(classifier.model, evidence=evidence).fit(classifier.x[right])
            good = detector.outlier_score(trusted)
            scores.append([auroc(good, detector.outlier_score(x)) for x in cases.values()])
        for case, rowed, moments in zip(cases, *scores, strict=True):
            page.data.setdefault(name, {})[case] = {"rows": asdict(rowed), "moments": asdict(moments)}
            rows.append([name, case, str(rowed), str(moments)])
    page.table(["classifier", "inputs", "rows of features", "moments alone"], rows)
    return page


def _inputs(classifier: ClassifierUnderTest, most: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Right predictions that no detector is fitted on, and inputs that should not be trusted."""
    x, right = classifier.x[classifier.half :], classifier.correct[classifier.half :]
    trusted = x[right][:most]
    draws = torch.Generator().manual_seed(0)
    low, high = float(x.min()), float(x.max())
    noise = low + (high - low) * torch.rand(trusted.shape, generator=draws)
    noisy = trusted + 0.2 * (high - low) * torch.randn(trusted.shape, generator=draws)
    part = trusted[: min(most, 200)]
    labels = classifier.model(part).argmax(1)
    budget, bounds = classifier.budgets[0], classifier.bounds or (low, high)
    attack = pgd(classifier.model, part, labels, epsilon=budget, steps=20, bounds=bounds, generator=draws)
    cases = {
        "mistakes": x[~right][:most],
        "noise": noise,
        "noisy": noisy.clamp(low, high),
        "negatives": low + high - trusted,
        f"PGD, budget {budget:.3g}": attack.adversarial[attack.success],
    }
    return trusted, {case: inputs for case, inputs in cases.items() if len(inputs) >= 10}
