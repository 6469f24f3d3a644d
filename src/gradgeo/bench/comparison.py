"""Which detector separates trusted from untrustworthy inputs best, from the scores alone: figures, tests and curves.

A column is one kind of untrustworthy input; the same trusted inputs stand against every column. Everything returned
is what `json.dumps` takes.
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

FEWEST = 2  # scores; a column with fewer has no cell
LEVEL = 0.05
BINS = 30
FALSE_POSITIVES = np.arange(101) / 100

Cells = dict[str, dict[str, dict[str, list[float]]]]


@dataclass(frozen=True)
class Scores:
    """Outlier scores of one method, larger = less trustworthy, NaN where it could not judge; (N,) each.

    Every method scores the same inputs in the same order. A column it failed on is left out.
    """

    trusted: Array
    columns: Mapping[str, Array]

    def judged(self) -> dict[str, Array]:
        """The columns with enough scores for a figure."""
        enough = len(self.trusted) >= FEWEST
        return {name: scores for name, scores in self.columns.items() if enough and len(scores) >= FEWEST}


def compare(methods: Mapping[str, Scores], *, ours: str, peers: Collection[str]) -> dict[str, Any]:
    """The parts "cells", "summary", "differences", "curves" and "histograms" of a battery's result.

    `ours` is the method tested against `peers`; any other method has figures and no test.
    """
    if ours not in methods or ours in peers:
        raise expected("ours", f"one of the methods {', '.join(methods)} and not a peer", ours)
    found = cells(methods)
    return {
        "cells": found,
        "summary": summary(found, peers),
        "differences": differences(methods, ours=ours, peers=peers),
        "curves": curves(methods),
        "histograms": histograms(methods),
    }


def cells(methods: Mapping[str, Scores]) -> Cells:
    """AUROC and TNR at 95 % TPR of each method on each column, as [value, low, high]."""
    return {
        method: {
            column: {
                figure: [estimate.value, estimate.low, estimate.high]
                for figure, estimate in (
                    ("auroc", auroc(scores.trusted, outside)),
                    ("tnr95", tnr_at_tpr(scores.trusted, outside)),
                )
            }
            for column, outside in scores.judged().items()
        }
        for method, scores in methods.items()
    }


def summary(cells: Cells, peers: Collection[str]) -> dict[str, dict[str, Any]]:
    """Each method's means, worst column, `best_in` and, where it is no peer, `shortfall`.

    `best_in`: the number of columns where its AUROC lies within the interval of the method with the highest.
    `shortfall`: its mean distance from an AUROC of 1 as a share of that of the peer with the highest mean over the
    same columns; below 1 is better than every peer. None where no peer has all of them, or one has no distance left.
    """
    means = {method: {column: cell["auroc"][0] for column, cell in row.items()} for method, row in cells.items() if row}
    bars: dict[str, tuple[float, float]] = {}  # column: the highest AUROC and the lower end of its interval
    for row in cells.values():
        for column, cell in row.items():
            value, low, _ = cell["auroc"]
            bars[column] = max(bars.get(column, (-1.0, -1.0)), (value, low))
    result = {}
    for method, areas in means.items():
        worst = min(areas, key=areas.__getitem__)
        rivals = [
            float(np.mean([means[peer][column] for column in areas]))
            for peer in peers
            if peer in means and areas.keys() <= means[peer].keys()
        ]
        mean, best = float(np.mean(list(areas.values()))), max(rivals, default=1.0)
        result[method] = {
            "auroc": mean,
            "tnr95": float(np.mean([cell["tnr95"][0] for cell in cells[method].values()])),
            "worst": [worst, areas[worst]],
            "best_in": sum(area >= bars[column][1] for column, area in areas.items()),
            "shortfall": None if method in peers or best == 1 else (1 - mean) / (1 - best),
        }
    return result


def differences(methods: Mapping[str, Scores], *, ours: str, peers: Collection[str]) -> dict[str, dict[str, Any]]:
    """On each column, the AUROC of `ours` less that of the best peer there, and the verdict against all peers.

    The best peer is chosen by the scores it is then tested on, so no verdict rests on it: `ours` is tested against
    EVERY peer on every column (paired DeLong), and Holm's correction over all these column x peer pairs keeps the
    chance of any false verdict in the whole table at 5 %. "loss": some peer is significantly better; "win": `ours` is
    significantly better than every peer; else "tie". `p` is the corrected one of the best peer, while `low` and `high`
    are its 95 % interval, uncorrected: an interval without 0 may stand beside a tie.
    """
    own = methods[ours]
    pairs = {
        (column, peer): auroc_difference(own.trusted, outside, methods[peer].trusted, theirs[column])
        for peer in peers
        if peer in methods
        for theirs in [methods[peer].judged()]
        for column, outside in own.judged().items()
        if column in theirs
    }
    corrected = dict(zip(pairs, holm([pair.p for pair in pairs.values()]), strict=True))
    result: dict[str, dict[str, Any]] = {}
    for column in own.columns:
        rivals = {peer: pair for (name, peer), pair in pairs.items() if name == column}
        if not rivals:
            continue
        peer = min(rivals, key=lambda rival: rivals[rival].value)
        signs = [np.sign(pair.value) * (corrected[column, rival] <= LEVEL) for rival, pair in rivals.items()]
        result[column] = {
            "ours": ours,
            "peer": peer,
            "difference": rivals[peer].value,
            "low": rivals[peer].low,
            "high": rivals[peer].high,
            "p": corrected[column, peer],
            "verdict": "loss" if min(signs) < 0 else "win" if min(signs) > 0 else "tie",
        }
    return result


def curves(methods: Mapping[str, Scores]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """ROC curves at 101 points: the share of trusted inputs flagged and of untrustworthy ones caught."""
    return {
        method: {column: _curve(scores.trusted, outside) for column, outside in scores.judged().items()}
        for method, scores in methods.items()
    }


def histograms(methods: Mapping[str, Scores]) -> dict[str, dict[str, Any]]:
    """Shares of scores in 30 bins from the 0.5 % to the 99.5 % quantile of a method's finite scores.

    Scores outside lie in the end bins, NaN in the last; columns with too few scores for a figure are left out.
    """
    result = {}
    for method, scores in methods.items():
        if judged := scores.judged():
            edges = _edges(np.concatenate([scores.trusted, *judged.values()]))
            result[method] = {
                "edges": edges.tolist(),
                "trusted": _shares(scores.trusted, edges),
                "columns": {column: _shares(outside, edges) for column, outside in judged.items()},
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
