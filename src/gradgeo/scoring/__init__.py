"""Verdicts on a whole data source, one row per input, written to a Parquet or CSV file or a folder of parts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from numbers import Real
from pathlib import Path

import numpy as np

from gradgeo._files import refuse_source
from gradgeo._typing import Array
from gradgeo.data.source import Source
from gradgeo.detector.calibration import selection
from gradgeo.detector.calibration.mondrian import CONDITIONS
from gradgeo.detector.detector import Detector
from gradgeo.errors import DataError, NotFittedError, choice, expected, public, require, warn
from gradgeo.scoring.formats import VerdictSchema
from gradgeo.scoring.local_engine import Engine, ScoringJob, local
from gradgeo.scoring.manifest import PREVIEWS, Manifest, RunOptions
from gradgeo.scoring.output import OutputTarget, check_out
from gradgeo.scoring.parts import RESUME_ADVICE, Parts
from gradgeo.scoring.schema import ASKED, COLUMNS
from gradgeo.scoring.summary import Summary
from gradgeo.scoring.verdicts import checked
from gradgeo.watch import Watch

__all__ = ["COLUMNS", "PART", "Summary", "check_out", "checked", "local", "run_id", "score"]

PART = 4096
"""Inputs in a part."""


@public
def score(
    detector: Detector,
    source: Source,
    out: str | Path,
    *,
    batch_size: int = 64,
    workers: int = 1,
    part_size: int = PART,
    restart: bool = False,
    engine: Engine = local,
    progress: Callable[[int], None] | None = None,
    watch: Watch | None = None,
    conditional: str | None = None,
    groups: Sequence[str] = (),
    fdr: float | None = None,
    pictures: int = PREVIEWS,
    names_key: bytes | None = None,
) -> Summary:
    """Score every item of `source` and write one row per item, in order, to `out`.

    Example:
        >>> summary = score(detector, open_source("digits/test"), "verdicts.csv")  # doctest: +SKIP
        >>> summary.rows, summary.scored  # doctest: +SKIP
        (397, 397)

    Args:
        detector: fitted.
        source: any data; items of another shape than the detector's inputs become rows with an error, but for grey and
            RGB images, which are brought to its channels, with a note.
        out: a file ending in .parquet or .csv, which appears, or is replaced, when the last row is written; any other
            name is a folder, a Parquet data set of files `part-00000.parquet` and so on, each there as a whole or not
            at all. That it can be written is checked before any work.
        batch_size: inputs in one call of the detector.
        workers: threads that read ahead.
        part_size: inputs in a part, which is what a killed run loses at most. The parts of a file lie in a hidden
            folder beside it until it is complete.
        restart: begin anew where parts of another or an unfinished run are found. A finished folder stays until the new
            one is complete.
        engine: what scores the parts: this process, or `gradgeo.scoring.ray_engine.RayEngine`.
        progress: called with the number of inputs done since its last call.
        watch: takes the p-values of all rows, in their order, as parts are finished.
        conditional: as in `Detector.predict`; the column compared then says with how many calibration inputs a p-value
            compares.
        groups: columns that `source` keeps and that make the groups of `Detector.predict`; of several the values are
            joined with a comma, as `gradgeo fit --groups` does.
        fdr: a false discovery rate. The column q_value then holds `gradgeo.fdr` of all rows together, filled in when
            the last one is scored: rows with a q-value of at most `fdr` are selected. All p-values are held in memory,
            8 bytes a row.
        pictures: flagged inputs of each part that get a thumbnail or signal and a CSM; 0 for none of any input.
        names_key: a secret by which names are replaced by hashes (HMAC-SHA256) in the columns name and error; None to
            keep names. Without the key nobody can find the name of a hash by trying; the column index stays.

    The columns are index (counted from the beginning of the data), name, label (the predicted class),
    probability, outlier_score (larger = less trustworthy), p_value, trusted, error, true_label (for data with labels),
    cause (what a flagged input looks like), evidence (the p-value of each evidence alone), time (where the data was
    opened with one), and of the first `pictures` flagged inputs of each part thumbnail or signal, csm and csm_classes
    (the similarities of its likeliest classes, row after row), label_name and true_label_name where classes have names,
    and the columns that the source keeps, as texts. A row with an error has trusted false and no verdict: null in
    Parquet, empty in CSV. CSV has the scalar columns alone. The
    Arrow schema's metadata hold, as JSON under `gradgeo`, what the rows were made with.

    A run that was killed goes on when it is started again: finished parts are kept, and the rows are those of an
    undisturbed run. The same command over a finished folder does nothing.

    Cost: that of `Detector.judge` with explanations; memory for a part and a few batches, whatever the length of the
    data; with a `watch`, 10 to 30 microseconds a row.

    Raises:
        ArgumentError: `out` is the data or a file of another kind.
        DataError: `out` cannot be written, is in use, or holds parts of a run with other settings.
        ModelError: the model fails on a whole batch; what is done stays.
        MissingDependencyError: Parquet without pyarrow.
    """
    out = Path(out).expanduser()
    if part_size < 1:
        raise expected("part_size", "1 or more", part_size)
    if isinstance(pictures, bool) or not isinstance(pictures, int) or pictures < 0:
        raise expected("pictures", "an integer, 0 or more", pictures)
    if names_key is not None and (not isinstance(names_key, bytes) or not names_key):
        raise expected("names_key", "None or bytes, at least one", names_key, "secrets.token_bytes(32) makes a key.")
    check_out(out)
    refuse_source(out, source.spec)
    options = replace(_run_options(source, conditional, tuple(groups), fdr), pictures=pictures, key=names_key)
    if options.compared and watch is not None:
        raise expected("watch", "None with conditional or groups", watch, "It knows p-values among all inputs only.")
    if not hasattr(detector, "input_shape_"):
        raise NotFittedError("the detector is not fitted. Call fit(data) with trusted inputs first.")
    if out.suffix != ".csv":
        require("pyarrow", "parquet")
    source.match(detector.input_shape_)
    manifest = Manifest.of(detector, source, part_size, options)
    schema = VerdictSchema(source.labelled, source.is_datetime, manifest.metadata)
    target = OutputTarget(out, manifest, schema, restart=restart)
    feed = _WatchFeed(target.parts, watch)
    if target.rows is not None and (summary := _merged(target.parts.counts(source.size).values())).rows == target.rows:
        summary.resumed = summary.rows
        if options.fdr is not None:
            summary.selected = int((_q_values(target.parts) <= options.fdr).sum())
        feed.finished(*target.parts.numbers())
    else:
        with target.open_for_writing(restart=restart):
            job = ScoringJob(detector, source, target.parts, part_size, batch_size, workers, options)
            summary = _run(job, engine, progress or (lambda inputs: None), feed)
            if options.fdr is not None:
                summary.selected = _fill_q_values(target.parts, options.fdr)
            target.complete(summary.rows)
    if summary.scored < summary.rows:
        warn(
            f"{summary.rows - summary.scored} of {summary.rows} inputs have no verdict; "
            f"the column error says why. The first: {summary.first_error}"
        )
    return summary


def run_id(detector: Detector, source: Source, part_size: int = PART) -> str:
    """A hash of all that the rows of such a run depend on."""
    return str(Manifest.of(detector, source, part_size).metadata.run)


def _run_options(source: Source, conditional: str | None, groups: tuple[str, ...], fdr: float | None) -> RunOptions:
    """What a run is asked for. Raises: ArgumentError where the data does not have it, or columns share a name."""
    if conditional is not None:
        choice("conditional", conditional, CONDITIONS)
    if taken := set(source.keep) & {*COLUMNS, *ASKED}:
        raise expected("keep", "other names than those of the columns of verdicts", ", ".join(sorted(taken)))
    if not set(groups) <= set(source.keep):
        raise expected("groups", "columns that the source keeps", list(groups), "open_source(..., keep=...)")
    if fdr is not None and (isinstance(fdr, bool) or not isinstance(fdr, Real) or not 0 < fdr < 1):
        raise expected("fdr", "None or a number between 0 and 1", fdr)
    return RunOptions(conditional, groups, None if fdr is None else float(fdr))


def _run(job: ScoringJob, engine: Engine, progress: Callable[[int], None], feed: "_WatchFeed") -> Summary:
    """Score the parts that are missing; returns what all parts count."""
    size = job.source.size
    done = job.parts.counts(size)
    if size is None:  # nothing says whether a short part is the end of the stream, or has lost rows
        for number in [number for number, part in done.items() if part.rows < job.part_size]:
            job.parts.remove(number)
            del done[number]
    summary = _merged(done.values())
    summary.resumed = summary.rows
    progress(summary.rows)
    feed.finished(*done)
    numbers = count() if size is None else range(-(-size // job.part_size))
    missing = (number for number in numbers if number not in done)
    new = engine(job, missing, progress=progress, finished=feed.finished)
    summary.merge(new)
    summary.seconds, summary.detectors = new.seconds, new.detectors
    if not summary.rows:
        raise DataError(f"{job.source.spec} has no items from number {job.source.start} on.")
    if size is not None and summary.rows != size:
        raise DataError(f"{summary.rows} of {size} inputs have a row. {RESUME_ADVICE}")
    return summary


def _q_values(parts: Parts) -> Array:
    """(N,) of all rows together."""
    return selection.fdr(np.concatenate([parts.p_values(number) for number in parts.numbers()])).numpy()


def _fill_q_values(parts: Parts, rate: float) -> int:
    """Write the q-values of all rows into the parts; returns how many are at most `rate`."""
    q, start = _q_values(parts), 0
    for number in parts.numbers():
        start += parts.fill(number, "q_value", q[start:])
    return int((q <= rate).sum())


def _merged(parts: Iterable[Summary]) -> Summary:
    summary = Summary()
    for part in parts:
        summary.merge(part)
    return summary


class _WatchFeed:
    """Gives the p-values of finished parts to a watch, in the order of the rows, whatever the order of the parts."""

    def __init__(self, parts: Parts, watch: Watch | None) -> None:
        self._parts, self._watch = parts, watch
        self._next = 0
        self._waiting: set[int] = set()

    def finished(self, *numbers: int) -> None:
        """Take parts whose files are there."""
        if self._watch is None:
            return
        self._waiting.update(numbers)
        while self._next in self._waiting:
            self._waiting.remove(self._next)
            self._watch.update(self._parts.p_values(self._next))
            self._next += 1
