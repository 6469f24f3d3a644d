"""Whether a classifier that errs, as it did when its detector was fitted, sets off alarms of drift."""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo._typing import Array
from gradgeo.detector.calibration.conformal import p_values
from gradgeo.report.drift import LEVEL
from gradgeo.report.summary import SCORE_BINS, Summary, Windows
from gradgeo.report.trend import windows
from gradgeo.scoring.metadata import STEPS, Metadata, counted_mistakes
from gradgeo.watch import Watch

ACCURACIES = (0.99, 0.9, 0.75)
ALPHA, CALIBRATION = 0.05, 499
ODD = 1.5
"""Standard deviations by which the outlier scores of mistakes lie above those of right predictions."""
IN_WINDOW, WINDOWS = 200, 20
STREAM, RATE = 1000, 0.01
SHIFTS = (0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Found:
    """Shares of reports, and of streams, with an alarm."""

    shifted: float
    crowded: float
    watch: float


def run(suite: Suite) -> Page:
    """Alarms on traffic without drift, with mistakes in what it is compared with and without, and with drift."""
    tries = max(20, suite.inputs)
    page = Page("Drift of a classifier that errs")
    page.say(
        f"Outlier scores of right predictions are normal, those of mistakes {ODD} standard deviations higher. Each of "
        f"{tries} detectors calibrates on {CALIBRATION} right predictions, beside which mistakes stand in the share of "
        f"the accuracy; its report has {WINDOWS} windows of {IN_WINDOW} inputs with mistakes alike. Shares of reports "
        f"with any alarm, which is to be at most {LEVEL:.0%} for either test, and of streams of {STREAM} inputs on "
        f"which the watch alarms, at most {RATE:.0%}. Below, what comes of comparing with right predictions alone."
    )
    rows = []
    for accuracy in ACCURACIES:
        for known in (True, False):
            found = false_alarms(accuracy, tries=tries, mistakes_known=known)
            name = "right predictions and mistakes" if known else "right predictions alone"
            page.data.setdefault("false_alarms", {})[f"{accuracy:.0%}, {name}"] = vars(found)
            rows.append([f"{accuracy:.0%}", name, *(f"{share:.3f}" for share in vars(found).values())])
    page.table(["accuracy", "compared with", "p-values shifted", "more flagged", "watch"], rows)
    page.say(
        "What is seen where all scores move in the last half of the windows, or of the stream, by so many standard "
        "deviations; compared with right predictions and mistakes."
    )
    rows = []
    for accuracy in ACCURACIES:
        for shift in SHIFTS:
            found = false_alarms(accuracy, tries=max(20, tries // 10), shift=shift)
            page.data.setdefault("seen", {})[f"{accuracy:.0%}, {shift}"] = vars(found)
            rows.append([f"{accuracy:.0%}", f"{shift}", *(f"{share:.2f}" for share in vars(found).values())])
    page.table(["accuracy", "shift", "p-values shifted", "more flagged", "watch"], rows)
    return page


def false_alarms(
    accuracy: float,
    *,
    tries: int,
    windows: int = WINDOWS,
    mistakes_known: bool = True,
    shift: float = 0.0,
    stream: int = STREAM,
) -> Found:
    """The share of `tries` in which there is an alarm."""
    rng, alarms = np.random.default_rng([round(100 * accuracy), mistakes_known]), []
    for _ in range(tries):
        calibration = np.sort(rng.standard_normal(CALIBRATION))
        mistakes = p_values(calibration, ODD + rng.standard_normal(_count(rng, accuracy)))
        told = mistakes if mistakes_known else np.empty(0)
        p = p_values(calibration, _traffic(rng, accuracy, windows * IN_WINDOW, shift))
        seen = p_values(calibration, _traffic(rng, accuracy, stream, shift))
        watch = Watch(CALIBRATION, rate=RATE, mistakes=told).update(seen)
        alarms.append((*_report(p, told, windows), watch.alarm))
    return Found(*(float(share) for share in np.mean(alarms, axis=0)))


def _count(rng: np.random.Generator, accuracy: float) -> int:
    """Mistakes among the inputs that `CALIBRATION` right predictions come of."""
    return int(rng.negative_binomial(CALIBRATION, accuracy))


def _traffic(rng: np.random.Generator, accuracy: float, count: int, shift: float) -> Array:
    scores = rng.standard_normal(count) + ODD * (rng.random(count) > accuracy)
    scores[count // 2 :] += shift
    return np.asarray(scores, np.float64)


def _report(p: Array, mistakes: Array, count: int) -> tuple[bool, bool]:
    """Whether the report says that p-values have shifted, and that more is flagged than usual."""
    metadata = Metadata(alpha=ALPHA, calibration_size=CALIBRATION, mistakes=counted_mistakes(mistakes, ALPHA))
    borders = np.arange(count + 1.0) * IN_WINDOW
    empty = np.zeros(count, np.int64)
    counted = Windows("time", borders, empty, empty.copy(), np.zeros((count, STEPS), np.int64))
    counted.add(np.arange(len(p), dtype=np.float64) + 0.5, p, p > ALPHA)
    judged = windows(replace(Summary(metadata, counted, np.linspace(0, 1, SCORE_BINS + 1)), judged=len(p)))
    return any(w.shifted for w in judged), any(w.share > w.high for w in judged if w.high is not None)
