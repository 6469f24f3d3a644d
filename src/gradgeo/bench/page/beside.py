"""What the page shows beside quality: cost, the causes that flags name, and outliers made from trusted inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gradgeo.bench.causes import NAMES
from gradgeo.bench.cost import front
from gradgeo.bench.page.results import ModelResults
from gradgeo.bench.page.words import KINDS
from gradgeo.report.html.numbers import NONE, number, percent

COST = (
    "Process time of a verdict over that of the plain classifier on the same batch, in turns in one run: the median "
    "and its range. Fit: process time by trusted input. Memory: what a batch of 64 takes at most above what was held "
    "before. Best at its cost: no method that costs as little, or less, has a higher mean AUROC."
)
CAUSES = (
    "Of the inputs of a kind how many are flagged at the detector's alpha, and what the flag says of these, in %. "
    "“none”: flagged without a cause, as by evidence that does not answer the questions that causes rest on."
)
MADE = (
    "AUROC on outliers made from trusted inputs alone (of the fit part, left out of a further fit), by family, beside "
    "the mean over the scenarios. Regret: how far below the best the method stays that the made outliers would choose, "
    "in points."
)
FAMILIES = {
    "mixed": "mixed",
    "noise": "noise",
    "level": "level",
    "structure": "structure",
    "attack": "attacked",
}
"""Of made outliers, in the order of the page."""


@dataclass(frozen=True)
class Section:
    """A heading, what a reader must know, and a table of text."""

    title: str
    note: str
    heading: tuple[str, ...]
    rows: list[list[str]]
    texts: int = 1
    """How many of the first columns are names; the others are numbers."""
    is_cost: bool = False
    """Whether the picture of quality against cost belongs to it."""


def sections(run: ModelResults) -> list[Section]:
    """Those of a model that hold anything: former results hold none."""
    return [section for section in (_cost(run), _causes(run), _made(run)) if section.rows]


def quality_at_cost(run: ModelResults) -> dict[str, tuple[float, float]]:
    """The cost of a batch of 64 and the mean AUROC, of the methods that have both."""
    found = {}
    for name, facts in run.methods.items():
        cost, area = (facts.get("cost") or {}).get("n64"), run.summary.get(name, {}).get("auroc")
        if cost is not None and area is not None:
            found[name] = (float(cost), float(area))
    return found


def _cost(run: ModelResults) -> Section:
    points = quality_at_cost(run)
    best = front(points)
    rows = []
    for name in sorted(run.methods, key=lambda name: points.get(name, (float("inf"), 0.0))[0]):
        found = run.methods[name].get("cost")
        if found:
            times = [_times(found.get(size), found.get(f"{size}_range")) for size in ("n64", "n1")]
            others = [_short(found.get(figure)) for figure in ("fit_ms_per_input", "peak_mib")]
            rows.append([name, percent(run.summary.get(name, {}).get("auroc")), *times, *others, _mark(name in best)])
    heading = ("Method", "AUROC", "N 64, ×", "N 1, ×", "fit, ms per input", "memory, MiB", "best at its cost")
    return Section("Cost", COST, heading, rows, is_cost=True)


def _causes(run: ModelResults) -> Section:
    rows = []
    for method, found in run.causes.items():
        kinds = found["kinds"]
        for kind in ["trusted", *KINDS, *(kind for kind in kinds if kind not in (*KINDS, "trusted"))]:
            if kind in kinds and kinds[kind].keys() >= {*NAMES}:  # of causes that had other names, nothing is shown
                counts = kinds[kind]
                named = [percent(counts[name] / counts["flagged"]) if counts["flagged"] else NONE for name in NAMES]
                flagged = f"{number(counts['flagged'])} of {number(counts['inputs'])}"
                rows.append([method, KINDS.get(kind, kind), flagged, *named])
    return Section("Causes", CAUSES, ("Method", "inputs are", "flagged", *NAMES), rows, texts=2)


def _made(run: ModelResults) -> Section:
    methods: Mapping[str, Any] = run.made_outliers.get("methods", {})
    families = [family for family in FAMILIES if any(family in found["families"] for found in methods.values())]
    rows = [
        [
            name,
            percent(found["auroc"]),
            *(percent(found["families"].get(family)) for family in families),
            percent(run.summary.get(name, {}).get("auroc")),
        ]
        for name, found in sorted(methods.items(), key=lambda pair: -pair[1]["auroc"])
    ]
    told = [_told(label, found) for label, found in run.made_outliers.get("agreement", {}).items()]
    heading = ("Method", "made outliers", *(FAMILIES[family] for family in families), "scenarios")
    return Section("Outliers made from trusted inputs", " ".join([MADE, *told]), heading, rows)


def _told(label: str, found: Mapping[str, Any]) -> str:
    """How made outliers and scenarios agree, in words."""
    among = {"all": "Of all methods", "peers": "Of the peers"}[label]
    told = (
        f"{among} made outliers choose {found['chosen']}, which has {percent(found['reaches'])} on the scenarios; the "
        f"best there, {found['best']}, has {percent(found['best_reaches'])}: a regret of {percent(found['regret'])}."
    )
    if found["rank_correlation"] is None:
        return told
    kinds = [f"{KINDS.get(kind, kind)} {_two(value)}" for kind, value in found["by_kind"].items()]
    families = [
        f"{FAMILIES.get(family, family)} {_two(entry['rank_correlation'])} (regret {percent(entry['regret'])})"
        for family, entry in found["by_family"].items()
    ]
    return (
        f"{told} Rank correlation {_two(found['rank_correlation'])}; with the scenarios of a kind: {', '.join(kinds)}; "
        f"of a family of made outliers: {', '.join(families)}."
    )


def _times(value: float | None, within: list[float] | None) -> str:
    if value is None:
        return NONE
    low, high = within or (None, None)
    return _short(value) + ("" if low is None or high is None else f" [{_short(low)}, {_short(high)}]")


def _short(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.3g}"


def _two(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}".replace("-", "−")


def _mark(is_best: bool) -> str:
    return "yes" if is_best else ""
