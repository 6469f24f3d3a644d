"""Worker processes for inference, apart from the one that speaks HTTP: one that dies takes no request with it."""

import asyncio
import gc
import multiprocessing
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from gradgeo.errors import GradgeoError, UnusableInputWarning
from gradgeo.serve import pipes
from gradgeo.serve.logs import event, to_stderr


class Task(Protocol):
    """What a worker runs, once loaded: see `gradgeo.serve.inference.Inference`, and `parsing` for the other."""

    @property
    def facts(self) -> Any: ...  # noqa: D102

    __call__: Callable[..., Any]


Load = Callable[[], Any]
"""Makes a `Task`."""

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
        folder: with files of this process alone, which the workers remove where it is killed.
    """

    def __init__(self, load: Load, *, size: int = 1, timeout: float = 60.0, folder: Path | None = None) -> None:
        self._load, self._timeout, self.size, self._folder = load, timeout, size, folder
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

    async def start(self) -> Any:
        """Start all workers, and return the facts of what they loaded. Cancelled, it ends those that load still.

        Raises: StartError, with what the first of them says.
        """
        self._workers = [_Worker(self._load, self._folder) for _ in range(self.size)]
        try:
            started = await asyncio.gather(*map(self._start, self._workers), return_exceptions=True)
        except asyncio.CancelledError:
            for worker in self._workers:
                worker.kill(for_good=True)
            await self.close()
            raise
        for outcome in started:
            if isinstance(outcome, BaseException):
                await self.close()
                raise outcome
        return started[0]

    async def _start(self, worker: "_Worker") -> Any:
        facts = await asyncio.get_running_loop().run_in_executor(self._threads, worker.start)
        self._idle.put_nowait(worker)
        return facts

    async def __call__(self, *job: Any) -> Any:
        """What the worker answers to the arguments of a task. Cancelled, it ends the worker, which is started again.

        Raises: WorkerLostError, InferenceError.
        """
        worker = await self._idle.get()
        answer = asyncio.get_running_loop().run_in_executor(self._threads, worker.ask, job, self._timeout)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            worker.kill()
            await asyncio.gather(answer, return_exceptions=True)
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
                if self._closing.is_set():
                    return
                event("worker cannot start", error=str(error), attempt=attempt)
                self.failing = not self.alive
                attempt += 1
            else:
                self.failing = False
                event("worker started", pid=worker.pid)
                return

    async def close(self) -> None:
        """End the workers, also those that are loading."""
        self._closing.set()
        for worker in self._workers:
            if not worker.ready:
                worker.kill(for_good=True)
        await asyncio.gather(*self._reviving, return_exceptions=True)
        await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self._workers))
        self._threads.shutdown()


class _Worker:
    """One process and the pipe to it; used by one thread at a time."""

    def __init__(self, load: Load, folder: Path | None = None) -> None:
        self._load, self._folder = load, folder
        self._ended = False
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self.ready = False

    @property
    def pid(self) -> int:
        return (self._process and self._process.pid) or 0

    def start(self) -> Any:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        arguments = (far_end, self._load, self._folder)
        self._process = context.Process(target=_work, args=arguments, name="gradgeo-worker")
        self._process.start()
        far_end.close()  # so that the end of the process ends the pipe
        if self._ended:
            self._process.kill()
        try:
            kind, content = pipes.receive(self._pipe)
        except (EOFError, OSError):
            kind, content = "failed", f"the process ended with exit code {self._exit_code()}"
        if kind != "ready":
            self.stop()
            raise StartError(str(content))
        self.ready = True
        return content

    def ask(self, job: tuple[Any, ...], timeout: float) -> Any:
        assert self._pipe is not None
        try:
            pipes.send(self._pipe, job)
            if not self._pipe.poll(timeout):
                raise TimeoutError(f"no answer within {timeout:g} s")
            kind, content = pipes.receive(self._pipe)
        except (EOFError, OSError) as error:
            late = str(error) if isinstance(error, TimeoutError) else ""
            self.stop(wait=0 if late else 1)
            fact = late or f"the process ended with exit code {self._exit_code()}"
            event("worker lost", pid=self.pid, reason=fact)
            raise WorkerLostError(f"a worker was lost: {fact}.") from None
        if kind == "failed":
            raise InferenceError(content)
        return content

    def kill(self, *, for_good: bool = False) -> None:
        """End the process from another thread than the one that waits for it; `for_good` one that only starts too."""
        self._ended = self._ended or for_good
        if self._process is not None and self._process.pid is not None:
            self._process.kill()

    def _exit_code(self) -> int | None:
        if self._process is not None:
            self._process.join(1)
        return self._process.exitcode if self._process is not None else None

    def stop(self, wait: float = 5.0) -> None:
        """Tell the process to end; kill it if it does not."""
        self.ready = False
        if self._pipe is not None:
            if wait:
                with suppress(OSError):  # it has ended already
                    pipes.send(self._pipe, None)
            self._pipe.close()
        if self._process is not None:
            self._process.join(wait)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()


def _work(pipe: Connection, load: Load, folder: Path | None = None) -> None:
    """The life of a worker. Signals are the parent's business: it drains first, then tells its workers to end."""
    orphaned = threading.Thread(target=_end_with_parent, args=(folder,), daemon=True)
    orphaned.start()
    to_stderr()
    for ending in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(ending, signal.SIG_IGN)
    warnings.simplefilter("ignore", UnusableInputWarning)  # such inputs are counted by the metrics
    try:
        task = load()
        gc.collect()
        gc.freeze()  # as in the server: no verdict waits for a search through what is loaded
        pipes.send(pipe, ("ready", task.facts))
    except Exception as error:
        pipes.send(
            pipe, ("failed", str(error) if isinstance(error, GradgeoError) else f"{type(error).__name__}: {error}")
        )
        return
    while True:
        try:
            job = pipes.receive(pipe)
        except (EOFError, OSError):  # the parent is gone, or about to kill this process
            orphaned.join()
            return
        if job is None:
            return
        try:
            answer: tuple[str, Any] = ("answer", task(*job))
        except Exception as error:  # whatever the caller's model raises; its text might quote an input
            answer = ("failed", f"the model or the detector failed ({type(error).__name__})")
        try:
            pipes.send(pipe, answer)
        except OSError:
            orphaned.join()


def _end_with_parent(folder: Path | None) -> None:
    """Wait until the server is gone, killed perhaps, then remove its files and end, however busy the model is."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
