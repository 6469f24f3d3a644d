"""How often an attack that knows the fitted detector gets a wrong answer trusted."""

from typing import Any

from torch import Tensor, nn

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo import attacks
from gradgeo.attacks.runner import AttackResult
from gradgeo.bench.attacked import Attack, attacked
from gradgeo.bench.cache import DETECTOR_CODE, source_hash
from gradgeo.bench.scenarios import Task
from gradgeo.detector.detector import Detector

EVADE, EVADED = ("mnist", "cifar10"), 30
FIT = 1000  # trusted inputs that the evaded detectors are fitted on
STEPS = 100


def run(suite: Suite) -> Page:
    """Counts for PGD, which knows the model alone, and for evasion, which knows the fitted detector as well."""
    page = Page("The attack that knows the detector")
    page.say(
        f"Correctly classified inputs of the second half of the test split, {EVADED} of each classifier, against "
        f"detectors fitted on {FIT} trusted inputs of the first half, alpha 5 %: how many are given another class "
        f"and still trusted. {STEPS} steps of epsilon/4, L-inf, random start. Evasion is orthogonal projected gradient "
        "descent through the model and the joint outlier score at once. The detector draws nothing at random, so there "
        "is nothing to average."
    )
    rows = []
    for name in suite.wanted(EVADE):
        classifier = suite[name]
        task = Task(classifier, min(suite.inputs, EVADED))
        for evidence in ("paper", "full"):
            counts_by_attack = _evaded(suite, task, evidence)
            for label, counts in counts_by_attack.items():
                rows.append(
                    [
                        name,
                        evidence,
                        label,
                        f"{classifier.budgets[0]:.4g}",
                        str(len(task.x)),
                        *map(str, counts.values()),
                    ]
                )
            page.data.setdefault("evasion", {}).setdefault(name, {})[evidence] = {
                "inputs": len(task.x),
                **counts_by_attack,
            }
    page.table(["model", "evidence", "attack", "epsilon", "inputs", "flipped", "flipped and trusted"], rows)
    return page


def _evaded(suite: Suite, task: Task, evidence: str) -> dict[str, dict[str, int]]:
    """For PGD and for evasion: how many inputs it flips, and how many of these the detector trusts."""
    classifier = task.classifier
    trusted = classifier.trusted[:FIT]
    detector = Detector(classifier.model, evidence=evidence).fit(trusted)

    def evasion(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> AttackResult:
        return attacks.evasion(detector, x, y, **options)

    counts = {}
    tried: dict[str, tuple[Attack, str]] = {
        "PGD": (attacks.pgd, ""),
        "evasion": (evasion, evidence + source_hash(*DETECTOR_CODE)),
    }
    for label, (attack, against) in tried.items():
        options = {"epsilon": classifier.budgets[0], "steps": STEPS}
        attack_result = attacked(classifier, task.x, task.y, attack, against=against, **options)
        believed = detector.predict(attack_result.adversarial).trusted & attack_result.flipped
        counts[label] = {"flipped": int(attack_result.flipped.sum()), "flipped and trusted": int(believed.sum())}
    return counts
