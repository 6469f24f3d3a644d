"""The parts of a run: files of fixed ranges of items, each there as a whole or not at all."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gradgeo._files import atomic_stream
from gradgeo.errors import DataError
from gradgeo.scoring.schema import FORMATS, Table
from gradgeo.scoring.summary import Row, Summary

NAME = re.compile(r"part-(\d{5,})")
LEFTOVERS = (".part-", "._gradgeo.")
"""How files begin that a killed run was still writing."""

WORK_STAYS = "What is done stays: run the same command again and it goes on."


@dataclass(frozen=True)
class Parts:
    """The files `part-00000` ... in a folder; can be sent to other processes, which write parts of their own."""

    folder: Path
    ending: str
    table: Table

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:05d}{self.ending}"

    def numbers(self) -> list[int]:
        """The parts whose files are there."""
        found = (NAME.fullmatch(path.stem) for path in self.folder.glob(f"part-*{self.ending}"))
        return sorted(int(match[1]) for match in found if match)

    def done(self) -> dict[int, Summary]:
        """What each finished part counts."""
        counted = ((number, self.counted(number)) for number in self.numbers())
        return {number: summary for number, summary in counted if summary is not None}

    def counted(self, number: int) -> Summary | None:
        """What a part counts; None where it is not there, or is a file that cannot be read, which a disk may leave."""
        try:
            return FORMATS[self.ending].count(self.path(number), self.table)
        except DataError:
            raise
        except Exception:  # whatever a damaged file makes its library raise
            self.path(number).unlink(missing_ok=True)
            return None

    def write(self, number: int, rows: list[Row]) -> None:
        """Write a part under another name, bring it to the disk and move it into place."""
        with atomic_stream(self.path(number), advice=WORK_STAYS) as stream:
            FORMATS[self.ending].write(stream, rows, self.table)

    def join(self, stream: IO[bytes]) -> None:
        """Write all parts as one file."""
        FORMATS[self.ending].join(map(self.path, self.numbers()), stream, self.table)

    def remove_leftovers(self) -> None:
        """Remove what a killed run was writing."""
        for path in self.folder.iterdir():
            if path.name.startswith(LEFTOVERS):
                path.unlink(missing_ok=True)
