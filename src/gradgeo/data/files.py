"""Which files a name on the command line means: itself, a pattern, or a folder; and whether they have changed."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from gradgeo.errors import DataError

MOST = 1_000_000
"""Files that a pattern may name."""

BRACE = re.compile(r"\{([^{}]*)\}")
SPAN = re.compile(r"(\d+)\.\.(\d+)")


def expand(spec: str) -> list[Path]:
    """The files of a pattern with `*`, `?`, `[...]`, `{a,b}` or `{000..146}`, in order; all of a `{}` must be there.

    Example:
        >>> braces("a-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar']

    Raises:
        DataError: it names no file, or braces name one that is not there.
    """
    found: list[Path] = []
    for pattern in braces(os.path.expanduser(spec)):  # noqa: PTH111, for a Path would normalise the pattern
        here = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not here:
            raise DataError(f"{spec} is not here: nothing is called {Path(pattern).absolute()}.")
        found += [path for path in map(Path, here) if path.is_file()]
    if not found:
        raise DataError(f"{spec} is not here: it names no file.")
    return found


def braces(pattern: str) -> list[str]:
    """What a pattern with braces stands for, as a shell has it."""
    texts = BRACE.split(pattern)
    choices = [_choices(text) if i % 2 else [text] for i, text in enumerate(texts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST:
        raise DataError(f"{pattern} stands for {count} files; at most {MOST} are read.")
    return ["".join(parts) for parts in product(*choices)]


def _choices(text: str) -> list[str]:
    span = SPAN.fullmatch(text)
    if span is None:
        return text.split(",")
    first, last = int(span[1]), int(span[2])
    if last - first >= MOST:
        raise DataError(f"{{{text}}} stands for too many files; at most {MOST} are read.")
    return [str(number).zfill(len(span[1])) for number in range(first, last + 1)]


def of_folder(folder: Path, endings: Iterable[str], *, at_most: int = MOST) -> list[Path]:
    """Files below `folder` with one of these endings, in order; names that begin with a dot or _ are passed over."""
    found: list[Path] = []
    ending = tuple(endings)
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        found += [Path(where, n) for n in names if n.lower().endswith(ending) and not n.startswith((".", "_"))]
        if len(found) >= at_most:
            break
    return sorted(found)[:at_most]


def identity(files: Iterable[Path]) -> str:
    """A hash of the files' names, sizes and times of change."""
    digest = hashlib.sha256()
    for file in files:
        facts = file.stat()
        digest.update(f"{file.name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
