"""Reading ahead: threads make the items of the next batches while the model works on this one."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

BATCHES = 2
"""Batches that are read ahead."""


def ahead(groups: Generator[list[Callable[[], T]]], workers: int) -> Iterator[list[T]]:
    """What the calls of each group give, in order; `workers` threads call, and one more advances `groups`.

    That thread alone touches `groups`, which may itself read files. Whatever it raises comes out where its group would.
    """

    def submit() -> list[Future[list[T]]] | None:
        group = next(groups, None)
        if group is None:
            return None
        share = -(-len(group) // workers)  # few large tasks, for a task costs as much as a small image
        return [pool.submit(_all, group[i : i + share]) for i in range(0, len(group), share)]

    pool = ThreadPoolExecutor(workers, thread_name_prefix="gradgeo-read")
    feeder = ThreadPoolExecutor(1, thread_name_prefix="gradgeo-feed")
    waiting = deque(feeder.submit(submit) for _ in range(BATCHES + 1))
    try:
        while (tasks := waiting.popleft().result()) is not None:
            waiting.append(feeder.submit(submit))
            yield [made for task in tasks for made in task.result()]
    finally:
        feeder.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)
        groups.close()


def _all(calls: list[Callable[[], T]]) -> list[T]:
    return [call() for call in calls]
