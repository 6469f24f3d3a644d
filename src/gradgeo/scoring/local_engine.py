"""The engine that scores the parts of a run one after the other, in this process."""

import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from gradgeo.data.as_read import Tally
from gradgeo.data.source import Item, Source
from gradgeo.detector.detector import Detector
from gradgeo.errors import GradgeoWarning, UnusableInputWarning, warn
from gradgeo.scoring.manifest import NOTHING_MORE, RunOptions
from gradgeo.scoring.parts import Parts
from gradgeo.scoring.summary import Summary
from gradgeo.scoring.verdicts import BatchScorer, no_rows


@dataclass(frozen=True)
class ScoringJob:
    """What to score, by what, and where the parts go."""

    detector: Detector
    source: Source
    parts: Parts
    part_size: int
    """Items in a part: part n holds those from n * `part_size` on."""

    batch_size: int
    workers: int
    """Threads that read ahead."""

    options: RunOptions = NOTHING_MORE
    """Among which calibration inputs p-values are."""

    def positions(self, number: int) -> range:
        """The positions of the items of a part."""
        return range(number * self.part_size, (number + 1) * self.part_size)

    def number(self, batch: list[Item]) -> int:
        """The part that a batch belongs to."""
        return (batch[0].index - self.source.start) // self.part_size


class Engine(Protocol):
    """Scores parts of a run, in any order; the rows of a part depend on the part alone."""

    def __call__(
        self,
        job: ScoringJob,
        numbers: Iterable[int],
        *,
        progress: Callable[[int], None],
        finished: Callable[[int], None],
    ) -> Summary:
        """Write the parts `numbers`, which ascend and are endless for a stream of unknown length.

        Args:
            job: what to score.
            numbers: the parts that are missing.
            progress: called with the number of inputs scored since its last call.
            finished: called with the number of a part whose file is there.

        Returns: what these parts count, with the times and the number of detectors.
        """
        ...


def local(
    job: ScoringJob, numbers: Iterable[int], *, progress: Callable[[int], None], finished: Callable[[int], None]
) -> Summary:
    """Score parts one after the other, while threads read ahead across them."""
    began = time.perf_counter()
    summary = Summary()
    names = job.parts.schema.metadata.class_names
    scorer = BatchScorer(job.detector, job.source.preprocess, job.source.keep, job.options, names)
    tally = Tally.of(job.source.preprocess)
    ahead = job.source.batches(
        job.batch_size, workers=job.workers, parts=map(job.positions, numbers), shape=job.detector.input_shape_
    )
    with repeated_warnings_once(), closing(ahead) as batches:  # closed, an interrupted run leaves no thread waiting
        for number, part in groupby(batches, job.number):
            columns, previews = no_rows(job.source.keep), job.options.pictures
            for batch in part:
                tally.add(batch)
                previews -= scorer.add(batch, columns, previews)
                progress(len(batch))
            summary.merge(job.parts.write(number, columns))
            finished(number)
    for text in tally.notes():
        warn(text)
    summary.seconds, summary.model_seconds = time.perf_counter() - began, scorer.seconds
    return summary


@contextmanager
def repeated_warnings_once() -> Iterator[None]:
    """Give warnings that differ only in numbers, as those of many batches do, once, at the end.

    Warnings about inputs without a verdict are dropped: the row of each such input says so.
    """
    first: dict[str, tuple[Warning | str, type[Warning]]] = {}

    def remember(message: Warning | str, category: type[Warning], *location: Any, **options: Any) -> None:
        first.setdefault(re.sub(r"\d+", "N", str(message)), (message, category))

    with warnings.catch_warnings():
        warnings.simplefilter("always", GradgeoWarning)
        warnings.simplefilter("ignore", UnusableInputWarning)
        warnings.showwarning = remember
        yield
    for message, category in first.values():
        warnings.warn(message, category, stacklevel=2)
