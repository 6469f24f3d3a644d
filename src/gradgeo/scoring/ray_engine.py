"""The engine that scores on several processes and machines, by Ray Data: each writes whole parts.

Source: P. Moritz et al., "Ray: a distributed framework for emerging AI applications", OSDI, 2018.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

from torch import nn

from gradgeo.data.source import Source, Stream
from gradgeo.detector.detector import Detector
from gradgeo.errors import DataError, GradgeoError, one_line, require
from gradgeo.scoring.local_engine import ScoringJob, local
from gradgeo.scoring.manifest import NO_KINDS, Kinds, Manifest
from gradgeo.scoring.parts import RESUME_ADVICE, Parts
from gradgeo.scoring.summary import Summary

BLOCKS = 4096
"""Tasks of Ray at most; a hundred thousand parts share them."""

Open = Callable[[], tuple[Detector, Source]]


@dataclass(frozen=True)
class RayEngine:
    """Scores parts by actors of Ray Data, each with a detector of its own, on a GPU where the cluster has any.

    A part that is lost with its worker is scored again by another, and a worker writes a part as a whole or not at all:
    no row is lost and none is there twice. To start a part of a stream, a worker skips all items before it, so shards
    are counted first; streams that cannot be counted are refused.
    """

    open: Open
    """Opens detector and data in each of the processes. It is sent to them, so it must be picklable. What it opens must
    be there: the package, the model's code, detector, data and the folder of `out` on file systems that every machine
    sees under the same name."""

    jobs: int | None = None
    """Detectors that work in parallel; None for one on each GPU or, without any, on each CPU."""

    def __call__(
        self,
        job: ScoringJob,
        numbers: Iterable[int],
        *,
        progress: Callable[[int], None],
        finished: Callable[[int], None],
    ) -> Summary:
        """As `Engine`, on the cluster that Ray is connected to or, as `ray.init()` has it, $RAY_ADDRESS or here."""
        ray, data = require("ray", "ray"), require("ray.data", "ray")
        began = time.perf_counter()
        source = job.source
        size = source.count() if isinstance(source, Stream) else source.size
        assert size is not None
        total = -(-size // job.part_size)
        todo = list(takewhile(lambda number: number < total, numbers))
        if not todo:
            return Summary()
        counted: dict[int, Summary] = {}
        with _connected(ray, data):
            gpus = int(ray.cluster_resources().get("GPU", 0))
            most = gpus or int(ray.cluster_resources()["CPU"])  # more would wait for ever
            jobs = min(len(todo), most, self.jobs or most)
            arguments = (self.open, job.parts, job.part_size, job.batch_size, job.workers, gpus > 0, job.kinds)
            rows = [{"part": number} for number in todo]  # of Ray's data set; the verdicts themselves stay with workers
            results = data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map_batches(
                _PartWorker,
                fn_constructor_args=arguments,
                batch_size=1,
                compute=data.ActorPoolStrategy(size=jobs),
                num_cpus=1,
                num_gpus=1 if gpus else 0,
            )
            try:
                for row in results.iter_rows():
                    if row["error"]:
                        raise DataError(f"a worker failed at part {row['part']}: {row['error']}. {RESUME_ADVICE}")
                    counted[row["part"]] = Summary(**json.loads(row["summary"]))
                    progress(counted[row["part"]].rows)
                    finished(row["part"])
            except ray.exceptions.RayError as error:
                fact = one_line(f"{type(error).__name__}: {error}")
                raise DataError(f"Ray could not go on: {fact}. {RESUME_ADVICE}") from error
        if missing := set(todo) - set(counted):
            raise DataError(f"Ray did not return {len(missing)} of {len(todo)} parts. {RESUME_ADVICE}")
        summary = Summary(detectors=jobs)
        for number in todo:
            summary.merge(counted[number])
        summary.seconds = time.perf_counter() - began
        return summary


@contextmanager
def _connected(ray: Any, data: Any) -> Iterator[None]:
    """Connect Ray, and restore its state afterwards."""
    ours = not ray.is_initialized()
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    if ours:
        ray.init(log_to_driver=False, logging_level="ERROR")
    context = data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
        if ours:
            ray.shutdown()


class _PartWorker:
    """What each worker process runs. Its errors go back as text: Ray would start a failing worker again for ever."""

    def __init__(
        self,
        opened: Open,
        parts: Parts,
        part_size: int,
        batch_size: int,
        workers: int,
        on_gpu: bool,
        kinds: Kinds = NO_KINDS,
    ) -> None:
        self._job: ScoringJob | None = None
        self._error = ""
        try:
            detector, source = opened()
            run = Manifest.of(detector, source, part_size, kinds).metadata.run
            if run != parts.schema.metadata.run:
                raise DataError(
                    f"it finds another detector, model or data ({source.spec}) than the process that began the run. "
                    "Let all machines see the same files"
                )
            if on_gpu and isinstance(detector.model, nn.Module):
                detector.model = detector.model.to("cuda")
            self._job = ScoringJob(detector, source, parts, part_size, batch_size, workers, kinds)
        except Exception as error:  # whatever the user's own model raises
            self._error = _message(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Score the parts in `batch`; what each counts goes back, the rows do not."""
        numbers = [int(number) for number in batch["part"]]
        summaries, errors = [], []
        for number in numbers:
            summary, error = Summary(), self._error
            if self._job is not None:
                try:
                    # a worker may have died after this part of its block
                    counted = self._job.parts.count(number, self._job.source.size)
                    summary = counted or local(self._job, [number], progress=_ignore, finished=_ignore)
                except Exception as fact:
                    error = _message(fact)
            summaries.append(json.dumps(asdict(summary)))
            errors.append(error)
        return {"part": numbers, "summary": summaries, "error": errors}


def _ignore(value: int) -> None:
    pass


def _message(error: Exception) -> str:
    return one_line(str(error) if isinstance(error, GradgeoError) else f"{type(error).__name__}: {error}")
