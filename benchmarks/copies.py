"""What inputs of `fit` that repeat each other do to the rate of false alarms: equal, near, and kept together."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.data import digits
from gradgeo.demo import digits_classifier
from gradgeo.detector.detector import Detector
from gradgeo.errors import GradgeoWarning

ALPHA = 0.05
SHAPES = ((700, 1), (350, 2), (175, 4), (90, 8))
"""Different inputs, and how often each is given to `fit`."""

INPUTS_A_SEED = 300  # of those that a run is asked for


@dataclass(frozen=True)
class Kind:
    """How inputs repeat each other."""

    noise: float = 0.0
    """Standard deviation, of inputs in [0, 1]; fresh inputs have it as well."""
    together: bool = False
    """Whether `fit` is told which inputs come of one."""


KINDS = {
    "equal": Kind(),
    "a millionth apart": Kind(1e-6),
    "noise of 0.02": Kind(0.02),
    "the same with groups": Kind(0.02, together=True),
}


def run(suite: Suite) -> Page:
    """False alarms on fresh digits by how often, and how exactly, inputs of `fit` repeat each other."""
    seeds = max(1, suite.inputs // INPUTS_A_SEED)
    page = Page("Copies in the data of fit")
    page.say(
        f"False alarms of `fast` at alpha {ALPHA} on fresh digits that are classified correctly: mean of {seeds} seeds "
        "(least to most), each with other digits, split and noise. Equal inputs are found and count once; those that "
        "differ a little are not, and some calibrate whose twin was learned from. With `together`, inputs that come of "
        "one stay on one side of the split."
    )
    rows = []
    for different, copies in SHAPES:
        cells = []
        for name, kind in KINDS.items():
            if copies == 1 and kind != Kind():
                cells.append("")
                continue
            rates = [_false_alarms(different, copies, kind, seed) for seed in range(seeds)]
            mean = sum(rates) / seeds
            page.data.setdefault("false_alarms", {}).setdefault(f"{different} x {copies}", {})[name] = {
                **{"mean": mean, "least": min(rates), "most": max(rates), "rates": rates}
            }
            cells.append(f"{100 * mean:.1f} % ({100 * min(rates):.1f} to {100 * max(rates):.1f})")
        rows.append([f"{different} x {copies}", *cells])
    page.table(["different inputs x copies", *KINDS], rows)
    return page


def _false_alarms(different: int, copies: int, kind: Kind, seed: int) -> float:
    parts, generator = digits.split(), torch.Generator().manual_seed(seed)
    (x, y), (fresh, truth) = parts["fit"], parts["test"]

    def noisy(inputs: Tensor) -> Tensor:
        return inputs + kind.noise * torch.randn(inputs.shape, generator=generator)

    chosen = torch.randperm(len(x), generator=generator)[:different]
    detector = Detector(digits_classifier(), evidence="fast", alpha=ALPHA, seed=seed)
    units = torch.arange(different).repeat(copies) if kind.together else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GradgeoWarning)  # copies, and that few inputs calibrate
        detector.fit(noisy(x[chosen].repeat(copies, 1, 1, 1)), y[chosen].repeat(copies), together=units)
        verdict = detector.predict(noisy(fresh))
    return float((~verdict.trusted)[verdict.label == truth].float().mean())
