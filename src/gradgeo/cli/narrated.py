"""What `fit` says before and after its work; imported when it runs, because it loads torch."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from gradgeo.cli.console import print_pairs
from gradgeo.data import ReadableItems
from gradgeo.detector import Detector
from gradgeo.detector.fit.narration import TEXTS, Narrator
from gradgeo.errors import listed, warn

if TYPE_CHECKING:
    from gradgeo.detector.fit.data_scan import DataScan

SURE = 0.99
"""With which accuracy is below what was expected, before a warning says so."""

MISTAKES = 64
"""Misclassified inputs that are judged at most, to say how many of their kind are flagged."""


class FitWords(Narrator):
    """Prints what was seen, and warns of what looks forgotten."""

    def __init__(self, items: ReadableItems, class_names: tuple[str, ...], expected_accuracy: float | None) -> None:
        super().__init__(print_facts, class_names=class_names)
        self._items, self._expected, self._of_texts = items, expected_accuracy, items.of_texts

    def scanned(self, scan: "DataScan") -> None:
        """Say it, in the words of images where the data are images."""
        tally, preprocess = self._items.tally, self._items.tally.preprocess
        if tally.images and tally.images == tally.items:
            self.unit = "images"
            normalised = preprocess.mean is not None or preprocess.std is not None
            self.preparation = "normalised" if normalised else "not normalised"
        if self._of_texts:
            self.unit = TEXTS
        super().scanned(scan)
        of_labels = self._missed(scan), self._unlabelled(scan)
        for text in (tally.different_sizes(), tally.few_bits(), *tally.notes(), *of_labels):
            if text is not None:
                warn(text)

    def _unlabelled(self, scan: "DataScan") -> str | None:
        """A sentence where no column was taken for labels, and one that is not read may hold them."""
        if scan.labelled is not None or not self._items.unread:
            return None
        return (
            f"the data have no labels; columns that are not read: {listed(self._items.unread)}. With --label NAME the "
            "model's mistakes are known, left out and learned from."
        )

    def _missed(self, scan: "DataScan") -> str | None:
        """A sentence where the accuracy is below what the user expects."""
        if self._expected is None:
            return None
        if not scan.labelled:
            return "--expect-accuracy: the data have no labels, so accuracy is not known."
        if binomtest(scan.right, scan.labelled).proportion_ci(SURE, "exact").high >= self._expected:
            return None
        forgotten = " The images are not normalised." if self.preparation == "not normalised" else ""
        return (
            f"{scan.right / scan.labelled:.1%} of the labels are right, where {self._expected:.1%} were expected: is "
            f"the preparation that of the model's training (--size, --mean, --std, --channels)?{forgotten}"
        )


def print_facts(pairs: Mapping[str, str]) -> None:
    """Names and facts, none of them cut."""
    print_pairs(dict(pairs), longest=None, width=len("inputs") + 2)


def input_channels(model: nn.Module) -> int | None:
    """The channels of images that the model takes, by its first convolution; None where that does not tell."""
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    return first.in_channels if first is not None and first.in_channels in (1, 3) else None


def mistakes_flagged(detector: Detector, scan: "DataScan", inputs: Iterable[Tensor]) -> tuple[int, int]:
    """Of the inputs that the model misclassifies, at most the first `MISTAKES`: how many are flagged, and judged."""
    wanted = torch.from_numpy(scan.usable & ~scan.correct)
    wanted &= wanted.cumsum(0) <= MISTAKES
    start, left, parts = 0, int(wanted.sum()), list[Tensor]()
    for x in inputs if left else ():
        part = x[wanted[start : start + len(x)]]
        start, left = start + len(x), left - len(part)
        parts += [part] if len(part) else []
        if not left:
            break
    if not parts:
        return 0, 0
    verdicts = detector.predict(torch.cat(parts))
    return int((~verdicts.trusted).sum()), len(verdicts)


def mistakes_in_words(flagged: int, judged: int) -> str | None:
    """The share with its 95 % interval; None of nothing."""
    if not judged:
        return None
    interval = binomtest(flagged, judged).proportion_ci(0.95, "exact")
    return f"{flagged / judged:.0%} ({flagged} of {judged}; {interval.low:.0%} to {interval.high:.0%} of such)"
