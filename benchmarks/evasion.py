"""How often an attack that knows the fitted detector gets a wrong answer trusted."""

from typing import Any

from torch import Tensor, nn

from benchmarks.page import Page
from gradgeo import attacks
from gradgeo.attacks.runner import AttackResult
from gradgeo.bench.cache import code
from gradgeo.bench.case import Attack, Cases
from gradgeo.bench.methods import OURS
from gradgeo.bench.scenarios import Setting
from gradgeo.detector.detector import Detector

EVADE, EVADED = ("mnist", "cifar10"), 30
LEARNT = 1000  # trusted inputs that the evaded detectors are fitted on


def run(cases: Cases) -> Page:
    """Counts for PGD, which knows the model alone, and for evasion, which knows the fitted detector as well."""
    page = Page("The attack that knows the detector")
    page.say(
        f"Correctly classified inputs of the second half of the test split, {EVADED} of each classifier, against "
        f"detectors fitted on {LEARNT} trusted inputs of the first half, alpha 5 %: how many are given another class "
        "and still trusted. 100 steps of epsilon/4, L-inf, random start. Evasion is orthogonal projected gradient "
        "descent through the model and the joint outlier score at once. The detector draws nothing at random, so there "
        "is nothing to average."
    )
    rows = []
    for name in cases.wanted(EVADE):
        case = cases[name]
        setting = Setting(case, cases, min(cases.inputs, EVADED))
        for evidence in ("paper", "full"):
            found = _evaded(cases, setting, evidence)
            for label, counts in found.items():
                rows.append(
                    [name, evidence, label, f"{case.budgets[0]:.4g}", str(len(setting.x)), *map(str, counts.values())]
                )
            page.data.setdefault("evasion", {}).setdefault(name, {})[evidence] = {"inputs": len(setting.x), **found}
    page.table(["model", "evidence", "attack", "epsilon", "inputs", "flipped", "flipped and trusted"], rows)
    return page


def _evaded(cases: Cases, setting: Setting, evidence: str) -> dict[str, dict[str, int]]:
    """For PGD and for evasion: how many inputs it flips, and how many of these the detector trusts."""
    case = setting.case
    trusted = case.x[: case.half][case.right[: case.half]][:LEARNT]
    detector = Detector(case.model, evidence=evidence).fit(trusted)

    def evasion(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> AttackResult:
        return attacks.evasion(detector, x, y, **options)

    found = {}
    tried: dict[str, tuple[Attack, str]] = {"PGD": (attacks.pgd, ""), "evasion": (evasion, evidence + code(*OURS))}
    for label, (attack, against) in tried.items():
        made = cases.attacked(case, setting.x, setting.y, attack, against=against, epsilon=case.budgets[0])
        believed = detector.predict(made.adversarial).trusted & made.flipped
        found[label] = {"flipped": int(made.flipped.sum()), "flipped and trusted": int(believed.sum())}
    return found
