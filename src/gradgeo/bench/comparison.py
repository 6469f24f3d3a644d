"""Which detector separates trusted from untrustworthy inputs best, from the scores alone: figures, tests and curves.

A scenario is one kind of untrustworthy input; the same trusted inputs are compared with every scenario. Everything
returned is ready for `json.dumps`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.metrics import roc_curve

from gradgeo._typing import Array
from gradgeo.errors import expected
from gradgeo.metrics import auroc, auroc_difference, holm, tnr_at_tpr

FEWEST = 2
"""Scores of a scenario; with fewer it has no cell."""
LEVEL = 0.05
"""Of the tests' verdicts."""
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

    def with_figures(self) -> dict[str, Array]:
        """The scenarios with enough scores for a figure."""
        enough = len(self.trusted) >= FEWEST
        return {name: scores for name, scores in self.scenarios.items() if enough and len(scores) >= FEWEST}


def compare(methods: Mapping[str, Scores], *, ours: str, peers: Collection[str]) -> dict[str, Any]:
    """The parts "cells", "summary", "differences", "curves" and "histograms" of a benchmark's result.

    `ours` is the method tested against `peers`; any other method has figures and no test.
    """
    if ours not in methods or ours in peers:
        raise expected("ours", f"one of the methods {', '.join(methods)} and not a peer", ours)
    figures = cells(methods)
    return {
        "cells": figures,
        "summary": summary(figures, peers),
        "differences": differences(methods, ours=ours, peers=peers),
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


def summary(cells: Cells, peers: Collection[str]) -> dict[str, dict[str, Any]]:
    """Each method's means, worst scenario, `best_in` and, where it is no peer, `shortfall`.

    `best_in`: the number of scenarios where its AUROC lies within the interval of the method with the highest.
    `shortfall`: its mean distance from an AUROC of 1 as a share of that of the peer with the highest mean over the
    same scenarios; below 1 is better than every peer. None where no peer has all of them, or one has no distance left.
    """
    means = {
        method: {scenario: cell["auroc"][0] for scenario, cell in row.items()} for method, row in cells.items() if row
    }
    bars: dict[str, tuple[float, float]] = {}  # scenario: the highest AUROC and the lower end of its interval
    for row in cells.values():
        for scenario, cell in row.items():
            value, low, _ = cell["auroc"]
            bars[scenario] = max(bars.get(scenario, (-1.0, -1.0)), (value, low))
    result = {}
    for method, areas in means.items():
        worst = min(areas, key=areas.__getitem__)
        rivals = [
            float(np.mean([means[peer][scenario] for scenario in areas]))
            for peer in peers
            if peer in means and areas.keys() <= means[peer].keys()
        ]
        mean, best = float(np.mean(list(areas.values()))), max(rivals, default=1.0)
        result[method] = {
            "auroc": mean,
            "tnr95": float(np.mean([cell["tnr95"][0] for cell in cells[method].values()])),
            "worst": [worst, areas[worst]],
            "best_in": sum(area >= bars[scenario][1] for scenario, area in areas.items()),
            "shortfall": None if method in peers or best == 1 else (1 - mean) / (1 - best),
        }
    return result


def differences(methods: Mapping[str, Scores], *, ours: str, peers: Collection[str]) -> dict[str, dict[str, Any]]:
    """On each scenario, the AUROC of `ours` less that of the best peer there, and the verdict against all peers.

    The best peer is chosen by the scores it is then tested on, so no verdict rests on it: `ours` is tested against
    EVERY peer on every scenario (paired DeLong), and Holm's correction over all these scenario x peer pairs keeps the
    chance of any false verdict in the whole table at 5 %. "loss": some peer is significantly better; "win": `ours` is
    significantly better than every peer; else "tie". `p` is the corrected one of the best peer, while `low` and `high`
    are its 95 % interval, uncorrected: an interval without 0 may stand beside a tie.
    """
    mine = methods[ours]
    pairs = {
        (scenario, peer): auroc_difference(mine.trusted, outside, methods[peer].trusted, theirs[scenario])
        for peer in peers
        if peer in methods
        for theirs in [methods[peer].with_figures()]
        for scenario, outside in mine.with_figures().items()
        if scenario in theirs
    }
    corrected = dict(zip(pairs, holm([pair.p for pair in pairs.values()]), strict=True))
    result: dict[str, dict[str, Any]] = {}
    for scenario in mine.scenarios:
        rivals = {peer: pair for (name, peer), pair in pairs.items() if name == scenario}
        if not rivals:
            continue
        peer = min(rivals, key=lambda rival: rivals[rival].value)
        signs = [np.sign(pair.value) * (corrected[scenario, rival] <= LEVEL) for rival, pair in rivals.items()]
        result[scenario] = {
            "ours": ours,
            "peer": peer,
            "difference": rivals[peer].value,
            "low": rivals[peer].low,
            "high": rivals[peer].high,
            "p": corrected[scenario, peer],
            "verdict": "loss" if min(signs) < 0 else "win" if min(signs) > 0 else "tie",
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
