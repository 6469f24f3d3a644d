"""What `fit` says of itself: what it saw of the data before it computes, how far it is, and how long it will take."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from gradgeo._typing import IntArray
from gradgeo.detector.fit.progress import Advance, duration, progress

if TYPE_CHECKING:
    from gradgeo.detector.fit.data_scan import DataScan

TEXTS = "texts"
"""The unit of data of texts."""

NAMED = 6
"""Classes that are named with their numbers."""

NEAR = 0.1
"""Above chance: a mean accuracy of the classes below that is hardly better than guessing."""

RENUMBERED = 0.3
"""More accuracy under another numbering of the classes that is worth a word."""

MOST_RENUMBERED = 1000
"""Classes up to which another numbering is looked for."""


class FitObserver:
    """What `fit` tells of its work; this one does not listen."""

    estimates = False
    """Whether to measure some inputs first, to tell how long all will take."""

    def scanned(self, scan: "DataScan") -> None:
        """The data were read once, by forward passes alone; the long work comes next."""

    def estimated(self, each: float, total: float) -> None:
        """What an input takes and what is left takes, in seconds, by a few inputs."""

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        """A stage of the work, which calls what this yields with the number of inputs done."""
        yield lambda done: None


SILENT = FitObserver()


class Narrator(FitObserver):
    """Says it in pairs of a name and a fact, and shows a bar or lines."""

    estimates = True

    def __init__(
        self,
        say: Callable[[Mapping[str, str]], None] | None = None,
        *,
        unit: str = "inputs",
        class_names: Sequence[str] = (),
        preparation: str | None = None,
    ) -> None:
        self._say = say or to_stderr
        self.unit, self.class_names, self.preparation = unit, class_names, preparation
        self.scan: DataScan | None = None

    def scanned(self, scan: "DataScan") -> None:
        """Say what was seen."""
        self.scan = scan
        self._say(facts(scan, unit=self.unit, class_names=self.class_names, preparation=self.preparation))

    def estimated(self, each: float, total: float) -> None:
        """Say how long it will take."""
        self._say({"time": f"{duration(each)} an input, about {duration(total)} in all"})

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        """A bar for the stage, or lines."""
        with progress(name, total) as advance:
            yield advance


def observer_of(choice: bool | FitObserver | None) -> FitObserver:
    """Who listens: as `Detector.fit(progress=)` says, or with None a person at a terminal or a notebook."""
    if isinstance(choice, FitObserver):
        return choice
    if choice is None:
        choice = "ipykernel" in sys.modules or bool(getattr(sys.stderr, "isatty", lambda: False)())
    return Narrator() if choice else SILENT


def to_stderr(pairs: Mapping[str, str]) -> None:
    """Each pair on a line."""
    for name, fact in pairs.items():
        print(f"{name:<10}  {fact}", file=sys.stderr, flush=True)


def facts(
    scan: "DataScan", *, unit: str = "inputs", class_names: Sequence[str] = (), preparation: str | None = None
) -> dict[str, str]:
    """What was seen of the data, in the words of a person who has to notice what was forgotten."""
    shape = " x ".join(map(str, scan.input_shape))
    seen = [f"{len(scan.usable)} {unit} of {shape}", f"values {_short(scan.low)} to {_short(scan.high)}"]
    if unit == TEXTS:  # the values of an input are embeddings, and which tokens they are
        seen = [f"{len(scan.usable)} {unit} of {scan.input_shape[0]} tokens"]
    said = {"inputs": ", ".join([*seen, *([] if preparation is None else [preparation])])}
    said["classes"] = numbering(scan.num_classes, class_names)
    known, right = scan.labelled, scan.right
    if known is not None:
        share = f"{right / known:.1%} ({right} of {known})" if known else "none"
        said["right"] = f"{share} of the labels; learns and calibrates from these alone"
    else:
        said["right"] = "not known, the data have no labels: every input counts as trusted"
    out = {"misclassified": scan.misclassified, "unusable": scan.unusable, "copies of others": scan.copies}
    if any(out.values()):
        said["left out"] = ", ".join(f"{count} {why}" for why, count in out.items() if count)
    return said


def numbering(num_classes: int, names: Sequence[str]) -> str:
    """The classes with their numbers."""
    if not names:
        return f"{num_classes}, by number; the data do not name them"
    shown = ", ".join(f"{name} = {number}" for number, name in enumerate(names[:NAMED]))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return shown + more + ("" if len(names) == num_classes else f"; the model has {num_classes}")


def doubts(scan: "DataScan") -> str | None:
    """What may have been forgotten where the model is hardly better than chance; None where it is."""
    if scan.labels is None or not scan.labelled:
        return None
    rows = scan.usable
    labels, predicted = scan.labels[rows], scan.predicted[rows]
    counts = np.bincount(labels, minlength=scan.num_classes)
    hits = np.bincount(labels[labels == predicted], minlength=scan.num_classes)
    present = counts > 0
    near = float((hits[present] / counts[present]).mean()) < 1 / scan.num_classes + NEAR
    if not near and 2 * scan.right >= scan.labelled:
        return None
    if present.sum() > 1 and (better := renumbered(labels, predicted, scan.num_classes)) is not None:
        return better
    low = f"{scan.right} of {scan.labelled} predictions are right{', hardly more than by chance' if near else ''}"
    image = len(scan.input_shape) == 3 and scan.input_shape[0] in (1, 3)
    if image and scan.low >= 0 and scan.high <= 1:
        return f"{low}. Values lie in 0..1: does the model expect normalised images (--mean, --std)?"
    if image and scan.low >= 0 and scan.high > 2:
        return f"{low}. Values go up to {_short(scan.high)}: does the model expect them in 0..1?"
    return f"{low}. Is the preparation of the inputs that of the model's training?"


def renumbered(labels: IntArray, predicted: IntArray, num_classes: int) -> str | None:
    """A sentence where the labels (n,) would agree with the predictions (n,) if classes were numbered otherwise."""
    if num_classes > MOST_RENUMBERED:
        return None
    table = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(table, (labels, predicted), 1)  # (C, C) of label and prediction
    rows, columns = linear_sum_assignment(table, maximize=True)
    right, now = int(table[rows, columns].sum()), int(np.trace(table))
    if right < 0.7 * len(labels) or right - now < RENUMBERED * len(labels):
        return None
    moved = [f"label {row} is class {column}" for row, column in zip(rows, columns, strict=True) if row != column]
    some = ", ".join(moved[:3]) + (", ..." if len(moved) > 3 else "")
    return (
        f"{now} of {len(labels)} predictions are right, and {right} would be if the classes were numbered otherwise "
        f"({some}): name the folders, or number the labels, as the model does."
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
