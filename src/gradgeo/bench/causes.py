"""The cause that a flag names against what the input is: how often each name is right."""

from collections import Counter
from collections.abc import Mapping

from gradgeo._typing import Array
from gradgeo.bench.shared_passes import TRUSTED, UNNAMED
from gradgeo.detector.weighing import CAUSES

NONE = "none"
"""Where a flag names no cause."""

NAMES = (*CAUSES, NONE)


def table(causes: Mapping[str, Array], kinds: Mapping[str, str], trusted: str) -> dict[str, dict[str, dict[str, int]]]:
    """The parts "kinds" and "columns": of the inputs of each kind, and of each scenario, how many there are ("inputs"),
    how many of them are flagged, and how many of these are said to be of each cause of `NAMES`.

    Args:
        causes: by scenario what `shared_passes.named_causes` gives (N,).
        kinds: the kind of each scenario.
        trusted: the scenario of trusted inputs, which is a kind of its own.
    """
    columns = {scenario: _counts(named) for scenario, named in causes.items()}
    by_kind: dict[str, Counter[str]] = {}
    for scenario, counts in columns.items():
        kind = trusted if scenario == trusted else kinds.get(scenario, "")
        by_kind.setdefault(kind, Counter()).update(counts)
    return {"kinds": {kind: dict(counts) for kind, counts in by_kind.items()}, "columns": columns}


def _counts(named: Array) -> dict[str, int]:
    by_name = {name: int((named == i).sum()) for i, name in enumerate(CAUSES)}
    none = int((named == UNNAMED).sum())
    return {"inputs": len(named), "flagged": int((named != TRUSTED).sum()), **by_name, NONE: none}
