"""Long JSON is parsed in a process of its own: parsing holds the interpreter lock, and would stop the event loop."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gradgeo.serve import protocol
from gradgeo.serve.protocol import InferenceRequest, ProtocolError
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
    facts: None = None

    def __call__(self) -> "_Task":
        """What a worker runs."""
        return _Task(self)

    def read(self, body: bytes | bytearray, header_length: str | None) -> InferenceRequest:
        """The request in `body`. Raises: ProtocolError."""
        return protocol.read(
            body,
            header_length,
            shape=self.shape,
            dtype=self.dtype,
            most_rows=self.most_rows,
            offered=self.offered,
        )


@dataclass(frozen=True)
class _Task:
    reader: Reader
    facts: None = None

    def __call__(self, body: bytes | bytearray, header_length: str | None) -> "InferenceRequest | _Refusal":
        try:
            return self.reader.read(body, header_length)
        except ProtocolError as error:
            return _Refusal(error.status, error.message, error.headers)


@dataclass(frozen=True)
class _Refusal:
    """A ProtocolError on its way between processes."""

    status: int
    message: str
    headers: Mapping[str, str]


class Parser:
    """Reads bodies, those with long JSON in a process that is started for the first of them.

    Args:
        reader: of the model that is served.
        timeout: seconds for one body.
    """

    def __init__(self, reader: Reader, timeout: float) -> None:
        self._reader, self._timeout = reader, timeout
        self._pool: Pool | None = None
        self._starting = asyncio.Lock()

    async def __call__(self, body: bytes | bytearray, header_length: str | None) -> InferenceRequest:
        """The request in `body`.

        Raises: ProtocolError, as `protocol.read`; 503 where the process that parses cannot be started or was lost.
        """
        binary = header_length is not None
        if protocol.json_length(body, header_length) < LONG_JSON:
            read = partial(self._reader.read, body, header_length)
            return await asyncio.to_thread(read) if binary and len(body) >= LARGE else read()
        try:
            found = await (await self._running())(body, header_length)
        except (StartError, WorkerLostError) as error:
            raise ProtocolError(503, f"the body could not be parsed. {error}", {"Retry-After": "1"}) from None
        except InferenceError as error:
            raise ProtocolError(500, "the body could not be parsed") from error
        if isinstance(found, _Refusal):
            raise ProtocolError(found.status, found.message, found.headers)
        return found  # type: ignore[no-any-return]

    async def _running(self) -> Pool:
        async with self._starting:
            if self._pool is None:
                pool = Pool(self._reader, timeout=self._timeout)
                await pool.start()
                self._pool = pool
            return self._pool

    async def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            await self._pool.close()
