"""Whether false alarms are as rare as stated: the rate over random splits of real test data."""

import numpy as np
from scipy import stats

from gradgeo import conformal
from gradgeo.benchmark.cases import Case, Cases
from gradgeo.benchmark.page import Page
from gradgeo.detector import TYPICAL_MARGIN, Detector
from gradgeo.one_class import ClassConditionalCopula

SPLITS = 200
REFITS = 1000
ALPHAS = (0.05, 0.01)
APART = 500  # inputs that set the temperature and take no part in the splits


def run(cases: Cases) -> Page:
    """False-alarm rates at each alpha over 200 random splits, beside the interval they must lie in."""
    page = Page("False-alarm rates against the stated alpha")
    page.say(
        f"{SPLITS} random splits of the correctly classified inputs into fitting, calibration and test parts; "
        f"the share "
        "of test inputs with p <= alpha. The interval is where the mean over the splits lies with probability 95 % if "
        "each test input raises a false alarm with probability alpha exactly: binomial in the test inputs given the "
        "calibration inputs, whose draw adds its beta variance (a beta-binomial for each split)."
    )
    rows = []
    for name in ("cifar10", "ecg5000", "digits"):
        for alpha in ALPHAS:
            rates, n, m = _refit(cases, cases[name], alpha)
            rows.append(_row(page, name, alpha, rates, n, m, "one-class model and calibration refitted"))
    rates, n, m = _refit_all(cases["digits"], 0.05)
    rows.append(
        _row(page, "digits", 0.05, rates, n, m, f"the whole Detector refitted, temperature included ({REFITS} splits)")
    )
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


def _refit(cases: Cases, case: Case, alpha: float) -> tuple[list[float], int, int]:
    right = np.flatnonzero(case.right.numpy())
    apart, rest = right[:APART] if case.name != "digits" else right[:200], right
    rest = np.setdiff1d(right, apart)
    temperature = float(np.quantile(case.margin[apart].double().numpy(), TYPICAL_MARGIN))
    seen = cases.seen(case, case.x[rest], temperature)
    size = conformal.calibration_size(len(rest), 0.4, alpha, at_most=len(rest))
    learn = (len(rest) - size) // 2
    rng, rates = np.random.default_rng(0), []
    for _ in range(SPLITS):
        order = rng.permutation(len(rest))
        fit, calibration, test = (seen[part] for part in np.split(order, [learn, learn + size]))
        model = ClassConditionalCopula.fit(fit.features, fit.label, case.logits.shape[1])
        scores = np.sort(calibration.score(model))
        p = conformal.p_values(scores, test.score(model))
        rates.append(float((p <= alpha).mean()))
    return rates, size, len(rest) - learn - size


def _refit_all(case: Case, alpha: float) -> tuple[list[float], int, int]:
    right = np.flatnonzero(case.right.numpy())
    rng, rates, n, m = np.random.default_rng(1), [], 0, 0
    for seed in range(REFITS):
        order = rng.permutation(right)
        detector = Detector(case.model, alpha=alpha, seed=seed).fit(case.x[order[:400]])
        test = case.x[order[400:700]]
        rates.append(1 - float(detector.predict(test).trusted.double().mean()))
        n, m = detector.calibration_size_, len(test)
    return rates, n, m
