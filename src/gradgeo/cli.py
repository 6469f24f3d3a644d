"""The command line: commands parse, call the library and print. Results go to stdout, all else to stderr."""

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text
from torch import nn
from typer.core import TyperCommand

from gradgeo import __version__, detector_file, plots
from gradgeo.data import Preprocess, Usable, open_source
from gradgeo.data.source import one_line
from gradgeo.detector import Detector
from gradgeo.errors import DataError, GradgeoError, GradgeoWarning, expected, warn
from gradgeo.evidence import PRESETS
from gradgeo.models import is_named, load_model
from gradgeo.path import ENDINGS as DATA_ENDINGS
from gradgeo.path import adversary, decision_path
from gradgeo.scoring import check_out, checked, replacing
from gradgeo.scoring import score as score_source

FAILED, INTERRUPTED, BROKEN_PIPE = 1, 130, 141
"""Exit codes; 2, wrong usage, is Typer's."""

LONGEST = 80
"""Characters of a value that `info` prints."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """What the shell calls; `--debug` may stand anywhere. Asked to end, it still removes what is half written."""
    for ending in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(ending, lambda number, frame: sys.exit(128 + number))
    app(sorted(sys.argv[1:], key=lambda argument: argument != "--debug"), prog_name="gradgeo")


class Command(TyperCommand):
    """A command whose failures and warnings are one line each on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command's function."""
        try:
            with _warnings_as_lines():
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # our reader has gone; flushing at exit must not complain once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except Exception as error:
            if ctx.find_root().params.get("debug"):
                traceback.print_exc()
            known = isinstance(error, GradgeoError)
            _say(f"error: {error if known else f'{type(error).__name__}: {error} (--debug says where)'}")
            raise typer.Exit(FAILED) from error


# Options that commands share.
MODELS = "file.py:function, package.module:function, torchvision:NAME, timm:NAME or digits."
SAME_MODEL = "As for fit; may be left out where that was digits, torchvision: or timm:."
DATA = "A folder of images, an image, a .parquet, .npz or .npy file, ucr:NAME or digits."
ModelSpec = Annotated[str, typer.Option("--model", "-m", help=MODELS)]
SameModel = Annotated[str | None, typer.Option("--model", "-m", help=SAME_MODEL)]
DataSpec = Annotated[str, typer.Option("--data", "-d", help=DATA)]
DetectorPath = Annotated[Path, typer.Argument(metavar="DETECTOR", help="The file that fit wrote.")]
Weights = Annotated[str | None, typer.Option(help="The model's weights, a .safetensors file.")]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")]
Start = Annotated[int, typer.Option(help="Items to leave out at the beginning.")]
Limit = Annotated[int | None, typer.Option(help="Items to take at most.")]
DataRoot = Annotated[str | None, typer.Option(help="Folder of the UCR archive; default $UCR_DATA_HOME.")]
Size = Annotated[str | None, typer.Option(help="Resize images to this: 224 or HEIGHTxWIDTH.")]
Channels = Annotated[int | None, typer.Option(help="Make images 1 (grey) or 3 (RGB) channels.")]
Mean = Annotated[str | None, typer.Option(help="Subtract this: one number, or per channel as 0.5,0.4,0.4.")]
Std = Annotated[str | None, typer.Option(help="Divide by this, written like --mean.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Inputs in one pass of the model.")]
Workers = Annotated[int, typer.Option(min=1, help="Threads that read ahead.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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


@app.command(cls=Command)
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what it writes.")] = Path("demo-output"),
) -> None:
    """Train a small classifier on scikit-learn's digits, fit its detector and show what that catches.

    Example: gradgeo demo
    """
    import_module("gradgeo.demo").run(out)


@app.command(cls=Command)
def bench(
    name: Annotated[str, typer.Argument(help="accuracy, adaptive, detection, guarantee, local-minima or one-class.")],
    data: Annotated[Path, typer.Option("--data", "-d", help="Folder with data/ and models/.", envvar="GRADGEO_DATA")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page.")] = Path("results"),
) -> None:
    """Repeat a measurement whose results are committed under results/; takes minutes.

    Example: gradgeo bench guarantee --data ../shared
    """
    benchmark = import_module("gradgeo.benchmark")
    if name not in benchmark.BENCHMARKS:
        raise typer.BadParameter(f"expected one of {', '.join(benchmark.BENCHMARKS)}, got {name}")
    print(benchmark.run(name, data, out))


@app.command(cls=Command)
def fit(
    model: ModelSpec,
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="The detector file to write.")],
    weights: Weights = None,
    alpha: Annotated[float, typer.Option(help="Share of trusted inputs that may be flagged.")] = 0.05,
    evidence: Annotated[str, typer.Option(help="What is measured: paper, or names with commas.")] = "paper",
    classes: Annotated[int | None, typer.Option(help="Use the maps of the N likeliest classes only.")] = None,
    loss: Annotated[str, typer.Option(help="cross_entropy, mse or logit.")] = "cross_entropy",
    calibration: Annotated[float, typer.Option(help="Share of the data that calibrates the p-values.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the split into fitting and calibration.")] = 0,
    start: Start = 0,
    limit: Limit = None,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    batch_size: BatchSize = 64,
    workers: Workers = 1,
) -> None:
    """Fit a detector on trusted inputs that the model was not trained on.

    Example: gradgeo fit -m digits -d digits/fit -o digits.gradgeo
    """
    preprocess = _preprocess(Preprocess(), size, channels, mean, std)
    with replacing(out, data) as temporary:
        source = open_source(data, preprocess=preprocess, start=start, limit=limit, data_root=data_root)
        detector = Detector(
            _on(device, load_model(model, weights)),
            evidence=evidence if evidence in PRESETS else evidence.split(","),
            alpha=alpha,
            classes=classes,
            loss=loss,
            calibration=calibration,
            seed=seed,
            batch_size=batch_size,
        )
        with _progress("fitting", 2 * len(source)) as advance:  # the data is read twice
            usable = Usable(source, batch_size=batch_size, workers=workers, progress=advance)
            detector.fit(usable.loader())
        if usable.skipped:
            first = usable.skipped[0]
            left_out = f"{len(usable.skipped)} of {len(source)} items cannot be read and were left out"
            warn(f"{left_out}; the first: {first.name}: {first.error}")
        notes: dict[str, object] = {
            "model": model,
            "weights": None if weights is None else Path(weights).name,
            "data": data,
            "class_names": list(source.classes),
            "preprocess": preprocess.as_dict(),
        }
        detector.save(temporary, notes=notes)
    _print_pairs(
        {
            "fitted on": detector.fit_size_,
            "calibrated on": detector.calibration_size_,
            "left out, misclassified": detector.misclassified_,
            "left out, unusable": detector.unusable_ + len(usable.skipped),
            "written to": out,
        }
    )


@app.command(cls=Command)
def score(
    file: DetectorPath,
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of verdicts, .parquet or .csv.")],
    model: SameModel = None,
    weights: Weights = None,
    start: Start = 0,
    limit: Limit = None,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    batch_size: BatchSize = 64,
    workers: Workers = 1,
) -> None:
    """Judge every item of some data and write a file with one row per item.

    Example: gradgeo score digits.gradgeo -m digits -d digits/test -o verdicts.csv
    """
    check_out(out)
    notes = detector_file.inspect(file)["notes"]
    preprocess = _preprocess(Preprocess.from_dict(notes.get("preprocess")), size, channels, mean, std)
    source = open_source(
        data,
        preprocess=preprocess,
        start=start,
        limit=limit,
        data_root=data_root,
        numbering=tuple(map(str, notes.get("class_names") or ())),
    )
    detector = _load(file, notes, model, weights, device)
    with _progress("scoring", len(source)) as advance:
        summary = score_source(detector, source, out, batch_size=batch_size, workers=workers, progress=advance)
    if not summary.scored:
        raise DataError(f"none of the {summary.rows} inputs can be judged; the first: {summary.first_error}")
    _print_pairs(
        {
            "inputs": summary.rows,
            "judged": summary.scored,
            "trusted": _share(summary.trusted, summary.scored),
            "accuracy": _share(summary.correct, summary.labelled),
            "accuracy of the trusted": _share(summary.trusted_correct, summary.trusted_labelled),
            "written to": out,
        }
    )


@app.command(cls=Command)
def explain(
    file: DetectorPath,
    data: DataSpec,
    model: SameModel = None,
    index: Annotated[list[int] | None, typer.Option("--index", "-i", help="An item; may be repeated.")] = None,
    as_json: AsJson = False,
    weights: Weights = None,
    start: Start = 0,
    limit: Limit = 3,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
) -> None:
    """Say which statistics make inputs trustworthy or not: those of --index, or else the first few.

    Example: gradgeo explain digits.gradgeo -m digits -d digits/test -i 7
    """
    notes = detector_file.inspect(file)["notes"]
    preprocess = _preprocess(Preprocess.from_dict(notes.get("preprocess")), size, channels, mean, std)
    part: dict[str, Any] = {} if index else {"start": start, "limit": limit}
    source = open_source(data, preprocess=preprocess, data_root=data_root, **part)
    for i in index or ():
        if not 0 <= i < len(source):
            raise expected("index", f"within 0..{len(source) - 1}", i)
    detector = _load(file, notes, model, weights, device)
    told: list[dict[str, Any]] = []
    for i in index or range(len(source)):
        item = checked(source[i], detector.input_shape_)
        told.append({"index": item.index, "name": item.name, "true_label": item.label, "error": item.error})
        if item.x is None:
            warn(f"{item.name} (index {item.index}) cannot be judged: {item.error}")
            continue
        explanation = detector.explain(item.x[None])[0]
        told[-1] |= explanation.as_dict()
        if not as_json:
            typer.echo(f"{item.name} (index {item.index})\n{explanation}\n")
    if as_json:
        typer.echo(json.dumps(told, indent=2, allow_nan=False))
    if all(entry["error"] for entry in told):
        raise DataError("none of the inputs can be judged")


@app.command(cls=Command)
def path(
    data: DataSpec,
    index: Annotated[int, typer.Option("--index", "-i", help="The item to start from.")],
    epsilon: Annotated[float, typer.Option(help="How far the attack may go, in units of the input.")],
    out: Annotated[list[Path], typer.Option("--out", "-o", help=".png, .svg, .pdf, .json or .csv; may be repeated.")],
    detector: Annotated[Path | None, typer.Option(help="A file that fit wrote, for outlier scores.")] = None,
    model: SameModel = None,
    weights: Weights = None,
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    steps: Annotated[int, typer.Option(help="Steps of the attack, of epsilon / 4 each.")] = 100,
    target: Annotated[int | None, typer.Option(help="The class to lead to; default any other.")] = None,
    bounds: Annotated[str, typer.Option(help="Range of the inputs as LOW,HIGH, or none.")] = "0,1",
    points: Annotated[int, typer.Option(help="Points of the line.")] = 41,
    size: Size = None,
    channels: Channels = None,
    mean: Mean = None,
    std: Std = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
) -> None:
    """Draw how decision and geometry change on the line from an input to its adversarial example, found by PGD.

    Example: gradgeo path -m digits -d digits/test -i 7 --epsilon 0.3 -o path.png
    """
    endings = (*plots.ENDINGS, *DATA_ENDINGS)
    for file in out:
        if file.suffix not in endings:
            raise expected("out", f"a file ending in {', '.join(endings)}", str(file))
    notes = detector_file.inspect(detector)["notes"] if detector else {}
    preprocess = _preprocess(Preprocess.from_dict(notes.get("preprocess")), size, channels, mean, std)
    source = open_source(data, preprocess=preprocess, data_root=data_root)
    if not 0 <= index < len(source):
        raise expected("index", f"within 0..{len(source) - 1}", index)
    with ExitStack() as stack:
        files = [stack.enter_context(replacing(file, data)) for file in out]
        if detector:
            judge = _load(detector, notes, model, weights, device)
            classifier = judge.model
        elif model:
            judge, classifier = None, _on(device, load_model(model, weights))
        else:
            raise typer.BadParameter("pass --model or --detector")
        item = source[index]
        if item.x is None:
            raise DataError(f"{item.name} (index {index}) cannot be read: {item.error}")
        end = adversary(
            classifier,
            item.x[None],
            item.label,
            epsilon=epsilon,
            norm=norm,
            steps=steps,
            target=target,
            bounds=None if bounds == "none" else _numbers("--bounds", bounds, ",", float),
        )
        found = decision_path(classifier, item.x[None], end, points=points, detector=judge)
        for file in files:
            if file.suffix in DATA_ENDINGS:
                found.write(file)
            else:
                plots.path(found, file, names=source.classes)
    _print_pairs(
        {
            "item": f"{item.name} (index {index})",
            "class": int(found.label[0]),
            "adversarial class": int(found.label[-1]),
            "label switches at": ", ".join(f"{switch:.3f}" for switch in found.switches),
            "written to": ", ".join(map(str, out)),
        }
    )


@app.command(cls=Command)
def info(file: DetectorPath, as_json: AsJson = False) -> None:
    """Print what a detector file holds; its model is not needed.

    Example: gradgeo info digits.gradgeo
    """
    facts = detector_file.inspect(file)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_pairs(facts)


def _load(file: Path, notes: dict[str, Any], model: str | None, weights: str | None, device: str) -> Detector:
    """The detector, with the model that the user named or its own, if that is no code of a file's choice."""
    if model is None:
        fitted, fitted_weights = notes.get("model"), notes.get("weights")
        if not isinstance(fitted, str) or not is_named(fitted):
            raise DataError(f"pass --model; the detector was fitted with {one_line(str(fitted))}")
        if fitted_weights is not None and weights is None:
            raise DataError(f"pass --weights; the detector was fitted with {one_line(str(fitted_weights))}")
        model = fitted
    return Detector.load(file, _on(device, load_model(model, weights)))


def _on(device: str, model: nn.Module) -> nn.Module:
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # torch has both for a device that is not there
        raise expected("device", "one that this machine has", device, str(error).splitlines()[0]) from error


def _preprocess(
    base: Preprocess, size: str | None, channels: int | None, mean: str | None, std: str | None
) -> Preprocess:
    """`base` with the options that were given in place of its own."""
    given: dict[str, Any] = {
        "size": size and _numbers("--size", size, "x", int),
        "channels": channels,
        "mean": mean and _numbers("--mean", mean, ",", float),
        "std": std and _numbers("--std", std, ",", float),
    }
    if size and len(given["size"]) == 1:
        given["size"] *= 2
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def _numbers(option: str, text: str, separator: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(separator))
    except ValueError:
        raise typer.BadParameter(f"{option} has something that is not a number: {text}") from None


def _print_pairs(pairs: dict[str, Any], indent: str = "") -> None:
    """Names and values in two columns; None is left out, a mapping is indented below its name."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        if isinstance(value, dict) and any(entry is not None for entry in value.values()):
            typer.echo(f"{indent}{one_line(name)}")
            _print_pairs(value, f"{indent}  ")
        elif value is not None and not isinstance(value, dict):
            text = one_line(str(value))
            typer.echo(f"{indent}{one_line(name):<{width}}  {text[:LONGEST]}{'...' if text[LONGEST:] else ''}")


def _share(part: int, whole: int) -> str | None:
    return f"{part / whole:.1%} ({part} of {whole})" if whole else None


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with count, rate and time left on stderr; nothing where that is not a terminal."""
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Our warnings become lines; what Pillow says of a bad file stands in the item's error already."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", GradgeoWarning)
        warnings.filterwarnings("ignore", module="PIL")
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, GradgeoWarning):
                _say(f"warning: {message}")
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        yield


def _say(text: str) -> None:
    typer.echo(f"gradgeo: {one_line(text)}", err=True)
