"""Prefetching: threads load the next batches while the model works on the current one."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

BATCHES = 2
"""Batches that are loaded in advance."""


def prefetch(groups: Generator[list[Callable[[], T]]], workers: int) -> Iterator[list[T]]:
    """The results of the calls of each group, in order, computed by `workers` threads.

    One more thread, and no other, advances `groups`, which may itself read files. An exception of `groups` is raised in
    the place of its next group.
    """

    def submit() -> list[Future[list[T]]] | None:
        group = next(groups, None)
        if group is None:
            return None
        share = -(-len(group) // workers)  # few large tasks: submitting one costs as much as decoding a small image
        return [pool.submit(_all, group[i : i + share]) for i in range(0, len(group), share)]

    pool = ThreadPoolExecutor(workers, thread_name_prefix="gradgeo-read")
    feeder = ThreadPoolExecutor(1, thread_name_prefix="gradgeo-feed")
    waiting = deque(feeder.submit(submit) for _ in range(BATCHES + 1))
    try:
        while (tasks := waiting.popleft().result()) is not None:
            waiting.append(feeder.submit(submit))
            yield [result for task in tasks for result in task.result()]
    finally:
        feeder.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)
        groups.close()


def _all(calls: list[Callable[[], T]]) -> list[T]:
    return [call() for call in calls]
