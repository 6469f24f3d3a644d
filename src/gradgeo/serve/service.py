"""One served model: its facts, queue, metrics and watch, and how a request is answered."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gradgeo._version import __version__
from gradgeo.serve.batching import Batcher
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.inference import Facts
from gradgeo.serve.limits import Limits
from gradgeo.serve.metrics import Metrics
from gradgeo.serve.parsing import Parser, Reader
from gradgeo.serve.protocol import OUTPUTS, Column, Columns, Detail, InferenceRequest, metadata
from gradgeo.serve.web.preparation import file_reader
from gradgeo.serve.workers import Pool
from gradgeo.watch import Watch

if TYPE_CHECKING:
    from gradgeo.data.preprocess import Preprocess
    from gradgeo.data.transform import Transform

EXTENSIONS = ["binary_tensor_data"]

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

    def __post_init__(self) -> None:
        size = self.facts.calibration_size
        watches = (
            {}
            if not size
            else {
                "fit": Watch(size, rate=self.watch_rate),
                "start": Watch(size, rate=self.watch_rate, baseline=BASELINE),
            }
        )
        self.metrics = Metrics(watches)
        self.metrics.info.info({"name": self.name, "version": self.version, "gradgeo": __version__})
        self.batcher = Batcher(self.pool, self.limits, workers=self.pool.size, on_batch=self._count)
        entries = 1
        for side in self.facts.shape:
            entries *= side
        known = self.facts.parameters.get("preprocess")
        prepare = file_reader(self.facts.shape, self.facts.dtype, known, self.limits.pixels, self.transform)
        self.takes_files = not isinstance(prepare, str)
        self.longest_file = min(self.limits.file, self.limits.body or self.limits.file)
        self.longest_body = self.limits.body_bytes(entries, files=self.takes_files)
        self._bodies = self._bodies_left = self.limits.bodies_bytes(entries, files=self.takes_files)
        reader = Reader(self.facts.shape, self.facts.dtype, self.limits.rows, self.outputs, prepare)
        self.parse = Parser(reader, self.limits.timeout, decoders=self.pool.size)

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
            **metadata(self.facts.shape, self.facts.classes, self.facts.datatype, self.outputs),
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

    async def answer(self, request: InferenceRequest) -> dict[str, Column]:
        """The columns for a request. While a worker is started again it waits; where that fails it is refused."""
        return await self.judge(request.x, request.explain)

    async def judge(self, x: NDArray[Any], detail: Detail) -> dict[str, Column]:
        """The columns for inputs (N, *input), as `answer`."""
        if self.pool.failing:
            raise ProtocolError(503, "no worker can be started at the moment", {"Retry-After": "5"})
        return await self.batcher.submit(x, detail)

    def metrics_text(self) -> bytes:
        """The metrics, as Prometheus reads them."""
        self.metrics.workers.set(self.pool.alive)
        self.metrics.restarts.set(self.pool.restarts)
        self.metrics.queue.set(self.batcher.rows)
        return self.metrics.text()

    def _count(self, columns: Columns) -> None:
        if "p_value" in columns:
            self.metrics.batch(columns)
