"""`python -m benchmarks NAME`: a long measurement, which writes its page and data under results/."""

import ast
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import BENCHMARKS, reproduce
from gradgeo.cli.console import Command, say

QUICK = 20
"""Inputs of a quick run, which shows that a measurement works and little more."""

Data = Annotated[
    Path | None, typer.Option("--data", "-d", help="Folder with data/ and models/.", envvar="GRADGEO_DATA")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the page.")]
Cases = Annotated[
    str | None, typer.Option(help="What is measured, by name, with commas, or semicolons where a name has one.")
]
Inputs = Annotated[int, typer.Option(min=10, help="Inputs of each kind.")]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Long measurements of this project; each writes a page and its data.",
)


def _page(name: str) -> Callable[..., None]:
    """The command of a measurement that writes one page."""

    def measure(
        data: Data = None,
        out: Out = Path("results"),
        cases: Cases = None,
        inputs: Inputs = 1000,
        quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} inputs: a check that it runs.")] = False,
    ) -> None:
        module, shipped = _module(name), import_module("benchmarks.shipped")
        suite = shipped.Suite(data or Path(), inputs=QUICK if quick else inputs, only=_names(cases))
        typer.echo(module.run(suite).write(out, name, _command()))

    return measure


def battery(
    data: Data = None,
    out: Out = Path("results"),
    cases: Annotated[
        str | None, typer.Option(help="Classifiers, with commas; NAME@200 is fitted on 200; default all.")
    ] = None,
    inputs: Annotated[int, typer.Option(min=10, help="Inputs in a scenario.")] = 1000,
    methods: Annotated[str | None, typer.Option(help="Built-in methods, with commas; default all.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A further detector, file.py:function of the model; may be repeated.")
    ] = None,
    splits: Annotated[
        int, typer.Option(min=0, help="Further fits of each method, on halves of the fit inputs: 5 for intervals.")
    ] = 0,
    open_sealed: Annotated[
        str | None, typer.Option(metavar="REASON", help="Measure what protocol.toml seals, too; it is written down.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="The digits and 100 inputs: a check in a minute.")] = False,
) -> None:
    """Every detector in every scenario on the shipped classifiers."""
    module: Any = import_module("benchmarks.battery")
    names, size = (("digits",), 100) if quick else (_names(cases), inputs)
    chosen = module.Choice(data, names, size, _names(methods), tuple(method or ()), splits)
    name = "quick" if quick else "battery"
    for file in module.run(chosen, out, name, _command(), reason=open_sealed, jobs=jobs, say=say):
        typer.echo(file)


def again(
    pages: Annotated[list[str] | None, typer.Argument(help="Pages of results/; default all.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the commands and run none.")] = False,
) -> None:
    """Run again the command that each page of results names; a run that was killed resumes from its cache."""
    raise typer.Exit(reproduce.run(pages or [], listed=listed))


def _module(name: str) -> Any:
    return import_module(f"benchmarks.{name.replace('-', '_')}")


def _purpose(name: str) -> str:
    """The first sentence of a measurement's module, read without importing it."""
    file = Path(__file__).with_name(f"{name.replace('-', '_')}.py")
    file = file if file.exists() else file.with_suffix("") / "__init__.py"
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].replace("\n", " ")


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split(";" if ";" in text else ","))


def _command() -> str:
    return shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])


for _name in BENCHMARKS:
    app.command(_name, cls=Command, help=_purpose(_name))(_page(_name))
app.command("battery", cls=Command)(battery)
app.command("reproduce", cls=Command)(again)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
