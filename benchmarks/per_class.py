"""False alarms of each predicted class, judged among all calibration inputs and among its own."""

import numpy as np

from benchmarks.own_rate import held_out
from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo._typing import Array, IntArray
from gradgeo.detector import conformal
from gradgeo.detector.conformal import Level
from gradgeo.detector.mondrian import Kinds

NAMES = ("cifar10", "ecg5000")
SPLITS = 200
LEVEL = Level(0.05)


def run(suite: Suite) -> Page:
    """The worst class's rate, pooled and conditional, over 200 splits."""
    page = Page("False alarms by predicted class: pooled against conditional")
    page.say(
        f"A scorer fitted once (evidence `fast`); {SPLITS} random splits of other, correctly classified inputs "
        f"into calibration and test halves. The share of test inputs with p <= {LEVEL.alpha}, by predicted class, mean "
        'over the splits: p-values among all calibration inputs (pooled) and with `conditional="class"`. Conditional, '
        f"a class with fewer than {LEVEL.least} calibration inputs is compared with all: the last column says in how "
        "many splits."
    )
    summary, rows = [], []
    for name in suite.wanted(NAMES):
        pooled, conditional, own, fell, inputs = _rates(*held_out(suite[name]), suite[name].logits.shape[1])
        for label in range(len(pooled)):
            if np.isnan(pooled[label]):
                continue
            shares = (f"{rate[label]:.2%}" for rate in (pooled, conditional))
            rows.append([name, str(label), f"{inputs[label]:,}", f"{own[label]:.0f}", *shares, f"{fell[label]:.0%}"])
            page.data.setdefault("classes", []).append(
                {
                    "data": name,
                    "label": label,
                    "inputs": int(inputs[label]),
                    "calibration": float(own[label]),
                    "pooled": float(pooled[label]),
                    "conditional": float(conditional[label]),
                    "fell_back": float(fell[label]),
                }
            )
        whole = fell == 0  # classes that are judged among their own in every split
        worst = {"pooled": np.nanmax(pooled[whole]), "conditional": np.nanmax(conditional[whole])}
        least = {"pooled": np.nanmin(pooled[whole]), "conditional": np.nanmin(conditional[whole])}
        page.data.setdefault("worst", []).append(
            {"data": name, **{k: float(v) for k, v in worst.items()}, "classes": int(whole.sum())}
        )
        spread = [f"{least[kind]:.2%} to {worst[kind]:.2%}" for kind in worst]
        summary.append([name, str(int(whole.sum())), str(int((~whole & (inputs > 0)).sum())), *spread])
    heading = ["data", "classes with enough of their own", "others", "pooled, least to worst class", "conditional"]
    page.table(heading, summary)
    page.table(["data", "class", "inputs", "calibration", "pooled", "conditional", "compared with all"], rows)
    return page


def _rates(scores: Array, labels: IntArray, classes: int) -> tuple[Array, Array, Array, Array, IntArray]:
    """By class, over the splits: pooled and conditional rates, calibration inputs, and how often there were too few."""
    rng, n = np.random.default_rng(0), len(scores)
    size = conformal.calibration_size(n, 0.5, LEVEL.alpha, at_most=n)
    flagged, tested = np.zeros((2, classes)), np.zeros(classes)
    own, fell = np.zeros(classes), np.zeros(classes)
    for _ in range(SPLITS):
        order = rng.permutation(n)
        known, new = order[:size], order[size:]
        pool = np.sort(scores[known])
        kinds = Kinds.of("class", None, None, labels[known], labels[new])
        assert kinds is not None
        conditional, _ = kinds.p_values(scores[known], pool, scores[new], LEVEL.least)
        for row, p in enumerate((conformal.p_values(pool, scores[new]), conditional)):
            flagged[row] += np.bincount(labels[new][p <= LEVEL.alpha], minlength=classes)
        tested += np.bincount(labels[new], minlength=classes)
        counts = np.bincount(labels[known], minlength=classes)
        own += counts / SPLITS
        fell += (counts < LEVEL.least) / SPLITS
    with np.errstate(invalid="ignore"):
        pooled, conditional = flagged / tested
    return pooled, conditional, own, fell, np.bincount(labels, minlength=classes)
