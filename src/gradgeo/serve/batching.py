"""Requests that come close together share a batch; when a batch fails, each of its requests is tried again alone."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.limits import Limits
from gradgeo.serve.logs import event
from gradgeo.serve.protocol import ALL, Column, Comparison, Detail, part
from gradgeo.serve.workers import InferenceError, WorkerLostError

GOING_DOWN = ProtocolError(503, "the server is going down")
FAULT = ProtocolError(500, "the batch could not be judged")
LARGE = 1 << 22  # bytes of inputs that are joined in another thread

Run = Callable[..., Awaitable[dict[str, Column]]]
"""(x, detail) or, for conditional p-values, (x, detail, conditional, groups): as `inference.Inference`."""


@dataclass(eq=False)
class _Waiting:
    x: NDArray[Any]
    explain: Detail
    comparison: Comparison
    since: float
    answer: "asyncio.Future[dict[str, Column]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def asks(self) -> tuple[Detail, str | None, bool]:
        """What requests of one batch ask for alike; their groups may differ."""
        return self.explain, self.comparison.conditional, self.comparison.group is not None


class Batcher:
    """A queue of requests in front of the workers.

    Args:
        run: the verdicts of a batch (N, *input), in as much detail as is asked for, among the inputs that are.
        limits: of rows in a batch and in the queue, and of time.
        workers: batches that may run at the same time.
        on_batch: called with the columns of every batch that succeeded.
    """

    def __init__(
        self,
        run: Run,
        limits: Limits,
        *,
        workers: int = 1,
        on_batch: Callable[[dict[str, Column]], None] = lambda columns: None,
    ) -> None:
        self._run, self._limits, self._on_batch = run, limits, on_batch
        self._workers = workers
        self._waiting: deque[_Waiting] = deque()
        self._changed = asyncio.Condition()
        self._gathering = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self.rows = 0
        """Inputs in the queue."""

    def start(self) -> None:
        """Start to take batches out of the queue."""
        self._tasks = [asyncio.create_task(self._serve()) for _ in range(self._workers)]

    async def close(self) -> None:
        """Stop; requests in the queue are refused."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiting in [*self._waiting]:
            _fail(waiting, GOING_DOWN)

    async def submit(self, x: NDArray[Any], explain: Detail, comparison: Comparison = ALL) -> dict[str, Column]:
        """The columns for the rows of `x`.

        Raises: ProtocolError, with 429 for a full queue, 504 for an answer that did not come in time, 503 where workers
            are lost again and again, 500 where the model fails on these inputs.
        """
        if self.rows + len(x) > self._limits.queue:
            raise ProtocolError(429, f"{self.rows} inputs are waiting already. Try again later.", {"Retry-After": "1"})
        waiting = _Waiting(x, explain, comparison, asyncio.get_running_loop().time())
        self._waiting.append(waiting)
        self.rows += len(x)
        try:
            async with self._changed:
                self._changed.notify()
            async with asyncio.timeout(self._limits.timeout):
                return await waiting.answer
        except TimeoutError:
            raise ProtocolError(504, f"no answer within {self._limits.timeout:g} s") from None
        finally:
            waiting.answer.cancel()  # nothing where it is there
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                self.rows -= len(x)

    async def _serve(self) -> None:
        while True:
            async with self._gathering:  # one at a time, so that batches fill up
                batch = await self._gather()
            await self._answer(batch)

    async def _gather(self) -> list[_Waiting]:
        """The first request and those after it that fit, once the batch is full or the first has waited for `delay`."""
        loop = asyncio.get_running_loop()
        async with self._changed:
            while True:
                batch = self._head()
                if not batch:
                    await self._changed.wait()
                    continue
                rest = batch[0].since + self._limits.delay - loop.time()
                if rest <= 0 or sum(len(w.x) for w in batch) >= self._limits.batch or len(batch) < len(self._waiting):
                    break
                try:
                    async with asyncio.timeout(rest):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        for waiting in batch:
            self._waiting.popleft()
            self.rows -= len(waiting.x)
        return batch

    def _head(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        for waiting in self._waiting:
            rows += len(waiting.x)
            if batch and (rows > self._limits.batch or waiting.asks != batch[0].asks):
                break
            batch.append(waiting)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        batch = [waiting for waiting in batch if not waiting.answer.done()]
        if not batch:
            return
        try:
            columns = await self._while_awaited(batch)
        except (WorkerLostError, InferenceError) as error:
            if len(batch) > 1:
                for waiting in batch:
                    await self._retry(waiting)
            elif isinstance(error, WorkerLostError):
                await self._retry(batch[0])
            else:
                _fail(batch[0], _refusal(error))
        except asyncio.CancelledError:
            for waiting in batch:
                _fail(waiting, GOING_DOWN)
            raise
        except Exception as error:  # a fault of ours must not end the loop
            event("batch failed", logging.ERROR, exc_info=error)
            for waiting in batch:
                _fail(waiting, FAULT)
        else:
            self._count(columns)
            start = 0
            for waiting in batch:
                rows = slice(start, start := start + len(waiting.x))
                if not waiting.answer.done():
                    waiting.answer.set_result(part(columns, rows))

    async def _while_awaited(self, batch: list[_Waiting]) -> dict[str, Column]:
        """The columns of a batch; its work is ended once nobody waits for it any more.

        Not before it has taken half of `timeout`, though: what ends it is a new start of the worker, which costs more
        than to let an ordinary batch finish for clients that have gone.

        Raises: WorkerLostError also where the work was ended.
        """
        loop = asyncio.get_running_loop()
        at_least = loop.time() + self._limits.timeout / 2
        x = await _joined([waiting.x for waiting in batch])
        running = asyncio.ensure_future(self._run(x, *_arguments(batch)))
        nobody = asyncio.ensure_future(asyncio.wait([waiting.answer for waiting in batch]))
        try:
            await asyncio.wait((running, nobody), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await asyncio.wait((running,), timeout=max(0.0, at_least - loop.time()))
            if not running.done():
                event("batch ended", logging.WARNING, reason="nobody waits for it any more", rows=len(x))
                raise WorkerLostError("nobody waits for this batch any more.")
            return running.result()
        finally:
            for task in (running, nobody):
                task.cancel()
            await asyncio.gather(running, nobody, return_exceptions=True)

    async def _retry(self, waiting: _Waiting) -> None:
        """Run one request alone: a dead worker or the inputs of another request may have failed the batch."""
        if waiting.answer.done():
            return
        try:
            columns = await self._while_awaited([waiting])
        except (WorkerLostError, InferenceError) as error:
            _fail(waiting, _refusal(error))
        except asyncio.CancelledError:
            _fail(waiting, GOING_DOWN)
            raise
        except Exception as error:
            event("batch failed", logging.ERROR, exc_info=error)
            _fail(waiting, FAULT)
        else:
            self._count(columns)
            if not waiting.answer.done():
                waiting.answer.set_result(columns)

    def _count(self, columns: dict[str, Column]) -> None:
        """What counts verdicts must not hold them back, nor end the loop."""
        try:
            self._on_batch(columns)
        except Exception as error:
            event("batch not counted", logging.ERROR, exc_info=error)


def _arguments(batch: list[_Waiting]) -> tuple[Any, ...]:
    """Of `Run`, behind x."""
    explain, conditional, grouped = batch[0].asks
    if conditional is None and not grouped:
        return (explain,)
    groups = [waiting.comparison.group for waiting in batch for _ in range(len(waiting.x))] if grouped else None
    return explain, conditional, groups


async def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """The rows of all parts; in another thread where to copy them here would hold up other requests."""
    if len(parts) == 1:
        return parts[0]
    copied = sum(part.nbytes for part in parts)
    return np.concatenate(parts) if copied < LARGE else await asyncio.to_thread(np.concatenate, parts)


def _fail(waiting: _Waiting, error: ProtocolError) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)


def _refusal(error: Exception) -> ProtocolError:
    if isinstance(error, WorkerLostError):
        return ProtocolError(503, "the worker was lost twice while it judged these inputs", {"Retry-After": "5"})
    return ProtocolError(500, str(error))
