"""Verdicts on a whole data source, one row per input, written to a Parquet or CSV file or a folder of parts."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

from gradgeo._files import refuse_source
from gradgeo.data.source import Source
from gradgeo.detector.detector import Detector
from gradgeo.errors import DataError, NotFittedError, expected, public, require, warn
from gradgeo.scoring.local_engine import Engine, Work, local
from gradgeo.scoring.manifest import run_of
from gradgeo.scoring.output import Place, check_out
from gradgeo.scoring.rows import checked
from gradgeo.scoring.schema import COLUMNS, Table
from gradgeo.scoring.summary import Summary

__all__ = ["COLUMNS", "PART", "Summary", "check_out", "checked", "local", "score"]

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
) -> Summary:
    """Judge every item of `source` and write one row per item, in order, to `out`.

    Example:
        >>> summary = score(detector, open_source("digits/test"), "verdicts.csv")  # doctest: +SKIP
        >>> summary.rows, summary.scored  # doctest: +SKIP
        (397, 397)

    Args:
        detector: fitted.
        source: any data; items of another shape than the detector's inputs become rows with an error.
        out: a file ending in .parquet or .csv, which appears, or is replaced, when the last row is written; any other
            name is a folder, a Parquet data set of files `part-00000.parquet` and so on, each there as a whole or not
            at all. That it can be written is checked before any work.
        batch_size: inputs in one call of the detector.
        workers: threads that read ahead.
        part_size: inputs in a part, which is what a killed run loses at most. The parts of a file lie in a hidden
            folder beside it until it is complete.
        restart: begin anew where parts of another or an unfinished run are found. A finished folder stays until the new
            one is complete.
        engine: what makes the parts: this process, or `gradgeo.scoring.ray_engine.RayEngine`.
        progress: called with the number of inputs done since its last call.

    The columns are index (counted from the beginning of the data), name, label (the predicted class),
    probability, outlier_score (larger = less trustworthy), p_value, trusted, error, true_label (for data with labels),
    cause (what a flagged input looks like), evidence (the p-value of each evidence alone), time (where the data was
    opened with one), and of the first 64 flagged inputs of each part thumbnail or signal, csm and csm_classes (the
    similarities of its likeliest classes, row after row). A row with an error has trusted false and no verdict: null in
    Parquet, empty in CSV. CSV has the scalar columns alone. The Arrow schema's metadata hold, as JSON under `gradgeo`,
    what the rows were made with.

    A run that was killed goes on when it is started again: parts that are there are kept, and the rows are those of an
    undisturbed run. The same command over a finished folder does nothing.

    Cost: that of `Detector.judge` with explanations; memory for a part and a few batches, whatever the length of the
    data.

    Raises:
        ArgumentError: `out` is the data or a file of another kind.
        DataError: `out` cannot be written, is in use, or holds parts of a run with other settings.
        ModelError: the model fails on a whole batch; what is done stays.
        MissingDependencyError: Parquet without pyarrow.
    """
    out = Path(out).expanduser()
    if part_size < 1:
        raise expected("part_size", "1 or more", part_size)
    check_out(out)
    refuse_source(out, source.spec)
    if not hasattr(detector, "input_shape_"):
        raise NotFittedError("the detector is not fitted. Call fit(data) with trusted inputs first.")
    if out.suffix != ".csv":
        require("pyarrow", "parquet")
    run = run_of(detector, source, part_size)
    place = Place(out, run, Table(source.labelled, source.is_datetime, run.metadata), restart=restart)
    summary = Summary() if place.rows is None else _of(place.parts.done().values())
    if place.rows is None or summary.rows != place.rows:  # not complete, or no more
        with place.begun(restart=restart):
            done = place.parts.done()
            summary = _of(done.values())
            told = progress or (lambda inputs: None)
            told(summary.rows)
            work = Work(detector, source, place.parts, part_size, batch_size, workers)
            made = engine(work, _missing(done, source.size, part_size), told)
            summary.merge(made)
            summary.seconds, summary.lanes = made.seconds, made.lanes
            if not summary.rows:
                raise DataError(f"{source.spec} has no items from number {source.start} on.")
            place.finish(summary.rows)
    if summary.scored < summary.rows:
        warn(
            f"{summary.rows - summary.scored} of {summary.rows} inputs have no verdict; "
            f"the column error says why. The first: {summary.first_error}"
        )
    return summary


def _of(parts: Iterable[Summary]) -> Summary:
    """What the parts that were found count."""
    summary = Summary()
    for part in parts:
        summary.merge(part)
    summary.resumed = summary.rows
    return summary


def _missing(done: dict[int, Summary], size: int | None, part_size: int) -> Iterator[int]:
    """The parts that are still to be made; endless for a stream whose end no part has shown."""
    last = max(done, default=-1)
    if size is not None:
        numbers: Iterable[int] = range(-(-size // part_size))
    elif last >= 0 and done[last].rows < part_size:
        numbers = range(last)
    else:
        numbers = count()
    return (number for number in numbers if number not in done)
