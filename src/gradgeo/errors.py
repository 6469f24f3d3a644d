"""Errors, warnings and the checks of arguments, in one form.

The command line imports this module to answer `--help`, so it must not import torch or numpy at its head.
"""

import sys
import warnings
from collections.abc import Callable, Sequence, Sized
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeGuard, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

LONGEST_TEXT = 1000
"""Characters of a foreign text (a file name, the message of another library) that a message quotes."""

_PACKAGE = str(Path(__file__).parent)


class GradgeoError(Exception):
    """Base class of all errors of gradgeo.

    Internal code states a fact (`expected x to be ..., got ...`). Each `@public` function that the error passes puts
    its own name in front, so that the message names the function that the user called.
    """

    where: str | None = None
    """Name of the outermost public function that the error has passed."""

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.where}: {message}" if self.where else message


class ArgumentError(GradgeoError, ValueError):
    """An argument has the wrong type, shape, dtype, range or value."""


class ModelError(GradgeoError):
    """The model cannot be used: it fails on the input, or its output is not differentiable logits."""


class NotFittedError(GradgeoError, AttributeError):
    """A detector was asked for a verdict before `fit`."""


class DataError(GradgeoError):
    """A data source is missing, unreadable or of a wrong layout."""


class DetectorFileError(GradgeoError):
    """A detector file is truncated, altered, too large, of another version or for another model."""


class ExportError(GradgeoError):
    """A detector, its model or an operator cannot be exported; the message names it and an alternative."""


class MissingDependencyError(GradgeoError, ImportError):
    """An optional library is not installed; the message names the extra to install."""


class GradgeoWarning(UserWarning):
    """A result is less complete or less reliable than usual; the message says why."""


class UnusableInputWarning(GradgeoWarning):
    """Some inputs cannot be judged; their results are NaN."""


def expected(argument: str, rule: str, got: object, advice: str = "") -> ArgumentError:
    """The one form of an argument error: `expected {argument} to be {rule}, got {got}. {advice}`."""
    return ArgumentError(f"expected {argument} to be {rule}, got {describe(got)}. {advice}".rstrip())


def describe(value: object) -> str:
    """`value` for a message: shape, dtype and device of arrays, the length of other collections, not their content."""
    # A value can be a tensor or an array only if its library has been imported already.
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype} on {value.device}"
    if numpy is not None and isinstance(value, numpy.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    if isinstance(value, str | int | float | bool | type(None)):
        return repr(value)
    size = f" of length {len(value)}" if isinstance(value, Sized) else ""
    return f"a {type(value).__name__}{size}"


NAMED = 5
"""Names in a message."""


def listed(names: Sequence[str]) -> str:
    """The first of some names on one line, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return one_line(", ".join(names[:NAMED])) + more


def public(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: errors that leave `function` carry its name; the outermost public function wins."""
    return public_as(function.__qualname__.removesuffix(".__init__"))(function)


def public_as(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The same by another name: of a method that the users' class has from a base."""

    def named(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except GradgeoError as error:
                error.where = name
                raise

        return call

    return named


def warn(message: str, category: type[GradgeoWarning] = GradgeoWarning) -> None:
    """Warn at the line outside this package that called it (`skip_file_prefixes` of Python 3.12 does the same)."""
    frame, level = sys._getframe(), 0
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level + 1)


def choice(argument: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises: ArgumentError unless `value` is one of the `allowed` names."""
    if value not in allowed:
        names = ", ".join(map(repr, allowed))
        raise expected(argument, f"one of {names}", value)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether `value` is a Python integer; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether `value` is a Python number that float64 holds and that is finite; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def positive_integer(argument: str, value: int) -> int:
    """`value` itself. Raises: ArgumentError unless it is an integer above zero."""
    if not is_integer(value) or value < 1:
        raise expected(argument, "a positive integer", value)
    return value


def positive_number(argument: str, value: float) -> float:
    """`value` as a float. Raises: ArgumentError unless it is a finite number above zero."""
    if not is_finite(value) or value <= 0:
        raise expected(argument, "a positive number", value)
    return float(value)


def number(value: object) -> float:
    """`value` as a float; NaN where it is no number, so that every comparison with a range is False."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return float("nan")


def class_labels(labels: "Tensor", n: int, num_classes: int, argument: str = "labels") -> "Tensor":
    """`labels` (n,) as int64. Raises: ArgumentError unless each is one of the classes 0..num_classes - 1."""
    import torch

    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise expected(argument, f"an integer tensor of shape ({n},)", labels)
    if labels.shape != (n,):
        raise expected(argument, f"of shape ({n},), one class per input", labels)
    if n and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        got = f"{int(labels.min())}..{int(labels.max())}"
        raise expected(argument, f"within 0..{num_classes - 1} (the model has {num_classes} classes)", got)
    return labels.long()


def one_line(text: str) -> str:
    """`text` cut to LONGEST_TEXT characters, with line breaks, terminal codes and lone surrogates escaped."""
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:LONGEST_TEXT])
    return escaped + ("..." if len(text) > LONGEST_TEXT else "")


def require(module: str, extra: str) -> Any:
    """Import an optional library, or say which extra installs it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module} is needed here and is not installed. In a clone of gradgeo run: pip install '.[{extra}]'"
        ) from error
