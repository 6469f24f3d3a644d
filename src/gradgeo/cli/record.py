"""What `fit` writes down of itself, and the card that is made of it: record, card."""

import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradgeo._files import atomic_stream, regular_file
from gradgeo.cli.options import DetectorPath, Sha256
from gradgeo.errors import DataError, one_line

if TYPE_CHECKING:
    from gradgeo import Detector
    from gradgeo.data import ReadableItems

USE = (
    "Predictions of the classifier below on inputs like those that it was fitted on. Inputs that are flagged go to a "
    "person. It does not correct predictions, and does not replace an evaluation of the classifier."
)
LIMITS = """\
- The rates hold for inputs exchangeable with the calibration inputs. On other data, another camera or another site
  they are unknown until they are checked there.
- They are rates of false alarms. How many untrustworthy inputs are caught depends on what these are: it has no bound.
- A kind with too few calibration inputs is compared with all, and its own rate is not bounded.
- The file is bound to the weights of its classifier: with others the rates do not hold."""

OURS, LARGEST_BENCH = "gradgeo", 1 << 28  # the method in what bench wrote, and bytes of that

SHOWN = 200
"""Classes or groups in a table of a card."""


def record(detector: "Detector", data: str, items: "ReadableItems", classes: Sequence[str]) -> dict[str, Any]:
    """How a detector was fitted, beside what its file says anyway: seed, versions, settings, preparation."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": shlex.join(["gradgeo", *sys.argv[1:]]),
        "data": data_record(data, items, classes),
        "left_out": {"misclassified": detector.misclassified_, "unusable": detector.unusable_},
    }


def data_record(data: str, items: "ReadableItems", classes: Sequence[str]) -> dict[str, Any]:
    """What was read of some data: its name, the SHA-256 of inputs and labels, counts."""
    names = dict(enumerate(classes))
    return {
        "name": data,
        "sha256": items.sha256,
        "items": items.items,
        "unreadable": len(items.skipped),
        "labels": {names.get(label, str(label)): count for label, count in sorted(items.labels.items())},
    }


def card(
    file: DetectorPath,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; default is to print.")] = None,
    bench: Annotated[Path | None, typer.Option(help="What bench wrote of the model, .json: its robustness.")] = None,
    sha256: Sha256 = None,
) -> None:
    """Write a card of a detector as Markdown. What it is for, its false-alarm rates, data, limits and hashes.

    Example: gradgeo card digits.gradgeo -o README.md
    """
    from gradgeo.detector.file import serialization

    robustness = None if bench is None else robustness_of(bench)
    text = markdown(serialization.inspect(file, sha256=sha256), file.name, robustness)
    if out is None:
        typer.echo(text)
        return
    with atomic_stream(out) as stream:
        stream.write(text.encode())
    typer.echo(f"written to  {out}")


def robustness_of(file: Path) -> str:
    """A table of what `gradgeo bench` measured of one model. Raises: DataError for a file that is none of its own."""
    regular_file(file)
    try:
        if file.stat().st_size > LARGEST_BENCH:
            raise ValueError(f"it has more than {LARGEST_BENCH:,} bytes")
        runs = json.loads(file.read_bytes())
        runs = runs if isinstance(runs, list) else [runs]
        if len(runs) != 1:
            raise ValueError(f"expected one model, got {len(runs)}")
        (run,) = runs
        rows = []
        for name, column in run["columns"].items():
            cell = run["cells"][OURS].get(name)
            if cell is not None:
                shares = [tuple(100 * float(each) for each in cell[metric]) for metric in ("auroc", "tnr95")]
                rows.append((str(name), str(column["count"]), *("{:.1f} [{:.1f}, {:.1f}]".format(*s) for s in shares)))
        made, model = run["made"], run["model"]
        said = (
            f"Measured on {_text(str(model['name']))} by `{_text(str(made['command']))}`, {_text(str(made['date']))}: "
            f"a detector with the evidence of {OURS}, fitted by the benchmark, on {len(rows)} kinds of inputs that "
            "should not be trusted. In %, with 95 % intervals."
        )
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise DataError(f"{file} is not what bench wrote of one model: {one_line(str(error))}.") from error
    return f"{said}\n\n{_table(('inputs', 'number', 'AUROC', 'TNR at 95 % TPR'), rows)}"


def markdown(facts: Mapping[str, Any], name: str, robustness: str | None = None) -> str:
    """The card of what `gradgeo.detector.file.serialization.inspect` says of a file, with a section on robustness."""
    settings, fitted, notes = facts["settings"], facts["fitted"], facts["notes"]
    kept = notes.get("record") or fitted.get("record")
    known: dict[str, Any] = kept if isinstance(kept, dict) else {}
    data: dict[str, Any] = known["data"] if isinstance(known.get("data"), dict) else {}
    whole = facts["false_alarms"]["all"]["all"]
    sure = f"with {100 * whole['confidence']:g} % confidence"
    rate = (
        f"Of trustworthy inputs {100 * whole['expected']:.2f} % are flagged on average over calibration sets. This "
        f"detector flags at most {100 * whole['at_most']:.2f} %, {sure} (p <= {whole['flagged_ranks']}/"
        f"{whole['calibration_size'] + 1}; alpha {settings['alpha']:g})."
    )
    blocks = [
        "---\nlibrary_name: gradgeo\ntags:\n- out-of-distribution-detection\n- conformal-prediction\n---",
        f"# {_text(name)}",
        "A reject option for one trained classifier: it says of each prediction whether to trust it.",
        "## Intended use",
        USE,
        _table(
            ("", ""),
            _pairs(
                {
                    "model": notes.get("model"),
                    "weights": notes.get("weights"),
                    "classes": fitted["num_classes"],
                    "input shape": fitted["input_shape"],
                    "evidence": settings["evidence"],
                    "noise added to each input, standard deviation": settings.get("noise"),
                    "preparation": notes.get("preprocess"),
                }
            ),
        ),
        "## False alarms",
        rate,
    ]
    for kind, title in (("by_class", "predicted class"), ("by_group", "group")):
        if kind in facts["false_alarms"]:
            blocks.append(f"Where p-values are conditional on the {title}:")
            blocks.append(_table((title, "calibration inputs", "expected", f"at most, {sure}"), _rates(facts, kind)))
    blocks += [
        "## Data",
        _table(
            ("", ""),
            _pairs(
                {
                    "data": data.get("name", notes.get("data")),
                    "SHA-256 of the inputs and labels as read": data.get("sha256"),
                    "items": data.get("items"),
                    "unreadable": data.get("unreadable"),
                    "learned from": fitted["fit_size"],
                    "calibrated on": fitted["calibration_size"],
                    "left out, misclassified": fitted["misclassified"],
                    "left out, unusable": fitted["unusable"],
                    "by label": data.get("labels"),
                }
            ),
        ),
        *([] if robustness is None else ["## Robustness", robustness]),
        "## Limits",
        LIMITS,
        "## Record",
        _table(
            ("", ""),
            _pairs(
                {
                    "fitted": known.get("date"),
                    "command": known.get("command"),
                    "seed": settings["seed"],
                    "versions": facts["versions"],
                    "SHA-256 of the file": facts["sha256"],
                    "digest of the detector": facts["digest"],
                    "SHA-256 of the weights": facts["fingerprint"]["weights"],
                }
            ),
        ),
    ]
    if not known:
        blocks.append("The file holds no record of its data and command: an earlier version wrote it.")
    for ancestor in fitted.get("lineage", ()):
        blocks.append(f"Calibrated anew on {ancestor['date']} ({_text(ancestor['why'])}) from `{ancestor['digest']}`.")
    return "\n\n".join(blocks) + "\n"


def _rates(facts: Mapping[str, Any], kind: str) -> Iterable[tuple[str, ...]]:
    for place, (name, rate) in enumerate(facts["false_alarms"][kind].items()):
        if place == SHOWN:
            yield "...", "", "", ""
            return
        shares = [f"{100 * rate[each]:.2f} %" for each in ("expected", "at_most")]
        yield name, str(rate["calibration_size"]), *(shares if rate["flagged_ranks"] else ["compared with all", ""])


def _pairs(pairs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, value in pairs.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items() if entry is not None) or None
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        if value is not None:
            yield name, str(value)


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _text(value: str) -> str:
    """A text of the file as one cell, in which nothing is Markdown or HTML."""
    text = one_line(value)
    return "".join(f"\\{c}" if c in "\\`*_[]|" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(c, c) for c in text)
