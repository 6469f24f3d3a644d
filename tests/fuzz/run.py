"""Coverage-guided fuzzing of what reads other people's bytes: `python tests/fuzz/run.py TARGET [libFuzzer options]`.

A crash is written to the current folder as crash-HASH; mended, it is kept as tests/fuzz/kept/TARGET-NAME. `--lines
TARGET FOLDER` tells instead which lines of the reader a corpus reaches.
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the helpers of the tests

PLUGINS = ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Ppm", "Tiff", "WebP")


def fuzz(name: str, options: list[str]) -> None:
    """Run a target until stopped, or as the options say."""
    import atheris

    # The libraries first, as they are: instrumenting takes seconds a package, and where it says nothing of how a file
    # is read, executions are slower for it.
    with atheris.instrument_imports(include=["tarfile", "zipfile"]):
        import tarfile  # noqa: F401
        import zipfile  # noqa: F401
    import numpy.lib._format_impl
    import torch

    with atheris.instrument_imports(include=["gradgeo", *(["PIL"] if name == "image" else [])]):
        for plugin in PLUGINS if name == "image" else ():
            __import__(f"PIL.{plugin}ImagePlugin")
        import targets
    instrument(numpy.lib._format_impl)
    torch.set_num_threads(1)

    corpus = next((Path(option) for option in options if not option.startswith("-")), None)
    if corpus is None:
        corpus = targets.FOLDER / name
        options = [str(corpus), *options]
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.TARGETS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options], lambda data: targets.run(name, data) and None)
    atheris.Fuzz()


def instrument(module: ModuleType) -> None:
    """The functions of a module that is imported already."""
    import atheris

    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            atheris.instrument_func(function)


def lines(name: str, folder: Path) -> None:
    """Print how many lines of the reader's functions the files in a folder reach, of how many, and which they miss."""
    import targets

    file = str(targets.MODULES[name].__file__)
    stated = compile(Path(file).read_text(), file, "exec")
    every = {
        line for code in _functions(stated) for *_, line in code.co_lines() if line and line != code.co_firstlineno
    }
    reached: set[int] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != file:
            return None
        if event == "line":
            reached.add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        for path in sorted(folder.iterdir()):
            targets.run(name, path.read_bytes())
    finally:
        sys.settrace(None)
    print(len(reached & every), len(every), *sorted(every - reached))


def _functions(code: CodeType) -> Iterator[CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & inspect.CO_NEWLOCALS:
                yield inner
            yield from _functions(inner)


if __name__ == "__main__":
    if sys.argv[1] == "--lines":
        lines(sys.argv[2], Path(sys.argv[3]))
    else:
        fuzz(sys.argv[1], sys.argv[2:])
