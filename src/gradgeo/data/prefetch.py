"""Prefetching: threads load the next batches while the model works on the current one."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition
from typing import Generic, TypeVar

from gradgeo.data import limits

T = TypeVar("T")

BATCHES = 2
"""Batches that are loaded in advance, as far as `limits.READ_AHEAD` allows."""

STEP = 1 << 20
"""Bytes after which a thread looks whether it may go on."""


@dataclass
class Group(Generic[T]):
    """The calls that load a batch."""

    calls: list[Callable[[], T]]
    nbytes: int = 0
    """Bytes that the calls themselves hold."""


def prefetch(groups: Generator[Group[T]], workers: int, nbytes: Callable[[T], int]) -> Iterator[list[T]]:
    """The results of the calls of each group, in order, computed by `workers` threads.

    One more thread, and no other, advances `groups`, which may itself read files. An exception of `groups` is raised in
    the place of its next group. Beyond the group that is asked for, no call begins while what has been loaded takes
    more than `limits.READ_AHEAD`.

    Args:
        groups: calls that load.
        workers: threads.
        nbytes: the bytes of a result.
    """
    ahead = _Ahead()

    def submit(number: int) -> list[Future[list[T]]] | None:
        ahead.wait(number)
        group = next(groups, None)
        if group is None:
            return None
        ahead.add(number, group.nbytes)
        share = -(-len(group.calls) // workers)  # few large tasks: submitting costs as much as decoding a small image
        shares = [group.calls[i : i + share] for i in range(0, len(group.calls), share)]
        return [pool.submit(load, number, calls) for calls in shares]

    def load(number: int, calls: list[Callable[[], T]]) -> list[T]:
        results: list[T] = []
        untold = 0
        ahead.wait(number)
        for call in calls:
            results.append(call())
            untold += nbytes(results[-1])
            if untold >= STEP:  # of small items not each one takes the lock
                ahead.add(number, untold)
                untold = 0
                ahead.wait(number)
        ahead.add(number, untold)
        return results

    pool = ThreadPoolExecutor(workers, thread_name_prefix="gradgeo-read")
    feeder = ThreadPoolExecutor(1, thread_name_prefix="gradgeo-feed")
    waiting = deque(feeder.submit(submit, number) for number in range(BATCHES + 1))
    number = 0
    try:
        while True:
            ahead.ask(number)
            tasks = waiting.popleft().result()
            if tasks is None:
                return
            waiting.append(feeder.submit(submit, number + BATCHES + 1))
            batch = [result for task in tasks for result in task.result()]
            tasks.clear()  # which would keep the batch
            yield batch
            del batch
            number += 1
    finally:
        ahead.close()
        feeder.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)
        groups.close()


class _ClosedError(Exception):
    """Nobody asks for batches any more."""


class _Ahead:
    """How many bytes have been loaded and not yet been given out."""

    def __init__(self) -> None:
        self._held: dict[int, int] = {}  # bytes of each group
        self._asked = 0
        self._closed = False
        self._changed = Condition()

    def wait(self, number: int) -> None:
        """Wait until group `number` may take memory: it is asked for, or little is held. Raises: _ClosedError."""

        def may_go() -> bool:
            return self._closed or number <= self._asked or sum(self._held.values()) < limits.READ_AHEAD

        with self._changed:
            self._changed.wait_for(may_go)
            if self._closed:
                raise _ClosedError

    def add(self, number: int, nbytes: int) -> None:
        """Group `number` has taken so many bytes more."""
        with self._changed:
            self._held[number] = self._held.get(number, 0) + nbytes

    def ask(self, number: int) -> None:
        """Group `number` is asked for: those before it are no longer held here."""
        with self._changed:
            self._asked = number
            self._held = {group: held for group, held in self._held.items() if group >= number}
            self._changed.notify_all()

    def close(self) -> None:
        """Let all that wait go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
