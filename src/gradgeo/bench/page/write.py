"""The page of the benchmark: Markdown for a repository, one HTML file that needs no network for people.

Both show the same figures in %: AUROC, and TNR at 95 % TPR (TNR95), larger is better. `results` is the dict that
`evaluate` returns for one model, or a sequence of them, which adds an overview of all models.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from gradgeo._files import atomic_stream
from gradgeo.bench.comparison import COVERAGES
from gradgeo.bench.page import beside, charts, words
from gradgeo.bench.page import markdown as markdown_page
from gradgeo.bench.page import results as model_results
from gradgeo.bench.page.results import Runs, finite, milliseconds, parse, thousandths, title
from gradgeo.errors import expected, public, require
from gradgeo.report.html import environment

PAPER = "https://arxiv.org/abs/2102.12196"


@public
def markdown(results: Runs) -> str:
    """The page as Markdown.

    Args:
        results: of one model, or of several.

    Example:
        >>> markdown([])
        '# gradgeo bench\\n\\nNo model was measured.\\n'
    """
    return markdown_page.page(parse(results))


@public
def html(results: Runs) -> str:
    """The page as one HTML file: no script, nothing loaded, light and dark, readable on a phone and on paper.

    The same results give the same bytes with the same versions of matplotlib and Jinja.

    Args:
        results: of one model, or of several.

    Raises:
        MissingDependencyError: without Jinja or matplotlib, which the extra `bench` brings.
    """
    runs = parse(results)
    page = _templates(require("jinja2", "bench")).get_template("page.html.j2").render(runs=runs, title=title(runs))
    return re.sub(r"\n\s*\n+", "\n", page)


@public
def write(results: Runs, folder: Path, name: str) -> list[Path]:
    """Write NAME.json, NAME.md and NAME.html into `folder`, each whole or not at all; returns their paths.

    The JSON comes first: without Jinja or matplotlib the page fails and the figures are there. A number that is not
    finite is null in it.
    """
    if name != Path(name).name or name in ("", ".", ".."):
        raise expected("name", "a file name without folders and without ending", name)
    parse(results)
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Callable[[], str]] = {
        "json": lambda: json.dumps(finite(results), allow_nan=False) + "\n",
        "md": lambda: markdown(results),
        "html": lambda: html(results),
    }
    paths = []
    for ending, text in texts.items():
        path = folder / f"{name}.{ending}"
        with atomic_stream(path) as stream:
            stream.write(text().encode())
        paths.append(path)
    return paths


@cache
def _templates(jinja2: Any) -> Any:
    shown = {name: value for name, value in vars(words).items() if name.isupper()}
    shown |= {
        "COVERAGES": COVERAGES,
        "HEIGHT": charts.HEIGHT,
        "PAPER": PAPER,
        "WIDTH": charts.WIDTH,
        "QUALITY": charts.QUALITY,
    }
    drawn = {
        "kinds_of": model_results.kinds_of,
        "remarks": model_results.remarks,
        "roc_curves": charts.roc,
        "score_charts": charts.scores,
    }
    drawn |= {"beside_sections": beside.sections, "quality_chart": charts.quality}
    folder = Path(__file__).parent / "templates"
    return environment(jinja2, folder, filters={"cost": milliseconds, "thousandths": thousandths}, names=shown | drawn)
