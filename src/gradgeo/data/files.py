"""The files that a name on the command line stands for (a path, a pattern, a folder), and a hash of their state."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from gradgeo.errors import DataError

MOST = 1_000_000
"""The largest number of files of one pattern."""

BRACE = re.compile(r"\{([^{}]*)\}")
SPAN = re.compile(r"(\d+)\.\.(\d+)")


def expand(spec: str) -> list[Path]:
    """The files of a pattern with `*`, `?`, `[...]`, `{a,b}` or `{000..146}`, in order.

    Every name that braces expand to must exist; `*`, `?` and `[...]` stand for the files that exist.

    Example:
        >>> braces("a-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar']

    Raises:
        DataError: no file matches, or a name that braces expand to does not exist.
    """
    files: list[Path] = []
    for pattern in braces(os.path.expanduser(spec)):  # noqa: PTH111, a Path would normalise the pattern
        matches = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not matches:
            raise DataError(f"{spec} is not here: nothing is called {Path(pattern).absolute()}.")
        files += [path for path in map(Path, matches) if path.is_file()]
    if not files:
        raise DataError(f"{spec} is not here: it names no file.")
    return files


def braces(pattern: str) -> list[str]:
    """The patterns that braces expand to, as in a shell."""
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


def files_below(folder: Path, endings: Iterable[str], *, at_most: int = MOST) -> list[Path]:
    """Files below `folder` with one of these endings, in order; names that begin with a dot or _ are skipped."""
    files: list[Path] = []
    ending = tuple(endings)
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        files += [Path(where, n) for n in names if n.lower().endswith(ending) and not n.startswith((".", "_"))]
        if len(files) >= at_most:
            break
    return sorted(files)[:at_most]


def content_id(files: Iterable[Path]) -> str:
    """A hash of the names, sizes and modification times of files: cheap, and it changes when their content may have.

    Take it before the files are read: of one that is replaced meanwhile, a hash taken afterwards tells what has not
    been read. Raises: DataError for a file that is missing.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            digest.update(_state(file.name, file.stat()))
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}.") from error
    return digest.hexdigest()[:16]


def content_id_below(folder: Path, names: Iterable[str]) -> str:
    """As `content_id`, of files by their paths within `folder`; one that is gone is hashed as such."""
    digest = hashlib.sha256()
    for name in names:
        try:
            facts = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118, many times faster than a Path
        except OSError:  # a link to nothing
            facts = None
        digest.update(_state(name, facts))
    return digest.hexdigest()[:16]


def _state(name: str, facts: os.stat_result | None) -> bytes:
    state = "gone" if facts is None else f"{facts.st_size}\0{facts.st_mtime_ns}"
    return f"{name}\0{state}\n".encode("utf-8", "surrogateescape")
