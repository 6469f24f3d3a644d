"""Where verdicts go: one file, or a folder of parts; begun, found again after a kill, and finished all at once."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradgeo._files import atomic_stream, check_writable, sync_folder
from gradgeo.errors import DataError, expected
from gradgeo.scoring.manifest import FORMAT, Run
from gradgeo.scoring.parts import LEFTOVERS, WORK_STAYS, Parts
from gradgeo.scoring.schema import FORMATS, Table

STATE = "_gradgeo.json"
"""What a folder of parts belongs to; readers of Parquet data sets pass over names that begin with _."""


def check_out(out: Path) -> None:
    """Raise as `score` does where verdicts cannot be written to `out`."""
    out = out.expanduser()
    if out.suffix in FORMATS:
        check_writable(out)
        return
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise expected("out", f"a folder, or a file ending in {' or '.join(FORMATS)}", str(out))
    if out.is_dir() and _state(out) is None and any(not e.name.startswith(LEFTOVERS) for e in out.iterdir()):
        raise DataError(f"cannot write {out}: the folder holds other files. Name a new or an empty one.")
    check_writable(out / LEFTOVERS[0].removeprefix(".") if out.is_dir() else out)


class Place:
    """The folder where the parts of a run are made, and the way from there to `out`.

    For one file it is a hidden folder beside it; for a folder that folder itself, but a hidden one where it holds a
    finished run, which stays until the new one is complete.

    Attributes:
        parts: the parts.
        rows: how many `out` holds of this run, complete, already; None where it does not.
    """

    def __init__(self, out: Path, run: Run, table: Table, *, restart: bool) -> None:
        self._out = out.resolve()
        self._run = run
        self._hidden = self._out.with_name(f".{self._out.name}.parts")
        self.one_file = out.suffix in FORMATS
        self._finish_exchange()
        folder = self._folder(restart)
        state = _state(folder)
        if state is not None and not restart:
            self._refuse_other(state, folder)
        self.rows: int | None = None
        if state is not None and not self.one_file and folder == self._out:
            self.rows = state["rows"]
        self.parts = Parts(folder, out.suffix if self.one_file else ".parquet", table)

    def _folder(self, restart: bool) -> Path:
        if self.one_file:
            return self._hidden
        state = _state(self._out)
        if state is None or state["rows"] is None:
            return self._out
        begun = _state(self._hidden)
        if restart or (begun is not None and not self._run.differences(begun["settings"])):
            return self._hidden
        return self._out

    @contextmanager
    def begun(self, *, restart: bool) -> Iterator[None]:
        """The folder made, alone in use, and rid of what a kill or, with `restart`, an earlier run left there.

        If the block fails before any part is done, all is as it was.
        """
        folder = self.parts.folder
        new = not folder.exists()
        with self._writing():
            folder.mkdir(exist_ok=True)
        with _alone(folder):
            with self._writing():
                self.parts.remove_leftovers()
                if restart or _state(folder) is None:  # parts that nothing says the settings of are no parts
                    for number in self.parts.numbers():
                        self.parts.path(number).unlink()
                    self._write_state(None)
            try:
                yield
            finally:
                if folder.exists() and not self.parts.numbers():
                    (folder / STATE).unlink(missing_ok=True)
                    if new or folder == self._hidden:
                        folder.rmdir()

    def finish(self, rows: int) -> None:
        """Turn the parts, all of which are there with so many rows, into `out`."""
        with self._writing():
            if self.one_file:
                whole = self.parts.folder / f"part-whole{self._out.suffix}"
                with atomic_stream(whole, advice=WORK_STAYS) as stream:
                    self.parts.join(stream)
                whole.replace(self._out)
                sync_folder(self._out.parent)
                self._hidden.rename(self._old)  # as one step, so that no kill leaves half of the parts
                shutil.rmtree(self._old)
                return
            self._write_state(rows)
            if self.parts.folder == self._hidden:
                self._out.rename(self._old)
                self._finish_exchange()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"cannot write {self._out}: {error.strerror or error}. {WORK_STAYS}") from error

    @property
    def _old(self) -> Path:
        return self._out.with_name(f".{self._out.name}.old")

    def _finish_exchange(self) -> None:
        """Put a complete new folder in the place of the old one, which is moved away already, and remove that."""
        if not self._old.exists():
            return
        begun = _state(self._hidden)
        if not self.one_file and not self._out.exists() and begun is not None and begun["rows"] is not None:
            self._hidden.rename(self._out)
            sync_folder(self._out.parent)
        if self.one_file or self._out.exists():
            shutil.rmtree(self._old)

    def _refuse_other(self, state: dict[str, Any], folder: Path) -> None:
        if differing := self._run.differences(state["settings"]):
            raise DataError(
                f"{folder} holds parts of a run with another {', '.join(differing)}. "
                "Pass restart=True (--restart) to begin anew, or another out."
            )

    def _write_state(self, rows: int | None) -> None:
        state = {"format": FORMAT, "settings": self._run.settings, "rows": rows}
        with atomic_stream(self.parts.folder / STATE, advice=WORK_STAYS) as stream:
            stream.write(json.dumps(state, indent=1).encode())


def _state(folder: Path) -> dict[str, Any] | None:
    """What a folder of parts belongs to, and its `rows` where it is complete; None for any other folder."""
    try:
        state = json.loads((folder / STATE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    known = isinstance(state, dict) and state.get("format") == FORMAT and isinstance(state.get("settings"), dict)
    return state if known and isinstance(state.get("rows"), int | None) else None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else is within this block for `folder`, on systems that have such locks; a killed process holds none."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another run is writing to {folder}. Wait for it, or pass another out.") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)
