"""The attacks beside others': as fast as a bare loop, and as strong as an independent library's (foolbox)."""

from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.page import Page
from benchmarks.shipped import Suite
from benchmarks.timing import timed
from gradgeo import attacks
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.scenarios import Task
from gradgeo.errors import require

NAMES = ("mnist", "fashion", "cifar10")
COMPARED = {"fashion": ((0.01, 0.02), (0.2, 0.35)), "cifar10": ((0.5 / 255, 1 / 255), (0.05, 0.1))}  # L-inf, L2 budgets
ROUNDS = 5
SIZES = (1, 16, 64)
STEPS = 100  # the default; a fifth with fewer than 100 inputs
WEAK = 10  # steps of the compared attacks, few enough that not all inputs fall


def run(suite: Suite) -> Page:
    """PGD's speed against a loop written by hand, and success rates against foolbox's at equal budgets."""
    steps = STEPS if suite.inputs >= 100 else STEPS // 5
    page = Page("Attacks: speed and strength")
    page.say(
        "PGD, L-inf, against a bare loop written by hand on the same model with frozen parameters: process time of the "
        f"loop over that of `attacks.pgd`, which also checks its input and its answer, {steps} steps, one thread, the "
        f"median of {ROUNDS} interleaved calls; 1 is as fast."
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        names = suite.wanted(NAMES)
        rows = []
        for name in names:
            ratios = {n: speed(suite[name].folded, *_some(suite, suite[name], n), steps=steps) for n in SIZES}
            page.data.setdefault("speed", {})[name] = ratios
            rows.append([name, *(f"{ratio:.2f}" for ratio in ratios.values())])
        page.table(["model", *(f"batch of {n}" for n in SIZES)], rows)
        _strength(page, suite)
    finally:
        torch.set_num_threads(threads)
    return page


def speed(model: nn.Module, x: Tensor, labels: Tensor, *, steps: int, rounds: int = ROUNDS) -> float:
    """Process time of a bare PGD loop over that of ours: the median of interleaved calls."""
    frozen = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(False)

    def bare() -> None:
        point = x.clone()
        for _ in range(steps):
            point.requires_grad_()
            (g,) = torch.autograd.grad(F.cross_entropy(model(point), labels, reduction="sum"), point)
            point = point.detach() + 0.01 * g.sign()
            point = torch.max(torch.min(point, x + 0.03), x - 0.03).clamp(0, 1)

    def ours() -> None:
        attacks.pgd(model, x, labels, epsilon=0.03, step_size=0.01, steps=steps, random_start=False)

    try:
        times = timed({"bare": bare, "ours": ours}, rounds)
    finally:
        for parameter, wanted in zip(model.parameters(), frozen, strict=True):
            parameter.requires_grad_(wanted)
    return median(b / o for b, o in zip(times["bare"], times["ours"], strict=True))


def _some(suite: Suite, classifier: ClassifierUnderTest, n: int) -> tuple[Tensor, Tensor]:
    task = Task(classifier, n)
    return task.x, task.y


def _strength(page: Page, suite: Suite) -> None:
    foolbox = require("foolbox", "dev")
    page.say(
        f"Success rates beside foolbox's at equal budgets, {WEAK} steps of epsilon/4, no random start; minimum norm "
        "beside its L2DeepFoolAttack of 50 steps: the share of inputs flipped within the median of its distances."
    )
    rows = []
    for name in suite.wanted(COMPARED):
        classifier = suite[name]
        x, y = _some(suite, classifier, min(suite.inputs, 200))
        wrapped = foolbox.PyTorchModel(classifier.folded, bounds=(0, 1), device="cpu")
        options: dict[str, Any] = {"rel_stepsize": 0.25, "steps": WEAK, "random_start": False}
        theirs = {"linf": foolbox.attacks.LinfPGD(**options), "l2": foolbox.attacks.L2PGD(**options)}
        for (norm, attack), budgets in zip(theirs.items(), COMPARED[name], strict=True):
            for epsilon in budgets:
                _, _, success = attack(wrapped, x, y, epsilons=epsilon)
                ours = attacks.pgd(classifier.folded, x, y, epsilon=epsilon, norm=norm, steps=WEAK, random_start=False)
                rows.append(_beside(page, name, f"PGD, {norm}, epsilon {epsilon:.3g}", ours.success, success))
        x, y = x[:50], y[:50]  # foolbox takes half a second for each
        _, adversarial, _ = foolbox.attacks.L2DeepFoolAttack(steps=50)(wrapped, x, y, epsilons=None)
        distance = (adversarial - x).flatten(1).norm(dim=1)
        ours = attacks.minimum_norm(classifier.folded, x, y)
        budget = distance.median()
        rows.append(_beside(page, name, "minimum L2", ours.distance <= budget, distance <= budget))
    page.table(["model", "attack", "inputs", "ours", "foolbox", "difference"], rows)


def _beside(page: Page, name: str, attack: str, ours: Tensor, theirs: Tensor) -> list[str]:
    rates = [float(success.double().mean()) for success in (ours, theirs)]
    cell = {"inputs": len(theirs), "ours": rates[0], "foolbox": rates[1]}
    page.data.setdefault("strength", {}).setdefault(name, {})[attack] = cell
    shown = [f"{100 * rate:.1f} %" for rate in rates]
    return [name, attack, str(len(theirs)), *shown, f"{100 * (rates[0] - rates[1]):+.1f} points"]
