"""The results of the benchmark on one model, as its pages need them."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from gradgeo.bench.page.words import CAUSES, FEW, FIGURES, FLAGGED, FORMER, KINDS, STEPS, VERDICTS
from gradgeo.errors import expected
from gradgeo.report.html.numbers import NONE, interval, number, percent

Results = dict[str, Any]
Runs = Results | Sequence[Results]

SCHEMA = 1


@dataclass(frozen=True)
class ModelResults:
    """The results of one model. The fields are the parts of its JSON; the rest is derived from them."""

    made: dict[str, Any]
    model: dict[str, Any]
    columns: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    cells: dict[str, dict[str, dict[str, list[float]]]]
    summary: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, dict[str, list[float]]]]
    histograms: dict[str, dict[str, Any]]
    # Former results lack these.
    tallies: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    mistakes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    causes: dict[str, dict[str, dict[str, dict[str, int]]]] = field(default_factory=dict)
    made_outliers: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Names of the scenarios by cause, in the order of `CAUSES`."""
        by_cause = {
            cause: [name for name, scenario in self.columns.items() if scenario["cause"] == cause] for cause in CAUSES
        }
        return {cause: names for cause, names in by_cause.items() if names}

    @cached_property
    def ordered(self) -> list[str]:
        """Names of the scenarios, those of one cause side by side."""
        return [name for names in self.groups.values() for name in names]

    def ranked(self, figure: str = "auroc") -> list[str]:
        """Names of the methods, the largest mean first, those without figures last."""
        return sorted(self.methods, key=lambda name: -self.mean(name, figure))

    def mean(self, method: str, figure: str = "auroc") -> float:
        """Mean over the scenarios; minus infinity for a method without."""
        value = self.summary.get(method, {}).get(figure)
        return -math.inf if value is None else float(value)

    @cached_property
    def ours(self) -> str | None:
        """The method that the differences are about, else the best that is no peer."""
        named = Counter(d["ours"] for d in self.differences.values())
        ours = [name for name in self.ranked() if not self.methods[name]["peer"] and name in self.summary]
        return max(ours, key=lambda name: named[name], default=None)

    @cached_property
    def rivals(self) -> list[str]:
        """Peers with figures, the largest mean AUROC first; those that miss a scenario of ours come last."""
        peers = [name for name in self.ranked() if self.methods[name]["peer"] and name in self.summary]
        return sorted(peers, key=lambda name: bool(self.covered(self.ours) - self.covered(name)))

    @cached_property
    def measured(self) -> set[str]:
        """Scenarios in which any method has figures."""
        return set().union(*map(self.covered, self.methods))

    def covered(self, method: str | None) -> set[str]:
        """Scenarios in which a method has figures."""
        return {scenario for scenario in self.columns if method is not None and self.cell(method, scenario)}

    def cell(self, method: str, scenario: str) -> dict[str, list[float]] | None:
        """AUROC and TNR95 of a method in a scenario, if they were measured."""
        cell = self.cells.get(method, {}).get(scenario)
        return cell if cell and all(cell[figure][0] is not None for figure in FIGURES) else None

    def absent(self, method: str, scenario: str) -> str:
        """Why there is no cell."""
        facts = self.columns[scenario]
        return self.methods[method]["error"] or facts["error"] or ("not measured" if facts["count"] else "no inputs")

    def hover(self, method: str, scenario: str) -> str:
        """A cell in full."""
        cell, where = self.cell(method, scenario), f"{method}, {scenario}"
        if cell is None:
            return f"{where}: {self.absent(method, scenario)}"
        figures = ", ".join(f"{label} {interval(cell[figure])}" for figure, label in FIGURES.items())
        return f"{where}: {figures}, n = {number(self.columns[scenario]['count'])}"

    def level(self, method: str, scenario: str, figure: str) -> int:
        """Colour of a cell, 0 to the number of steps."""
        return bisect_right(STEPS[figure], self.cells[method][scenario][figure][0])

    def largest(self, scenario: str, figure: str) -> float | None:
        """The best figure of a scenario."""
        cells = [cell for method in self.methods if (cell := self.cell(method, scenario))]
        return max((cell[figure][0] for cell in cells), default=None)

    @cached_property
    def tally(self) -> Counter[str]:
        """Scenarios by verdict."""
        return Counter(self.verdict(scenario) for scenario in self.differences)

    def verdict(self, scenario: str) -> str:
        """Of our method against the peers, one of `VERDICTS`."""
        said: str = self.differences[scenario]["verdict"]
        return FORMER.get(said, said)

    def of_fit(self, scenario: str) -> str:
        """The verdict with the fits in hand, where that over fits cannot tell; else nothing."""
        said: str = self.differences[scenario].get("of_fit", "")
        return said if self.verdict(scenario) == "not told apart" != said else ""

    @property
    def learned_mistakes(self) -> str:
        """What else ours were fitted on, for behind the number of trusted inputs."""
        count = self.model.get("mistakes")
        return f", ours on {number(count)} {'mistake' if count == 1 else 'mistakes'}, too" if count else ""

    @cached_property
    def headline(self) -> str:
        """What the figures say of our method against the best peer."""
        ours = self.ours
        if ours is None:
            return "No method of ours has figures, so there is nothing to compare."
        count = len(self.covered(ours))
        over = f"{count} scenario" + "s" * (count != 1)
        means = [self.mean(ours, figure) for figure in FIGURES]
        parts = [f"{ours} has a mean AUROC of {percent(means[0])} and a mean TNR95 of {percent(means[1])}"]
        parts[0] += f" over {over}{self._worst_kind(ours, ' of {} kinds, the worst ')}."
        if not self.rivals:
            return f"{parts[0]} No peer has figures, so there is nothing to compare."
        best = self.rivals[0]
        theirs = [self.mean(best, figure) for figure in FIGURES]
        stands = " and ".join(map(_stands, means, theirs, FIGURES.values()))
        told = f"{percent(theirs[0])} and {percent(theirs[1])}{self._worst_kind(best, ', its worst ')}"
        parts.append(f"The best peer, {best}, has {told}: {ours} is {stands}.")
        if missed := len(self.covered(ours) - self.covered(best)):
            parts.append(f"{best} has no figures in {missed} of these, so the means do not compare like with like.")
        keener = max(self.rivals, key=lambda peer: self.mean(peer, "tnr95"))
        if self.mean(keener, "tnr95") > max(means[1], theirs[1]):
            parts.append(f"{keener} has a higher mean TNR95, {percent(self.mean(keener, 'tnr95'))}.")
        if self.differences:
            won, level, lost = (self.tally[verdict] for verdict in VERDICTS)
            parts.append(f"Against the best peer of each scenario {won} won, {level} not told apart, {lost} lost.")
            of_fit = Counter(map(self.of_fit, self.differences))
            if of_fit["won"] or of_fit["lost"]:
                parts.append(
                    f"Of those not told apart, with these fits alone {of_fit['won']} won, {of_fit['lost']} lost."
                )
        return " ".join(parts)

    def _worst_kind(self, method: str, before: str) -> str:
        """The kind where a method is worst; former results and those of a single kind do not say."""
        entry = self.summary[method]
        if len(entry.get("kinds", ())) < 2:
            return ""
        kind, value = entry["worst_kind"]
        return f"{before.format(len(entry['kinds']))}{KINDS.get(kind, kind)} with {percent(value)}"

    @cached_property
    def at_a_glance(self) -> list[str]:
        """The methods that the first table shows: ours, its presets, and the best peer."""
        presets = [name for name in self.ranked() if self.ours and name.startswith(f"{self.ours} ")]
        ours = [self.ours, *(name for name in presets if not self.methods[name]["peer"])] if self.ours else []
        return [*(name for name in ours if name in self.summary), *self.rivals[:1]]

    def glance(self, method: str) -> dict[str, Any]:
        """A method's row in the first table, as text."""
        entry, tally = self.summary[method], self.tallies.get(method)
        if tally is None and method == self.ours and self.differences:  # of former results
            tally = {name: ["" for said in map(self.verdict, self.differences) if said == name] for name in VERDICTS}
        kind, value = entry.get("worst_kind") or (None, None)
        kinds = entry.get("kinds", {})
        return {
            "name": method,
            "ours": not self.methods[method]["peer"],
            "auroc": interval([entry["auroc"], *entry["interval"]])
            if entry.get("interval")
            else percent(entry["auroc"]),
            "tnr95": percent(entry["tnr95"]),
            "kinds": {name: percent(kinds.get(name, {}).get("auroc")) for name in KINDS},
            "worst": f"{KINDS.get(kind, kind)} {percent(value)}" if kind is not None else NONE,
            "lost": f"{len(tally['lost'])} of {sum(map(len, tally.values()))}" if tally else NONE,
            "shortfall": _ratio(entry.get("shortfall")),
            "cost": cost(self.methods[method]),
        }

    @property
    def over(self) -> str:
        """What the intervals of the means are over."""
        fits = max((entry.get("fits", 1) for entry in self.summary.values()), default=1)
        return f"inputs and {fits} fits" if fits > 1 else "inputs"

    def mistaken(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Method, scenario and figures of the mistakes, the least AUGRC of each scenario first."""
        rows = [(m, scenario, row) for m, found in self.mistakes.items() for scenario, row in found.items()]
        return sorted(rows, key=lambda row: (row[1], row[2]["augrc"][0]))

    def line(self, method: str) -> dict[str, str]:
        """A method's row in the overview and in the table of methods, as text."""
        facts, entry = self.methods[method], self.summary.get(method, {})
        worst = entry.get("worst") or [NONE, None]
        covered, scenarios = len(self.covered(method)), len(self.measured)
        tally = " / ".join(str(self.tally[verdict]) for verdict in VERDICTS)
        return {
            "name": method,
            "auroc": percent(entry.get("auroc")),
            "tnr95": percent(entry.get("tnr95")),
            "worst": f"{worst[0]} {percent(worst[1])}" if worst[1] is not None else NONE,
            "best_in": f"{entry['best_in']} of {scenarios}" if entry else NONE,
            "shortfall": _ratio(entry.get("shortfall")),
            "tally": tally if method == self.ours and self.differences else NONE,
            "cost": milliseconds(facts["ms_per_input"]),
            "passes": facts["passes"],
            "error": facts["error"] or "",
            "note": f"figures in {covered} of {scenarios} scenarios" if entry and covered < scenarios else "",
        }

    def notes(self, scenario: str) -> str:
        """What a reader must know of a scenario before its figures."""
        facts = self.columns[scenario]
        if facts["error"]:
            return str(facts["error"])
        few = f"fewer than {FEW} inputs: the interval is wide" if facts["count"] else "no inputs"
        return "; ".join(filter(None, [facts.get("note"), few if facts["count"] < FEW else ""]))

    @cached_property
    def marks(self) -> dict[str, str]:
        """The sign behind the name of a scenario: × missing, * few inputs."""
        return {
            name: "×" if scenario["error"] else "*" if scenario["count"] < FEW else ""
            for name, scenario in self.columns.items()
        }

    @cached_property
    def shown(self) -> dict[str, str]:
        """The methods whose ROC curves are drawn, and the role that colours each: ours and the two best peers."""
        named = zip([self.ours, *self.rivals[:2]], ("ours", "peer", "other"), strict=False)
        return {name: role for name, role in named if name is not None and self.curves.get(name)}

    def caught(self, method: str, scenario: str) -> list[str]:
        """What the ROC curve shows, as numbers: the share caught at each of `FLAGGED`."""
        curve = self.curves[method].get(scenario)
        if curve is None:
            return [NONE] * len(FLAGGED)
        return [percent(share) for share in np.interp(FLAGGED, curve["fpr"], curve["tpr"]).tolist()]

    @cached_property
    def histogram(self) -> dict[str, Any] | None:
        """Of our method's scores."""
        return self.histograms.get(self.ours) if self.ours else None

    def reach(self) -> float:
        """The largest end of an interval of a difference, which the width of its picture stands for."""
        ends = [abs(float(difference[end])) for difference in self.differences.values() for end in ("low", "high")]
        return max([0.05, *ends])

    @cached_property
    def footer(self) -> list[tuple[str, str]]:
        """How the results were computed."""
        versions = ", ".join(f"{package} {version}" for package, version in self.made["versions"].items())
        entries = {
            "command": self.made["command"],
            "seed": str(self.made["seed"]),
            "versions": versions,
            "revision": self.made["revision"] or "not known",
            "hardware": self.made["hardware"],
            "processor": self.made.get("processor"),  # former results do not name it
            "protocol": self.made.get("protocol"),
            "date": self.made["date"],
        }
        return [(name, text) for name, text in entries.items() if text is not None]


def title(runs: Sequence[ModelResults]) -> str:
    """Of the page."""
    if len(runs) == 1:
        return f"gradgeo bench: {runs[0].model['name']}"
    return f"gradgeo bench: {len(runs)} models" if runs else "gradgeo bench"


def remarks(runs: Sequence[ModelResults]) -> list[str]:
    """What stands above all figures: what the protocol says, what the page lacks, and whether it was made in parts."""
    found = dict.fromkeys(run.made[key] for key in ("protocol", "lacking") for run in runs if run.made.get(key))
    parts = len({(run.made["command"], run.made["revision"]) for run in runs})
    if parts > 1:
        found[f"Measured in {parts} parts: the command, date and revision of each model stand beneath it."] = None
    former = [run.model["name"] for run in runs if not any(entry.get("kinds") for entry in run.summary.values())]
    if 0 < len(former) < len(runs):
        found[f"Measured by a former protocol, with means over all scenarios: {', '.join(former)}."] = None
    without = [run.model["name"] for run in runs if "mistakes" not in run.model and run.model["name"] not in former]
    if 0 < len(without) < len(runs):
        found[f"Measured before ours learned from the mistakes among the fit inputs: {', '.join(without)}."] = None
    return list(found)


def milliseconds(value: float | None) -> str:
    """Milliseconds to three digits."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def parse(results: Runs) -> list[ModelResults]:
    """One for each model, sorted by name; results of another schema, or in part, are refused."""
    each = [results] if isinstance(results, Mapping) else list(results)
    needed = [part.name for part in fields(ModelResults) if part.default_factory is MISSING]
    for entry in each:
        if entry.get("schema") != SCHEMA:
            raise expected("results['schema']", str(SCHEMA), entry.get("schema"), "Run the benchmark again.")
        if missing := [name for name in needed if name not in entry]:
            raise expected("results", f"whole, with {', '.join(missing)}", entry, "Run the benchmark again.")
    parts = [part.name for part in fields(ModelResults)]
    runs = [ModelResults(**{name: finite(entry[name]) for name in parts if name in entry}) for entry in each]
    return sorted(runs, key=lambda run: str(run.model["name"]))


def kinds_of(runs: Sequence[ModelResults]) -> dict[str, str]:
    """The kinds that any of the models has means of, and what they are called."""
    found = {kind for run in runs for entry in run.summary.values() for kind in entry.get("kinds", {})}
    return {kind: label for kind, label in KINDS.items() if kind in found}


def cost(facts: Mapping[str, Any]) -> str:
    """Of a method, over plain inference where that was measured, else in ms per input."""
    found = facts.get("cost") or {}
    if (times := found.get("n64")) is not None:
        return f"{times:.3g} ×"
    return NONE if facts["ms_per_input"] is None else f"{milliseconds(facts['ms_per_input'])} ms"


def thousandths(value: float | None) -> str:
    """A share in thousandths with one decimal."""
    return NONE if value is None else f"{1000 * value:.1f}"


def finite(value: Any) -> Any:
    """`value` with None for each number that JSON cannot hold."""
    if isinstance(value, float):  # asked first: there are a million of them
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    return value


def _ratio(value: float | None) -> str:
    """Of two distances, to two decimals."""
    return NONE if value is None else f"{value:.2f}"


def _stands(ours: float, theirs: float, label: str) -> str:
    # from the figures as they are shown, so that the sentence agrees with the table
    gap = round(100 * ours, 1) - round(100 * theirs, 1)
    if not math.isfinite(gap) or abs(gap) < 0.05:
        return f"level in {label}"
    return f"{abs(gap):.1f} points {'ahead' if gap > 0 else 'behind'} in {label}"
