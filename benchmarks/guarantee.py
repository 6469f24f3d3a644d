"""Whether false alarms are as rare as stated: the rate over random splits of real test data."""

import numpy as np
from scipy import stats

from benchmarks.evidence import fusion_of, measured_by
from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.detector.calibration import conformal
from gradgeo.detector.detector import Detector
from gradgeo.detector.evidence import PRESETS

SPLITS = 200
ALPHAS = (0.05, 0.01)
APART = 256  # inputs that set the temperature and the radius and take no part in the splits
TAKEN = 3000  # inputs that do, where there are as many
FIT = 400  # of a split


def run(suite: Suite) -> Page:
    """False-alarm rates at each alpha over 200 random splits, beside the interval they must lie in."""
    page = Page("False-alarm rates against the stated alpha")
    page.say(
        f"{SPLITS} random splits of the correctly classified inputs into fitting, calibration and test parts; the "
        'share of test inputs with p <= alpha, evidence="full". The interval is where the mean over the splits lies '
        "with probability 95 % if each test input raises a false alarm with probability alpha exactly: binomial in the "
        "test inputs given the calibration inputs, whose draw adds its beta variance (a beta-binomial for each split)."
    )
    rows = []
    for name in suite.wanted(("cifar10", "ecg5000", "digits")):
        rates_at, n, m = _refit(suite[name])
        for alpha, rates in rates_at.items():
            rows.append(_row(page, name, alpha, rates, n, m, "joint model and calibration refitted"))
    if suite.wanted(("digits",)):
        rates, n, m = _refit_all(suite["digits"], 0.05)
        rows.append(_row(page, "digits", 0.05, rates, n, m, "the whole Detector refitted, radius included"))
    page.table(["data", "alpha", "calibration", "test", "false alarms", "interval", "inside", "how"], rows)
    return page


def _row(page: Page, name: str, alpha: float, rates: list[float], n: int, m: int, how: str) -> list[str]:
    flagged = round(alpha * (n + 1))
    spread = stats.betabinom.std(m, flagged, n + 1 - flagged) / m / np.sqrt(len(rates))
    mean, low, high = float(np.mean(rates)), alpha - 1.96 * spread, alpha + 1.96 * spread
    inside = bool(low <= mean <= high)
    page.data.setdefault("rows", []).append(
        {"data": name, "alpha": alpha, "rate": mean, "low": low, "high": high, "inside": inside, "splits": len(rates)}
    )
    rate, interval = f"{mean:.2%}", f"{low:.2%} .. {high:.2%}"
    return [name, str(alpha), str(n), str(m), rate, interval, "yes" if inside else "NO", how]


def _refit(classifier: ClassifierUnderTest) -> tuple[dict[float, list[float]], int, int]:
    """The rates by alpha, and how many inputs each split calibrates and tests on."""
    right = classifier.x[classifier.correct]
    apart = min(APART, len(right) // 6)
    measured = measured_by(classifier, right[:apart], right[apart : apart + TAKEN], PRESETS["full"])
    n = len(measured.label)
    learn = min(FIT, n // 3)
    size = conformal.calibration_size(n - learn, 0.5, min(ALPHAS), at_most=n - learn - 1)
    rng, rates = np.random.default_rng(0), {alpha: list[float]() for alpha in ALPHAS}
    for split in range(SPLITS):
        fit, calibration, test = (measured[part] for part in np.split(rng.permutation(n), [learn, learn + size]))
        fusion = fusion_of(PRESETS["full"], fit.features, fit.label, classifier.logits.shape[1], seed=split)
        known, new = (fusion.fuse(fusion.scores(part.features, part.label)).numpy() for part in (calibration, test))
        p = conformal.p_values(np.sort(known), new)
        for alpha in ALPHAS:
            rates[alpha].append(float((p <= alpha).mean()))
    return rates, size, n - learn - size


def _refit_all(classifier: ClassifierUnderTest, alpha: float) -> tuple[list[float], int, int]:
    right = np.flatnonzero(classifier.correct.numpy())
    rng, rates, n, m = np.random.default_rng(1), [], 0, 0
    for seed in range(SPLITS):
        order = rng.permutation(right)
        detector = Detector(classifier.model, alpha=alpha, seed=seed).fit(classifier.x[order[:400]])
        test = classifier.x[order[400:700]]
        rates.append(1 - float(detector.predict(test).trusted.double().mean()))
        n, m = detector.calibration_size_, len(test)
    return rates, n, m
