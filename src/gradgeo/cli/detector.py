"""A detector from trusted inputs, what it says of single inputs, and what its file holds: fit, explain, info."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gradgeo._files import atomic_path, refuse_source
from gradgeo.cli.console import print_pairs
from gradgeo.cli.options import (
    AsJson,
    BatchSize,
    Channels,
    Columns,
    Confidence,
    Crop,
    DataRoot,
    DataSpec,
    DetectorPath,
    Device,
    Groups,
    Interpolation,
    Label,
    Limit,
    Mean,
    ModelSpec,
    Order,
    Resize,
    SameModel,
    Sha256,
    Size,
    Start,
    Std,
    Streaming,
    Together,
    Weights,
    Workers,
    columns_of,
    fraction,
    item_at,
    load_detector,
    names,
    number_or,
    on_device,
    preprocess_for,
)
from gradgeo.cli.record import record
from gradgeo.errors import DataError, warn

LISTED = 20
"""Classes or groups whose rates `info` prints; of more only `--json` does."""


def fit(
    model: ModelSpec,
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="The detector file to write.")],
    weights: Weights = None,
    alpha: Annotated[float, typer.Option(help="Share of trusted inputs that may be flagged.")] = 0.05,
    confidence: Confidence = None,
    evidence: Annotated[str, typer.Option(help="full, fast, lite, paper, or names with commas.")] = "full",
    classes: Annotated[int | None, typer.Option(help="Use the maps of the N likeliest classes only.")] = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, mse or logit.")] = "cross_entropy",
    temperature: Annotated[
        str, typer.Option(help="At which the loss is differentiated: a number, or auto, found by the margins.")
    ] = "auto",
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Bring every input's largest logit to 10, as the paper's code does.")
    ] = False,
    channel_max: Annotated[
        bool, typer.Option("--channel-max", help="Of signed maps the largest channel, as the paper's code takes it.")
    ] = False,
    one_class: Annotated[
        str, typer.Option(help="Model of the saliency maps' statistics: copula, or loda, the paper's.")
    ] = "copula",
    calibration: Annotated[float, typer.Option(help="Share of the data that calibrates the p-values.")] = 0.5,
    groups: Groups = None,
    together: Together = None,
    seed: Annotated[int, typer.Option(help="Of the split into fitting and calibration.")] = 0,
    start: Start = 0,
    limit: Limit = None,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    order: Order = None,
    interpolation: Interpolation = None,
    columns: Columns = None,
    label: Label = None,
    data_root: DataRoot = None,
    stream: Streaming = False,
    device: Device = "cpu",
    batch_size: BatchSize = 64,
    workers: Workers = 1,
) -> None:
    """Fit a detector on trusted inputs. The model must not have been trained on them.

    Example: gradgeo fit -m digits -d digits/fit -o digits.gradgeo
    """
    from gradgeo.cli.progress import progress
    from gradgeo.data import Preprocess, ReadableItems, open_source
    from gradgeo.data.models import load_model, pretrained_preprocessing
    from gradgeo.detector import Detector
    from gradgeo.detector.evidence import PRESETS

    preprocess = preprocess_for(
        Preprocess(), size, channels, mean, std, resize=resize, crop=crop, order=order, interpolation=interpolation
    )
    if preprocess == Preprocess():  # nothing is declared: what the model was trained to see, where its library says so
        preprocess = Preprocess.from_dict(pretrained_preprocessing(model))
    refuse_source(out, data)
    with atomic_path(out) as temporary:
        source = open_source(
            data,
            preprocess=preprocess,
            start=start,
            limit=limit,
            data_root=data_root,
            streaming=stream,
            columns=names(columns) or None,
            label=label,
            keep=tuple(dict.fromkeys(names(groups) + names(together))),
        )
        detector = Detector(
            on_device(device, load_model(model, weights)),
            evidence=evidence if evidence in PRESETS else evidence.split(","),
            alpha=alpha,
            confidence=fraction("--confidence", confidence),
            classes=classes,
            loss=loss,
            temperature=number_or("auto", "--temperature", temperature),
            rescale=rescale,
            channel_max=channel_max,
            one_class=one_class,
            calibration=calibration,
            seed=seed,
            batch_size=batch_size,
        )
        with progress("fitting", source.size and 2 * source.size) as advance:  # the data is read twice
            usable = ReadableItems(source, batch_size=batch_size, workers=workers, progress=advance)
            kinds, units = usable.groups(names(groups)), usable.groups(names(together))
            detector.fit(usable.loader(), groups=kinds, together=units)
        detector.adopt(replace(detector.fitted_, columns=source.columns))
        if usable.skipped:
            first = usable.skipped[0]
            left_out = f"{len(usable.skipped)} of {usable.items} items cannot be read and were left out"
            warn(f"{left_out}; the first: {first.name}: {first.error}")
        notes: dict[str, object] = {
            "model": model,
            "weights": None if weights is None else Path(weights).name,
            "data": data,
            "class_names": list(source.classes),
            "preprocess": preprocess.as_dict(),
        }
        notes["record"] = record(detector, data, usable, source.classes)
        if groups is not None:
            notes["groups"] = list(names(groups))
        detector.save(temporary, notes=notes)
    print_pairs(
        {
            "fitted on": detector.fit_size_,
            "calibrated on": detector.calibration_size_,
            "false alarms": detector.false_alarm_rate_,
            "left out, misclassified": detector.misclassified_,
            "left out, unusable": detector.unusable_ + len(usable.skipped),
            "preprocessing": preprocess.declared(),
            "written to": out,
        }
    )


def explain(
    file: DetectorPath,
    data: DataSpec,
    model: SameModel = None,
    index: Annotated[list[int] | None, typer.Option("--index", "-i", help="An item; may be repeated.")] = None,
    as_json: AsJson = False,
    weights: Weights = None,
    sha256: Sha256 = None,
    start: Start = 0,
    limit: Limit = 3,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    order: Order = None,
    interpolation: Interpolation = None,
    data_root: DataRoot = None,
    stream: Streaming = False,
    device: Device = "cpu",
) -> None:
    """Say why single inputs are trusted or not. Takes those of --index, or else the first few.

    Example: gradgeo explain digits.gradgeo -m digits -d digits/test -i 7
    """
    from gradgeo.data import Preprocess, open_source
    from gradgeo.detector import serialization
    from gradgeo.scoring import checked

    contents = serialization.read(file, sha256=sha256)
    fitted = Preprocess.from_dict(contents.notes.get("preprocess"))
    preprocess = preprocess_for(
        fitted, size, channels, mean, std, resize=resize, crop=crop, order=order, interpolation=interpolation
    )
    part: dict[str, Any] = {} if index else {"start": start, "limit": limit}
    columns = columns_of(contents, data)
    source = open_source(data, preprocess=preprocess, data_root=data_root, streaming=stream, columns=columns, **part)
    items = [item_at(source, i) for i in index] if index else list(source)
    detector = load_detector(contents, model, weights, device)
    rows: list[dict[str, Any]] = []
    for read in items:
        item = checked(read, detector.input_shape_)
        rows.append({"index": item.index, "name": item.name, "true_label": item.label, "error": item.error})
        if item.x is None:
            warn(f"{item.name} (index {item.index}) cannot be judged: {item.error}")
            continue
        explanation = detector.explain(item.x[None])[0]
        rows[-1] |= explanation.as_dict()
        if not as_json:
            typer.echo(f"{item.name} (index {item.index})\n{explanation}\n")
    if as_json:
        typer.echo(json.dumps(rows, indent=2, allow_nan=False))
    if all(entry["error"] for entry in rows):
        raise DataError("none of the inputs can be judged")


def info(file: DetectorPath, as_json: AsJson = False, sha256: Sha256 = None) -> None:
    """Print what a detector file holds, its SHA-256 and the detector's digest. Its model is not needed.

    Example: gradgeo info digits.gradgeo
    """
    from gradgeo.detector import serialization

    facts = serialization.inspect(file, sha256=sha256)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        rates = {kind: each for kind, each in facts.pop("false_alarms", {}).items() if len(each) <= LISTED}
        words = {"false_alarms": {kind: _in_words(each) for kind, each in rates.items()}} if rates else {}
        print_pairs(words | facts)


def _in_words(rates: dict[str, Any]) -> dict[str, str]:
    """Rates by name as they are printed."""
    from gradgeo.detector.conformal import FalseAlarmRate

    words = {}
    for name, each in rates.items():
        rate = FalseAlarmRate(each["flagged_ranks"], each["calibration_size"], each["confidence"])
        few = f"{rate.calibration_size} calibration inputs of its own: too few, compared with all"
        words[name] = str(rate) if rate.ranks else few
    return words
