"""The page about a file of verdicts: report."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from gradgeo.cli.console import print_pairs, share


def report(
    scores: Annotated[Path, typer.Argument(help="What score wrote: a .parquet or .csv file, or a folder of parts.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page, .html.")],
) -> None:
    """Write one HTML page about a file of verdicts. Shares of trusted inputs, reasons of the others, drift, examples.

    Example: gradgeo report verdicts.parquet -o report.html
    """
    summary = import_module("gradgeo.report").write(scores, out)
    print_pairs(
        {
            "inputs": summary.rows,
            "judged": summary.judged,
            "trusted": share(summary.trusted, summary.judged),
            "flagged": share(summary.flagged, summary.judged),
            "written to": out,
        }
    )
