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

from gradgeo.serve import reading
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.protocol import InferenceRequest, RequestHead
from gradgeo.serve.texts import TextReader
from gradgeo.serve.web.preparation import FileReader
from gradgeo.serve.workers import InferenceError, Pool, StartError, WorkerLostError

LONG_JSON = 1 << 14  # bytes; what is shorter takes a few milliseconds
LARGE = 1 << 16  # bytes behind the JSON whose numbers are converted in another thread


@dataclass(frozen=True)
class Reader:
    """The reading of requests for one model, as a pool of workers runs it. It is its own loader: nothing is to load."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    most_rows: int
    offered: tuple[str, ...]
    prepare: FileReader | TextReader | str = "this model takes none"
    """How files become inputs, or why they cannot."""

    facts: None = None

    def __call__(self) -> "_Task":
        """What a worker runs."""
        return _Task(self)

    def decoder(self) -> "_Task":
        """The same, ready for files, so that the first of them does not wait for libraries."""
        if isinstance(self.prepare, FileReader):
            self.prepare.get_ready()
        return _Task(self)

    def head(self, text: bytes | bytearray, behind: int) -> RequestHead:
        """What the JSON of a request says that has so many bytes behind it. Raises: ProtocolError."""
        return reading.read_head(
            text,
            behind,
            shape=self.shape,
            dtype=self.dtype,
            most_rows=self.most_rows,
            offered=self.offered,
            texts=isinstance(self.prepare, TextReader),
        )

    def request(self, head: RequestHead, behind: memoryview) -> InferenceRequest:
        """The whole request, its files not read yet. Raises: ProtocolError."""
        return reading.with_tensor(head, behind, shape=self.shape, dtype=self.dtype)

    def inputs(self, files: Sequence[bytes]) -> NDArray[Any]:
        """The inputs (N, *input) that files become. Raises: ProtocolError."""
        if isinstance(self.prepare, str):
            raise ProtocolError(400, f"expected numbers, got files: {self.prepare}")
        return self.prepare(files)


@dataclass(frozen=True)
class _Task:
    reader: Reader
    facts: None = None

    def __call__(self, job: "_Json | _Files") -> "RequestHead | NDArray[Any] | _Refusal":
        try:
            if isinstance(job, _Files):
                return self.reader.inputs(job.files)
            return self.reader.head(job.text, job.behind)
        except ProtocolError as error:
            return _Refusal(error.status, error.message, error.headers)


@dataclass(frozen=True)
class _Json:
    text: bytes | bytearray
    behind: int


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
    """Reads bodies: long JSON in a process, files in others, each started for the first of its kind.

    Args:
        reader: of the model that is served.
        timeout: seconds for one body.
        decoders: processes for files.
    """

    def __init__(self, reader: Reader, timeout: float, *, decoders: int = 1) -> None:
        self._reader, self._timeout, self._decoders = reader, timeout, decoders
        self._pools: dict[type, Pool] = {}
        self._starting = asyncio.Lock()

    async def __call__(self, body: bytes | bytearray, header_length: str | None) -> InferenceRequest:
        """The request in `body`.

        Raises: ProtocolError, as `reading.read_head`; 503 where the process that parses cannot be started or was lost.
        """
        length = reading.json_length(body, header_length)
        text, behind = body[:length], memoryview(body)[length:]
        job = _Json(text, len(behind))  # without what is behind: to copy that to the process would hold up all others
        head = await self._elsewhere(job) if length >= LONG_JSON else self._reader.head(text, len(behind))
        read = partial(self._reader.request, head, behind)
        request = await asyncio.to_thread(read) if len(behind) >= LARGE else read()
        return replace(request, x=await self.inputs(request.files), files=()) if request.files else request

    async def inputs(self, files: tuple[bytes, ...]) -> NDArray[Any]:
        """The inputs (N, *input) that files become. Raises: ProtocolError, as `__call__`."""
        if not isinstance(self._reader.prepare, FileReader):
            return self._reader.inputs(files)  # texts, or refused
        return await self._elsewhere(_Files(files))  # type: ignore[no-any-return]

    async def _elsewhere(self, job: _Json | _Files) -> Any:
        try:
            found = await (await self._running(type(job)))(job)
        except (StartError, WorkerLostError) as error:
            raise ProtocolError(503, f"the body could not be read. {error}", {"Retry-After": "1"}) from None
        except InferenceError as error:
            raise ProtocolError(500, "the body could not be read") from error
        if isinstance(found, _Refusal):
            raise ProtocolError(found.status, found.message, found.headers)
        return found

    async def _running(self, kind: type) -> Pool:
        async with self._starting:
            if kind not in self._pools:
                load, size = (self._reader.decoder, self._decoders) if kind is _Files else (self._reader, 1)
                pool = Pool(load, size=size, timeout=self._timeout)
                await pool.start()
                self._pools[kind] = pool
            return self._pools[kind]

    async def close(self) -> None:
        """End the processes."""
        for pool in self._pools.values():
            await pool.close()
