"""The page of a battery run: Markdown for a repository, one HTML file that needs no network for people.

Both show the same figures in %: AUROC, and TNR at 95 % TPR (TNR95), larger is better. `results` is the dict of one
battery run (schema 1), or a sequence of them, one for each model, which adds an overview of them all.
"""

import json
import math
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from gradgeo.errors import expected, public, require

Results = dict[str, Any]
Runs = Results | Sequence[Results]

SCHEMA = 1

PAPER = "https://arxiv.org/abs/2102.12196"

CAUSES = {"ood": "out-of-distribution", "attack": "adversarial", "mistake": "misclassified"}
"""Why the inputs of a column are untrustworthy, in the order of the page."""

FIGURES = {"auroc": "AUROC", "tnr95": "TNR95"}

STEPS = {"auroc": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99), "tnr95": (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)}
"""Where the colour of a heat map's cells changes; finer for AUROC near 1, where methods differ."""

FEW = 30
"""With fewer inputs than this in a column its intervals are too wide to rank methods."""

FLAGGED = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of trusted inputs flagged at which the tables beside the ROC curves are read."""

ROLES = {
    "ink": "#000001",
    "ours": "#000002",
    "peer": "#000003",
    "other": "#000004",
    "odd": "#000005",
    "line": "#000006",
}
"""Colours the charts are drawn in; the style sheet gives each its colour in light and in dark."""

WIDTH, HEIGHT = 144, 120  # of a chart, in points

TERMS = {
    "AUROC": "the chance that an untrustworthy input has the larger outlier score; 50 is guessing.",
    "TNR95": "the share of untrustworthy inputs caught while 95 % of the trusted ones are kept.",
    "Best in": "columns where a method’s AUROC lies within the interval of the highest.",
    "Shortfall": "the mean distance of our method from an AUROC of 100, as a share of that of the peer with the "
    "highest mean over the same columns; below 1 is better than every peer.",
    "Won, tied, lost": "columns where our AUROC is significantly above that of every peer, neither, or significantly "
    "below that of some peer, at 5 % after Holm’s correction over all columns and peers.",
}

BESIDE = (
    "From the best peer of each column, in points. The interval is that of this difference alone, p is corrected for "
    "all columns and peers (Holm): an interval without 0 may stand beside a tie."
)
"""What a reader must know of the differences."""

NONE = "–"


@public
def markdown(results: Runs) -> str:
    """The page as Markdown.

    Args:
        results: of a battery run, or several.

    Example:
        >>> markdown([])
        '# gradgeo bench\\n\\nNo model was measured.\\n'
    """
    runs = _runs(results)
    blocks = [f"# {_plain(title(runs))}"]
    if not runs:
        blocks.append("No model was measured.")
    if len(runs) > 1:
        heading = ["model", "method", *FIGURES.values(), "worst column", "won / tied / lost", "shortfall"]
        rows = [
            [run.model["name"], *(line[key] for key in ("name", "auroc", "tnr95", "worst", "tally", "shortfall"))]
            for run in runs
            for line in map(run.line, run.ranked())
        ]
        blocks += [
            "## Overview",
            *(f"**{_plain(run.model['name'])}**: {_plain(run.headline)}" for run in runs),
            _table(heading, rows),
        ]
    for run in runs:
        blocks += _markdown_of(run, alone=len(runs) == 1)
    if runs:
        blocks.append("AUROC and TNR95 are in %. " + " ".join(f"{term}: {meaning}" for term, meaning in TERMS.items()))
    return "\n\n".join(blocks) + "\n"


@public
def html(results: Runs) -> str:
    """The page as one HTML file: no script, nothing loaded, light and dark, readable on a phone and on paper.

    The same results give the same bytes with the same versions of matplotlib and Jinja.

    Args:
        results: of a battery run, or several.

    Raises:
        MissingDependencyError: without Jinja or matplotlib, which the extra `bench` brings.
    """
    runs = _runs(results)
    page = _templates(require("jinja2", "bench")).get_template("page.html.j2").render(runs=runs, title=title(runs))
    return re.sub(r"\n\s*\n+", "\n", page)


@public
def write(results: Runs, folder: Path, name: str) -> list[Path]:
    """Write NAME.json, NAME.md and NAME.html into `folder`, each whole or not at all; returns their paths.

    The JSON comes first: without Jinja or matplotlib the page fails and the figures are kept. What is not a finite
    number is null in it.
    """
    if name != Path(name).name or name in ("", ".", ".."):
        raise expected("name", "a file name without folders and without ending", name)
    _runs(results)
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Callable[[], str]] = {
        "json": lambda: json.dumps(_finite(results), allow_nan=False) + "\n",
        "md": lambda: markdown(results),
        "html": lambda: html(results),
    }
    paths = []
    for ending, text in texts.items():
        path, temporary = folder / f"{name}.{ending}", folder / f".{name}.{ending}.{os.getpid()}.part"
        try:
            temporary.write_text(text(), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Run:
    """The results of one model, with what the pages ask of them."""

    made: dict[str, Any]
    model: dict[str, Any]
    columns: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    cells: dict[str, dict[str, dict[str, list[float]]]]
    summary: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, dict[str, list[float]]]]
    histograms: dict[str, dict[str, Any]]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Names of the columns by cause, in the order of `CAUSES`."""
        by_cause = {
            cause: [name for name, column in self.columns.items() if column["cause"] == cause] for cause in CAUSES
        }
        return {cause: names for cause, names in by_cause.items() if names}

    @cached_property
    def ordered(self) -> list[str]:
        """Names of the columns, those of one cause side by side."""
        return [name for names in self.groups.values() for name in names]

    def ranked(self, figure: str = "auroc") -> list[str]:
        """Names of the methods, the largest mean first, those without figures last."""
        return sorted(self.methods, key=lambda name: -self.mean(name, figure))

    def mean(self, method: str, figure: str = "auroc") -> float:
        """Mean over the columns; minus infinity for a method without."""
        value = self.summary.get(method, {}).get(figure)
        return -math.inf if value is None else float(value)

    @cached_property
    def ours(self) -> str | None:
        """The method that the differences are about, else the best that is no peer."""
        named = Counter(d["ours"] for d in self.differences.values())
        own = [name for name in self.ranked() if not self.methods[name]["peer"] and name in self.summary]
        return max(own, key=lambda name: named[name], default=None)

    @cached_property
    def rivals(self) -> list[str]:
        """Peers with figures, the largest mean AUROC first; those that miss a column of ours come after the others."""
        peers = [name for name in self.ranked() if self.methods[name]["peer"] and name in self.summary]
        return sorted(peers, key=lambda name: bool(self.covered(self.ours) - self.covered(name)))

    @cached_property
    def measured(self) -> set[str]:
        """Columns in which any method has figures."""
        return set().union(*map(self.covered, self.methods))

    def covered(self, method: str | None) -> set[str]:
        """Columns in which a method has figures."""
        return {column for column in self.columns if method is not None and self.cell(method, column)}

    def cell(self, method: str, column: str) -> dict[str, list[float]] | None:
        """AUROC and TNR95 of a method in a column, if they were measured."""
        cell = self.cells.get(method, {}).get(column)
        return cell if cell and all(cell[figure][0] is not None for figure in FIGURES) else None

    def absent(self, method: str, column: str) -> str:
        """Why there is no cell."""
        told = self.columns[column]
        return self.methods[method]["error"] or told["error"] or ("not measured" if told["count"] else "no inputs")

    def hover(self, method: str, column: str) -> str:
        """A cell in full."""
        cell, where = self.cell(method, column), f"{method}, {column}"
        if cell is None:
            return f"{where}: {self.absent(method, column)}"
        figures = ", ".join(f"{label} {interval(cell[figure])}" for figure, label in FIGURES.items())
        return f"{where}: {figures}, n = {number(self.columns[column]['count'])}"

    def level(self, method: str, column: str, figure: str) -> int:
        """Colour of a cell, 0 to the number of steps."""
        return bisect_right(STEPS[figure], self.cells[method][column][figure][0])

    def largest(self, column: str, figure: str) -> float | None:
        """The best figure of a column."""
        cells = [cell for method in self.methods if (cell := self.cell(method, column))]
        return max((cell[figure][0] for cell in cells), default=None)

    @cached_property
    def tally(self) -> Counter[str]:
        """Columns by verdict."""
        return Counter(difference["verdict"] for difference in self.differences.values())

    @cached_property
    def headline(self) -> str:
        """What the figures say of our method against the best peer."""
        ours = self.ours
        if ours is None:
            return "No method of ours has figures, so there is nothing to compare."
        count = len(self.covered(ours))
        over = f"{count} column" + "s" * (count != 1)
        means = [self.mean(ours, figure) for figure in FIGURES]
        parts = [f"{ours} has a mean AUROC of {percent(means[0])} and a mean TNR95 of {percent(means[1])}"]
        parts[0] += f" over {over}."
        if not self.rivals:
            return f"{parts[0]} No peer has figures, so there is nothing to compare."
        best = self.rivals[0]
        theirs = [self.mean(best, figure) for figure in FIGURES]
        stands = " and ".join(map(_stands, means, theirs, FIGURES.values()))
        parts.append(f"The best peer, {best}, has {percent(theirs[0])} and {percent(theirs[1])}: {ours} is {stands}.")
        if missed := len(self.covered(ours) - self.covered(best)):
            parts.append(f"{best} has no figures in {missed} of these, so the means do not compare like with like.")
        keener = max(self.rivals, key=lambda peer: self.mean(peer, "tnr95"))
        if self.mean(keener, "tnr95") > max(means[1], theirs[1]):
            parts.append(f"{keener} has a higher mean TNR95, {percent(self.mean(keener, 'tnr95'))}.")
        if self.differences:
            win, tie, loss = (self.tally[verdict] for verdict in ("win", "tie", "loss"))
            parts.append(f"Column by column against all peers it wins {win}, ties {tie} and loses {loss}.")
        return " ".join(parts)

    def line(self, method: str) -> dict[str, str]:
        """A method's row in the overview and in the table of methods, as text."""
        told, entry = self.methods[method], self.summary.get(method, {})
        worst = entry.get("worst") or [NONE, None]
        covered, columns = len(self.covered(method)), len(self.measured)
        tally = " / ".join(str(self.tally[verdict]) for verdict in ("win", "tie", "loss"))
        return {
            "name": method,
            "auroc": percent(entry.get("auroc")),
            "tnr95": percent(entry.get("tnr95")),
            "worst": f"{worst[0]} {percent(worst[1])}" if worst[1] is not None else NONE,
            "best_in": f"{entry['best_in']} of {columns}" if entry else NONE,
            "shortfall": ratio(entry.get("shortfall")),
            "tally": tally if method == self.ours and self.differences else NONE,
            "cost": cost(told["ms_per_input"]),
            "passes": told["passes"],
            "error": told["error"] or "",
            "note": f"figures in {covered} of {columns} columns" if entry and covered < columns else "",
        }

    def notes(self, column: str) -> str:
        """What a reader must know of a column before its figures."""
        told = self.columns[column]
        if told["error"]:
            return str(told["error"])
        few = f"fewer than {FEW} inputs: the interval is wide" if told["count"] else "no inputs"
        return "; ".join(filter(None, [told.get("note"), few if told["count"] < FEW else ""]))

    @cached_property
    def marks(self) -> dict[str, str]:
        """The sign behind the name of a column: × missing, * few inputs."""
        return {
            name: "×" if column["error"] else "*" if column["count"] < FEW else ""
            for name, column in self.columns.items()
        }

    @cached_property
    def shown(self) -> dict[str, str]:
        """The methods whose ROC curves are drawn, and the role that colours each: ours and the two best peers."""
        named = zip([self.ours, *self.rivals[:2]], ("ours", "peer", "other"), strict=False)
        return {name: role for name, role in named if name is not None and self.curves.get(name)}

    @cached_property
    def roc(self) -> dict[str, str]:
        """ROC curves of `shown` for each column, as the inside of an SVG."""
        columns = [column for column in self.ordered if any(column in self.curves[method] for method in self.shown)]

        def draw(axes: Any) -> None:
            axes.plot([0, 1], [0, 1], color=ROLES["line"], linewidth=0.7)
            axes.plot([0.05, 0.05], [0, 1], color=ROLES["ink"], linewidth=0.6, linestyle=(0, (1, 2)))
            axes.set(xlim=(0, 1), ylim=(0, 1))
            for set_ticks in (axes.set_xticks, axes.set_yticks):
                set_ticks([0, 0.5, 1], ["0", "50", "100"])
            for panel, column in enumerate(columns):
                for method, role in reversed(self.shown.items()):
                    if curve := self.curves[method].get(column):
                        look = {"linewidth": 1.9 if role == "ours" else 1.3, "color": ROLES[role]}
                        style = (0, (3, 1.5)) if role == "other" else "-"
                        at = [[0, *curve[rate]] for rate in ("fpr", "tpr")]
                        axes.plot(*at, linestyle=style, gid=f"panel-{panel}", **look)

        return _charts(columns, draw)

    def caught(self, method: str, column: str) -> list[str]:
        """What the ROC curve shows, as numbers: the share caught at each of `FLAGGED`."""
        curve = self.curves[method].get(column)
        if curve is None:
            return [NONE] * len(FLAGGED)
        return [percent(share) for share in np.interp(FLAGGED, curve["fpr"], curve["tpr"]).tolist()]

    @cached_property
    def histogram(self) -> dict[str, Any] | None:
        """Of our method's scores."""
        return self.histograms.get(self.ours) if self.ours else None

    @cached_property
    def scores(self) -> dict[str, str]:
        """Scores of trusted inputs and of each column, as the inside of an SVG."""
        if self.histogram is None:
            return {}
        edges, trusted, shares = (self.histogram[part] for part in ("edges", "trusted", "columns"))
        columns = [column for column in self.ordered if column in shares]

        def draw(axes: Any) -> None:
            # bins of one width, counted: matplotlib cannot scale every edge that a score may have
            axes.set(xlim=(0, len(trusted)), ylim=(0, 1.02), yticks=[])
            axes.set_xticks([0, len(trusted)], [f"{edge:.3g}" for edge in (edges[0], edges[-1])])
            for panel, column in enumerate(columns):
                top = max(*trusted, *shares[column]) or 1  # each panel fills its height
                name = f"panel-{panel}"
                axes.stairs(np.divide(trusted, top), fill=True, color=ROLES["line"], gid=name)
                axes.stairs(np.divide(shares[column], top), color=ROLES["odd"], linewidth=1.5, gid=name)

        return _charts(columns, draw)

    def reach(self) -> float:
        """The largest end of an interval of a difference, which the width of its picture stands for."""
        ends = [abs(float(difference[end])) for difference in self.differences.values() for end in ("low", "high")]
        return max([0.05, *ends])

    @cached_property
    def footer(self) -> list[tuple[str, str]]:
        """How the run was made."""
        versions = ", ".join(f"{package} {version}" for package, version in self.made["versions"].items())
        told = {
            "command": self.made["command"],
            "seed": str(self.made["seed"]),
            "versions": versions,
            "revision": self.made["revision"] or "not known",
            "hardware": self.made["hardware"],
            "date": self.made["date"],
        }
        return list(told.items())


def title(runs: Sequence[Run]) -> str:
    """Of the page."""
    if len(runs) == 1:
        return f"gradgeo bench: {runs[0].model['name']}"
    return f"gradgeo bench: {len(runs)} models" if runs else "gradgeo bench"


def percent(value: float | None) -> str:
    """A share in % with one decimal."""
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def ratio(value: float | None) -> str:
    """Of two distances, to two decimals."""
    return NONE if value is None else f"{value:.2f}"


def points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    if value is None:
        return NONE
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def interval(estimate: Sequence[float]) -> str:
    """Value, low and high in %, as `metrics.Estimate` prints them."""
    value, low, high = map(percent, estimate)
    return f"{value} [{low}, {high}]"


def number(value: int | None) -> str:
    """A count."""
    return NONE if value is None else f"{value:,}"


def p_value(value: float | None) -> str:
    """To three decimals."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def cost(milliseconds: float | None) -> str:
    """Milliseconds to three digits."""
    if milliseconds is None:
        return NONE
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


@cache
def _templates(jinja2: Any) -> Any:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "interval": interval,
        "number": number,
        "p": p_value,
        "cost": cost,
    }
    names = ("BESIDE", "CAUSES", "FEW", "FIGURES", "FLAGGED", "HEIGHT", "NONE", "PAPER", "STEPS", "TERMS", "WIDTH")
    environment.globals |= {name: globals()[name] for name in names}
    return environment


def _stands(ours: float, theirs: float, label: str) -> str:
    # from the figures as they are shown, so that the sentence agrees with the table
    gap = round(100 * ours, 1) - round(100 * theirs, 1)
    if not math.isfinite(gap) or abs(gap) < 0.05:
        return f"level in {label}"
    return f"{abs(gap):.1f} points {'ahead' if gap > 0 else 'behind'} in {label}"


def _runs(results: Runs) -> list[Run]:
    each = [results] if isinstance(results, Mapping) else list(results)
    needed = [field.name for field in fields(Run)]
    for entry in each:
        if entry.get("schema") != SCHEMA:
            raise expected("results['schema']", str(SCHEMA), entry.get("schema"), "Run the battery again.")
        if missing := [name for name in needed if name not in entry]:
            raise expected("results", f"whole, with {', '.join(missing)}", entry, "Run the battery again.")
    return [Run(**{name: _finite(entry[name]) for name in needed}) for entry in each]


def _finite(value: Any) -> Any:
    """`value` with None for each number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _charts(columns: Sequence[str], draw: Callable[[Any], None]) -> dict[str, str]:
    """By column the inside of an SVG of `WIDTH` x `HEIGHT`: numbers only, its colours left to the style sheet.

    Names are written around it, in HTML, where nothing takes a dollar sign for mathematics. All panels share one
    frame: `draw` draws what is only in panel i with the id `panel-i`, which is forty times quicker than a figure each.
    """
    if not columns:
        return {}
    require("matplotlib", "bench")
    from matplotlib import style
    from matplotlib.figure import Figure  # without pyplot there is no global state and no display

    chosen = {"svg.fonttype": "none", "svg.hashsalt": "gradgeo", "font.family": "sans-serif", "font.size": 9}
    with style.context(["default", chosen]):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
        axes = figure.add_axes((0.17, 0.14, 0.77, 0.82))
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(ROLES["line"])
        axes.tick_params(left=False, bottom=False, labelcolor=ROLES["ink"], pad=3)
        draw(axes)
        for artist in axes.get_children():
            artist.set_clip_on(False)  # a clip would need an id, and ids are one page's
        written = StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = text[text.index("<g ") : text.rindex("</svg>")]
    text = re.sub(r"-?\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", text)
    for role, colour in ROLES.items():
        text = text.replace(colour, f"var(--{role})")
    panels: dict[int, list[str]] = {}

    def take(found: re.Match[str]) -> str:
        panels.setdefault(int(found[1]), []).append(found[2])
        return ""

    text = re.sub(r'<g id="panel-(\d+)">\s*(.*?)</g>', take, text, flags=re.DOTALL)
    text = re.sub(r' id="[^"]*"|font-family:[^;"]*;? ?| transform="rotate\(-0 [^"]*"', "", text)
    return {column: " ".join("".join([text, *panels[i]]).split()) for i, column in enumerate(columns)}


def _markdown_of(run: Run, *, alone: bool) -> list[str]:
    """The blocks of one model."""
    told = run.model
    blocks = [] if alone else [f"## {_plain(told['name'])}"]
    blocks.append(f"**{_plain(run.headline)}**")
    blocks.append(
        f"{number(told['classes'])} classes, accuracy {percent(told['accuracy'])} %, fitted on "
        f"{number(told['fitted_on'])} trusted inputs, compared with {number(told['trusted'])} others."
    )
    if run.columns:
        rows = [[name, *(_both(run, name, column) for column in run.ordered)] for name in run.ranked()]
        blocks += ["### AUROC / TNR95", _table(["method", *run.ordered], rows)]
    if run.differences:
        rows = [
            [
                column,
                f"{entry['ours']} − {entry['peer']}",
                f"{points(entry['difference'])} [{points(entry['low'])}, {points(entry['high'])}]",
                p_value(entry["p"]),
                entry["verdict"],
            ]
            for column, entry in run.differences.items()
        ]
        blocks += [
            "### Differences in AUROC",
            BESIDE,
            _table(["column", "between", "points", "Holm p", "verdict"], rows),
        ]
    keys = {
        "method": "name",
        "AUROC": "auroc",
        "TNR95": "tnr95",
        "worst column": "worst",
        "best in": "best_in",
        "shortfall": "shortfall",
        "ms per input": "cost",
        "passes": "passes",
    }
    lines = [run.line(name) for name in run.ranked()]
    rows = [[*(line[key] for key in keys.values()), line["error"] or line["note"]] for line in lines]
    blocks += ["### Methods", _table([*keys, "notes"], rows)]
    rows = [
        [
            name,
            CAUSES[run.columns[name]["cause"]],
            number(run.columns[name]["count"]),
            percent(run.columns[name]["success_rate"]),
            run.notes(name),
        ]
        for name in run.ordered
    ]
    blocks += ["### Columns", _table(["column", "cause", "inputs", "attack success", "notes"], rows)]
    blocks.append("; ".join(f"{key} {_plain(value)}" for key, value in run.footer) + ".")
    return blocks


def _both(run: Run, method: str, column: str) -> str:
    if cell := run.cell(method, column):
        return " / ".join(percent(cell[figure][0]) for figure in FIGURES)
    return "failed" if run.methods[method]["error"] else "missing" if run.columns[column]["error"] else NONE


def _table(heading: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    names = list(heading)
    lines = [[*map(_plain, names)], ["---"] * len(names), *([*map(_plain, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """`text` so that Markdown shows it as it is, on one line."""
    escaped = re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
