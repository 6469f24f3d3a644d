"""Whether false alarms are as rare as stated: the rate over random splits of real test data.

`--cases cifar10` splits one classifier's; the page keeps the rows of the others.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import cpu_count, get_context
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks.evidence import EVERY, available, measured_by
from benchmarks.page import Page, PartialPage
from benchmarks.shipped import Suite
from gradgeo._typing import IntArray
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.detector.calibration import conformal
from gradgeo.detector.detector import Detector
from gradgeo.detector.evidence import EVIDENCE, PRESETS
from gradgeo.detector.extraction import EvidenceFeatures
from gradgeo.detector.fit import suspects
from gradgeo.detector.fit.suspects import MeasuredSuspects
from gradgeo.detector.fusion import EvidenceFusion

CASES = ("cifar10", "ecg5000", "mnist", "fashion", "digits")
SPLITS = 200
ALPHAS = (0.05, 0.01)
APART = 256  # inputs that set the temperature and the radius and take no part in the splits
TAKEN = 3000  # inputs that do, where there are as many
FIT = 400  # of a split
AGAIN = ("cifar10", "lite", (1, 2, 3, 4))
"""Whose splits are drawn anew, by these seeds: all rows of a classifier share the splits of one seed."""
OF_ROW = ("data", "evidence", "seed", "alpha", "calibration", "test")
"""What a row is of: the first columns of the page, and keys of the JSON."""
GROUPS = 5
"""Of as many trusted inputs as a `Detector` makes outliers from; each split learns from one of them."""


def run(suite: Suite) -> Page:
    """False-alarm rates at each alpha over 200 random splits, beside the interval they must lie in."""
    page = _Rates("False-alarm rates against the stated alpha")
    page.say(
        f"{SPLITS} random splits of the correctly classified inputs into fitting, calibration and test parts; the "
        "share of test inputs with p <= alpha. In each split the joint model is fitted, its questions are weighed by "
        "outliers made from inputs of the fitting part and by mistakes, and the other part calibrates. The interval "
        "is where the mean over the splits lies with probability 95 % if each test input raises a false alarm with "
        "probability alpha exactly: binomial in the test inputs given the calibration inputs, whose draw adds its "
        "beta variance (a beta-binomial for each split). One row in 20 lies outside by chance; and the rows of one "
        "classifier and seed share their splits: where one of them lies outside, others will. Other seeds draw the "
        f"splits of {AGAIN[0]} anew, for `{AGAIN[1]}`."
    )
    names = suite.wanted(CASES)
    with ProcessPoolExecutor(cpu_count(), mp_context=get_context("spawn")) as processes:
        whole = processes.submit(_refit_all, suite, "digits", 0.05) if "digits" in names else None
        tasks = [(name, tuple(PRESETS), 0) for name in names]
        if AGAIN[0] in names:
            tasks += [(AGAIN[0], (AGAIN[1],), seed) for seed in AGAIN[2]]
        rows = [row for found in processes.map(partial(_refit, suite), *zip(*tasks, strict=True)) for row in found]
        if whole is not None:
            rows.append(
                _row("digits", "full", 0, 0.05, *whole.result(), "the whole Detector refitted, radius included")
            )
    page.data["rows"] = rows
    return page


class _Rates(PartialPage):
    """Rates by classifier, preset and alpha."""

    def cells(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.data["rows"]
        return rows

    def keep(self, held: dict[str, Any]) -> None:
        measured = {row["data"] for row in self.data["rows"]}
        rows = self.data["rows"] + [row for row in held["rows"] if row["data"] not in measured]
        self.data["rows"] = sorted(rows, key=lambda row: CASES.index(row["data"]))

    def show(self) -> None:
        heading = [*OF_ROW, "false alarms", "interval", "inside", "how", "measured"]
        self.table(heading, [_line(row) for row in self.data["rows"]])


def _row(
    name: str, preset: str, seed: int, alpha: float, rates: list[float], n: int, m: int, how: str
) -> dict[str, Any]:
    flagged = round(alpha * (n + 1))
    spread = stats.betabinom.std(m, flagged, n + 1 - flagged) / m / np.sqrt(len(rates))
    mean, low, high = float(np.mean(rates)), alpha - 1.96 * spread, alpha + 1.96 * spread
    found = {"data": name, "evidence": preset, "seed": seed, "alpha": alpha, "calibration": n, "test": m, "rate": mean}
    return {**found, "low": low, "high": high, "inside": bool(low <= mean <= high), "splits": len(rates), "how": how}


def _line(row: dict[str, Any]) -> list[str]:
    of = [str(row[key]) for key in OF_ROW]
    rate, interval = f"{row['rate']:.2%}", f"{row['low']:.2%} .. {row['high']:.2%}"
    return [*of, rate, interval, "yes" if row["inside"] else "NO", row["how"], row["made"]["date"]]


def _refit(suite: Suite, name: str, presets: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """The rows of a classifier's presets, over splits that `seed` draws."""
    torch.set_num_threads(1)
    classifier, found = suite[name], list[dict[str, Any]]()
    right = classifier.x[classifier.correct]
    apart = min(APART, len(right) // 6)
    typical, taken = right[:apart], right[apart : apart + TAKEN]
    wrong = classifier.x[~classifier.correct][: suspects.MOST_MISTAKES]
    every = available(classifier, EVERY)
    measured, mistakes = (measured_by(classifier, typical, x, every) for x in (taken, wrong))
    groups = np.split(np.arange(GROUPS * suspects.SOURCES), GROUPS)
    made = [_made(classifier, typical, taken, rows, every) for rows in groups]
    n = len(measured.label)
    learn = min(FIT, n // 3)
    size = conformal.calibration_size(n - learn, 0.5, min(ALPHAS), at_most=n - learn - 1)
    for preset in presets:
        rng, rates = np.random.default_rng(seed), {alpha: list[float]() for alpha in ALPHAS}
        names = [evidence for evidence in PRESETS[preset] if evidence in every]
        part = partial(_part, [every.index(name) for name in names])
        of_evidence = part(measured)
        for split in range(SPLITS):
            sources = groups[split % GROUPS]  # learned from in any case; all others are drawn
            rest = np.setdiff1d(rng.permutation(n), sources, assume_unique=True)
            drawn, calibrating, testing = np.split(rest, [learn - len(sources), learn - len(sources) + size])
            rows = np.sort(np.concatenate([sources, drawn]))
            learned, calibration, test = (of_evidence[part] for part in (rows, calibrating, testing))
            of_split = made[split % GROUPS]
            fusion, _ = EvidenceFusion.fit(
                [EVIDENCE[name].one_class for name in names],
                [EVIDENCE[name].question for name in names],
                learned.features,
                learned.label,
                classifier.logits.shape[1],
                seed=split,
                made=replace(of_split, measured=part(of_split.measured)).among(rows, part(mistakes)),
            )
            known, new = (fusion.fuse(fusion.scores(some.features, some.label)).numpy() for some in (calibration, test))
            p = conformal.p_values(np.sort(known), new)
            for alpha in ALPHAS:
                rates[alpha].append(float((p <= alpha).mean()))
        sizes, how = (size, n - learn - size), "joint model and calibration refitted"
        found += [_row(name, preset, seed, alpha, rates[alpha], *sizes, how) for alpha in ALPHAS]
    return found


def _part(places: Sequence[int], measured: EvidenceFeatures) -> EvidenceFeatures:
    return replace(measured, features=tuple(measured.features[place] for place in places))


def _made(
    classifier: ClassifierUnderTest,
    typical: torch.Tensor,
    taken: torch.Tensor,
    rows: IntArray,
    names: tuple[str, ...],
) -> MeasuredSuspects:
    """Some evidence of outliers made from the inputs `taken` at `rows`."""
    made = suspects.make(classifier.model, taken[torch.from_numpy(rows)], seed=0)
    measured = measured_by(classifier, typical, torch.cat([*made.values()]), names)
    return MeasuredSuspects.of(made, measured, rows)


def _refit_all(suite: Suite, name: str, alpha: float) -> tuple[list[float], int, int]:
    torch.set_num_threads(1)
    classifier = suite[name]
    right = np.flatnonzero(classifier.correct.numpy())
    rng, rates, n, m = np.random.default_rng(1), [], 0, 0
    for seed in range(SPLITS):
        order = rng.permutation(right)
        detector = Detector(classifier.model, alpha=alpha, seed=seed).fit(classifier.x[order[:400]])
        test = classifier.x[order[400:700]]
        rates.append(1 - float(detector.predict(test).trusted.double().mean()))
        n, m = detector.calibration_size_, len(test)
    return rates, n, m
