"""How commands speak: results on stdout, all else as single lines on stderr."""

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from gradgeo.errors import GradgeoError, GradgeoWarning, one_line

FAILED, INTERRUPTED, BROKEN_PIPE = 1, 130, 141
"""Exit codes; 2, wrong usage, is Typer's."""

LONGEST = 80
"""Characters of a value that `info` prints."""


class Commands(TyperGroup):
    """The group of all commands; it lists them without the machinery that converts values of options."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The group's own options, flags that are off by default.

        Typer gives `--help` and the flags of completion no default, and imports pydantic to convert that, which takes
        longer than all the rest of `gradgeo score --help`.
        """
        parameters: list[Any] = super().get_params(ctx)
        for parameter in parameters:
            if getattr(parameter, "is_flag", False) and parameter.default is None:
                parameter.default = False
        return parameters


class Command(TyperCommand):
    """A command whose failures and warnings are one line each on stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the options; completion asks only which ones are there, so their values stay unconverted texts."""
        if not ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        options, ctx.args, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.get_params(ctx):
            ctx.params[parameter.name], source = parameter.consume_value(ctx, options)
            ctx.set_parameter_source(parameter.name, source)
        remaining: list[str] = ctx.args
        return remaining

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
            if isinstance(error, GradgeoError):
                error.where = None  # a function of Python, which the user of the command line did not call
                say(f"error: {error}")
            else:
                say(f"error: {type(error).__name__}: {error} (--debug says where)")
            raise typer.Exit(FAILED) from error


def print_pairs(pairs: dict[str, Any], indent: str = "", *, longest: int | None = LONGEST, width: int = 0) -> None:
    """Names and values in two columns; None is left out, a mapping is indented below its name.

    Args:
        pairs: by name.
        indent: before each line.
        longest: characters of a value; None for all.
        width: of the names, at least.
    """
    width = max([width, *map(len, pairs)])
    for name, value in pairs.items():
        if isinstance(value, dict) and any(entry is not None for entry in value.values()):
            typer.echo(f"{indent}{one_line(name)}")
            print_pairs(value, f"{indent}  ")
        elif value is not None and not isinstance(value, dict):
            text = one_line(str(value))
            cut = longest is not None and len(text) > longest
            typer.echo(f"{indent}{one_line(name):<{width}}  {text[:longest]}{'...' if cut else ''}")


def share(part: int, whole: int) -> str | None:
    """A percentage with its counts; None of nothing."""
    return f"{part / whole:.1%} ({part} of {whole})" if whole else None


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Our warnings become lines, each text once; what Pillow or pydicom says of a file stands in the item's error."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", GradgeoWarning)
        for library in ("PIL", "pydicom"):
            warnings.filterwarnings("ignore", module=library)
        usual, said = warnings.showwarning, set[str]()

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, GradgeoWarning):
                if str(message) not in said:
                    said.add(str(message))
                    say(f"warning: {message}")
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        yield


def say(text: str) -> None:
    """One line on stderr."""
    typer.echo(f"gradgeo: {one_line(text)}", err=True)
