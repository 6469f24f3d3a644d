"""False alarms of each predicted class, judged among all calibration inputs and among its own."""

from typing import Any

import numpy as np

from benchmarks.own_rate import held_out
from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo._typing import Array, IntArray
from gradgeo.detector.calibration import conformal
from gradgeo.detector.calibration.conformal import Level
from gradgeo.detector.calibration.mondrian import Kinds

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
        "many splits, the one before what the rate is in the others. A class of 19 calibration inputs has a rate of "
        "5 % on average over splits; in each it scatters widely."
    )
    summary, rows = [], []
    for name in suite.wanted(NAMES):
        found = _rates(*held_out(suite[name]), suite[name].logits.shape[1])
        page.data.setdefault("classes", []).extend({"data": name, **each} for each in found)
        for each in found:
            own = "" if each["own"] is None else f"{each['own']:.2%}"
            sizes = (str(each["label"]), f"{each['inputs']:,}", f"{each['calibration']:.0f}")
            shares = (f"{each['pooled']:.2%}", f"{each['conditional']:.2%}", own, f"{each['fell_back']:.0%}")
            rows.append([name, *sizes, *shares])
        judged = [each for each in found if each["own"] is not None]
        worst = {kind: max(each[kind] for each in judged) for kind in ("pooled", "own")}
        least = {kind: min(each[kind] for each in judged) for kind in worst}
        page.data.setdefault("worst", []).append({"data": name, "classes": len(judged), **worst})
        spread = [f"{least[kind]:.2%} to {worst[kind]:.2%}" for kind in worst]
        summary.append([name, f"{len(judged)} of {len(found)}", *spread])
    page.table(["data", "classes that have enough of their own in some split", "pooled", "conditional, there"], summary)
    heading = ["data", "class", "inputs", "calibration", "pooled", "conditional", "where it has enough"]
    page.table([*heading, "compared with all"], rows)
    return page


def _rates(scores: Array, labels: IntArray, classes: int) -> list[dict[str, Any]]:
    """Of each class, over the splits: the share flagged, how many calibrate, and in which share of splits too few."""
    rng, n = np.random.default_rng(0), len(scores)
    size = conformal.calibration_size(n, 0.5, LEVEL.alpha, at_most=n)
    # pooled, conditional, and conditional in the splits where there are enough
    flagged, tested = np.zeros((3, classes)), np.zeros((3, classes))
    counts, fell = np.zeros(classes), np.zeros(classes)
    for _ in range(SPLITS):
        order = rng.permutation(n)
        known, new = order[:size], order[size:]
        pool = np.sort(scores[known])
        kinds = Kinds.of("class", None, None, labels[known], labels[new])
        assert kinds is not None
        conditional, _ = kinds.p_values(scores[known], pool, scores[new], LEVEL.least)
        calibration = np.bincount(labels[known], minlength=classes)
        enough, here = calibration >= LEVEL.least, np.bincount(labels[new], minlength=classes)
        for row, p in enumerate((conformal.p_values(pool, scores[new]), conditional)):
            flagged[row] += np.bincount(labels[new][p <= LEVEL.alpha], minlength=classes)
            tested[row] += here
        flagged[2] += enough * np.bincount(labels[new][conditional <= LEVEL.alpha], minlength=classes)
        tested[2] += enough * here
        counts += calibration / SPLITS
        fell += ~enough / SPLITS
    inputs = np.bincount(labels, minlength=classes)
    return [
        {
            "label": label,
            "inputs": int(inputs[label]),
            "calibration": float(counts[label]),
            "pooled": float(flagged[0, label] / tested[0, label]),
            "conditional": float(flagged[1, label] / tested[1, label]),
            "own": float(flagged[2, label] / tested[2, label]) if tested[2, label] else None,
            "fell_back": float(fell[label]),
        }
        for label in np.flatnonzero(tested[0]).tolist()
    ]
