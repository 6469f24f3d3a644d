"""The decision-boundary figure: path."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from gradgeo._files import atomic_path, refuse_source
from gradgeo.cli.console import print_pairs
from gradgeo.cli.option_groups import PreparationOptions, grouped
from gradgeo.cli.options import (
    DataRoot,
    DataSpec,
    Device,
    SameModel,
    Weights,
    item_at,
    load_detector,
    numbers,
    on_device,
)
from gradgeo.cli.single import preparation_as_fitted
from gradgeo.errors import DataError, expected


@grouped
def path(
    data: DataSpec,
    index: Annotated[str, typer.Option("--index", "-i", help="The item to start from: its number or name.")],
    epsilon: Annotated[float, typer.Option(help="How far the attack may go, in units of the input.")],
    out: Annotated[list[Path], typer.Option("--out", "-o", help=".png, .svg, .pdf, .json or .csv; may be repeated.")],
    *,
    detector: Annotated[Path | None, typer.Option(help="A file that fit wrote, for outlier scores.")] = None,
    model: SameModel = None,
    weights: Weights = None,
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    steps: Annotated[int, typer.Option(help="Steps of the attack, of epsilon / 4 each.")] = 100,
    target: Annotated[int | None, typer.Option(help="The class to lead to; default any other.")] = None,
    bounds: Annotated[str, typer.Option(help="Range of the inputs as LOW,HIGH, or none.")] = "0,1",
    points: Annotated[int, typer.Option(help="Points of the line.")] = 41,
    preparation: PreparationOptions,
    data_root: DataRoot = None,
    device: Device = "cpu",
) -> None:
    """Draw the decision on the way from an input to an attacked one. PGD searches the adversarial example.

    Example: gradgeo path -m digits -d digits/test -i 7 --epsilon 0.3 -o path.png
    """
    from gradgeo.attacks.decision_path import ENDINGS, adversary, decision_path
    from gradgeo.data import open_source
    from gradgeo.data.models import load_model
    from gradgeo.detector.file import serialization
    from gradgeo.report import plots

    endings = (*plots.ENDINGS, *ENDINGS)
    for file in out:
        if file.suffix not in endings:
            raise expected("out", f"a file ending in {', '.join(endings)}", str(file))
    contents = serialization.read(detector) if detector else None
    notes = contents.notes if contents else {}
    preprocess = preparation_as_fitted(notes, model, preparation)
    source = open_source(data, preprocess=preprocess, data_root=data_root)
    item = item_at(source, index)
    with ExitStack() as stack:
        for file in out:
            refuse_source(file, data)
        files = [stack.enter_context(atomic_path(file)) for file in out]
        if contents:
            fitted = load_detector(contents, model, weights, device)
            classifier = fitted.model
        elif model:
            fitted, classifier = None, on_device(device, load_model(model, weights))
        else:
            raise typer.BadParameter("pass --model or --detector")
        if item.x is None:
            raise DataError(f"{item.name} (index {item.index}) cannot be read: {item.error}")
        adversarial = adversary(
            classifier,
            item.x[None],
            item.label,
            epsilon=epsilon,
            norm=norm,
            steps=steps,
            target=target,
            bounds=None if bounds == "none" else numbers("--bounds", bounds, ",", float),
        )
        line = decision_path(classifier, item.x[None], adversarial, points=points, detector=fitted)
        for file in files:
            if file.suffix in ENDINGS:
                line.write(file)
            else:
                plots.path(line, file, names=source.classes)
    print_pairs(
        {
            "item": f"{item.name} (index {item.index})",
            "class": int(line.label[0]),
            "adversarial class": int(line.label[-1]),
            "label switches at": ", ".join(f"{switch:.3f}" for switch in line.switches),
            "written to": ", ".join(map(str, out)),
        }
    )
