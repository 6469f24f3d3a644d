"""The parts of a run: files of fixed ranges of items, each there as a whole or not at all."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gradgeo._files import atomic_stream
from gradgeo._typing import Array
from gradgeo.errors import DataError
from gradgeo.scoring.formats import FORMATS, Format, VerdictSchema
from gradgeo.scoring.schema import Columns
from gradgeo.scoring.summary import Summary

PART_NAME = re.compile(r"part-(\d{5,})")
LEFTOVERS = (".part-", "._gradgeo.")
"""How the names of files begin that a killed run was still writing."""

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

    def counts(self) -> dict[int, Summary]:
        """What each finished part counts, by number, ascending."""
        counted = ((number, self.count(number)) for number in self.numbers())
        return {number: summary for number, summary in counted if summary is not None}

    def count(self, number: int) -> Summary | None:
        """What a part counts; None, and the file removed, where it is missing or damaged, as by a power failure.

        Raises: DataError for a part of another run.
        """
        try:
            return self.format.count(self.path(number), self.schema)
        except DataError:
            raise
        except Exception:  # whatever a damaged file makes its library raise
            self.path(number).unlink(missing_ok=True)
            return None

    def p_values(self, number: int) -> Array:
        """(N,) the p-values of a finished part, NaN where there is no verdict."""
        return self.format.p_values(self.path(number))

    def write(self, number: int, columns: Columns) -> Summary:
        """Write a part, all or nothing; returns what it counts. Raises: DataError where it cannot be written."""
        with atomic_stream(self.path(number), advice=RESUME_ADVICE) as stream:
            self.format.write(stream, columns, self.schema)
        return Summary.of_columns(columns)

    def join(self, stream: IO[bytes]) -> None:
        """Write all parts as one file."""
        self.format.join(map(self.path, self.numbers()), stream, self.schema)

    def remove_leftovers(self) -> None:
        """Remove what a killed run was writing."""
        for path in self.folder.iterdir():
            if path.name.startswith(LEFTOVERS):
                path.unlink(missing_ok=True)
