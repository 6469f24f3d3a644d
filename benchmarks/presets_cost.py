"""What a verdict of each preset costs, and `fit`, on networks of 10, 100 and 1,000 classes.

`--cases cifar10,cifar100` measures these alone; the page keeps what it holds of the others.
"""

import time
from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks.page import Page, PartialPage
from benchmarks.shipped import Suite
from gradgeo.bench import cost
from gradgeo.detector.detector import Detector

NAMES: dict[str, tuple[int, int]] = {
    "cifar10": (64, 500),
    "cifar100": (64, 500),
    "lite0_cifar10": (64, 500),
    "lite0_imagenet": (8, 60),
}
"""Inputs of the larger batch, and trusted inputs that a detector is fitted on."""

PRESETS = ("lite", "fast", "full")


def run(suite: Suite) -> Page:
    """A table of the presets on each network."""
    page = _Costs("What the presets cost")
    page.say(
        "Process time of `Detector.predict` over that of the plain network in eval mode on the same batch: the median "
        "of rounds in turns in one run, on one thread, with the least and the most of them; N inputs together, and one "
        "by itself. Fit: process time by trusted input, of so many of them. Peak: memory in MiB above what was held "
        "before, for the larger batch. Maps: of how many classes; of more than 20 `full` takes the 20 most likely. "
        "lite0: EfficientNet-Lite0 with ImageNet weights at 128 px (CIFAR-10) and 224 px (1,000 classes)."
    )
    for name in suite.wanted(NAMES):
        batch, fit = NAMES[name]
        classifier = suite[f"{name}@{fit}"]
        trusted = classifier.trusted, classifier.trusted_classes
        x = classifier.x[classifier.half :][:batch]
        page.data[name] = {preset: _measured(classifier.model, preset, x, *trusted) for preset in PRESETS}
    return page


class _Costs(PartialPage):
    """Costs by network and preset."""

    def cells(self) -> list[dict[str, Any]]:
        return [found for presets in self.data.values() for found in presets.values()]

    def keep(self, held: dict[str, Any]) -> None:
        both = held | self.data
        self.data = {name: both[name] for name in NAMES if name in both}

    def show(self) -> None:
        heading = ["network", "classes", "preset", "maps", "N", "of N, over plain", "of one, over plain", "fit on"]
        rows = [_row(name, preset, found) for name, presets in self.data.items() for preset, found in presets.items()]
        self.table([*heading, "fit, ms", "fit, plain passes", "peak, MiB", "measured"], rows)


def _row(name: str, preset: str, found: dict[str, Any]) -> list[str]:
    shown = [f"{found[n][0]:.3g} ({found[n][1]:.3g} to {found[n][2]:.3g})" for n in ("batch", "single")]
    figures = [str(found["fit_on"]), f"{found['fit_ms']:.0f}", f"{found['fit_passes']:.0f}", f"{found['peak_mib']:.0f}"]
    of = [name, str(found["classes"]), preset, str(found["maps"] or "-"), str(NAMES[name][0])]
    return [*of, *shown, *figures, found["made"]["date"]]


def _measured(model: nn.Module, preset: str, x: Tensor, fit_x: Tensor, fit_y: Tensor) -> dict[str, Any]:
    detector = Detector(model, evidence=preset)
    start = time.process_time()
    detector.fit(fit_x, fit_y)
    seconds = time.process_time() - start
    batch, own = cost.over_plain(model, detector.predict, x)
    single, _ = cost.over_plain(model, detector.predict, x[:1])
    return {
        "classes": detector.num_classes_,
        "maps": (detector.classes_ or detector.num_classes_) if preset == "full" else None,
        "batch": batch.tolist(),
        "single": single.tolist(),
        "fit_on": len(fit_x),
        "fit_ms": 1000 * seconds / len(fit_x),
        "fit_passes": seconds / len(fit_x) / (own / batch[0] / len(x)),
        "peak_mib": cost.peak_mib(partial(detector.predict, x)),
    }
