"""The one atomic writer: a file appears as a whole or not at all, whatever ends the process; and folders of our own."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class OwnFolders:
    """Folders that this package makes, fills and removes, and how to tell them from anybody else's.

    A folder is ours where it is no link, and holds a marker or nothing at all. Whatever else lies in it stays: files
    are removed by name, the marker last, and then the folder if it is empty.
    """

    marker: str
    """Name of the file that says that a folder is ours."""

    is_marker: Callable[[Path], bool]
    """Whether the file of that name is one that we wrote."""

    files: re.Pattern[str]
    """Names of the other files that we write there."""

    leftovers: tuple[str, ...]
    """How the names of files begin that a killed process was still writing."""

    def owns(self, folder: Path) -> bool:
        """Whether `folder` is ours: also one without a marker that holds nothing but what a kill may have left."""
        try:
            if not stat.S_ISDIR(folder.lstat().st_mode):
                return False
            marker = folder / self.marker
            if _is_plain_file(marker) and self.is_marker(marker):
                return True
            return all(entry.name.startswith(self.leftovers) for entry in folder.iterdir())
        except OSError:
            return False

    def refuse_foreign(self, folder: Path, out: Path, error: type[GradgeoError] = DataError) -> None:
        """Raise where something that is not ours has the name of a `folder` that writing `out` needs."""
        if os.path.lexists(folder) and not self.owns(folder):
            raise error(
                f"cannot write {out}: {folder} is needed for it, and is not a folder that gradgeo made. "
                "Move it elsewhere, or pass another out."
            )

    def others(self, folder: Path) -> list[Path]:
        """What lies in `folder` and is not ours."""
        return [path for path in folder.iterdir() if not self._is_ours(path.name)]

    def remove_leftovers(self, folder: Path) -> None:
        """Remove what a killed process was writing."""
        for path in folder.iterdir():
            if path.name.startswith(self.leftovers):
                path.unlink(missing_ok=True)

    def remove(self, folder: Path) -> bool:
        """Remove our files, the marker last, and `folder` itself. Returns: False where anything is left of it.

        A folder that is not ours stays as it is; in one of ours that holds something else, that stays.
        """
        if not self.owns(folder):
            return not os.path.lexists(folder)
        for path in folder.iterdir():
            if path.name != self.marker and self._is_ours(path.name):
                path.unlink(missing_ok=True)
        (folder / self.marker).unlink(missing_ok=True)
        if self.others(folder):
            return False
        folder.rmdir()
        return True

    def _is_ours(self, name: str) -> bool:
        return name == self.marker or name.startswith(self.leftovers) or self.files.fullmatch(name) is not None


def _is_plain_file(path: Path) -> bool:
    """Whether `path` is a regular file, and no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _reserve(path: Path, target: Path, error: type[GradgeoError], advice: str) -> Path:
    """An empty file with a random name beside `target`, which shows that it can be written; messages name `path`."""
    with _writing(path, error, advice):
        temporary = target.with_name(f".{target.stem}.{os.urandom(4).hex()}{target.suffix}")
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
