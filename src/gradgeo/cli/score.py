"""Verdicts on a whole data source: score."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradgeo.cli.console import print_pairs, share
from gradgeo.cli.option_groups import AskedOptions, PreparationOptions, grouped
from gradgeo.cli.options import (
    BatchSize,
    DataSpec,
    DetectorPath,
    Label,
    Limit,
    Workers,
    columns_of,
    fraction,
    keys_of,
    names,
)
from gradgeo.cli.single import detector_and_preparation
from gradgeo.errors import DataError

if TYPE_CHECKING:
    from gradgeo import Detector
    from gradgeo.data import Source
    from gradgeo.detector.file.serialization import Contents

ENGINES = ("local", "ray")

NAMES_KEY, LEAST_KEY = "GRADGEO_NAMES_KEY", 16

PART = 4096
"""`gradgeo.scoring.PART`, whose import would load torch for a line of help; a test holds them equal."""


@grouped
def score(
    file: DetectorPath,
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .parquet or .csv file; else a folder of Parquet parts.")],
    *,
    asked: AskedOptions,
    limit: Limit = None,
    preparation: PreparationOptions,
    label: Label = None,
    time: Annotated[str | None, typer.Option(help="The column that says when each input was taken.")] = None,
    keep: Annotated[str | None, typer.Option(help="Columns of the data to carry along, with commas.")] = None,
    conditional: Annotated[
        str | None, typer.Option(help="class: p-values among calibration inputs of the same predicted class.")
    ] = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="P-values among those of the same group, by the columns that fit was told.")
    ] = False,
    fdr: Annotated[
        str | None, typer.Option(help="A false discovery rate, as 10%: adds q-values of all rows together.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Flagged inputs pictured in a part; 0: no picture at all.")] = 64,
    file_names: Annotated[str, typer.Option("--names", help=f"keep, or hash: by the secret in ${NAMES_KEY}.")] = "keep",
    watch_state: Annotated[
        Path | None, typer.Option("--watch", help="A file in which the watch for shifts goes on from run to run.")
    ] = None,
    batch_size: BatchSize = 64,
    workers: Workers = 1,
    part_size: Annotated[int, typer.Option(min=1, help="Inputs in a part, which is what a kill loses at most.")] = PART,
    restart: Annotated[bool, typer.Option("--restart", help="Start over where parts of an earlier run exist.")] = False,
    engine: Annotated[str, typer.Option(help="local, or ray for several processes and machines.")] = "local",
    jobs: Annotated[int | None, typer.Option(min=1, help="Detectors side by side with ray; default all.")] = None,
) -> None:
    """Judge every item of some data, one row for each. A run that was killed goes on when it is started again.

    Example: gradgeo score digits.gradgeo -m digits -d digits/test -o verdicts.csv
    """
    from gradgeo import scoring
    from gradgeo.detector.file import serialization
    from gradgeo.detector.fit.progress import duration, progress
    from gradgeo.scoring.ray_engine import RayEngine
    from gradgeo.watch import Watch, load, save

    if file_names not in ("keep", "hash"):
        raise typer.BadParameter(f"--names is keep or hash, got {file_names}")
    key = _names_key(file_names)
    if engine not in ENGINES:
        raise typer.BadParameter(f"--engine is {' or '.join(ENGINES)}, got {engine}")
    scoring.check_out(out)
    contents = serialization.read(file, sha256=asked.sha256)
    notes = contents.notes
    by = tuple(map(str, notes.get("groups") or ())) if groups else ()
    if groups and not by:
        raise DataError("--groups: the detector was not fitted with any; pass fit --groups the columns of its data.")
    rate = fraction("--fdr", fdr)
    job = Job(
        file=file.absolute(),
        sha256=contents.sha256,
        asked=asked,
        data=data,
        preparation=preparation,
        options={
            "start": asked.start,
            "limit": limit,
            "data_root": asked.data_root,
            "class_order": tuple(map(str, notes.get("class_names") or ())),
            "streaming": asked.stream,
            "time": time,
            "columns": columns_of(contents, data),
            "label": label,
            "keys": keys_of(contents, data, asked.keys),
            "keep": tuple(dict.fromkeys(names(keep) + by)),
        },
    )
    detector, source = job.open(contents)  # read once; each worker of Ray reads the file itself
    # p-values by class or group are ranks in calibration sets of other sizes, which the watch does not know
    watch = None if conditional or by else Watch(detector.calibration_size_, mistakes=detector.mistake_p_values_)
    run = scoring.run_id(detector, source, part_size)
    runs: list[str] = []
    if watch_state is not None:
        if watch is None:
            raise typer.BadParameter("--watch follows p-values among all inputs: leave --conditional and --groups out")
        if (kept := load(watch_state, detector=detector.digest())) is not None:
            watches, runs = kept
            watch = None if run in runs else watches.get("fit", watch)
    with progress("scoring", source.size) as advance:
        summary = scoring.score(
            detector,
            source,
            out,
            batch_size=batch_size,
            workers=workers,
            part_size=part_size,
            restart=restart,
            engine=scoring.local if engine == "local" else RayEngine(job, jobs=jobs),
            progress=advance,
            watch=watch,
            conditional=conditional,
            groups=by,
            fdr=rate,
            pictures=pictures,
            names_key=key,
        )
    if watch_state is not None and watch is not None:
        save(watch_state, {"fit": watch}, detector=detector.digest(), runs=[*runs, run])
    if not summary.scored:
        raise DataError(f"none of the {summary.rows} inputs can be judged; the first: {summary.first_error}")
    busy = summary.utilisation
    print_pairs(
        {
            "inputs": summary.rows,
            "already done": summary.resumed or None,
            "judged": summary.scored,
            "trusted": share(summary.trusted, summary.scored),
            "flagged": flagged_in_words(summary.scored - summary.trusted, summary.scored, summary.causes),
            "by chance": chance_in_words(detector, summary.scored) if not (conditional or by) else None,
            "selected": None if rate is None else f"{summary.selected} at a false discovery rate of {rate:.3g}",
            "accuracy": share(summary.correct, summary.labelled),
            "accuracy of the trusted": share(summary.trusted_correct, summary.trusted_labelled),
            "shift alarm": None
            if watch is None
            else f"{watch.state} (by the order of rows, which need not be that of time)",
            "rate": _rate(summary.rows - summary.resumed, summary.seconds),
            "time in the model": None if busy is None else f"{busy:.0%} of {duration(summary.seconds)}",
            "written to": out,
        },
        longest=None,
    )
    for line in next_steps(out, file, data, asked.model, asked.weights, summary.first_flagged):
        typer.echo(line)


def flagged_in_words(flagged: int, judged: int, causes: Mapping[str, int]) -> str | None:
    """How many are flagged, and what they look like, the most frequent first."""
    if not flagged:
        return f"none of {judged}"
    ranked = sorted(causes.items(), key=lambda pair: (-pair[1], pair[0]))
    by_cause = ", ".join(f"{count} {cause or 'of no clear cause'}" for cause, count in ranked)
    return f"{share(flagged, judged)}" + (f": {by_cause}" if by_cause else "")


def chance_in_words(detector: "Detector", judged: int) -> str | None:
    """How many would be flagged if all were trustworthy, by the draw of the calibration inputs and of these."""
    from gradgeo.report.drift import LEVEL, expected_share

    threshold = detector.settings.level.threshold(detector.calibration_size_)
    low, high = expected_share(judged, threshold, detector.calibration_size_, LEVEL)
    return f"of trustworthy inputs {low:.1%} to {high:.1%} would be flagged ({1 - LEVEL:.0%} of such draws)"


def next_steps(out: Path, file: Path, data: str, model: str | None, weights: str | None, name: str | None) -> list[str]:
    """The commands that show what was written, as a page, and why the first of those that are flagged is."""
    report = ["gradgeo", "report", str(out), "--out", str(out.with_suffix(".html"))]
    steps = [report]
    if name is not None:
        named = [*(["--model", model] if model else []), *(["--weights", weights] if weights else [])]
        steps.append(["gradgeo", "explain", str(file), *named, "--data", data, "--index", name])
    return [f"{'next' if place == 0 else '':<4}  {shlex.join(words)}" for place, words in enumerate(steps)]


def _names_key(names: str) -> bytes | None:
    """The secret by which names are hashed; None where they stay."""
    if names == "keep":
        return None
    key = os.environ.get(NAMES_KEY)
    if not key:
        raise DataError(
            f"--names hash: set {NAMES_KEY} to a secret of your own, at least {LEAST_KEY} characters. File names can "
            "be guessed, and a hash without a secret is undone by trying."
        )
    if len(key) < LEAST_KEY:
        raise DataError(f"{NAMES_KEY} has {len(key)} characters, expected {LEAST_KEY} or more: a short one is guessed.")
    return key.encode()


def _rate(inputs: int, seconds: float) -> str | None:
    """How many inputs a second this run took, and the time that 10^9 would take; None where nothing was left to do."""
    if not inputs or not seconds:
        return None
    rate = inputs / seconds
    return f"{rate:,.0f} inputs a second; 10^9 inputs take {1e9 / rate / 86400:,.1f} days"


@dataclass(frozen=True)
class Job:
    """What a process that scores must open: the same wherever it runs, if the files are there too."""

    file: Path
    sha256: str
    """Of the file when the command began."""
    asked: AskedOptions
    data: str
    preparation: PreparationOptions
    options: dict[str, Any]
    """Of `open_source`, but for the preparation."""

    def __call__(self) -> "tuple[Detector, Source]":
        """The detector and the data."""
        from gradgeo.detector.file import serialization

        return self.open(serialization.read(self.file, sha256=self.sha256))

    def open(self, contents: "Contents") -> "tuple[Detector, Source]":
        """The detector of a file that has been read, and the data."""
        from gradgeo.data import open_source

        detector, preprocess = detector_and_preparation(contents, self.asked, self.preparation)
        source = open_source(self.data, preprocess=preprocess, **self.options)
        return detector, source.match(tuple(contents.fitted["input_shape"]))
