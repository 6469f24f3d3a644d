"""Which detector separates trusted from untrustworthy inputs best, from the scores alone: figures, tests and curves.

A scenario is one way of going wrong, of a kind such as "attack"; the same trusted inputs are compared with every
scenario. Everything returned is ready for `json.dumps`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.metrics import roc_curve

from gradgeo._typing import Array
from gradgeo.bench.averages import means, summary
from gradgeo.bench.verdicts import VERDICTS, FromBest, from_best, verdict
from gradgeo.errors import expected
from gradgeo.metrics import augrc, aurc, auroc, holm, placements, risk_coverage, tnr_at_tpr

FEWEST = 2
"""Scores of a scenario; with fewer it has no cell."""
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Shares of the inputs kept at which the share of mistakes among them is read."""
BINS = 30
"""Of the histograms."""
FALSE_POSITIVES = np.arange(101) / 100
"""Where ROC curves are read."""

Cells = dict[str, dict[str, dict[str, list[float]]]]


@dataclass(frozen=True)
class Scores:
    """Outlier scores of one method, larger = less trustworthy, NaN where it has none; (N,) each.

    Every method scores the same inputs in the same order. A scenario it failed on is left out.
    """

    trusted: Array
    scenarios: Mapping[str, Array]
    refits: tuple["Scores", ...] = ()
    """Of the method fitted on other halves of the fit inputs, on the first of the same inputs."""

    def with_figures(self) -> dict[str, Array]:
        """The scenarios with enough scores for a figure."""
        enough = len(self.trusted) >= FEWEST
        return {name: scores for name, scores in self.scenarios.items() if enough and len(scores) >= FEWEST}


def compare(
    methods: Mapping[str, Scores],
    *,
    ours: str,
    peers: Collection[str],
    kinds: Mapping[str, str] | None = None,
    accuracy: float | None = None,
) -> dict[str, Any]:
    """The parts "cells", "summary", "differences", "tallies", "mistakes", "curves" and "histograms" of a result.

    Args:
        methods: the scores of each method.
        ours: the method whose tests against `peers` are given in full; others that are no peers have tallies.
        peers: methods of others.
        kinds: the kind of each scenario; means are taken over the scenarios of a kind first.
        accuracy: of the classifier, which the risk that mistakes leave depends on; None where it is not known.
    """
    if ours not in methods or ours in peers:
        raise expected("ours", f"one of the methods {', '.join(methods)} and not a peer", ours)
    own = {name: differences(methods, ours=name, peers=peers) for name in methods if name not in peers}
    return {
        **described(methods, peers=peers, kinds=kinds, accuracy=accuracy),
        "differences": own[ours],
        "tallies": {name: tally(rows) for name, rows in own.items() if rows},
    }


def described(
    methods: Mapping[str, Scores],
    *,
    peers: Collection[str],
    kinds: Mapping[str, str] | None = None,
    accuracy: float | None = None,
) -> dict[str, Any]:
    """What `compare` gives but for the tests."""
    figures, kinds = cells(methods), kinds or {}
    about = summary(figures, peers, kinds)
    for name, interval in intervals(methods, kinds).items():
        about[name] |= interval
    return {
        "cells": figures,
        "summary": about,
        "mistakes": mistakes(methods, [name for name, kind in kinds.items() if kind == "mistake"], accuracy),
        "curves": curves(methods),
        "histograms": histograms(methods),
    }


def cells(methods: Mapping[str, Scores]) -> Cells:
    """AUROC and TNR at 95 % TPR of each method on each scenario, as [value, low, high]."""
    return {
        method: {
            scenario: {
                figure: [estimate.value, estimate.low, estimate.high]
                for figure, estimate in (
                    ("auroc", auroc(scores.trusted, outside)),
                    ("tnr95", tnr_at_tpr(scores.trusted, outside)),
                )
            }
            for scenario, outside in scores.with_figures().items()
        }
        for method, scores in methods.items()
    }


def intervals(methods: Mapping[str, Scores], kinds: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The 95 % interval of each method's mean AUROC over inputs and, with refits, over fits.

    The variance over inputs is DeLong's for the weighted sum of areas, which a bootstrap of the inputs tends to. The
    trusted inputs serve every scenario; the scenarios of a kind are taken to be made of the same inputs, as attacks
    are, which makes the interval a little wide where they are not. The variance over fits is that over the refits'
    means, each of a detector fitted on a random half of the fit inputs (`verdicts.from_best`).
    """
    result: dict[str, dict[str, Any]] = {}
    for method, scores in methods.items():
        outside = scores.with_figures()
        if not outside:
            continue
        weights = _weights(outside, kinds)
        shared, own = np.zeros(len(scores.trusted)), dict[str, float]()  # of trusted inputs (N,); of each kind
        for scenario, weight in weights.items():
            above, below = placements(scores.trusted, outside[scenario])
            shared += weight * above
            kind = kinds.get(scenario, "")
            own[kind] = own.get(kind, 0) + weight * float(np.std(below, ddof=1)) / len(below) ** 0.5
        over_inputs = float(np.var(shared, ddof=1)) / len(shared) + sum(error**2 for error in own.values())
        over_fits, freedom = _over_fits(scores.refits, weights)
        variance = over_inputs + over_fits
        if over_fits:
            freedom = variance**2 / (over_fits**2 / freedom + over_inputs**2 / (len(shared) - 1))
        half = float(stats.t.ppf(0.975, freedom)) * variance**0.5
        mean = sum(weight * auroc(scores.trusted, outside[name]).value for name, weight in weights.items())
        result[method] = {
            "interval": [max(0.0, mean - half), min(1.0, mean + half)],
            "error_over_inputs": over_inputs**0.5,
            "error_over_fits": over_fits**0.5 if scores.refits else None,
            "fits": 1 + len(scores.refits),
        }
    return result


def _weights(outside: Mapping[str, Array], kinds: Mapping[str, str]) -> dict[str, float]:
    """Of each scenario in the mean over kinds of the means over scenarios."""
    return {scenario: means({each: float(each == scenario) for each in outside}, kinds)[0] for scenario in outside}


def _over_fits(refits: tuple[Scores, ...], weights: Mapping[str, float]) -> tuple[float, float]:
    """The variance over fits of a mean, and its degrees of freedom; 0 without two fits that have its scenarios."""
    whole = [fit for fit in refits if weights.keys() <= fit.with_figures().keys()]
    found = [
        sum(weight * auroc(fit.trusted, fit.scenarios[name]).value for name, weight in weights.items()) for fit in whole
    ]
    return (float(np.var(found, ddof=1)), len(found) - 1) if len(found) > 1 else (0.0, np.inf)


def differences(methods: Mapping[str, Scores], *, ours: str, peers: Collection[str]) -> dict[str, dict[str, Any]]:
    """On each scenario, the AUROC of `ours` less that of the best peer there, its 95 % interval and the verdict.

    The tests and intervals are those of `verdicts`, which account for the choice of the best peer, and for the fits
    where there are refits. `p` is corrected over the scenarios by Holm, so that the chance of any false verdict among
    those of this classifier is at most 5 %. "won": ours is better than every peer; "lost": some peer is better; else
    "not told apart". "alone" is the verdict of the scenario's own interval, without that correction: where it says
    more than "verdict", more inputs may decide. "of_fit" is the verdict over inputs, of the fits in hand: where it says
    more, more fits may decide, as five of them know little of how they vary.
    """
    mine = methods[ours]
    found: dict[str, tuple[str, FromBest, FromBest]] = {}  # the best peer; over inputs and fits; over inputs alone
    for scenario, outside in mine.with_figures().items():
        rivals = [peer for peer in peers if peer in methods and scenario in methods[peer].with_figures()]
        if rivals:
            theirs = [(methods[peer].trusted, methods[peer].scenarios[scenario]) for peer in rivals]
            refits = _refits(mine, [methods[peer] for peer in rivals], scenario)
            of_fit = from_best((mine.trusted, outside), theirs)
            standing = from_best((mine.trusted, outside), theirs, refits) if refits else of_fit
            found[scenario] = rivals[standing.best], standing, of_fit
    corrected = holm([standing.p for _, standing, _ in found.values()])
    of_fits = holm([of_fit.p for _, _, of_fit in found.values()])
    return {
        scenario: {
            "ours": ours,
            "peer": peer,
            "difference": standing.value,
            "low": standing.low,
            "high": standing.high,
            "p": p,
            "verdict": verdict(p, standing.low, standing.high),
            "alone": standing.verdict,
            "of_fit": verdict(p_of_fit, of_fit.low, of_fit.high),
        }
        for (scenario, (peer, standing, of_fit)), p, p_of_fit in zip(found.items(), corrected, of_fits, strict=True)
    }


def tally(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The scenarios of `differences` by verdict."""
    return {name: [scenario for scenario, row in rows.items() if row["verdict"] == name] for name in VERDICTS}


def _refits(mine: Scores, theirs: list[Scores], scenario: str) -> list[tuple[Any, list[Any]]]:
    """The scores of the refits that all methods have."""
    pairs = []
    for fits in zip(*(scores.refits for scores in (mine, *theirs)), strict=False):
        if all(scenario in fit.with_figures() for fit in fits):
            own, *others = [(fit.trusted, fit.scenarios[scenario]) for fit in fits]
            pairs.append((own, others))
    return pairs


def mistakes(
    methods: Mapping[str, Scores], scenarios: Collection[str], accuracy: float | None
) -> dict[str, dict[str, dict[str, Any]]]:
    """What is left of the mistakes when each method puts the least trusted inputs aside: AUGRC, AURC, risk.

    "risk" is the share of mistakes among the inputs kept, at each of `COVERAGES`; nothing where no accuracy is known.
    """
    if accuracy is None or not 0 < accuracy < 1:
        return {}
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for method, scores in methods.items():
        for scenario, outside in scores.with_figures().items():
            if scenario in scenarios:
                whole = augrc(scores.trusted, outside, accuracy=accuracy)
                risk, coverage = risk_coverage(scores.trusted, outside, accuracy=accuracy)
                result.setdefault(method, {})[scenario] = {
                    "augrc": [whole.value, whole.low, whole.high],
                    "aurc": aurc(scores.trusted, outside, accuracy=accuracy),
                    "risk": np.interp(COVERAGES, coverage, risk).tolist(),
                }
    return result


def curves(methods: Mapping[str, Scores]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """ROC curves at 101 points: the share of trusted inputs flagged and of untrustworthy ones caught."""
    return {
        method: {scenario: _curve(scores.trusted, outside) for scenario, outside in scores.with_figures().items()}
        for method, scores in methods.items()
    }


def histograms(methods: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
    """Shares of scores in 30 bins from the 0.5 % to the 99.5 % quantile of a method's finite scores.

    Scores outside lie in the end bins, NaN in the last; scenarios with too few scores for a figure are left out.
    """
    result = {}
    for method, scores in methods.items():
        if scenarios := scores.with_figures():
            edges = _edges(np.concatenate([scores.trusted, *scenarios.values()]))
            result[method] = {
                "edges": edges.tolist(),
                "trusted": _shares(scores.trusted, edges),
                "columns": {scenario: _shares(outside, edges) for scenario, outside in scenarios.items()},
            }
    return result


def _curve(trusted: Array, untrustworthy: Array) -> dict[str, list[float]]:
    # Ranks: scikit-learn takes neither NaN nor infinite scores.
    scores = np.r_[trusted, untrustworthy]
    ranks = stats.rankdata(np.where(np.isnan(scores), np.inf, scores))
    truth = np.r_[np.zeros(len(trusted)), np.ones(len(untrustworthy))]
    false_positives, true_positives, _ = roc_curve(truth, ranks)
    caught = np.interp(FALSE_POSITIVES, false_positives, true_positives)
    return {"fpr": FALSE_POSITIVES.tolist(), "tpr": caught.round(4).tolist()}


def _edges(scores: Array) -> Array:
    finite = scores[np.isfinite(scores)]
    if not len(finite):
        return np.linspace(0, 1, BINS + 1)
    low, high = np.quantile(finite, [0.005, 0.995], method="nearest")
    if low == high:
        low, high = low - 0.5, high + 0.5
    at = np.linspace(0, 1, BINS + 1)
    return np.asarray((1 - at) * low + at * high)  # high - low may overflow


def _shares(scores: ArrayLike, edges: Array) -> list[float]:
    values = np.asarray(scores, np.float64)
    counts = np.bincount(np.searchsorted(edges[1:-1], values, "right"), minlength=BINS)  # NaN sorts last
    return [float(share) for share in (counts / len(values)).round(4)]
