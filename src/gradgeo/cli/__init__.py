"""The command line: commands parse, call the library and print.

The library, and with it torch, is imported inside the functions that need it, so that `--help` and completion answer
at once.
"""

import signal
import sys
from typing import Annotated

import typer

from gradgeo._version import __version__
from gradgeo.cli.bench import bench, demo
from gradgeo.cli.certify import certify
from gradgeo.cli.console import Command, Commands
from gradgeo.cli.detector import explain, fit, info
from gradgeo.cli.export import export
from gradgeo.cli.path import path
from gradgeo.cli.record import card
from gradgeo.cli.report import report
from gradgeo.cli.score import score
from gradgeo.cli.serve import serve
from gradgeo.cli.site import check, recalibrate

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would be most of the time that `--help` takes
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100},
)
for _command in (
    demo,
    fit,
    score,
    check,
    recalibrate,
    explain,
    certify,
    info,
    card,
    path,
    report,
    serve,
    export,
    bench,
):
    app.command(cls=Command)(_command)


def main() -> None:
    """What the shell calls; `--debug` may stand anywhere. Asked to end, it still removes what is half written."""
    for ending in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(ending, lambda number, frame: sys.exit(128 + number))
    app(sorted(sys.argv[1:], key=lambda argument: argument != "--debug"), prog_name="gradgeo")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradgeo {__version__}")
        raise typer.Exit


@app.callback()
def gradgeo(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of a failure.")] = False,
) -> None:
    """Whether to trust a single prediction of a PyTorch classifier, by geometric gradient analysis.

    Example: gradgeo demo
    """
