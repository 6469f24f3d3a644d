"""The charts of the benchmark's page: ROC curves and outlier scores, one small panel for each scenario."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradgeo.bench.cost import front
from gradgeo.bench.page.beside import quality_at_cost
from gradgeo.bench.page.results import ModelResults
from gradgeo.report.html.charts import ROLES, chart, panels, tidy

WIDTH, HEIGHT = 144, 120  # of a chart, in points
QUALITY = (520, 240)  # of the chart of quality against cost
TIMES = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Where its axis of cost may be marked."""


def roc(run: ModelResults) -> dict[str, str]:
    """ROC curves of `shown` for each scenario, as the inside of an SVG."""
    scenarios = [scenario for scenario in run.ordered if any(scenario in run.curves[method] for method in run.shown)]

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=ROLES["line"], linewidth=0.7)
        axes.plot([0.05, 0.05], [0, 1], color=ROLES["ink"], linewidth=0.6, linestyle=(0, (1, 2)))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks([0, 0.5, 1], ["0", "50", "100"])
        for panel, scenario in enumerate(scenarios):
            for method, role in reversed(run.shown.items()):
                if curve := run.curves[method].get(scenario):
                    look = {"linewidth": 1.9 if role == "ours" else 1.3, "color": ROLES[role]}
                    style = (0, (3, 1.5)) if role == "other" else "-"
                    at = [[0, *curve[rate]] for rate in ("fpr", "tpr")]
                    axes.plot(*at, linestyle=style, gid=f"panel-{panel}", **look)

    return _charts(scenarios, draw)


def scores(run: ModelResults) -> dict[str, str]:
    """Scores of trusted inputs and of each scenario, as the inside of an SVG."""
    if run.histogram is None:
        return {}
    edges, trusted, shares = (run.histogram[part] for part in ("edges", "trusted", "columns"))
    scenarios = [scenario for scenario in run.ordered if scenario in shares]

    def draw(axes: Any) -> None:
        # bins of one width, counted: matplotlib cannot scale every edge that a score may have
        axes.set(xlim=(0, len(trusted)), ylim=(0, 1.02), yticks=[])
        axes.set_xticks([0, len(trusted)], [f"{edge:.3g}" for edge in (edges[0], edges[-1])])
        for panel, scenario in enumerate(scenarios):
            top = max(*trusted, *shares[scenario]) or 1  # each panel fills its height
            name = f"panel-{panel}"
            axes.stairs(np.divide(trusted, top), fill=True, color=ROLES["line"], gid=name)
            axes.stairs(np.divide(shares[scenario], top), color=ROLES["odd"], linewidth=1.5, gid=name)

    return _charts(scenarios, draw)


def quality(run: ModelResults) -> str:
    """Mean AUROC against the cost of a verdict, of every method, as the inside of an SVG; nothing without costs."""
    points = quality_at_cost(run)
    if not points:
        return ""
    best = front(points)
    at = {name: (float(np.log10(max(cost, TIMES[0]))), 100 * area) for name, (cost, area) in points.items()}
    left, right = (bound(x for x, _ in at.values()) for bound in (min, max))

    def draw(axes: Any) -> None:
        axes.set(xlim=(left - 0.05, max(right, left + 0.5) + 0.05))
        marks = [times for times in TIMES if axes.get_xlim()[0] <= np.log10(times) <= axes.get_xlim()[1]]
        axes.set_xticks(np.log10(marks), [f"{times:g} ×" for times in marks])
        axes.plot(*zip(*(at[name] for name in best), strict=True), color=ROLES["line"], linewidth=1)
        for name, (x, y) in at.items():
            role = "peer" if run.methods[name]["peer"] else "ours"
            axes.plot([x], [y], "o", markersize=5 if name in best else 3.5, color=ROLES[role], markeredgewidth=0)
        for name in best:
            label = {"textcoords": "offset points", "color": ROLES["ink"], "parse_math": False}
            shown = "".join(filter(str.isprintable, name))[:40]
            axes.annotate(shown, at[name], (0, 6), fontsize=8, ha="center", **label)

    return tidy(chart(draw, size=QUALITY, frame=(0.07, 0.1, 0.9, 0.84), extra="bench"))


def _charts(scenarios: Sequence[str], draw: Callable[[Any], None]) -> dict[str, str]:
    """By scenario the inside of an SVG of `WIDTH` x `HEIGHT`.

    All panels share one frame: `draw` draws what is only in panel i with the id `panel-i`, which is forty times quicker
    than a figure each.
    """
    if not scenarios:
        return {}
    around, inside = panels(chart(draw, size=(WIDTH, HEIGHT), frame=(0.17, 0.14, 0.77, 0.82), extra="bench"))
    return {scenario: tidy(around + inside[i]) for i, scenario in enumerate(scenarios)}
