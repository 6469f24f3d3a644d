"""The page of a benchmark run as Markdown, for a repository."""

import re
from collections.abc import Iterable, Sequence

from gradgeo.bench.comparison import COVERAGES
from gradgeo.bench.page.beside import sections
from gradgeo.bench.page.results import ModelResults, kinds_of, remarks, thousandths, title
from gradgeo.bench.page.words import BESIDE, CAUSES, FIGURES, GLANCE, MISTAKES, TERMS
from gradgeo.report.html.numbers import NONE, number, p_value, percent, points


def page(runs: Sequence[ModelResults]) -> str:
    """All of it: an overview where there are several models, then each."""
    blocks = [f"# {_plain(title(runs))}"]
    if not runs:
        blocks.append("No model was measured.")
    if runs:
        blocks += _glance(runs)
    if len(runs) > 1:
        heading = ["model", "method", *FIGURES.values(), "worst scenario", "won / not told apart / lost", "shortfall"]
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


def _glance(runs: Sequence[ModelResults]) -> list[str]:
    """The first table: ours, its presets and the best peer of each model."""
    kinds = kinds_of(runs)
    heading = ["model", "method", "mean", *kinds.values(), "worst kind", "TNR95", "lost", "shortfall", "cost"]
    rows = []
    for run in runs:
        for row in map(run.glance, run.at_a_glance):
            by_kind = [row["kinds"][kind] for kind in kinds]
            told = [row[key] for key in ("worst", "tnr95", "lost", "shortfall", "cost")]
            rows.append([run.model["name"], row["name"], row["auroc"], *by_kind, *told])
    return [
        "## In a minute",
        *map(_plain, remarks(runs)),
        GLANCE.format(runs[0].over),
        _table(heading, rows),
    ]


def _markdown_of(run: ModelResults, *, alone: bool) -> list[str]:
    """The blocks of one model."""
    model = run.model
    blocks = [] if alone else [f"## {_plain(model['name'])}"]
    blocks.append(f"**{_plain(run.headline)}**")
    blocks.append(
        f"{number(model['classes'])} classes, accuracy {percent(model['accuracy'])} %, fitted on "
        f"{number(model['fitted_on'])} trusted inputs{run.learned_mistakes}, compared with "
        f"{number(model['trusted'])} others."
    )
    if run.columns:
        rows = [[name, *(_both(run, name, scenario) for scenario in run.ordered)] for name in run.ranked()]
        blocks += ["### AUROC / TNR95", _table(["method", *run.ordered], rows)]
    if run.differences:
        rows = [
            [
                scenario,
                f"{entry['ours']} − {entry['peer']}",
                f"{points(entry['difference'])} [{points(entry['low'])}, {points(entry['high'])}]",
                p_value(entry["p"]),
                run.verdict(scenario) + (f" ({said} with these fits)" if (said := run.of_fit(scenario)) else ""),
            ]
            for scenario, entry in run.differences.items()
        ]
        blocks += [
            "### Differences in AUROC",
            BESIDE,
            _table(["scenario", "between", "points", "Holm p", "verdict"], rows),
        ]
    if run.mistakes:
        rows = [
            [
                name,
                scenario,
                f"{thousandths(found['augrc'][0])} [{', '.join(map(thousandths, found['augrc'][1:]))}]",
                thousandths(found["aurc"]),
                *map(percent, found["risk"]),
            ]
            for name, scenario, found in run.mistaken()
        ]
        blocks += [
            "### Mistakes",
            MISTAKES,
            _table(["method", "scenario", "AUGRC", "AURC", *(f"{100 * share:g} %" for share in COVERAGES)], rows),
        ]
    for section in sections(run):
        blocks += [f"### {section.title}", _plain(section.note), _table(section.heading, section.rows)]
    keys = {
        "method": "name",
        "AUROC": "auroc",
        "TNR95": "tnr95",
        "worst scenario": "worst",
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
    blocks += ["### Scenarios", _table(["scenario", "cause", "inputs", "attack success", "notes"], rows)]
    blocks.append("; ".join(f"{key} {_plain(value)}" for key, value in run.footer) + ".")
    return blocks


def _both(run: ModelResults, method: str, scenario: str) -> str:
    if cell := run.cell(method, scenario):
        return " / ".join(percent(cell[figure][0]) for figure in FIGURES)
    return "failed" if run.methods[method]["error"] else "missing" if run.columns[scenario]["error"] else NONE


def _table(heading: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    names = list(heading)
    lines = [[*map(_plain, names)], ["---"] * len(names), *([*map(_plain, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """`text` so that Markdown shows it as it is, on one line."""
    escaped = re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
