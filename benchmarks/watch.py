"""How often the watch over a stream cries wolf, and how soon it sees a shift."""

import numpy as np

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo._typing import Array
from gradgeo.watch import Watch

LENGTH = 1000  # inputs in a stream without a shift
LONG = 20_000
RATES = (0.1, 0.01, 0.001)
USUAL = 1000  # inputs before a shift
PATIENCE = 4000  # inputs after it, at most
BASELINE = 500
SHIFTS = ((0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (4.0, 1.0), (4.0, 0.5), (4.0, 0.2), (4.0, 0.1), (4.0, 0.05))
"""By how many standard deviations the outlier score moves, of which share of the inputs."""


def run(suite: Suite) -> Page:
    """False alarms on streams without a shift, and the inputs until an alarm after one; normal outlier scores."""
    page = Page("How soon the watch sees a shift, and how often it cries wolf")
    page.say(
        "Outlier scores are normal; each stream has a calibration set of its own of n scores. First "
        f"{2 * suite.inputs} streams of {LENGTH} inputs without any shift: the share in which the watch has alarmed at "
        "any time, which `rate` bounds. 'Rounded' scores have many ties. 'Taken for uniform' is what would come of "
        "taking split-conformal p-values for independent and uniform, which they are not: false alarms."
    )
    rows = []
    for name, n, options in (
        ("calibration", 99, {}),
        ("calibration", 499, {}),
        ("calibration, rounded scores", 499, {"ties": 0}),
        ("its own past", 499, {"baseline": BASELINE}),
        ("its own past, rounded scores", 499, {"ties": 0, "baseline": BASELINE}),
    ):
        peaks = _peaks(2 * suite.inputs, n, **options)
        shares = [float((peaks >= -np.log10(rate)).mean()) for rate in RATES]
        page.data.setdefault("false_alarms", {})[f"{name}, n {n}"] = dict(zip(map(str, RATES), shares, strict=True))
        rows.append([name, str(n), *(f"{share:.4f}" for share in shares)])
    naive = _naive(max(20, suite.inputs // 10))
    shares = [float((naive >= -np.log10(rate)).mean()) for rate in RATES]
    page.data["false_alarms"]["taken for uniform"] = dict(zip(map(str, RATES), shares, strict=True))
    rows.append([f"taken for uniform, {LONG} inputs", "99", *(f"{share:.4f}" for share in shares)])
    page.table(["compared with", "n", *(f"rate {rate}" for rate in RATES)], rows)
    repeats = max(11, suite.inputs // 10)
    page.say(
        f"Then {USUAL} inputs without a shift and as many with one as it takes, {PATIENCE} at most; n = 499, rate "
        f"0.001; median over {repeats} streams (90 % quantile). A share of inputs shifted by 4 stands for that share "
        "of untrustworthy inputs, which are detected almost all."
    )
    rows = []
    for shift, share in SHIFTS:
        cells = []
        for name, baseline in (("fit", 0), ("start", BASELINE)):
            delays = _delays(repeats, shift, share, baseline)
            middle, late = (_count(float(np.quantile(delays, q, method="higher"))) for q in (0.5, 0.9))
            page.data.setdefault("delays", {})[f"{shift:g} of {share:g}, {name}"] = [middle, late]
            cells.append(f"{middle} ({late})")
        rows.append([f"{shift:g} standard deviations", f"{share:.0%}", *cells])
    page.table(["shift", "of the inputs", "compared with calibration", f"with its own past, from {BASELINE} on"], rows)
    return page


def _count(inputs: float) -> str:
    return f"> {PATIENCE}" if inputs > PATIENCE else f"{inputs:.0f}"


def _p_values(rng: np.random.Generator, n: int, shifts: Array, ties: int | None = None) -> Array:
    calibration, scores = rng.standard_normal(n), rng.standard_normal(len(shifts)) + shifts
    if ties is not None:
        calibration, scores = np.round(calibration, ties), np.round(scores, ties)
    return (1 + n - np.searchsorted(np.sort(calibration), scores)) / (n + 1)


def _peaks(streams: int, n: int, *, ties: int | None = None, baseline: int = 0) -> Array:
    """The largest log10 of the wealth in each stream."""
    rng, peaks = np.random.default_rng(0), []
    for seed in range(streams):
        p = _p_values(rng, n, np.zeros(LENGTH + baseline), ties)
        peaks.append(Watch(n, baseline=baseline, seed=seed).update(p).peak)
    return np.array(peaks)


def _naive(streams: int) -> Array:
    """The same of a power martingale of the p-values themselves, n = 99."""
    rng, power = np.random.default_rng(0), 0.9
    paths = [np.cumsum(np.log(power * _p_values(rng, 99, np.zeros(LONG)) ** (power - 1))) for _ in range(streams)]
    return np.array([path.max() / np.log(10) for path in paths])


def _delays(repeats: int, shift: float, share: float, baseline: int) -> Array:
    """Inputs from the shift to the alarm in each stream, infinite where it does not come."""
    rng, delays = np.random.default_rng(1), []
    for seed in range(repeats):
        shifts = np.where(rng.random(USUAL + PATIENCE) < share, shift, 0.0)
        shifts[:USUAL] = 0
        p = _p_values(rng, 499, shifts)
        watch = Watch(499, baseline=baseline, seed=seed)
        watch.update(p[:USUAL])
        for start in range(USUAL, len(p), 20):
            if watch.update(p[start : start + 20]).alarm:
                break
        at = watch.state.alarm_at
        delays.append(np.inf if at is None or at <= USUAL else at - USUAL)
    return np.array(delays)
