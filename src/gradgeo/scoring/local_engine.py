"""How the parts of a run are made: one after the other, in this process."""

import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from gradgeo.data.source import Source
from gradgeo.detector.detector import Detector
from gradgeo.errors import GradgeoWarning, UnusableInputWarning
from gradgeo.scoring.parts import Parts
from gradgeo.scoring.rows import PICTURES, SHOWN, Judge
from gradgeo.scoring.summary import Row, Summary


@dataclass(frozen=True)
class Work:
    """What there is to do and where it goes; part number n holds the items from n * `part_size` on."""

    detector: Detector
    source: Source
    parts: Parts
    part_size: int
    batch_size: int
    workers: int


class Engine(Protocol):
    """Makes parts of a run, in any order; their rows depend on the part alone."""

    def __call__(self, work: Work, numbers: Iterable[int], progress: Callable[[int], None]) -> Summary:
        """Make the parts `numbers`, which ascend and, for a stream, go on for ever; `progress` is told of inputs."""
        ...


def local(work: Work, numbers: Iterable[int], progress: Callable[[int], None]) -> Summary:
    """Make parts one after the other, while threads read ahead across them."""
    began = time.perf_counter()
    summary = Summary()
    judge = Judge(work.detector, work.source.preprocess)
    size = work.part_size
    ranges = (range(number * size, (number + 1) * size) for number in numbers)
    rows: list[Row] = []
    shown = 0
    with each_once():
        for batch in work.source.batches(work.batch_size, workers=work.workers, parts=ranges):
            if rows and _number(work, batch[0].index) != _number(work, rows[0]["index"]):
                _finish(work, rows, summary)
                rows, shown = [], 0
            made = judge.rows(batch, PICTURES - shown)
            shown += sum(any(row[name] is not None for name in SHOWN) for row in made)
            rows += made
            progress(len(batch))
        if rows:
            _finish(work, rows, summary)
    summary.seconds, summary.model_seconds = time.perf_counter() - began, judge.seconds
    return summary


def _number(work: Work, index: int) -> int:
    """The part that an item belongs to."""
    return (index - work.source.start) // work.part_size


def _finish(work: Work, rows: list[Row], summary: Summary) -> None:
    work.parts.write(_number(work, rows[0]["index"]), rows)
    for row in rows:
        summary.add(row)


@contextmanager
def each_once() -> Iterator[None]:
    """Warnings that differ in numbers alone, as those of many batches do, are given once, at the end.

    Those about inputs without a verdict are not: each such input has a row that says so.
    """
    first: dict[str, tuple[Warning | str, type[Warning]]] = {}

    def keep(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        first.setdefault(re.sub(r"\d+", "N", str(message)), (message, category))

    with warnings.catch_warnings():
        warnings.simplefilter("always", GradgeoWarning)
        warnings.simplefilter("ignore", UnusableInputWarning)
        warnings.showwarning = keep
        yield
    for message, category in first.values():
        warnings.warn(message, category, stacklevel=2)
