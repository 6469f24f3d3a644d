"""How commands speak: results on stdout, all else as single lines on stderr."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text
from typer.core import TyperCommand

from gradgeo.errors import GradgeoError, GradgeoWarning, one_line

FAILED, INTERRUPTED, BROKEN_PIPE = 1, 130, 141
"""Exit codes; 2, wrong usage, is Typer's."""

LONGEST = 80
"""Characters of a value that `info` prints."""


class Command(TyperCommand):
    """A command whose failures and warnings are one line each on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command's function."""
        try:
            with warnings_as_lines():
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # our reader has gone; flushing at exit must not complain once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except Exception as error:
            if ctx.find_root().params.get("debug"):
                traceback.print_exc()
            known = isinstance(error, GradgeoError)
            say(f"error: {error if known else f'{type(error).__name__}: {error} (--debug says where)'}")
            raise typer.Exit(FAILED) from error


def print_pairs(pairs: dict[str, Any], indent: str = "") -> None:
    """Names and values in two columns; None is left out, a mapping is indented below its name."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        if isinstance(value, dict) and any(entry is not None for entry in value.values()):
            typer.echo(f"{indent}{one_line(name)}")
            print_pairs(value, f"{indent}  ")
        elif value is not None and not isinstance(value, dict):
            text = one_line(str(value))
            typer.echo(f"{indent}{one_line(name):<{width}}  {text[:LONGEST]}{'...' if text[LONGEST:] else ''}")


def share(part: int, whole: int) -> str | None:
    """A percentage with its counts; None of nothing."""
    return f"{part / whole:.1%} ({part} of {whole})" if whole else None


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with count, rate and, where the total is known, time left on stderr; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Our warnings become lines; what Pillow says of a bad file stands in the item's error already."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", GradgeoWarning)
        warnings.filterwarnings("ignore", module="PIL")
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, GradgeoWarning):
                say(f"warning: {message}")
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        yield


def say(text: str) -> None:
    """One line on stderr."""
    typer.echo(f"gradgeo: {one_line(text)}", err=True)
