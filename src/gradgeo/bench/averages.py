"""Means over scenarios: over those of one kind first, then over the kinds.

How many scenarios there are of a kind is the choice of whoever made the benchmark: with three attacks of six a detector
of attacks leads, with ten data sets of twelve it trails. A kind counts once.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

Cells = Mapping[str, Mapping[str, Mapping[str, list[float]]]]
"""Figures as [value, low, high] by method, scenario and name."""

FIGURES = ("auroc", "tnr95")


def means(values: Mapping[str, float], kinds: Mapping[str, str]) -> tuple[float, dict[str, float]]:
    """The mean over kinds of the means over the scenarios of each, and these means.

    Example:
        >>> means({"PGD": 1.0, "FGSM": 0.8, "MNIST": 0.7}, {"PGD": "attack", "FGSM": "attack", "MNIST": "far"})
        (0.8, {'attack': 0.9, 'far': 0.7})
    """
    by_kind: dict[str, list[float]] = {}
    for scenario, value in values.items():
        by_kind.setdefault(kinds.get(scenario, ""), []).append(value)
    each = {kind: float(np.mean(found)) for kind, found in by_kind.items()}
    return float(np.mean(list(each.values()))), each


def summary(cells: Cells, peers: Collection[str], kinds: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Each method's means, worst kind, worst scenario, `best_in` and, where it is no peer, `shortfall`.

    "auroc" and "tnr95" are the means over kinds, "kinds" those of each kind, "by_scenario" the plain means over all
    scenarios. `best_in`: the number of scenarios where its AUROC lies within the interval of the method with the
    highest. `shortfall`: its mean distance from an AUROC of 1 as a share of that of the peer with the highest mean over
    the same scenarios; below 1 is better than every peer. None where no peer has all of them, or one has no distance
    left.
    """
    kinds = kinds or {}
    figures = {
        method: {figure: {scenario: cell[figure][0] for scenario, cell in row.items()} for figure in FIGURES}
        for method, row in cells.items()
        if row
    }
    bars: dict[str, tuple[float, float]] = {}  # scenario: the highest AUROC and the lower end of its interval
    for row in cells.values():
        for scenario, cell in row.items():
            value, low, _ = cell["auroc"]
            bars[scenario] = max(bars.get(scenario, (-1.0, -1.0)), (value, low))
    result = {}
    for method, found in figures.items():
        areas = found["auroc"]
        mean, by_kind = means(areas, kinds)
        caught, caught_by_kind = means(found["tnr95"], kinds)
        rivals = [
            means({scenario: figures[peer]["auroc"][scenario] for scenario in areas}, kinds)[0]
            for peer in peers
            if peer in figures and areas.keys() <= figures[peer]["auroc"].keys()
        ]
        best = max(rivals, default=1.0)
        worst, worst_kind = (min(values, key=values.__getitem__) for values in (areas, by_kind))
        result[method] = {
            "auroc": mean,
            "tnr95": caught,
            "kinds": {kind: {"auroc": value, "tnr95": caught_by_kind[kind]} for kind, value in by_kind.items()},
            "by_scenario": {figure: float(np.mean(list(values.values()))) for figure, values in found.items()},
            "worst_kind": [worst_kind, by_kind[worst_kind]],
            "worst": [worst, areas[worst]],
            "best_in": sum(area >= bars[scenario][1] for scenario, area in areas.items()),
            "shortfall": None if method in peers or best == 1 else (1 - mean) / (1 - best),
        }
    return result
