"""Scoring on several processes and machines, by Ray Data: each makes whole parts, the same that one process makes.

Source: P. Moritz et al., "Ray: a distributed framework for emerging AI applications", OSDI, 2018.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from torch import nn

from gradgeo.data.source import Source, Stream
from gradgeo.detector import Detector
from gradgeo.errors import DataError, require
from gradgeo.scoring.engine import Work, local
from gradgeo.scoring.parts import Parts
from gradgeo.scoring.run import run_of
from gradgeo.scoring.summary import Summary

Open = Callable[[], tuple[Detector, Source]]


@dataclass(frozen=True)
class RayEngine:
    """Makes parts by actors of Ray Data, each with a detector of its own, on a GPU where the cluster has any.

    Args:
        open: gives detector and data in each of the processes; it is sent to them, so it must be picklable, and what it
            opens must be there: the package, the model's code, detector, data and the folder of `out` on file systems
            that every machine sees under the same name.
        jobs: detectors side by side; None for one on each GPU or, without any, on each CPU.

    A part that is lost with its worker is made again by another, and a worker writes a part as a whole or not at all:
    no row is lost and none is there twice. Parts of a stream are begun by passing over all before them, so shards are
    counted first; streams that cannot be counted are refused.
    """

    open: Open
    jobs: int | None = None

    def __call__(self, work: Work, numbers: Iterable[int], progress: Callable[[int], None]) -> Summary:
        """As `Engine`; on the cluster that Ray is connected to or, as `ray.init()` has it, $RAY_ADDRESS or here."""
        ray, data = require("ray", "ray"), require("ray.data", "ray")
        began = time.perf_counter()
        source = work.source
        size = source.count() if isinstance(source, Stream) else source.size
        assert size is not None
        total = -(-size // work.part_size)
        todo = [number for number in islice(numbers, total) if number < total]
        if not todo:
            return Summary()
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        jobs = min(len(todo), self.jobs or gpus or int(ray.cluster_resources()["CPU"]))
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        made = data.from_items([{"part": number} for number in todo], override_num_blocks=len(todo)).map_batches(
            _Maker,
            fn_constructor_args=(self.open, work.parts, work.part_size, work.batch_size, work.workers, gpus > 0),
            batch_size=1,
            concurrency=jobs,
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        summary = Summary(lanes=jobs)
        counted: dict[int, Summary] = {}
        for row in made.iter_rows():
            number = int(row["part"])
            counted[number] = Summary(**json.loads(row["summary"]))
            progress(counted[number].rows)
        if missing := set(todo) - set(counted):
            raise DataError(f"{len(missing)} parts were not made. Run the same command again and it goes on.")
        for number in todo:
            summary.merge(counted[number])
        summary.seconds = time.perf_counter() - began
        return summary


class _Maker:
    """What each worker process runs."""

    def __init__(self, opened: Open, parts: Parts, part_size: int, batch_size: int, workers: int, on_gpu: bool) -> None:
        detector, source = opened()
        here = run_of(detector, source, part_size)
        if here.metadata["run"] != parts.table.metadata["run"]:
            raise DataError(
                f"a worker finds another detector, model or data than the process that began the run: {source.spec}. "
                "Let all machines see the same files."
            )
        if on_gpu and isinstance(detector.model, nn.Module):
            detector.model = detector.model.to("cuda")
        self._work = Work(detector, source, parts, part_size, batch_size, workers)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Make the parts in `batch`; what each counts goes back, the rows do not."""
        numbers = [int(number) for number in batch["part"]]
        made = [local(self._work, [number], lambda inputs: None) for number in numbers]
        return {"part": numbers, "summary": [json.dumps(asdict(summary)) for summary in made]}
