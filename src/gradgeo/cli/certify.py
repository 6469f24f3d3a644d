"""What can be proved of single inputs: certify."""

import json
from typing import Annotated, Any

import typer

from gradgeo.cli.console import print_pairs, share
from gradgeo.cli.option_groups import AskedOptions, PreparationOptions, grouped
from gradgeo.cli.options import (
    AsJson,
    DataSpec,
    DetectorPath,
    Index,
    fraction,
)
from gradgeo.cli.single import detector_and_items
from gradgeo.errors import DataError, one_line

HEADING = f"{'answer':<22}  {'radius':>8}  {'share':>6}  item"


@grouped
def certify(
    file: DetectorPath,
    data: DataSpec,
    *,
    asked: AskedOptions,
    index: Index = None,
    radius: Annotated[
        float, typer.Option(help="The least certified radius, L2 in units of the input, of a trusted input.")
    ] = 0.0,
    draws: Annotated[int, typer.Option(help="Draws of noise for each input, by which a share is bounded.")] = 1000,
    pilot: Annotated[int, typer.Option(help="Draws before them, by which the answer is chosen.")] = 100,
    confidence: Annotated[str, typer.Option(help="With which the certificate of each input holds.")] = "99.9%",
    as_json: AsJson = False,
    limit: Annotated[int | None, typer.Option(help="Items to take at most; each costs draws + pilot verdicts.")] = 10,
    preparation: PreparationOptions,
) -> None:
    """For each input the answer of most draws of noise, and how far no change can alter it. Needs fit --noise.

    Example: gradgeo certify digits.gradgeo -m digits -d digits/test --radius 0.1
    """
    import torch

    from gradgeo.certificate import certify as certificates
    from gradgeo.certificate import largest_radius

    sure = fraction("--confidence", confidence)
    assert sure is not None
    detector, items = detector_and_items(file, data, asked, preparation, index=index, limit=limit)
    how: dict[str, Any] = {"draws": draws, "pilot": pilot, "radius": radius, "confidence": sure}
    certificates(detector, torch.empty(0, *detector.input_shape_), **how)  # refuses what is wrong before any work
    rows: list[dict[str, Any]] = []
    if not as_json:
        typer.echo(HEADING)
    try:
        for item in items:
            row: dict[str, Any] = {"index": item.index, "name": item.name, "true_label": item.label}
            row["error"] = item.error
            if item.x is not None:
                found = certificates(detector, item.x[None], **how)
                row |= {key: value.tolist()[0] for key, value in vars(found).items()}
                row["share"] = None if row["abstained"] else row["share"]
            rows.append(row)
            if not as_json and item.x is not None:
                typer.echo(_line(row))
    finally:  # what was done before an interruption is not lost
        noise = detector.noise_
        assert noise is not None
        stated = {"noise": noise, **how, "largest_radius": largest_radius(noise=noise, draws=draws, confidence=sure)}
        judged = [row for row in rows if row["error"] is None]
        if as_json:
            typer.echo(json.dumps({**stated, "inputs": rows}, indent=2, allow_nan=False))
        elif judged:
            print_pairs(_summary(judged, stated))
    if not judged:
        raise DataError("none of the inputs can be judged")


def _line(row: dict[str, Any]) -> str:
    answer = "not trusted" if row["label"] < 0 else f"class {row['label']}"
    if row["abstained"]:
        return f"{'abstained':<22}  {'':>8}  {'':>6}  {one_line(row['name'])}"
    answer = f"{answer}, {'trusted' if row['trusted'] else 'too near'}" if row["label"] >= 0 else answer
    return f"{answer:<22}  {row['radius']:>8.4g}  {row['share']:>6.3f}  {one_line(row['name'])}"


def _summary(rows: list[dict[str, Any]], stated: dict[str, Any]) -> dict[str, str | None]:
    """Counts of certified inputs, and of those with a label how many of these are right."""
    n, trusted = len(rows), [row for row in rows if row["trusted"]]
    labelled = [row for row in trusted if row["true_label"] is not None and row["true_label"] >= 0]
    within = f" within {stated['radius']:g}" if stated["radius"] else ""
    return {
        f"trusted{within}": share(len(trusted), n),
        "of these right": share(sum(row["label"] == row["true_label"] for row in labelled), len(labelled)),
        "abstained": share(sum(row["abstained"] for row in rows), n),
        "largest radius": f"{stated['largest_radius']:.4g}, as all of {stated['draws']:,} draws agree",
        "each holds with": f"{100 * stated['confidence']:g} % confidence",
    }
