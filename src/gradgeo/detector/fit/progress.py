"""How far a long call is: a bar on a terminal, single lines elsewhere, nothing where nobody looks."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SILENT = 10.0
"""Seconds of work of which nothing is said where there is no terminal."""

EVERY = 30.0
"""Seconds between two lines there."""

Advance = Callable[[int], None]
"""Called with the number of inputs done since its last call."""


@contextmanager
def progress(what: str, total: int | None, *, lines: bool = True) -> Iterator[Advance]:
    """A bar with count, rate and, where the total is known, time left on stderr.

    Args:
        what: is done.
        total: how many inputs there are; None where nobody knows.
        lines: where stderr is no terminal, say it in a line now and then, once it takes more than `SILENT` seconds.
    """
    from rich.console import Console  # imports take a while
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(rate(task.speed) if task.speed else "")

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(what, total) if lines else (lambda done: None)
        return
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


class Lines:
    """Says now and then how far it is, where there is no terminal: a log, a notebook, a pipe."""

    def __init__(self, what: str, total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._total, self._clock = what, total, clock
        self._began = self._said = clock()
        self._done, self._resumed = 0, False

    def __call__(self, done: int) -> None:
        """So many more inputs are done."""
        self._done += done
        now = self._clock()
        took = now - self._began
        if took < SILENT or (self._resumed and now - self._said < EVERY):
            return
        self._resumed, self._said = True, now
        of = f"{self._done}" if self._total is None else f"{self._done} of {self._total}"
        left = ""
        if self._total is not None and self._done:
            left = f", about {duration(took / self._done * (self._total - self._done))} left"
        print(f"gradgeo: {self._what}: {of}{left}", file=sys.stderr, flush=True)


def rate(a_second: float) -> str:
    """How many a second, or how many seconds each takes."""
    return f"{a_second:.0f}/s" if a_second >= 1 else f"{1 / a_second:.1f} s each"


def duration(seconds: float) -> str:
    """A time in words, two units at most.

    Example:
        >>> duration(0.0123), duration(75), duration(9000)
        ('12 ms', '1 min 15 s', '2 h 30 min')
    """
    if seconds < 0.95:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.001 else "less than 1 ms"
    if seconds < 9.5:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{minutes} min" if not hours else f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.0f} days"
