"""Long JSON and files are read in processes of their own.

Parsing holds the interpreter lock, and would stop the event loop; a file may be made to crash what decodes it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo.serve import protocol
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.protocol import InferenceRequest
from gradgeo.serve.web.preparation import Preparation
from gradgeo.serve.workers import InferenceError, Pool, StartError, WorkerLostError

LONG_JSON = 1 << 14  # bytes; what is shorter takes a few milliseconds
LARGE = 1 << 16  # bytes of a binary body whose numbers are converted in another thread


@dataclass(frozen=True)
class Reader:
    """`protocol.read` for one model, as a pool of workers runs it. It is its own loader: there is nothing to load."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    most_rows: int
    offered: tuple[str, ...]
    prepare: Preparation | str = "this model takes none"
    """How files become inputs, or why they cannot."""

    facts: None = None

    def __call__(self) -> "_Task":
        """What a worker runs."""
        return _Task(self)

    def read(self, body: bytes, header_length: str | None) -> InferenceRequest:
        """The request in `body`, its files not read yet. Raises: ProtocolError."""
        return protocol.read(
            body,
            header_length,
            shape=self.shape,
            dtype=self.dtype,
            most_rows=self.most_rows,
            offered=self.offered,
        )

    def inputs(self, files: Sequence[bytes]) -> NDArray[Any]:
        """The inputs (N, *input) that files become. Raises: ProtocolError."""
        if isinstance(self.prepare, str):
            raise ProtocolError(400, f"expected numbers, got files: {self.prepare}")
        return self.prepare(files)


@dataclass(frozen=True)
class _Task:
    reader: Reader
    facts: None = None

    def __call__(self, job: "_Body | _Files") -> "InferenceRequest | NDArray[Any] | _Refusal":
        try:
            if isinstance(job, _Files):
                return self.reader.inputs(job.files)
            request = self.reader.read(job.body, job.header_length)
            return replace(request, x=self.reader.inputs(request.files), files=()) if request.files else request
        except ProtocolError as error:
            return _Refusal(error.status, error.message, error.headers)


@dataclass(frozen=True)
class _Body:
    body: bytes
    header_length: str | None


@dataclass(frozen=True)
class _Files:
    files: tuple[bytes, ...]


@dataclass(frozen=True)
class _Refusal:
    """A ProtocolError on its way between processes."""

    status: int
    message: str
    headers: Mapping[str, str]


class Parser:
    """Reads bodies, those with long JSON or files in processes that are started for the first of them.

    Args:
        reader: of the model that is served.
        timeout: seconds for one body.
        processes: how many.
    """

    def __init__(self, reader: Reader, timeout: float, *, processes: int = 1) -> None:
        self._reader, self._timeout, self._processes = reader, timeout, processes
        self._pool: Pool | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, body: bytes, header_length: str | None) -> InferenceRequest:
        """The request in `body`.

        Raises: ProtocolError, as `protocol.read`; 503 where the process that parses cannot be started or was lost.
        """
        binary = header_length is not None
        if protocol.json_length(body, header_length) < LONG_JSON:
            read = partial(self._reader.read, body, header_length)
            request = await asyncio.to_thread(read) if binary and len(body) >= LARGE else read()
            return replace(request, x=await self.inputs(request.files), files=()) if request.files else request
        return await self._elsewhere(_Body(body, header_length))  # type: ignore[no-any-return]

    async def inputs(self, files: tuple[bytes, ...]) -> NDArray[Any]:
        """The inputs (N, *input) that files become. Raises: ProtocolError, as `__call__`."""
        if isinstance(self._reader.prepare, str):
            return self._reader.inputs(files)  # refuses them
        return await self._elsewhere(_Files(files))  # type: ignore[no-any-return]

    async def _elsewhere(self, job: _Body | _Files) -> Any:
        try:
            found = await (await self._running())(job)
        except (StartError, WorkerLostError) as error:
            raise ProtocolError(503, f"the body could not be read. {error}", {"Retry-After": "1"}) from None
        except InferenceError as error:
            raise ProtocolError(500, "the body could not be read") from error
        if isinstance(found, _Refusal):
            raise ProtocolError(found.status, found.message, found.headers)
        return found

    async def _running(self) -> Pool:
        async with self._starting:
            if self._pool is None:
                pool = Pool(self._reader, size=self._processes, timeout=self._timeout)
                await pool.start()
                self._pool = pool
            return self._pool

    async def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            await self._pool.close()
