"""Where verdicts go: one file, or a folder of parts; begun, resumed after a kill, and completed in one step."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from gradgeo._files import atomic_stream, check_writable, sync_folder
from gradgeo.errors import DataError, expected, warn
from gradgeo.scoring.formats import FORMATS, VerdictSchema
from gradgeo.scoring.manifest import Manifest
from gradgeo.scoring.parts import FOLDERS, RESUME_ADVICE, Parts
from gradgeo.scoring.schema import STATE_FILE, RunState


def check_out(out: Path) -> None:
    """Raise as `score` does where verdicts cannot be written to `out`."""
    out = out.expanduser()
    if out.suffix in FORMATS:
        check_writable(out)
    else:
        out = out.resolve()
        if out.exists() and not out.is_dir():
            raise expected("out", f"a folder, or a file ending in {' or '.join(FORMATS)}", str(out))
        check_writable(out / "part-" if out.is_dir() else out)
        if out.is_dir() and not FOLDERS.owns(out):
            raise DataError(f"cannot write {out}: the folder holds other files. Name a new or an empty one.")
    for folder in hidden_folders(out):
        FOLDERS.refuse_foreign(folder, out)


def hidden_folders(out: Path) -> tuple[Path, Path]:
    """The folders beside `out` for the parts that are being written, and for what is being removed."""
    out = out.resolve()
    return out.with_name(f".{out.name}.parts"), out.with_name(f".{out.name}.old")


class OutputTarget:
    """The folder where the parts of a run are written, and the way from there to `out`.

    For one file it is a hidden folder beside it. For a folder it is that folder itself, except where it holds a
    finished run: that stays until the new one, in a hidden folder, is complete.
    """

    rows: int | None
    """How many rows `out` holds of this run, complete already; None where it does not."""

    def __init__(self, out: Path, manifest: Manifest, schema: VerdictSchema, *, restart: bool) -> None:
        self._out = out.resolve()
        self._manifest = manifest
        self._hidden, self._old = hidden_folders(out)
        self.one_file = out.suffix in FORMATS
        self._finish_exchange()
        folder = self._parts_folder(restart)
        state = RunState.read(folder)
        if state is not None and not restart:
            self._refuse_other_run(state, folder)
        self.rows = state.rows if state is not None and not self.one_file and folder == self._out else None
        self.parts = Parts(folder, out.suffix if self.one_file else ".parquet", schema)

    def _parts_folder(self, restart: bool) -> Path:
        if self.one_file:
            return self._hidden
        state = RunState.read(self._out)
        if state is None or state.rows is None:
            return self._out
        begun = RunState.read(self._hidden)
        if restart or (begun is not None and not self._manifest.differences(begun.settings)):
            return self._hidden
        return self._out

    @contextmanager
    def open_for_writing(self, *, restart: bool) -> Iterator[None]:
        """Create the folder of the parts, lock it, and remove what a kill or, with `restart`, an earlier run left.

        If the block fails before any part is written, the folder is as it was before.
        """
        folder = self.parts.folder
        new = not folder.exists()
        FOLDERS.refuse_foreign(folder, self._out)
        with self._writing():
            folder.mkdir(exist_ok=True)
        with _locked(folder):
            try:
                with self._writing():
                    FOLDERS.remove_leftovers(folder)
                    if restart:
                        for number in self.parts.numbers():
                            self.parts.remove(number)
                    if restart or RunState.read(folder) is None:
                        self._write_state(None)
                yield
            finally:
                if folder.exists() and not self.parts.numbers():
                    if new or folder == self._hidden:
                        FOLDERS.remove(folder)
                    else:
                        (folder / STATE_FILE).unlink(missing_ok=True)

    def complete(self, rows: int) -> None:
        """Turn the parts, all of which are there with so many rows together, into `out`.

        Raises: DataError where they have other rows by now, or `out` cannot be written.
        """
        with self._writing():
            if self.one_file:
                self._join(rows)
                return
            self._write_state(rows)
            if self.parts.folder == self._hidden:
                self._out.rename(self._old)
                self._finish_exchange()

    def _join(self, rows: int) -> None:
        whole = self.parts.folder / f"part-whole{self.parts.suffix}"  # not beside `out`, where a kill would leave it
        with atomic_stream(whole, advice=RESUME_ADVICE, follow_links=False) as stream:
            joined = self.parts.join(stream)
            if joined != rows:
                raise DataError(f"the parts in {self.parts.folder} changed: {joined} rows of {rows}. {RESUME_ADVICE}")
        whole.replace(self._out)
        sync_folder(self._out.parent)
        self._hidden.rename(self._old)  # in one step, so that no kill leaves half of the parts to resume from
        self._remove_old()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"cannot write {self._out}: {error.strerror or error}. {RESUME_ADVICE}") from error

    def _finish_exchange(self) -> None:
        """Move a complete new folder to the place of the old one, which has been moved away, and remove that."""
        if not FOLDERS.owns(self._old):
            return
        begun = RunState.read(self._hidden)
        if not self.one_file and not self._out.exists() and begun is not None and begun.rows is not None:
            self._hidden.rename(self._out)
            sync_folder(self._out.parent)
        if self.one_file or self._out.exists():
            self._remove_old()

    def _remove_old(self) -> None:
        """Remove the folder that was moved away; what else the user keeps in it goes to the new one."""
        if not self.one_file:
            for path in FOLDERS.others(self._old):
                if not os.path.lexists(self._out / path.name):
                    path.rename(self._out / path.name)
        if not FOLDERS.remove(self._old):
            warn(f"{self._old} holds other files and is left there: {FOLDERS.others(self._old)[0].name}.")

    def _refuse_other_run(self, state: RunState, folder: Path) -> None:
        if differing := self._manifest.differences(state.settings):
            raise DataError(
                f"{folder} holds parts of a run with another {', '.join(differing)}. "
                "Pass restart=True (--restart) to begin anew, or another out."
            )

    def _write_state(self, rows: int | None) -> None:
        RunState(self._manifest.settings, rows).write(self.parts.folder, advice=RESUME_ADVICE)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Exclude other runs from `folder`, on systems that lock folders. A killed process leaves no lock.

    The lock is on the folder, not on a file in it, because the folder is renamed under the lock and must be left
    without files that are not part of the result.
    """
    if os.name != "posix":  # Windows does not open folders
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            free = lock_descriptor(descriptor, blocking=False)
        except OSError:  # a file system without locks
            free = True
        if not free:
            raise DataError(f"another run is writing to {folder}. Wait for it, or pass another out.")
        yield
    finally:
        os.close(descriptor)
