"""Process times of things done in turns."""

import time
from collections.abc import Callable


def timed(ways: dict[str, Callable[[], object]], rounds: int, *, warm: bool = True) -> dict[str, list[float]]:
    """Process times in ms, one of each way a round, in turns; a first round is not counted if `warm`."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(0 if warm else 1, rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if turn:
                times[name].append(1e3 * (time.process_time() - start))
    return times
