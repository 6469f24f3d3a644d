"""Measurements: demo and bench."""

import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from gradgeo.cli.console import say
from gradgeo.cli.options import DATA, MODELS, Channels, Mean, Size, Std, Weights, numbers, preprocess_for

PAGES = (
    *(
        "accuracy",
        "adaptive",
        "architectures",
        "attacks",
        "coverage",
        "detection",
        "engine",
        "evasion",
        "evidence",
        "export",
        "guarantee",
    ),
    *("local-minima", "one-class", "paper", "report", "scoring", "serving", "watch"),
)
"""The measurements that each write one page."""


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what it writes.")] = Path("demo-output"),
) -> None:
    """Show what a detector of a digits classifier catches. Prints a table and draws a picture, in seconds.

    Example: gradgeo demo
    """
    import_module("gradgeo.demo").run(out)


def bench(
    name: Annotated[str, typer.Argument(help=f"battery, or one of {', '.join(PAGES)}.")] = "battery",
    data: Annotated[
        Path | None, typer.Option("--data", "-d", help="Folder with data/ and models/.", envvar="GRADGEO_DATA")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page.")] = Path("results"),
    quick: Annotated[bool, typer.Option("--quick", help="The digits and few inputs: a check in a minute.")] = False,
    cases: Annotated[str | None, typer.Option(help="Classifiers in the data folder, with commas; default all.")] = None,
    inputs: Annotated[int, typer.Option(min=10, help="Inputs in a column.")] = 1000,
    model: Annotated[str | None, typer.Option("--model", "-m", help=f"Your own classifier: {MODELS}")] = None,
    weights: Weights = None,
    own: Annotated[str | None, typer.Option("--id", help=f"Data that your classifier should trust. {DATA}")] = None,
    ood: Annotated[list[str] | None, typer.Option(help="Data that it should not; may be repeated.")] = None,
    attacks: Annotated[str | None, typer.Option(help="Kinds of attack, with commas; none for none.")] = None,
    epsilon: Annotated[str | None, typer.Option(help="Budgets of the attacks, with commas, the largest first.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A further detector, file.py:function of the model; may be repeated.")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Built-in methods, with commas; default all.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the work on the data folder.")] = 1,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
) -> None:
    """Compare detectors on what a classifier should not trust. Writes Markdown, JSON and an HTML page.

    Example: gradgeo bench --model net.py:load --id photos --ood other-photos --attacks pgd
    """
    command = " ".join(["gradgeo", *map(shlex.quote, sys.argv[1:])])
    if name != "battery":
        if name not in PAGES:
            raise typer.BadParameter(f"expected battery or one of {', '.join(PAGES)}, got {name}")
        if data is None:
            raise typer.BadParameter("pass --data, the folder with data/ and models/")
        benchmark = import_module("benchmarks")
        wanted = benchmark.Cases(data, inputs=inputs, only=_names(cases))
        typer.echo(benchmark.run(name, wanted, out, command))
        return
    battery = import_module("gradgeo.bench.evaluate")
    custom = import_module("gradgeo.bench.user_model")
    chosen = custom.chosen_methods(_names(methods), tuple(method or ()))
    columns = None
    if model is not None:
        if own is None:
            raise typer.BadParameter("pass --id, the data that your classifier should trust")
        from gradgeo.data import Preprocess

        preprocess = preprocess_for(Preprocess(), size, channels, mean, std)
        budgets = None if epsilon is None else numbers("--epsilon", epsilon, ",", float)
        kinds = () if attacks == "none" else _names(attacks)
        columns = custom.own_columns(tuple(ood or ()), kinds, preprocess)
        settings = [custom.own_setting(model, own, inputs, weights=weights, preprocess=preprocess, budgets=budgets)]
    else:
        inputs = 100 if quick else inputs
        settings = custom.shipped_settings(data, ("digits",) if quick else _names(cases), inputs)
        if jobs > 1:
            chosen_by = (_names(methods), tuple(method or ()))
            processes = import_module("benchmarks.processes")
            processes.prepare(data, tuple(s.case.name for s in settings), inputs, chosen_by, jobs, say)
    results = [
        battery.evaluate(setting, columns=columns, methods=chosen, command=command, say=say) for setting in settings
    ]
    written = import_module("gradgeo.bench.page.write").write(results, out, "quick" if quick else "battery")
    for file in written:
        typer.echo(file)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split(","))
