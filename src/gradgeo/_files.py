"""The one atomic writer: a file appears under its name as a whole or not at all, whatever ends the process."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gradgeo.errors import DataError, GradgeoError, expected


@contextmanager
def atomic_path(
    path: Path, error: type[GradgeoError] = DataError, *, advice: str = "", follow_links: bool = True
) -> Iterator[Path]:
    """A new empty file in the folder of `path` that becomes `path` when the block ends, and is removed if it raises.

    Its content is on the disk before it is renamed. What the block itself raises passes through unchanged.

    Args:
        path: the file to create or to replace.
        error: the class of the error where `path` cannot be written.
        advice: the last sentence of its message.
        follow_links: a symbolic link keeps pointing, and its target is replaced; False: the link is replaced, and what
            it points to stays as it is.

    Raises:
        error: the folder is missing, or no files can be created in it; `path` is read-only or no regular file; the disk
            is full.
    """
    target = path.resolve() if follow_links else path.absolute()
    temporary = _reserve(path, target, error, advice)
    try:
        yield temporary
        with _writing(path, error, advice):
            with temporary.open("r+b") as stream:
                os.fsync(stream.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_stream(
    path: Path, error: type[GradgeoError] = DataError, *, advice: str = "", follow_links: bool = True
) -> Iterator[IO[bytes]]:
    """As `atomic_path`, opened for writing bytes. The block only writes: an OSError in it becomes an `error` too."""
    with (
        atomic_path(path, error, advice=advice, follow_links=follow_links) as temporary,
        _writing(path, error, advice),
        temporary.open("wb") as stream,
    ):
        yield stream


def check_writable(path: Path, error: type[GradgeoError] = DataError) -> None:
    """Raise as `atomic_path` does where `path` cannot be written; nothing is left behind."""
    _reserve(path, path.resolve(), error, "").unlink()


def check_regular(path: Path, error: type[GradgeoError] = DataError) -> None:
    """Raise where `path` is there and is neither a regular file nor a link to one: opening a named pipe waits for ever,
    and a device has no end."""
    if path.exists() and not path.is_file():
        raise error(f"{path} is not a regular file")


def regular_file(path: str | Path, error: type[GradgeoError] = DataError) -> Path:
    """`path`, which is a regular file or a link to one. Raises: error where it is missing, or as `check_regular`."""
    path = Path(path)
    try:
        path.stat()
    except (OSError, ValueError) as fault:
        raise error(f"cannot read {path}: {getattr(fault, 'strerror', None) or fault}.") from fault
    check_regular(path, error)
    return path


def refuse_source(out: Path, source: str | Path) -> None:
    """Raise ArgumentError where writing `out` would destroy the `source` that it is made from."""
    if out.exists() and Path(source).expanduser().resolve() == out.resolve():
        raise expected("out", "another file than the data", str(out))


def sync_folder(folder: Path) -> None:
    """Bring the directory entries of `folder` to the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reserve(path: Path, target: Path, error: type[GradgeoError], advice: str) -> Path:
    """An empty file with a random name beside `target`, which shows that it can be written; messages name `path`."""
    with _writing(path, error, advice):
        temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
        if target.exists() and not target.is_symlink():
            if not target.is_file():  # renaming would replace a device, or a pipe that somebody reads
                raise error(f"cannot write {path}: it is not a regular file. {advice}".rstrip())
            if not os.access(target, os.W_OK):  # and a file that its owner protects
                raise error(f"cannot write {path}: it is read-only. {advice}".rstrip())
        temporary.touch(exist_ok=False)
    return temporary


@contextmanager
def _writing(path: Path, error: type[GradgeoError], advice: str) -> Iterator[None]:
    """An OSError within the block becomes an `error` with the name of `path`."""
    try:
        yield
    except OSError as fault:
        raise error(f"cannot write {path}: {fault.strerror or fault}. {advice}".rstrip()) from fault
