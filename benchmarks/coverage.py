"""Whether the stated 95 % intervals hold the true value 95 times in 100, and verdicts are as rarely false as stated."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo._typing import Array
from gradgeo.bench.comparison import Scores, differences, intervals
from gradgeo.bench.verdicts import LEVEL
from gradgeo.metrics import Difference, Estimate, auroc, auroc_difference, holm, tnr_at_tpr, tnr_difference

AREAS = (0.6, 0.9, 0.99)
SIZES = ((30, 30), (100, 100), (1000, 100), (1000, 1000))
SIMULATIONS = 1000
BATTERIES = 400
POWER_BATTERIES = 100
SMALL = 100  # inputs in either group, below which the coverage is reported and not promised
FIGURES = ("AUROC", "TNR95", "AUROC difference", "TNR95 difference")

MEAN_KINDS, MEAN_SCENARIOS, MEAN_SIZES = 3, 4, (200, 100)
"""Kinds of a mean, scenarios of each, and the inputs: trusted ones, and those of a scenario."""

FIT_SPREAD = 0.1
"""Standard deviation by which a fit moves all of its scores of untrustworthy inputs, where fits differ."""

_SHARED = 0.5  # correlation of two detectors' scores of one input
_STEP = 0.5  # of the discrete scores, in standard deviations
_BOUNDARIES = np.r_[-np.inf, (np.arange(-20, 30) + 0.5) * _STEP, np.inf]


@dataclass(frozen=True)
class Distribution:
    """Scores drawn from normal numbers z, and the AUROC and TNR at 95 % TPR of their distributions."""

    trusted: Callable[[Array], Array]
    untrustworthy: Callable[[Array, float], Array]
    truth: Callable[[float], tuple[float, float]]


def _shift(area: float) -> float:
    return float(special.ndtri(area) * np.sqrt(2))


def _exponential(z: Array) -> Array:
    return np.asarray(-special.log_ndtr(-z))


def _discrete_truth(area: float) -> tuple[float, float]:
    inside, outside = (np.diff(special.ndtr(_BOUNDARIES - shift)) for shift in (0, _shift(area)))
    threshold = np.argmax(inside.cumsum() >= 0.95)
    return float(outside @ (inside.cumsum() - inside / 2)), float(outside[threshold + 1 :].sum())


DISTRIBUTIONS = {
    "binormal": Distribution(
        lambda z: z,
        lambda z, area: z + _shift(area),
        lambda area: (area, float(special.ndtr(_shift(area) - special.ndtri(0.95)))),
    ),
    "skewed": Distribution(
        _exponential,
        lambda z, area: _exponential(z) * area / (1 - area),
        lambda area: (area, float(0.05 ** ((1 - area) / area))),
    ),
    "discrete": Distribution(
        lambda z: np.round(z / _STEP),
        lambda z, area: np.round((z + _shift(area)) / _STEP),
        _discrete_truth,
    ),
}
"""Two normal distributions; two exponential ones, where a few untrustworthy inputs look trusted; ties."""


def run(_: Suite) -> Page:
    """Coverage by distribution, AUROC and size, and the share of batteries with a false verdict."""
    page = Page("Coverage of the stated 95 % intervals")
    page.say(
        f"{SIMULATIONS} simulations a row: the share, in %, in which the interval holds the true value, which is known "
        "in closed form (simulation error -+1.4). binormal: two normal distributions; skewed: two exponential ones; "
        f"discrete: normal scores rounded to {_STEP:g} standard deviations (AUROC before rounding), with ties. The "
        f"differences are to a second detector with 0.8 of the separation whose scores correlate by {_SHARED:g}."
    )
    rows: list[list[str]] = []
    page.data["rows"] = []
    for name, distribution in DISTRIBUTIONS.items():
        for area in AREAS:
            for n, m in SIZES:
                held = coverage(distribution, area, n, m, simulations=SIMULATIONS)
                page.data["rows"].append({"scores": name, "auroc": area, "trusted": n, "untrustworthy": m, **held})
                rows.append([name, f"{area:g}", str(n), str(m), *(f"{100 * held[figure]:.1f}" for figure in FIGURES)])
    page.table(["scores", "AUROC", "trusted", "untrustworthy", *FIGURES], rows)
    page.say(_finding(page))
    held = {
        f"{words}, {f'{1 + refits} fits' if refits else 'one fit'}": mean_coverage(same, refits, SIMULATIONS)
        for words, same in (("made of the same inputs", True), ("of other inputs each", False))
        for refits in (0, 5)
    }
    page.data["means"] = held
    page.say(
        f"The mean over {MEAN_KINDS} kinds of {MEAN_SCENARIOS} scenarios each ({MEAN_SIZES[1]} inputs a scenario, "
        f"{MEAN_SIZES[0]} trusted, AUROC 0.7 to 0.99), the scenarios of a kind "
        + "; ".join(f"{words} {100 * share:.1f}" for words, share in held.items())
        + f". With several fits each moves its scores by a normal number of standard deviation {FIT_SPREAD:g}, and the "
        "true value is the mean over fits."
    )
    false, verdicts = false_verdicts(BATTERIES)
    allowed = float(stats.binom.ppf(0.975, BATTERIES, 0.05)) / BATTERIES
    page.data["false_verdicts"] = {"batteries": BATTERIES, "share": false, "allowed": allowed, "verdicts": verdicts}
    page.say(
        f"False verdicts: {BATTERIES} batteries of 17 scenarios (10 to 300 inputs against 300 trusted ones, AUROC 0.6 "
        f"to 0.99) in which our detector and ten peers are equally good. {false:.1%} of them had any win or loss; "
        f"5 % is stated, up to {allowed:.1%} is within simulation error."
    )
    found = losses_found(POWER_BATTERIES)
    page.data["losses_found"] = {"batteries": POWER_BATTERIES, **found}
    page.say(
        f"Losses found: {POWER_BATTERIES} batteries of 12 scenarios (200 inputs against 300 trusted ones) in which one "
        "of ten peers has an AUROC of 0.90 and all other methods 0.85. Said to be lost, of these scenarios: "
        + "; ".join(f"{rule} {share:.1%}" for rule, share in found.items())
        + "."
    )
    return page


def coverage(
    distribution: Distribution, area: float, n: int, m: int, *, simulations: int, resamples: int = 400
) -> dict[str, float]:
    """The share of simulations in which each interval holds the true value, by figure."""
    rng = np.random.default_rng(0)
    second = float(special.ndtr(0.8 * special.ndtri(area)))
    (area_a, caught_a), (area_b, caught_b) = distribution.truth(area), distribution.truth(second)
    truths = (area_a, caught_a, area_a - area_b, caught_a - caught_b)
    held = np.zeros(len(FIGURES))
    for _ in range(simulations):
        (inside_a, inside_b), (outside_a, outside_b) = (_alike(rng, 2, size) for size in (n, m))
        a = distribution.trusted(inside_a), distribution.untrustworthy(outside_a, area)
        b = distribution.trusted(inside_b), distribution.untrustworthy(outside_b, second)
        intervals: list[Estimate | Difference] = [
            auroc(*a),
            tnr_at_tpr(*a, resamples=resamples),
            auroc_difference(*a, *b),
            tnr_difference(*a, *b, resamples=resamples),
        ]
        held += [
            interval.low - 1e-12 <= truth <= interval.high + 1e-12
            for interval, truth in zip(intervals, truths, strict=True)
        ]
    return dict(zip(FIGURES, (held / simulations).tolist(), strict=True))


def mean_coverage(same_inputs: bool, refits: int, simulations: int) -> float:
    """The share of simulations in which the interval of a mean over kinds holds the true value.

    Args:
        same_inputs: whether the scenarios of a kind are made of the same inputs, whose scores then correlate.
        refits: further fits, which move all scores of untrustworthy inputs; none for a fit that is given.
    """
    rng, (trusted, size) = np.random.default_rng(0), MEAN_SIZES
    shifts = np.array([_shift(area) for area in np.linspace(0.7, 0.99, MEAN_KINDS * MEAN_SCENARIOS)])
    spread = FIT_SPREAD if refits else 0.0
    truth = float(special.ndtr(shifts / np.sqrt(2 + spread**2)).mean())
    kinds = {str(i): str(i % MEAN_KINDS) for i in range(len(shifts))}

    def fit(inside: Array, outside: list[Array]) -> Scores:
        moved = spread * rng.standard_normal()
        scenarios = {str(i): z + shift + moved for i, (z, shift) in enumerate(zip(outside, shifts, strict=True))}
        return Scores(inside, scenarios)

    held = 0
    for _ in range(simulations):
        by_kind = [_alike(rng, MEAN_SCENARIOS, size) for _ in range(MEAN_KINDS)]
        outside = [
            by_kind[i % MEAN_KINDS][i // MEAN_KINDS] if same_inputs else rng.standard_normal(size)
            for i in range(len(shifts))
        ]
        inside = rng.standard_normal(trusted)
        whole = replace(fit(inside, outside), refits=tuple(fit(inside, outside) for _ in range(refits)))
        low, high = intervals({"ours": whole}, kinds)["ours"]["interval"]
        held += low <= truth <= high
    return held / simulations


def false_verdicts(batteries: int, *, peers: int = 10, scenarios: int = 17, trusted: int = 300) -> tuple[float, int]:
    """The share of batteries with any win or loss where no method is better than another, and the number of these."""
    rng = np.random.default_rng(0)
    sizes = np.resize([10, 30, 100, 300], scenarios)
    areas = np.linspace(0.6, 0.99, scenarios)[:, None].repeat(peers + 1, 1)
    decided = []
    for _ in range(batteries):
        methods = _battery(rng, areas, sizes, trusted)
        verdicts = differences(methods, ours="0", peers=list(methods)[1:])
        decided.append(sum(scenario["verdict"] != "not told apart" for scenario in verdicts.values()))
    return float(np.mean(np.array(decided) > 0)), sum(decided)


def losses_found(
    batteries: int, *, peers: int = 10, scenarios: int = 12, size: int = 200, trusted: int = 300
) -> dict[str, float]:
    """The share of scenarios said to be lost, by rule, where one peer is better and all other methods are equal.

    "all pairs": ours against every peer on every scenario, Holm over all these tests. "halves": the best peer on one
    half of the inputs, tested on the other, Holm over the scenarios.
    """
    rng = np.random.default_rng(0)
    areas = np.full((scenarios, peers + 1), 0.85)
    areas[:, 1] = 0.9
    lost = {"against the best (ours)": 0, "all pairs": 0, "halves": 0}
    for _ in range(batteries):
        methods = _battery(rng, areas, np.full(scenarios, size), trusted)
        rivals = list(methods)[1:]
        verdicts = differences(methods, ours="0", peers=rivals)
        lost["against the best (ours)"] += sum(scenario["verdict"] == "lost" for scenario in verdicts.values())
        lost["all pairs"] += _lost_by_all_pairs(methods, rivals)
        lost["halves"] += _lost_by_halves(methods, rivals)
    return {rule: count / batteries / scenarios for rule, count in lost.items()}


def _lost_by_all_pairs(methods: dict[str, Scores], rivals: list[str]) -> int:
    pairs = [(name, rival) for name in methods["0"].scenarios for rival in rivals]
    tests = [_difference(methods["0"], methods[rival], name) for name, rival in pairs]
    corrected = holm([test.p for test in tests])
    return len(
        {pair[0] for pair, test, p in zip(pairs, tests, corrected, strict=True) if p <= LEVEL and test.value < 0}
    )


def _lost_by_halves(methods: dict[str, Scores], rivals: list[str]) -> int:
    tests = []
    for name in methods["0"].scenarios:
        first, second = (
            {each: _every_second(scores, name, start) for each, scores in methods.items()} for start in (0, 1)
        )
        best = max(rivals, key=lambda rival: auroc(first[rival].trusted, first[rival].scenarios[name]).value)
        tests.append(_difference(second["0"], second[best], name))
    corrected = holm([test.p for test in tests])
    return sum(p <= LEVEL and test.value < 0 for test, p in zip(tests, corrected, strict=True))


def _every_second(scores: Scores, name: str, start: int) -> Scores:
    return Scores(scores.trusted[start::2], {name: scores.scenarios[name][start::2]})


def _difference(ours: Scores, theirs: Scores, name: str) -> Difference:
    return auroc_difference(ours.trusted, ours.scenarios[name], theirs.trusted, theirs.scenarios[name])


def _battery(rng: np.random.Generator, areas: Array, sizes: Array, trusted: int) -> dict[str, Scores]:
    """Methods with these true areas (scenarios, methods), by the names "0", "1", ..."""
    inside = _alike(rng, areas.shape[1], trusted)
    outside = [
        _alike(rng, areas.shape[1], size) + np.array([_shift(area) for area in row])[:, None]
        for size, row in zip(sizes, areas, strict=True)
    ]
    return {
        str(i): Scores(own, {str(j): scenario[i] for j, scenario in enumerate(outside)}) for i, own in enumerate(inside)
    }


def _alike(rng: np.random.Generator, detectors: int, inputs: int) -> Array:
    """Normal scores of the same inputs by several detectors, (detectors, inputs)."""
    shared, own = rng.standard_normal(inputs), rng.standard_normal((detectors, inputs))
    return np.asarray(np.sqrt(_SHARED) * shared + np.sqrt(1 - _SHARED) * own)


def _finding(page: Page) -> str:
    parts = []
    for which, keep in ((f"at least {SMALL}", True), ("fewer", False)):
        rows = [row for row in page.data["rows"] if (min(row["trusted"], row["untrustworthy"]) >= SMALL) == keep]
        ranges = (
            f"{figure} {100 * min(row[figure] for row in rows):.1f} to {100 * max(row[figure] for row in rows):.1f}"
            for figure in FIGURES
        )
        parts.append(f"with {which} inputs in each group, {', '.join(ranges)}")
    return f"Coverage from the least to the greatest, in %: {'; '.join(parts)}. Above 95: wider than need be."
