"""A detector from trusted inputs, what it says of single inputs, and what its file holds: fit, explain, info."""

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from gradgeo._files import atomic_path, refuse_source
from gradgeo.cli.console import print_pairs
from gradgeo.cli.option_groups import AskedOptions, PreparationOptions, grouped
from gradgeo.cli.options import (
    AsJson,
    BatchSize,
    Columns,
    Confidence,
    DataRoot,
    DataSpec,
    DetectorPath,
    Device,
    Groups,
    Index,
    Keys,
    Label,
    Limit,
    ModelSpec,
    Sha256,
    Start,
    Streaming,
    Together,
    Weights,
    Workers,
    fraction,
    names,
    number_or,
    on_device,
)
from gradgeo.cli.record import record
from gradgeo.cli.single import detector_and_items, preparation_for_fit
from gradgeo.errors import DataError, warn

LISTED = 20
"""Classes or groups whose rates `info` prints; of more only `--json` does."""


@grouped
def fit(
    model: ModelSpec,
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="The detector file to write.")],
    *,
    weights: Weights = None,
    alpha: Annotated[float, typer.Option(help="Share of trusted inputs that may be flagged.")] = 0.05,
    confidence: Confidence = None,
    evidence: Annotated[str, typer.Option(help="full, fast, lite, paper, or names with commas.")] = "full",
    classes: Annotated[
        int | None, typer.Option(help="Use the maps of the N likeliest classes only; by default of 20 at most.")
    ] = None,
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
    emphasis: Annotated[
        str | None, typer.Option(help='What matters most: "mistakes", "ood" or "attacks"; by default all alike.')
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Judge x plus Gaussian noise of this standard deviation, for a certificate.")
    ] = None,
    calibration: Annotated[float, typer.Option(help="Share of the data that calibrates the p-values.")] = 0.5,
    groups: Groups = None,
    together: Together = None,
    references: Annotated[
        int | None, typer.Option(min=0, max=0, help="0: keep no rows of features of inputs in the file.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split into fitting and calibration.")] = 0,
    start: Start = 0,
    limit: Limit = None,
    preparation: PreparationOptions,
    expect_accuracy: Annotated[
        str | None, typer.Option(help="What the model is known to reach, as 97%; far less is a warning.")
    ] = None,
    columns: Columns = None,
    label: Label = None,
    data_root: DataRoot = None,
    stream: Streaming = False,
    keys: Keys = None,
    device: Device = "cpu",
    batch_size: BatchSize = 64,
    workers: Workers = 1,
) -> None:
    """Fit a detector on trusted inputs. The model must not have been trained on them.

    Example: gradgeo fit -m digits -d digits/fit -o digits.gradgeo
    """
    from gradgeo.cli.narrated import FitWords, input_channels, mistakes_flagged, mistakes_in_words
    from gradgeo.data import Preprocess, ReadableItems, open_source
    from gradgeo.data.models import class_names, load_model
    from gradgeo.detector import Detector
    from gradgeo.detector.evidence import PRESETS, without_rows
    from gradgeo.detector.fit.progress import duration

    began = time.monotonic()
    wanted = evidence if evidence in PRESETS else evidence.split(",")
    known_accuracy = fraction("--expect-accuracy", expect_accuracy)
    refuse_source(out, data)
    with atomic_path(out) as temporary:
        loaded = on_device(device, load_model(model, weights))
        preprocess = preparation_for_fit(loaded, model, preparation)
        read = partial(
            open_source,
            data,
            preprocess=preprocess,
            start=start,
            limit=limit,
            data_root=data_root,
            streaming=stream,
            columns=names(columns) or None,
            label=label,
            keys=names(keys),
            keep=tuple(dict.fromkeys(names(groups) + names(together))),
        )
        source, known = read(), class_names(loaded)
        if source.classes and set(source.classes) <= set(known):
            source = read(class_order=known)
        source.channels = input_channels(loaded)
        detector = Detector(
            loaded,
            evidence=without_rows(wanted) if references == 0 else wanted,
            alpha=alpha,
            confidence=fraction("--confidence", confidence),
            classes="auto" if classes is None else classes,
            loss=loss,
            temperature=number_or("auto", "--temperature", temperature),
            rescale=rescale,
            channel_max=channel_max,
            one_class=one_class,
            emphasis=emphasis,
            noise=noise,
            calibration=calibration,
            seed=seed,
            batch_size=batch_size,
        )
        usable = ReadableItems(source, batch_size=batch_size, workers=workers)
        kinds, units = usable.groups(names(groups)), usable.groups(names(together))
        words = FitWords(usable, source.classes or known, known_accuracy)
        detector.fit(usable.loader(), groups=kinds, together=units, progress=words)
        detector.adopt(replace(detector.fitted_, columns=source.columns))
        if usable.tally.channels and isinstance(
            preprocess, Preprocess
        ):  # what was brought to the model's channels is stated from now on
            preprocess = replace(preprocess, channels=source.channels)
        if usable.skipped:
            first = usable.skipped[0]
            left_out = f"{len(usable.skipped)} of {usable.items} items cannot be read and were left out"
            warn(f"{left_out}; the first: {first.name}: {first.error}")
        notes: dict[str, object] = {
            "model": model,
            "weights": None if weights is None else Path(weights).name,
            "data": data,
            "class_names": list(source.classes or known),
            "preprocess": preprocess.as_dict(),
        }
        if keys is not None:
            notes["keys"] = list(names(keys))
        if columns is not None and source.columns is None:  # of pictures or texts: what the numbers are is in `fitted`
            notes["columns"] = list(names(columns))
        unusable = detector.unusable_ + len(usable.skipped)
        kept_record = record(detector, data, usable, source.classes)
        assert words.scan is not None
        flagged, judged = mistakes_flagged(detector, words.scan, usable.inputs())
        kept_record |= {"right": words.scan.right, "labelled": words.scan.labelled}
        kept_record |= {"mistakes": {"judged": judged, "flagged": flagged}} if judged else {}
        notes["record"] = kept_record
        if groups is not None:
            notes["groups"] = list(names(groups))
        detector.save(temporary, notes=notes)
    print_pairs(
        {
            "fitted on": detector.fit_size_,
            "calibrated on": detector.calibration_size_,
            "false alarms": detector.false_alarm_rate_,
            "left out, misclassified": detector.misclassified_,
            "left out, unusable": unusable,
            "mistakes flagged": mistakes_in_words(flagged, judged),
            "preprocessing": preprocess.declared(),
            "took": duration(time.monotonic() - began),
            "written to": out,
        }
    )


@grouped
def explain(
    file: DetectorPath,
    data: DataSpec,
    *,
    asked: AskedOptions,
    index: Index = None,
    as_json: AsJson = False,
    limit: Limit = 3,
    preparation: PreparationOptions,
) -> None:
    """Say why single inputs are trusted or not. Takes those of --index, or else the first few.

    Example: gradgeo explain digits.gradgeo -m digits -d digits/test -i 7
    """
    detector, items = detector_and_items(file, data, asked, preparation, index=index, limit=limit)
    rows: list[dict[str, Any]] = []
    for item in items:
        rows.append({"index": item.index, "name": item.name, "true_label": item.label, "error": item.error})
        if item.x is None:
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
    from gradgeo.detector.file import serialization

    facts = serialization.inspect(file, sha256=sha256)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        rates = {kind: each for kind, each in facts.pop("false_alarms", {}).items() if len(each) <= LISTED}
        words = {"false_alarms": {kind: _in_words(each) for kind, each in rates.items()}} if rates else {}
        print_pairs(_in_short(facts) if "fitted" in facts else {}, longest=None, width=len("classes") + 1)
        print_pairs(words | facts)


def _in_short(facts: dict[str, Any]) -> dict[str, str]:
    """What a person asks first: what it judges, when and on what it was fitted."""
    from gradgeo.detector.fit.narration import numbering
    from gradgeo.detector.learned import named

    settings, fitted, notes = facts["settings"], facts["fitted"], facts["notes"]
    kept = notes.get("record")
    date = kept.get("date") if isinstance(kept, dict) else None
    on = f"on {fitted['fit_size']} inputs, calibrated on {fitted['calibration_size']}, of {notes.get('data', 'data')}"
    return {
        "judges": f"{notes.get('model', 'a model')}, inputs of {' x '.join(map(str, fitted['input_shape']))}",
        "classes": numbering(fitted["num_classes"], named(notes, fitted["num_classes"])),
        "fitted": f"{'' if date is None else f'{date}, '}{on}",
        "flags": f"p <= {settings['alpha']:g}; evidence {', '.join(settings['evidence'])}",
    }


def _in_words(rates: dict[str, Any]) -> dict[str, str]:
    """Rates by name as they are printed."""
    from gradgeo.detector.calibration.conformal import FalseAlarmRate

    words = {}
    for name, each in rates.items():
        rate = FalseAlarmRate(each["flagged_ranks"], each["calibration_size"], each["confidence"])
        few = f"{rate.calibration_size} calibration inputs of its own: too few, compared with all"
        words[name] = str(rate) if rate.ranks else few
    return words
