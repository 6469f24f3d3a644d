"""Code that the user names on the command line, `file.py:function`, `package.module:function` or a bundle: it is run.

Nothing named in a file (a detector's notes, a data set's card) comes here: only what the user named in this call.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from gradgeo.errors import ArgumentError, GradgeoError, ModelError, expected, public

T = TypeVar("T")


@public
def load_object(spec: str, argument: str = "spec", failure: type[GradgeoError] = ModelError) -> Any:
    """The object that `spec` names, `file.py:name` or `package.module:name`; its module runs, it is not called.

    Raises: ArgumentError where it is missing, `failure` where its module fails.
    """
    place, _, name = spec.rpartition(":")
    if not (place and name):
        raise expected(argument, "file.py:name or package.module:name", spec)
    with resolved(place, name, argument, failure) as value:
        return value


@contextmanager
def resolved(place: str, name: str, argument: str = "model", failure: type[GradgeoError] = ModelError) -> Iterator[Any]:
    """The object `name` of the file or package `place`; within the block, imports from its folder work."""
    file = Path(place).expanduser()
    is_file = file.suffix == ".py"
    if is_file and not file.is_file():
        raise expected(argument, "a file that exists", str(file))
    with importable(file.parent if is_file else Path.cwd()):
        try:
            code = _run(file) if is_file else importlib.import_module(place)
        # User code may raise anything, including SystemExit.
        except (Exception, SystemExit) as error:
            absent = error.name if isinstance(error, ModuleNotFoundError) else None
            if absent and f"{place}.".startswith(f"{absent}."):
                advice = "Install it or run where it lies; a file needs its ending: file.py:function."
                raise expected(argument, "in a module that can be imported", place, advice) from error
            raise failure(f"{place} failed when imported: {type(error).__name__}: {error}") from error
        if not hasattr(code, name):
            offered = [key for key, value in vars(code).items() if callable(value) and not key.startswith("_")]
            raise unknown("function", name, offered, place, argument)
        yield getattr(code, name)


def call(function: Callable[[], T], what: str, failure: type[GradgeoError] = ModelError) -> T:
    """What `function` returns. Raises: `failure` for whatever it raises."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        behind = "" if cause is error else f" ({type(cause).__name__}: {str(cause).partition(chr(10))[0]})"
        raise failure(f"{what} failed: {type(error).__name__}: {error}{behind}") from error


def unknown(what: str, name: str, known: list[str], place: str, argument: str = "model") -> ArgumentError:
    """The error for a name that `place` does not have, with those that resemble it."""
    close = get_close_matches(name, known, n=5, cutoff=0.5) or sorted(known)[:10]
    advice = f"Did you mean {', '.join(close)}?" if close else ""
    return expected(argument, f"a {what} in {place}", name, advice)


def source_sha256(spec: str, value: Any) -> str:
    """Of the file that `spec` names, or that defines `value`; of a module without a file, of its name."""
    place = spec.rpartition(":")[0]
    file = Path(place).expanduser()
    if file.suffix != ".py":
        module = inspect.getmodule(value) or sys.modules.get(place)
        file = Path(getattr(module, "__file__", None) or "")
    return hashlib.sha256(file.read_bytes() if file.is_file() else place.encode()).hexdigest()


def _run(file: Path) -> ModuleType:
    """Import a file under a prefixed name, so that it does not hide an installed module of the same name."""
    name = f"gradgeo_model_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up their module here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Within the block, imports from `folder` work, as for `python folder/file.py`."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
