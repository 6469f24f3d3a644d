"""How often a check of stated rates cries wolf, what it sees, and how long it takes."""

import time
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo._typing import Array
from gradgeo.data.digits import digits_classifier, split
from gradgeo.detector.calibration.conformal import Level, p_values
from gradgeo.detector.detector import Detector
from gradgeo.detector.extraction import EvidenceExtractor
from gradgeo.metrics import holm
from gradgeo.scoring.site_check import LEVEL, POWER, _smallest_seen, check

CALIBRATION, CLASSES = 999, 10
SITES = (30, 100, 300, 1000, 3000)
LARGE = 10_000


def run(suite: Suite) -> Page:
    """False findings where all rates hold, what is found where one class does not, and the time of 10,000 rows."""
    tries = max(100, suite.inputs)
    page = Page("Checking stated rates on a site")
    page.say(
        f"Outlier scores are normal, of {CLASSES} classes alike; each of {tries:,} detectors calibrates on "
        f"{CALIBRATION} inputs, and its site is checked by the same exact tests as `gradgeo check` makes, of all "
        f"inputs and of each class, at a level of {LEVEL:.0%} for all of them together. 'Found' is the share of sites "
        "where a rate is said to be exceeded: with nothing wrong; with the scores of all inputs moved so that the rate "
        "of all is the smallest that the check says it would have seen; with those of one class moved by two standard "
        "deviations."
    )
    rows, level, rng = [], Level(0.05), np.random.default_rng(0)
    for size in SITES:
        seen = _smallest_seen(size, level.rate(CALIBRATION).least_excess(size, LEVEL / (1 + CLASSES)))
        found = [np.mean([_found(rng, size, level, case, seen) for _ in range(tries)]) for case in (0, 1, 2)]
        page.data.setdefault("found", {})[str(size)] = dict(zip(("nothing", "seen", "one class"), found, strict=True))
        page.data["found"][str(size)]["smallest_seen"] = seen
        smallest = "none" if seen is None else f"{seen:.1%}"
        rows.append([f"{size:,}", f"{found[0]:.3f}", smallest, f"{found[1]:.2f}", f"{found[2]:.2f}"])
    page.table(["inputs", "nothing wrong", "smallest rate seen", f"found there (at least {POWER})", "one class"], rows)
    seconds, scoring = _seconds()
    page.data["seconds"] = {"beyond scoring": seconds - scoring, "scoring": scoring, "rows": LARGE}
    page.say(
        f"On {LARGE:,} inputs of the digits classifier, evidence `lite`, with labels and {CLASSES} groups, the check "
        f"took {seconds - scoring:.2f} s beyond the {scoring:.1f} s in which their evidence was measured."
    )
    return page


def _found(rng: np.random.Generator, size: int, level: Level, case: int, seen: float | None) -> bool:
    """Whether a check of one site, by one detector, says that a rate is exceeded."""
    calibration, label = rng.standard_normal(CALIBRATION), rng.integers(CLASSES, size=CALIBRATION)
    scores, classes = rng.standard_normal(size), rng.integers(CLASSES, size=size)
    if case == 1:
        if seen is None:
            return False
        least = np.sort(calibration)[CALIBRATION - level.rate(CALIBRATION).ranks]
        scores = np.where(rng.random(size) < seen, least + 1, least - 1)
    if case == 2:
        scores = scores + 2.0 * (classes == 0)
    tests = [_chance(calibration, scores, level)]
    for c in range(CLASSES):
        own = calibration[label == c]
        if len(own) >= level.least and (classes == c).any():
            tests.append(_chance(own, scores[classes == c], level))
    return min(holm(tests)) <= LEVEL


def _chance(calibration: Array, scores: Array, level: Level) -> float:
    rate = level.rate(len(calibration))
    flagged = int((p_values(np.sort(calibration), scores) <= level.threshold(len(calibration))).sum())
    return rate.chance_of_more(flagged, len(scores))


def _seconds() -> tuple[float, float]:
    """Seconds of a check of `LARGE` inputs, and of those the measurement of their evidence."""
    parts = split()
    x, y = parts["fit"]
    detector = Detector(digits_classifier(), evidence="lite").fit(x, y, groups=[i % CLASSES for i in range(len(x))])
    rows = np.resize(np.arange(len(parts["test"][0])), LARGE)
    draws = np.random.default_rng(0).normal(0, 0.01, (LARGE, *x.shape[1:])).astype(np.float32)
    many, labels = parts["test"][0][rows] + draws, parts["test"][1][rows]
    groups = [i % CLASSES for i in range(LARGE)]
    spent = []
    measure = EvidenceExtractor.measure

    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        found = measure(*arguments, **options)
        spent.append(time.perf_counter() - began)
        return found

    with patch.object(EvidenceExtractor, "measure", timed):
        began = time.perf_counter()
        check(detector, many, labels, groups=groups)
        return time.perf_counter() - began, sum(spent)
