"""What one detector's own false-alarm rate is: how many of 1,000 detectors exceed the bound that they state."""

from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo._typing import Array, IntArray
from gradgeo.bench.cache import CHUNK, DETECTOR_CODE, cached, source_hash, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.detector.calibration import conformal
from gradgeo.detector.calibration.conformal import Level
from gradgeo.detector.detector import Detector

NAMES = ("mnist", "cifar10", "ecg5000", "digits")
DETECTORS = 1000
SIZES = (99, 339, 999)
ALPHA, CONFIDENCE = 0.05, 0.95
FIT = 600
"""Inputs that the scorer is fitted on, a third of them where there are fewer than thrice as many."""
HELD_OUT = 4000
"""Others, at most, whose scores are the population that calibration sets are drawn from."""


def run(suite: Suite) -> Page:
    """The share of detectors whose rate exceeds its bound, with and without a confidence."""
    page = Page("One detector's own false-alarm rate against the bound it states")
    page.say(
        "A scorer is fitted once on each trained classifier (evidence `fast`). The scores of other inputs that are "
        f"classified correctly are the population: {DETECTORS:,} calibration sets are drawn from it, with replacement, "
        "so that the true false-alarm rate of each detector is known exactly. Without a confidence the bound is what "
        f"`fit` states at alpha {ALPHA}, the {CONFIDENCE:.0%} quantile of the order statistic; with "
        f"confidence={CONFIDENCE} it is alpha. A bound that holds is exceeded by 5 % of the detectors, up to the "
        "interval of a binomial count, and one that is not loose by 3 % or more. 'Computed' is how often it must be: "
        "a detector is beyond the rate r if fewer than k of its n calibration scores are among the floor(r M) + 1 "
        "highest of the population's M, a binomial tail; k is the rank that is flagged."
    )
    names = suite.wanted(NAMES)
    count = 2 * len(SIZES) * len(names)
    high = stats.binom.ppf(1 - 0.025 / count, DETECTORS, 1 - CONFIDENCE) / DETECTORS
    rows = []
    for name in names:
        population = np.sort(held_out(suite[name])[0])
        for n in SIZES:
            for confidence in (None, CONFIDENCE):
                rows.append(_row(page, name, population, n, Level(ALPHA, confidence), high))
    page.table(
        [
            *("data", "population", "n", "flagged", "bound", "mean rate", "95 of 100 below", "beyond the bound"),
            *("computed", "holds"),
        ],
        rows,
    )
    beyond = [row["beyond_stated"] for row in page.data["rows"]]
    total = DETECTORS * len(beyond)
    least, most = (each / total for each in stats.binom.interval(0.95, total, 1 - CONFIDENCE))
    page.data["all"] = {"beyond_stated": float(np.mean(beyond)), "detectors": total, "low": least, "high": most}
    page.say(
        "In brackets: beyond the bound of the rank that is flagged, which lies a little below alpha where alpha is the "
        f"bound, for ranks are whole numbers. Over all {total:,} detectors {np.mean(beyond):.2%} are; the interval of "
        f"5 % is {least:.2%} to {most:.2%}. A single row holds up to {high:.1%}, the interval's end corrected for "
        f"{count} rows."
    )
    page.say(_why_fewer(page.data["rows"]))
    return page


def _why_fewer(rows: list[dict[str, Any]]) -> str:
    """What makes the smallest figure so small, in words."""
    continuous = []
    for n in SIZES:
        k = Level(ALPHA, CONFIDENCE).rate(n).ranks
        continuous.append(f"{stats.beta(k, n + 1 - k).sf(ALPHA):.1%} (n {n}, k {k})")
    least = min(rows, key=lambda row: row["beyond"])
    low, high = _interval(least["computed"])
    inside = sum(_within(row) for row in rows)
    return (
        "Where alpha is the bound, fewer than 5 % are beyond even of a continuous score, by the beta distribution: "
        f"{', '.join(continuous)}; one rank more would be too many. Of a finite population it is fewer again, for "
        f"rates are whole numbers of M-ths. The smallest figure, {least['beyond']:.1%} of {least['data']} at n "
        f"{least['n']}, is one of which {least['computed']:.1%} is computed: {low:.1%} to {high:.1%} is what "
        f"{DETECTORS:,} draws give 95 times of 100. Of the {len(rows)} rows {inside} are within that interval of their "
        "own."
    )


def _interval(share: float) -> tuple[float, float]:
    low, high = stats.binom.interval(0.95, DETECTORS, share)
    return float(low / DETECTORS), float(high / DETECTORS)


def _within(row: dict[str, Any]) -> bool:
    low, high = _interval(row["computed"])
    return bool(low <= row["beyond"] <= high)


def chance_beyond(population: Array, n: int, ranks: int, bound: float) -> float:
    """The probability that the rate of a detector is beyond `bound`: that fewer than `ranks` of n scores drawn from the
    `population`, sorted ascending, are as high as its floor(bound M) + 1 highest of M."""
    size = len(population)
    least = population[size - 1 - int(bound * size)]
    return float(stats.binom.cdf(ranks - 1, n, (population >= least).mean()))


def _row(page: Page, name: str, population: Array, n: int, level: Level, most: float) -> list[str]:
    rate, size = level.rate(n), len(population)
    rng = np.random.default_rng([NAMES.index(name), n, level.confidence is None])  # other draws in every row
    own = np.empty(DETECTORS)
    for i in range(DETECTORS):
        calibration = np.sort(rng.choice(population, n))
        # flagged: p <= k / (n + 1), that is a score above the k-th largest of calibration
        own[i] = (size - np.searchsorted(population, calibration[n - rate.ranks], side="right")) / size
        if i == 0:
            p = conformal.p_values(calibration, population)
            assert np.isclose(own[0], (p <= level.threshold(n)).mean())
    bound = rate.at_most if level.confidence is None else level.alpha
    tight, beyond = float((own > rate.at_most).mean()), float((own > bound).mean())
    computed = chance_beyond(population, n, rate.ranks, bound)
    holds = beyond <= most and computed >= 0.03
    page.data.setdefault("rows", []).append(
        {
            "data": name,
            "n": n,
            "confidence": str(level.confidence),
            "population": size,
            "ranks": rate.ranks,
            "bound": bound,
            "stated": rate.at_most,
            "mean": float(own.mean()),
            "beyond": beyond,
            "computed": computed,
            "beyond_stated": tight,
            "holds": bool(holds),
        }
    )
    flagged = f"p <= {rate.ranks}/{n + 1}"
    shares = (bound, own.mean(), np.quantile(own, CONFIDENCE))
    end = [f"{beyond:.1%} ({tight:.1%} beyond {rate.at_most:.2%})", f"{computed:.1%}", "yes" if holds else "NO"]
    return [name, f"{size:,}", str(n), flagged, *(f"{share:.2%}" for share in shares), *end]


def held_out(classifier: ClassifierUnderTest) -> tuple[Array, IntArray]:
    """Outlier scores of inputs that are classified correctly and that the scorer was not fitted on, and their class."""
    right = classifier.x[classifier.correct]
    right = right[torch.randperm(len(right), generator=torch.Generator().manual_seed(0))]
    fit = min(FIT, len(right) // 3)
    known, new = right[:fit], right[fit : fit + HELD_OUT]
    detector = Detector(classifier.model, evidence="fast").fit(known)

    def scores(part: Tensor) -> dict[str, Any]:
        found = detector.predict(part)
        return {"score": found.outlier_score.numpy(), "label": found.label.numpy()}

    key = ("held out", weights_key(classifier.model), source_hash(*DETECTOR_CODE), tensor_hash(known))
    parts = [cached(partial(scores, part), *key, tensor_hash(part)) for part in torch.split(new, CHUNK)]
    score, label = (np.concatenate([part[name] for part in parts]) for name in ("score", "label"))
    return score[~np.isnan(score)], label[~np.isnan(score)]
