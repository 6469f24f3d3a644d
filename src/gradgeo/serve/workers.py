"""Worker processes for inference, apart from the one that speaks HTTP: one that dies takes no request with it."""

import asyncio
import multiprocessing
import signal
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from numpy.typing import NDArray

from gradgeo.errors import GradgeoError, UnusableInputWarning
from gradgeo.serve.inference import Facts, Inference
from gradgeo.serve.logs import event, to_stderr
from gradgeo.serve.protocol import Column

Load = Callable[[], Inference]

RETRY_DELAYS = (0.1, 1.0, 5.0, 30.0)
"""Seconds before a worker is started again: after it died, after that start failed, and so on."""


class WorkerLostError(GradgeoError):
    """The process died, or did not answer in time and was ended; the batch may be tried again."""


class InferenceError(GradgeoError):
    """The model or the detector raised on this batch."""


class StartError(GradgeoError):
    """A worker could not load the model and the detector."""


class Pool:
    """Some workers, each running one batch at a time.

    Args:
        load: loads model and detector inside a worker; it is pickled.
        size: how many workers.
        timeout: seconds for one batch.
    """

    def __init__(self, load: Load, *, size: int = 1, timeout: float = 60.0) -> None:
        self._load, self._timeout, self.size = load, timeout, size
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="gradgeo-worker")
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._workers: list[_Worker] = []
        self._reviving: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self.restarts = 0
        self.failing = False
        """Whether no worker is ready and the last one started could not load."""

    @property
    def alive(self) -> int:
        """How many workers are ready."""
        return sum(worker.ready for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that are ready."""
        return [worker.pid for worker in self._workers if worker.ready]

    async def start(self) -> Facts:
        """Start all workers. Raises: StartError, with what the first of them says."""
        self._workers = [_Worker(self._load) for _ in range(self.size)]
        started = await asyncio.gather(*map(self._start, self._workers), return_exceptions=True)
        for outcome in started:
            if isinstance(outcome, BaseException):
                await self.close()
                raise outcome
        return next(outcome for outcome in started if isinstance(outcome, Facts))

    async def _start(self, worker: "_Worker") -> Facts:
        facts = await asyncio.get_running_loop().run_in_executor(self._threads, worker.start)
        self._idle.put_nowait(worker)
        return facts

    async def __call__(self, x: NDArray[Any], explain: bool) -> dict[str, Column]:
        """The verdicts of a batch. Raises: WorkerLostError, InferenceError."""
        worker = await self._idle.get()
        answer = asyncio.get_running_loop().run_in_executor(self._threads, worker.ask, (x, explain), self._timeout)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            await asyncio.wait([answer])
            raise
        finally:
            if worker.ready:
                self._idle.put_nowait(worker)
            else:
                task = asyncio.create_task(self._revive(worker))
                self._reviving.add(task)
                task.add_done_callback(self._reviving.discard)

    async def _revive(self, worker: "_Worker") -> None:
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(RETRY_DELAYS[min(attempt, len(RETRY_DELAYS) - 1)]):
                    await self._closing.wait()
                return
            except TimeoutError:
                self.restarts += 1
            try:
                await self._start(worker)
            except StartError as error:
                event("worker cannot start", error=str(error), attempt=attempt)
                self.failing = not self.alive
                attempt += 1
            else:
                self.failing = False
                event("worker started", pid=worker.pid)
                return

    async def close(self) -> None:
        """End the workers; one that is starting is waited for."""
        self._closing.set()
        await asyncio.gather(*self._reviving, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self._workers))
        self._threads.shutdown()


class _Worker:
    """One process and the pipe to it; used by one thread at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self.ready = False

    @property
    def pid(self) -> int:
        return (self._process and self._process.pid) or 0

    def start(self) -> Facts:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_work, args=(far_end, self._load), name="gradgeo-worker")
        self._process.start()
        far_end.close()  # so that the end of the process ends the pipe
        try:
            kind, content = self._pipe.recv()
        except (EOFError, OSError):
            kind, content = "failed", f"the process ended with exit code {self._exit_code()}"
        if kind != "ready":
            self.stop()
            raise StartError(str(content))
        self.ready = True
        return content  # type: ignore[no-any-return]

    def ask(self, job: tuple[NDArray[Any], bool], timeout: float) -> dict[str, Column]:
        assert self._pipe is not None
        try:
            self._pipe.send(job)
            if not self._pipe.poll(timeout):
                raise TimeoutError(f"no answer within {timeout:g} s")
            kind, content = self._pipe.recv()
        except (EOFError, OSError) as error:
            late = str(error) if isinstance(error, TimeoutError) else ""
            self.stop(wait=0 if late else 1)
            fact = late or f"the process ended with exit code {self._exit_code()}"
            event("worker lost", pid=self.pid, reason=fact, rows=len(job[0]))
            raise WorkerLostError(f"a worker was lost: {fact}.") from None
        if kind == "failed":
            raise InferenceError(content)
        return content  # type: ignore[no-any-return]

    def _exit_code(self) -> int | None:
        if self._process is not None:
            self._process.join(1)
        return self._process.exitcode if self._process is not None else None

    def stop(self, wait: float = 5.0) -> None:
        """Close the pipe, at which the process ends; kill it if it does not."""
        self.ready = False
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(wait)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()


def _work(pipe: Connection, load: Load) -> None:
    """The life of a worker. Signals are the parent's business: it drains first, then closes the pipe."""
    to_stderr()
    for ending in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(ending, signal.SIG_IGN)
    warnings.simplefilter("ignore", UnusableInputWarning)  # such inputs are counted by the metrics
    try:
        inference = load()
        pipe.send(("ready", inference.facts))
    except Exception as error:
        pipe.send(("failed", str(error) if isinstance(error, GradgeoError) else f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            x, explain = pipe.recv()
        except (EOFError, OSError):  # the parent has closed the pipe, or is gone
            return
        try:
            answer: tuple[str, Any] = ("answer", inference(x, explain))
        except Exception as error:  # whatever the caller's model raises; its text might quote an input
            answer = ("failed", f"the model or the detector failed ({type(error).__name__})")
        try:
            pipe.send(answer)
        except OSError:
            return
