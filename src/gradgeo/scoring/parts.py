"""The parts of a run: files of fixed ranges of items, each there as a whole or not at all."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gradgeo._files import OwnFolders, atomic_stream
from gradgeo._typing import Array
from gradgeo.errors import DataError
from gradgeo.scoring.formats import FORMATS, Format, VerdictSchema
from gradgeo.scoring.schema import STATE_FILE, Columns, RunState
from gradgeo.scoring.summary import Summary

PART_NAME = re.compile(r"part-(\d{5,})")
FOLDERS = OwnFolders(
    marker=STATE_FILE,
    is_marker=lambda file: RunState.read(file.parent) is not None,
    files=re.compile(rf"part-(\d{{5,}}|whole)({'|'.join(map(re.escape, FORMATS))})"),
    leftovers=(".part-", "._gradgeo."),
)
"""Folders of parts."""

RESUME_ADVICE = "What is done stays: run the same command again and it goes on."


@dataclass(frozen=True)
class Parts:
    """The files `part-00000` ... in a folder. It can be sent to other processes, which write parts of their own."""

    folder: Path
    suffix: str
    schema: VerdictSchema

    @property
    def format(self) -> Format:
        """How a part is written and read."""
        return FORMATS[self.suffix]

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}{self.suffix}"

    def numbers(self) -> list[int]:
        """The parts whose files are there, ascending."""
        matches = (PART_NAME.fullmatch(path.stem) for path in self.folder.glob(f"part-*{self.suffix}"))
        return sorted(int(match[1]) for match in matches if match)

    def counts(self, size: int | None = None) -> dict[int, Summary]:
        """What each finished part counts, by number, ascending; see `count`."""
        counted = ((number, self.count(number, size)) for number in self.numbers())
        return {number: summary for number, summary in counted if summary is not None}

    def count(self, number: int, size: int | None = None) -> Summary | None:
        """What a part counts; None, and the file removed, where it is missing or lacks rows, as by a power failure.

        Args:
            number: of the part.
            size: the number of items in the data; None for a stream, whose last part may be of any length, so that
                only its file could say whether it is whole.

        Raises: DataError for a part of another run.
        """
        try:
            summary, index = self.format.count(self.path(number), self.schema)
            if self._holds(number, index, size):
                return summary
        except DataError:
            raise
        except Exception:  # whatever a damaged file makes its library raise
            pass
        self.remove(number)
        return None

    def remove(self, number: int) -> None:
        """Remove a part, if it is there."""
        self.path(number).unlink(missing_ok=True)

    def _holds(self, number: int, index: list[int], size: int | None) -> bool:
        """Whether a part has a row for each of its items, in their order."""
        part_size, start = self.schema.metadata.part_size, self.schema.metadata.start
        if part_size is None or start is None:  # a schema of no run
            return True
        first = number * part_size
        rows = len(index) if size is None else min(part_size, size - first)
        return 0 < rows <= part_size and index == list(range(start + first, start + first + rows))

    def p_values(self, number: int) -> Array:
        """(N,) the p-values of a finished part, NaN where there is no verdict."""
        return self.format.p_values(self.path(number))

    def fill(self, number: int, name: str, values: Array) -> int:
        """Put the first of `values` (N,), NaN for none, into a column of a finished part, all or nothing; returns its
        rows. Raises: DataError where it cannot be written."""
        with atomic_stream(self.path(number), advice=RESUME_ADVICE, follow_links=False) as stream:
            return self.format.fill(self.path(number), stream, name, values)

    def write(self, number: int, columns: Columns) -> Summary:
        """Write a part, all or nothing; returns what it counts. Raises: DataError where it cannot be written."""
        with atomic_stream(self.path(number), advice=RESUME_ADVICE, follow_links=False) as stream:
            self.format.write(stream, columns, self.schema)
        return Summary.of_columns(columns)

    def join(self, stream: IO[bytes]) -> int:
        """Write all parts as one file; returns its rows."""
        return self.format.join(map(self.path, self.numbers()), stream, self.schema)
