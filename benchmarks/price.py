"""The price of evasion: how much farther an attacker must go for the wrong answer to be trusted as well.

`--cases cifar10,mnist/lite` measures one classifier with every detector and another with one. What the page holds and
this run does not measure stays there, so that it may be measured in parts: every detector and 200 inputs take hours.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from benchmarks.evidence import available
from benchmarks.page import Page, PartialPage
from benchmarks.shipped import Suite, base_of
from gradgeo import attacks
from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.bench.cache import DETECTOR_CODE, cached, source_hash, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.scenarios import Task
from gradgeo.detector.calibration.conformal import exact_interval
from gradgeo.detector.detector import Detector
from gradgeo.detector.evidence import PRESETS

NAMES = ("mnist", "fashion", "cifar10", "mnist-robust", "fashion-robust", "cifar10-robust")
DETECTORS: dict[str, tuple[str, ...]] = {
    "MaxSoftmax": ("confidence",),
    "KNN": ("neighbours",),
    "Mahalanobis": ("mahalanobis",),
    "lite": PRESETS["lite"],
    "ten statistics": PRESETS["paper"],
    "fast": PRESETS["fast"],
    "full": PRESETS["full"],
}
"""Their evidence; each cell holds it, so that the page says what it measured when a preset has changed."""

COSTLY = ("ten statistics", "fast", "full")
"""Detectors of which a step takes many passes."""

MOST, FEW = 200, 50
"""Inputs, and those of the costly detectors; fewer by `--inputs`."""

FIT, STEPS, MORE, LONG, PART = 600, 30, 100, 1000, 25

BUDGETS, RATES = (0.01, 8 / 255), (0.05, 0.5)
LADDER = tuple(8 / 255 * 2 ** (k / 2) for k in range(-10, 9))
"""Epsilons of L-inf attacks, each the root of 2 times the last: .001 to .5."""

STRONG, RESTARTS, TRIED = "lite", 2, 50
"""The detector on which the attack's strength is shown, by how many further starts, and on how many inputs."""

KNOWN = ("MaxSoftmax", "KNN", "Mahalanobis")
"""Detectors that are known to be broken."""

STRONG_ON = ("fashion",)
"""Classifiers on which it is: where a step is cheap."""

Succeeds = Callable[[float, IntArray], BoolArray]
"""(epsilon, rows (n,)) -> whether the attack with it succeeds on each (n,)."""


def run(suite: Suite) -> Page:
    """For each model and detector: the smallest epsilons, their ratio, and success at two budgets and two rates."""
    page = _Priced("The price of evasion", data={"prices": {}, "networks": {}, "strength": {}})
    page.say(
        f"Correctly classified inputs of the second half of the test split, detectors fitted on up to {FIT} of the "
        f"first. Flips: the smallest epsilon (L-inf) with which PGD of {STEPS} steps changes the answer. Flips and is "
        "trusted: the smallest with which `attacks.evasion`, which knows model and detector, gets another prediction "
        f"trusted at alpha 5 %: {STEPS // 3} steps and, where they fail, {STEPS} more from another start. Steps of "
        "epsilon/10. Medians; inf: more than half are never flipped and trusted up to epsilon .5. Both by bisection "
        "on rungs that differ by the root of 2, so that ratios are rough. Ratio: of the two, by input, median and "
        "quartiles; never counts as infinite."
    )
    page.say(
        "SR@5 and SR@50: share that is flipped and trusted at alpha 5 % and 50 % within .01 and within 8/255, with "
        f"exact 95 % intervals: evasion of {STEPS} steps; where that is not trusted at 50 %, of {MORE} more from "
        f"another start; where that is not trusted at 5 %, of {LONG:,} more; the best of them. What PGD of {LONG:,} "
        "steps cannot flip within a budget is spared the longer ones: a flip is half of an evasion. Each detector is "
        "attacked by itself with the same steps. An attack finds upper bounds: a stronger one would pay less."
    )
    cells = [(name, label) for name in NAMES for label in DETECTORS if suite.wanted((name, f"{name}/{label}"))]
    for name, label in cells:
        page.data["prices"].setdefault(name, {})[label] = _summary(suite, name, label)
    for name in {name for name, _ in cells}:
        page.data["networks"][name] = {
            "weights": weights_key(suite[name].model),
            "right": _right(suite, name),
            "untouched": _right(suite, base_of(name)),
        }
    for name in STRONG_ON:
        if (name, STRONG) in cells and (shown := _strength(suite, name, page.data["prices"][name][STRONG])) is not None:
            page.data["strength"][name] = shown
    return page


class _Priced(PartialPage):
    """Prices by network and detector."""

    def cells(self) -> list[dict[str, Any]]:
        return [cell for cells in self.data["prices"].values() for cell in cells.values()]

    def keep(self, held: dict[str, Any]) -> None:
        _keep(self.data, held)

    def show(self) -> None:
        prices, networks = self.data["prices"], self.data["networks"]
        made_of: dict[str, dict[str, list[str]]] = {label: {} for label in DETECTORS}
        for name, cells in prices.items():
            for label, cell in cells.items():
                made_of[label].setdefault(", ".join(cell["evidence"]), []).append(name)
        members = [f"{label} on {', '.join(on)}: {of}" for label, found in made_of.items() for of, on in found.items()]
        self.say(f"Evidence of each detector when it was measured, fused as `Detector` does. {'; '.join(members)}.")
        right = [
            f"{name} {found['right']:.1%} (untouched {found['untouched']:.1%})"
            for name, found in networks.items()
            if name.endswith("-robust")
        ]
        self.say(
            "NAME-robust: the classifier trained further under attack (`benchmarks/networks/hardened.py`); right on "
            f"the second half: {', '.join(right) or 'not measured'}."
        )
        rates = [f"SR@{100 * alpha:.0f}, {epsilon:.3g}" for epsilon in BUDGETS for alpha in RATES]
        heading = ["model", "detector", "inputs", "flips", "flips and is trusted", "ratio", "quartiles", *rates]
        lines = [_line(name, label, cell) for name, cells in prices.items() for label, cell in cells.items()]
        self.table([*heading, "measured"], lines)
        lacking = [f"{name} {label}" for name in NAMES for label in DETECTORS if label not in prices.get(name, {})]
        self.say(f"Not measured: {', '.join(lacking) or 'nothing'}. The command of each row is in the JSON.")
        self.say(
            f"## Is the attack strong?\n\n`{STRONG}` at the median epsilon of the table, where half of the inputs "
            f"evade and any gain shows, on {TRIED} inputs: flipped and trusted at alpha 5 % after {STEPS} steps; after "
            f"{LONG:,} more from another start where these fail; after {LONG:,} from each of {RESTARTS} further starts."
        )
        if (broken := prices.get("cifar10")) is not None and set(KNOWN) <= set(broken):
            shares = [
                f"{label} {broken[label]['success'][f'{BUDGETS[1]:.4g}'][str(RATES[0])]} of {broken[label]['inputs']}"
                for label in KNOWN
            ]
            self.say(f"What is known to break breaks: of photographs within 8/255 {', '.join(shares)}.")
        starts = [f"and {LONG:,} from {which}" for which in ("another start", "a third", "a fourth")]
        rows = [
            [name, f"{found['epsilon']:.3g}", *(f"{count / found['inputs']:.0%}" for count in found["counts"])]
            for name, found in self.data["strength"].items()
        ]
        self.table(["model", "epsilon", f"{STEPS} steps", *starts], rows)


def _keep(data: dict[str, Any], held: dict[str, Any]) -> None:
    """Add to `data` what `held` has beyond it, in the order of `NAMES` and `DETECTORS`; nothing of other weights."""
    for name, found in held["networks"].items():
        if data["networks"].setdefault(name, found)["weights"] != found["weights"]:
            continue
        data["prices"][name] = held["prices"].get(name, {}) | data["prices"].get(name, {})
        if name in held["strength"]:
            data["strength"].setdefault(name, held["strength"][name])
    prices = data["prices"]
    data["prices"] = {
        name: {label: prices[name][label] for label in DETECTORS if label in prices[name]}
        for name in NAMES
        if name in prices
    }
    data["networks"] = {name: data["networks"][name] for name in data["prices"]}


@dataclass(frozen=True)
class _Duel:
    """A classifier's inputs and one detector that is to be evaded."""

    classifier: ClassifierUnderTest
    task: Task
    evidence: tuple[str, ...]

    @cached_property
    def detector(self) -> Detector:
        """Fitted where something is not in the cache."""
        rows = min(FIT, self.classifier.half)
        detector = Detector(self.classifier.model, evidence=self.evidence)
        return detector.fit(self.classifier.x[:rows], self.classifier.y[:rows])

    def options(self, epsilon: float, steps: int, seed: int) -> dict[str, Any]:
        return {
            **{"epsilon": epsilon, "steps": steps, "step_size": epsilon / 10, "bounds": self.classifier.bounds},
            "generator": torch.Generator().manual_seed(seed),
        }

    def flips(self, epsilon: float, rows: IntArray, *, steps: int = STEPS, seed: int = 0) -> BoolArray:
        """Whether PGD changes the answer (n,)."""
        x, y, options = self.task.x[rows], self.task.y[rows], self.options(epsilon, steps, seed)
        success: BoolArray = attacks.pgd(self.classifier.folded, x, y, **options).success.numpy()
        return success

    @cached_property
    def can_flip(self) -> dict[float, BoolArray]:
        """By budget, whether a long PGD changes the answer of each input (n,); cached in parts, for all detectors."""

        def measure(epsilon: float, rows: IntArray) -> dict[str, Any]:
            done = self.flips(epsilon, rows)
            if not done.all():
                done[~done] = self.flips(epsilon, rows[~done], steps=LONG, seed=1)
            return {"done": done}

        key = "can flip", source_hash("attacks/*.py"), STEPS, LONG, weights_key(self.classifier.model)
        parts = np.split(np.arange(len(self.task.x)), range(PART, len(self.task.x), PART))
        return {
            epsilon: np.concatenate(
                [
                    cached(partial(measure, epsilon, rows), *key, epsilon, tensor_hash(self.task.x[rows]))["done"]
                    for rows in parts
                ]
            )
            for epsilon in BUDGETS
        }

    def trust(self, epsilon: float, rows: IntArray, *, steps: int = STEPS, seed: int = 0) -> Array:
        """The p-value that evasion reaches (n,); 0 where the answer is unchanged."""
        x, y = self.task.x[rows], self.task.y[rows]
        point = attacks.evasion(self.detector, x, y, **self.options(epsilon, steps, seed), batch_size=100).adversarial
        verdicts = self.detector.predict(point)
        p: Array = torch.where(verdicts.label != y, verdicts.p_value, 0.0).nan_to_num(0.0).numpy()
        return p

    def longest(self, epsilon: float) -> Array:
        """The p-value of each input (n,) by ever longer attacks where the last leaves something to gain."""
        p = self.trust(epsilon, np.arange(len(self.task.x)))
        for seed, (steps, rate) in enumerate(zip((MORE, LONG), sorted(RATES, reverse=True), strict=True), 2):
            gains = p <= rate
            if (p == 0).any():
                gains &= (p > 0) | self.can_flip[epsilon]
            rest = np.flatnonzero(gains)
            if len(rest):
                p[rest] = np.maximum(p[rest], self.trust(epsilon, rest, steps=steps, seed=seed))
        return p

    def evades(self, epsilon: float, rows: IntArray) -> BoolArray:
        """Whether the answer is changed and trusted (n,): by a few steps, else by all of them."""
        done = self.trust(epsilon, rows, steps=STEPS // 3, seed=1) > RATES[0]
        if not done.all():
            done[~done] = self.trust(epsilon, rows[~done], seed=2) > RATES[0]
        return done


def _right(suite: Suite, name: str) -> float:
    classifier = suite[name]
    return float(classifier.correct[classifier.half :].double().mean())


def _inputs(suite: Suite, name: str, label: str) -> int:
    return min(suite.inputs, FEW if label in COSTLY else MOST)


def _duel(suite: Suite, name: str, label: str, inputs: int) -> _Duel:
    return _Duel(suite[name], Task(suite[name], inputs), DETECTORS[label])


def _key(duel: _Duel, *more: object) -> tuple[object, ...]:
    code = source_hash(*DETECTOR_CODE, "attacks/*.py")
    of = weights_key(duel.classifier.model), tensor_hash(duel.task.x), duel.evidence, code
    return ("price", 4, STEPS, MORE, LONG, *of, *more)


def _summary(suite: Suite, name: str, label: str) -> dict[str, Any]:
    duel = _duel(suite, name, label, _inputs(suite, name, label))
    n, key = len(duel.task.x), partial(_key, duel)

    def fixed() -> dict[str, Any]:
        start = time.process_time()
        p = {f"{epsilon:.4g}": duel.longest(epsilon) for epsilon in BUDGETS}
        return {**p, "seconds": time.process_time() - start}

    def flips() -> dict[str, Any]:
        whole = np.full(n, -1), np.full(n, len(LADDER))
        return {"rung": smallest(LADDER, *whole, duel.flips)}

    success = cached(fixed, *key("success"))
    cheap = cached(flips, *key("flips"))["rung"]

    def evades() -> dict[str, Any]:
        start, low, high = time.process_time(), cheap - 1, np.full(n, len(LADDER))
        for epsilon in BUDGETS:  # what is known already
            done = success[f"{epsilon:.4g}"] > RATES[0]
            high[done] = np.minimum(high[done], np.searchsorted(LADDER, epsilon * (1 - 1e-9)))
            high = np.maximum(high, low + 1)
        return {"rung": smallest(LADDER, low, high, duel.evades), "seconds": time.process_time() - start}

    dear = cached(evades, *key("evades"))
    epsilons = np.array([*LADDER, np.inf])
    flipped = cheap < len(LADDER)  # at all
    ratio = epsilons[dear["rung"][flipped]] / epsilons[cheap[flipped]]
    return {
        "evidence": list(available(duel.classifier, duel.evidence)),
        "inputs": n,
        "flips": float(np.median(epsilons[cheap])),
        "evades": float(np.quantile(epsilons[dear["rung"]], 0.5, method="lower")),
        "never": int((dear["rung"] == len(LADDER)).sum()),
        "ratio": np.quantile(ratio, (0.25, 0.5, 0.75), method="nearest").tolist(),
        "success": {
            key: {str(alpha): int((success[key] > alpha).sum()) for alpha in RATES}
            for key in (f"{epsilon:.4g}" for epsilon in BUDGETS)
        },
        "cpu_seconds": float(success["seconds"] + dear["seconds"]),
    }


def smallest(ladder: Sequence[float], low: IntArray, high: IntArray, succeeds: Succeeds) -> IntArray:
    """For each of n inputs the lowest rung on which an attack succeeds, by bisection; len(ladder) where none does.

    Args:
        low: (n,) a rung below, -1 for none.
        high: (n,) a rung on which it is known to succeed, len(ladder) where none is known.
    """
    low, high = low.copy(), high.copy()
    while ((high - low) > 1).any():
        middle = (low + high) // 2
        for rung in np.unique(middle[high - low > 1]).tolist():
            rows = np.flatnonzero((middle == rung) & (high - low > 1))
            done = succeeds(ladder[rung], rows)
            high[rows[done]], low[rows[~done]] = rung, rung
    return high


def _line(name: str, label: str, found: dict[str, Any]) -> list[str]:
    low, middle, high = found["ratio"]
    shares = [_share(count, found["inputs"]) for budget in found["success"].values() for count in budget.values()]
    shown = [f"{found['flips']:.3g}", f"{found['evades']:.3g}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
    return [name, label, str(found["inputs"]), *shown, *shares, found["made"]["date"]]


def _share(count: int, n: int) -> str:
    low, high = exact_interval(count, n)
    return f"{count / n:.0%} ({100 * float(low):.0f} to {100 * float(high):.0f})"


def _strength(suite: Suite, name: str, found: dict[str, Any]) -> dict[str, Any] | None:
    """What more steps and more starts add, at the epsilon where every gain would show: half of the inputs evade.

    None where no epsilon of the ladder makes half of them evade.
    """
    epsilon = found["evades"]
    duel = _duel(suite, name, STRONG, min(TRIED, _inputs(suite, name, STRONG)))

    def measure() -> dict[str, Any]:
        done, counts = np.zeros(len(duel.task.x), dtype=np.bool_), []
        for seed, steps in enumerate([STEPS] + [LONG] * (1 + RESTARTS)):
            rest = np.flatnonzero(~done)
            if len(rest):
                done[rest] = duel.trust(epsilon, rest, steps=steps, seed=seed) > RATES[0]
            counts.append(int(done.sum()))
        return {"counts": np.array(counts)}

    if not np.isfinite(epsilon):
        return None
    counts = cached(measure, *_key(duel, "strength", epsilon, RESTARTS))["counts"].tolist()
    return {"epsilon": epsilon, "inputs": len(duel.task.x), "counts": counts}
