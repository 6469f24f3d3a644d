"""One served model: its facts, queue, metrics and watch, and how a request is answered."""

import asyncio
import logging
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from gradgeo import watch
from gradgeo._version import __version__
from gradgeo.errors import DataError
from gradgeo.serve.batching import Batcher
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.inference import Facts
from gradgeo.serve.limits import Limits
from gradgeo.serve.logs import event
from gradgeo.serve.metrics import Metrics
from gradgeo.serve.parsing import Parser, Reader
from gradgeo.serve.protocol import ALL, OUTPUTS, Column, Columns, Comparison, Detail, InferenceRequest, metadata
from gradgeo.serve.record import VerdictRecord
from gradgeo.serve.texts import TextReader
from gradgeo.serve.web.preparation import FileReader, file_reader
from gradgeo.serve.workers import Pool
from gradgeo.watch import Watch

if TYPE_CHECKING:
    from gradgeo.data.preprocess import Preprocess
    from gradgeo.data.transform import Transform

EXTENSIONS = ["binary_tensor_data"]

KEEP = 10.0
"""Seconds after which the state of the watches is written again."""

BASELINE = 500
"""Inputs at the start of the stream that its own baseline is taken from."""


@dataclass
class Service:
    """What the routes work with.

    Args:
        pool: the workers, started.
        facts: of the detector that they loaded.
        name: of the model in paths.
        outputs: that clients may ask for.
        transform: what prepares files, where the user named it; else what the detector file says.
    """

    pool: Pool
    facts: Facts
    name: str
    limits: Limits = field(default_factory=Limits)
    watch_rate: float = 1e-3
    outputs: tuple[str, ...] = tuple(OUTPUTS)
    transform: "Preprocess | Transform | None" = None
    draining: bool = False
    folder: Path | None = None
    """Where verdicts are recorded, and the state of the watches is kept; None for nowhere."""

    record: VerdictRecord | None = None

    def __post_init__(self) -> None:
        self.watches = self._watches()
        self.metrics = Metrics(self.watches)
        if self.folder is not None:
            versions = {"gradgeo": __version__, **{name: version(name) for name in ("torch", "numpy")}}
            self.record = VerdictRecord(self.folder, self.facts.digest, versions, lost=self.metrics.lost.inc)
        self.metrics.info.info({"name": self.name, "version": self.version, "gradgeo": __version__})
        self.batcher = Batcher(self.pool, self.limits, workers=self.pool.size, on_batch=self._count)
        entries = 1
        for side in self.facts.shape:
            entries *= side
        known = self.facts.parameters.get("preprocess")
        prepare: FileReader | TextReader | str = TextReader()
        if not self.facts.texts:
            prepare = file_reader(self.facts.shape, self.facts.dtype, known, self.limits.pixels, self.transform)
        self.takes_files = isinstance(prepare, FileReader)
        self.longest_file = min(self.limits.file, self.limits.body or self.limits.file)
        self.longest_body = self.limits.body_bytes(entries, files=self.takes_files)
        self._bodies = self._bodies_left = self.limits.bodies_bytes(entries, files=self.takes_files)
        reader = Reader(self.facts.shape, self.facts.dtype, self.limits.rows, self.outputs, prepare)
        self.parse = Parser(reader, self.limits.timeout, decoders=self.pool.size)

    def _watches(self) -> dict[str, Watch]:
        """New ones, or those of an earlier server with the same detector and rate."""
        size = self.facts.calibration_size
        if not size:
            return {}
        new = {
            "fit": Watch(size, rate=self.watch_rate, mistakes=self.facts.mistakes),
            "start": Watch(size, rate=self.watch_rate, baseline=BASELINE),
        }
        if self.folder is None:
            return new
        try:
            kept = watch.load(self._state_file, detector=self.facts.digest)
        except DataError as error:
            event("the state of the watch cannot be read", logging.WARNING, error=str(error))
            return new
        if kept is None or {name: each.rate for name, each in kept[0].items()} != {n: w.rate for n, w in new.items()}:
            return new
        event("the watch goes on", inputs=kept[0]["fit"].state.inputs)
        return kept[0]

    @property
    def _state_file(self) -> Path:
        assert self.folder is not None
        return self.folder / f"watch-{self.version}.json"

    def keep_watches(self) -> None:
        """Write the state of the watches beside the record; where that fails, say so and go on."""
        if self.folder is None or not self.watches:
            return
        try:
            watch.save(self._state_file, self.watches, detector=self.facts.digest)
        except DataError as error:
            event("the state of the watch is not kept", logging.WARNING, error=str(error))

    async def keep_watching(self) -> None:
        """Keep the state again and again, so that a kill loses little of it."""
        while True:
            await asyncio.sleep(KEEP)
            self.keep_watches()

    @property
    def takes(self) -> Literal["files", "texts", "numbers"]:
        """What one input can come as, beside a tensor."""
        return "texts" if self.facts.texts else "files" if self.takes_files else "numbers"

    @property
    def version(self) -> str:
        """The beginning of `Detector.digest()`: another detector is another version."""
        return self.facts.digest[:12]

    @property
    def ready(self) -> bool:
        """Whether requests are taken and can be answered."""
        return not self.draining and self.pool.alive > 0

    def model_metadata(self) -> dict[str, Any]:
        """The metadata of the model."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "pytorch_gradgeo",
            "parameters": {**self.facts.parameters, "files": self.takes_files},
            **metadata(
                () if self.facts.texts else self.facts.shape,
                self.facts.classes,
                "BYTES" if self.facts.texts else self.facts.datatype,
                self.outputs,
            ),
        }

    def find(self, name: str, version: str | None) -> None:
        """Raises: ProtocolError for another model or version than this."""
        if name != self.name or version not in (None, self.version):
            raise ProtocolError(404, f"no such model or version; here is {self.name}, version {self.version}")

    def hold(self, size: int) -> None:
        """Take `size` bytes for a body out of what all bodies may take.

        Raises: ProtocolError where too little is left, or would be if this body were the only one.
        """
        if size > self._bodies:
            raise ProtocolError(413, f"expected a body that takes at most {self._bodies} bytes of memory")
        if size > self._bodies_left:
            raise ProtocolError(429, "too much is being read already. Try again later.", {"Retry-After": "1"})
        self._bodies_left -= size

    def release(self, size: int) -> None:
        """Return what `hold` took."""
        self._bodies_left += size

    async def close(self) -> None:
        """End the queue, refusing what is in it, and the processes."""
        await self.batcher.close()
        await self.parse.close()
        await self.pool.close()
        self.keep_watches()
        if self.record is not None:
            await asyncio.to_thread(self.record.close)

    async def answer(self, request: InferenceRequest) -> dict[str, Column]:
        """The columns for a request. While a worker is started again it waits; where that fails it is refused."""
        return await self.judge(request.x, request.explain, request.comparison)

    async def judge(self, x: NDArray[Any], detail: Detail, comparison: Comparison = ALL) -> dict[str, Column]:
        """The columns for inputs (N, *input), as `answer`."""
        if comparison.group is not None and not self.facts.grouped:
            raise ProtocolError(400, "expected no parameter group: the detector was fitted without groups")
        if self.pool.failing:
            raise ProtocolError(503, "no worker can be started at the moment", {"Retry-After": "5"})
        return await self.batcher.submit(x, detail, comparison)

    def note(self, request: str, x: NDArray[Any], columns: Columns, comparison: Comparison = ALL) -> None:
        """Have the verdicts on inputs (N, *input) of a request recorded, where they are to be."""
        if self.record is not None:
            self.record.add(request, x, columns, comparison)

    def metrics_text(self) -> bytes:
        """The metrics, as Prometheus reads them."""
        self.metrics.workers.set(self.pool.alive)
        self.metrics.restarts.set(self.pool.restarts)
        self.metrics.queue.set(self.batcher.rows)
        return self.metrics.text()

    def _count(self, columns: Columns) -> None:
        if "p_value" in columns:
            self.metrics.batch(columns)
