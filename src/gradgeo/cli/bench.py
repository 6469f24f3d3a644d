"""Measurements: demo and bench."""

import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from gradgeo.cli.console import say
from gradgeo.cli.option_groups import PreparationOptions, grouped
from gradgeo.cli.options import DATA, MODELS, Weights, numbers
from gradgeo.cli.single import preparation_for_fit


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what it writes.")] = Path("demo-output"),
) -> None:
    """Show what a detector of a digits classifier catches. Prints a table and draws a picture, in seconds.

    Example: gradgeo demo
    """
    import_module("gradgeo.demo").run(out)


@grouped
def bench(
    *,
    model: Annotated[str | None, typer.Option("--model", "-m", help=f"Your classifier: {MODELS}")] = None,
    weights: Weights = None,
    data: Annotated[str | None, typer.Option("--id", help=f"Data that your classifier should trust. {DATA}")] = None,
    ood: Annotated[list[str] | None, typer.Option(help="Data that it should not; may be repeated.")] = None,
    attacks: Annotated[
        str | None, typer.Option(help="Kinds of attack, foolbox:NAME, torchattacks:NAME, with commas; none for none.")
    ] = None,
    epsilon: Annotated[str | None, typer.Option(help="Budgets of the attacks, with commas, the largest first.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A further detector, file.py:function of the model; may be repeated.")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Built-in methods, with commas; default all.")] = None,
    inputs: Annotated[int, typer.Option(min=10, help="Inputs in a scenario.")] = 1000,
    attacked: Annotated[int, typer.Option(min=10, help="Inputs that attacks are tried on.")] = 100,
    preparation: PreparationOptions,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page.")] = Path("results"),
    quick: Annotated[bool, typer.Option("--quick", help="The digits and 100 inputs: a check in a minute.")] = False,
) -> None:
    """Compare detectors on your own classifier, on what it should not trust. Writes Markdown, JSON and an HTML page.

    Example: gradgeo bench --model net.py:load --id photos --ood other-photos --attacks pgd
    """
    if quick == (model is not None):
        raise typer.BadParameter("pass either --model and --id, or --quick for the digits")
    user: Any = import_module("gradgeo.bench.user_model")
    chosen = user.select_methods(_names(methods), tuple(method or ()))
    if quick:
        task, scenarios = user.digits_task(100), import_module("gradgeo.bench.scenarios").SCENARIOS
    else:
        if data is None:
            raise typer.BadParameter("pass --id, the data that your classifier should trust")
        assert model is not None
        from gradgeo.data.models import load_model

        loaded = load_model(model, weights)
        preprocess = preparation_for_fit(loaded, model, preparation)
        budgets = None if epsilon is None else numbers("--epsilon", epsilon, ",", float)
        kinds = () if attacks == "none" else _names(attacks)
        scenarios = user.user_scenarios(tuple(ood or ()), kinds, preprocess)
        options = {"attacked": attacked, "preprocess": preprocess, "budgets": budgets}
        task = user.user_task(Path(model).name, loaded, data, inputs, **options)
    estimate = import_module("gradgeo.bench.estimate")
    duration = estimate.told(estimate.seconds(task, scenarios, chosen, beside=not quick))
    say(f"{task.classifier.name}: this takes {duration}, less what an earlier run finished; killed, it goes on later")
    evaluate = import_module("gradgeo.bench.evaluate").evaluate
    command = shlex.join(["gradgeo", *sys.argv[1:]])
    result = evaluate(task, scenarios=scenarios, methods=chosen, beside=not quick, command=command, say=say)
    for file in import_module("gradgeo.bench.page.write").write([result], out, "quick" if quick else "battery"):
        typer.echo(file)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(text.split(","))
