"""CSV and TSV files with a row of names: rows of numbers, or the names of image files beside it."""

import csv
import re
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgeo._files import check_regular
from gradgeo.data import limits
from gradgeo.data.files import content_id
from gradgeo.data.images import decode, is_image
from gradgeo.data.kept import texts
from gradgeo.data.labels import encode_labels
from gradgeo.data.lines import TEXTS, shortened
from gradgeo.data.timestamps import parse_timestamps
from gradgeo.errors import DataError, listed, one_line

ENDINGS = (".csv", ".tsv")
LABELS = ("label", "labels", "y")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})
"""What stands for a missing number, in small letters: an input with one cannot be judged."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
TRUTH = {"true": 1.0, "false": 0.0}

LOOKED_AT = 100
"""Rows that show which columns are numbers."""


class CsvFile:
    """The rows of one file, each read on access; an input is (F,), or the image that the row names.

    The inputs are the columns of `columns`, in that order, or else all but the label and the time; a column of names of
    image files makes images. Such files must lie in the folder of the CSV file or below it. A row that cannot be read
    is an item with an error.

    Memory: where each row begins, labels and times.

    Args:
        path: the file; .tsv is separated by tabs, .csv by what separates its first row: comma, semicolon or tab.
        columns: the inputs by name; None for all.
        label: the column of the labels; None for the first called one of `LABELS`, if there is one.
        time: the column of the times; None for none.
        keep: columns whose values are carried along; inputs only where `columns` names them.
        of_text: whether an input is a text: the one column of `columns`, else the first called one of `TEXTS`,
            else the only one that holds text.

    Raises: DataError for a file without a row of names, a column that is missing or that holds text.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        time: str | None = None,
        keep: Sequence[str] = (),
        *,
        of_text: bool = False,
    ) -> None:
        check_regular(path)
        self.content_id = content_id([path])  # of what is read, not of what may replace it meanwhile
        self._path = path
        with path.open("rb") as file:
            head = _line(file).decode("utf-8-sig", "replace")
            self._separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
            file.seek(0)
            rows = self._rows(file)
            _, names = next(rows, (0, []))
            self._names = [name.removeprefix("\ufeff").strip() for name in names]
            self._check_names()
            looked_at = [row for _, row in islice(rows, LOOKED_AT)]
        if label is None:
            label = next((name for name in LABELS if name in self._names and name not in (columns or ())), None)
        for name in (*(columns or ()), *filter(None, (label, time)), *keep):
            if name not in self._names:
                raise DataError(f"{path} has no column {name}; it has {listed(self._names)}.")
        chosen = list(columns or (name for name in self._names if name not in (label, time, *keep)))
        self.columns: tuple[str, ...] | None = tuple(chosen)
        kinds = {name: self._kind(name, looked_at) for name in chosen}
        images = [name for name, kind in kinds.items() if kind == "image"]
        texts = [name for name, kind in kinds.items() if kind == "text"]
        self._of_text = of_text
        if of_text:
            if columns is None:
                named = [name for name in TEXTS if name in chosen][:1]
                texts = named or texts
            if len(texts) != 1:
                raise DataError(
                    f"expected one column of texts in {path}, got {listed(texts) or 'none'}. Name it: --columns text."
                )
            self.columns, self._places = None, [self._names.index(texts[0])]
        elif len(images) == 1 and (columns is None or len(columns) == 1):
            self.columns = None
            self._places = [self._names.index(images[0])]
        elif images or texts:
            raise DataError(
                f"the columns {listed(images + texts)} of {path} hold text. Name those that are the model's inputs, in "
                "its order, with columns (--columns a,b,c); what is text must be encoded as for training."
            )
        else:
            self._places = [self._names.index(name) for name in chosen]
        inputs = [self._names[place] for place in self._places]
        self.unread = tuple(name for name in self._names if name not in (*inputs, label, time, *keep))
        self.labels: list[int | None] | None = None
        self.classes: tuple[str, ...] = ()
        self.times: NDArray[Any] | None = None
        self._read_columns(label, time, keep)

    def __len__(self) -> int:
        return len(self._starts)

    def name(self, index: int) -> str:
        """The file that the row names, how its text begins, or else the number of the row, from 0."""
        if self.columns is not None:
            return str(index)
        field = self._row(index)[self._places[0]]
        return shortened(field) or str(index) if self._of_text else field

    def load(self, index: int) -> Tensor | str:
        """The numbers (F,), NaN where one is missing, the image (C, H, W), or the text."""
        row = self._row(index)
        if self._of_text:
            if not row[self._places[0]].strip():
                raise DataError("no text")
            return row[self._places[0]]
        if self.columns is None:
            return self._image(row[self._places[0]])
        numbers = np.array([_number(row[place], self._names[place]) for place in self._places], dtype=np.float32)
        return torch.from_numpy(numbers)

    def _row(self, index: int) -> list[str]:
        with self._path.open("rb") as file:
            file.seek(self._starts[index])
            _, row = next(self._rows(file), (0, []))
        if len(row) != len(self._names):
            raise DataError(f"the row has {len(row)} fields, its file {len(self._names)} columns")
        return row

    def _rows(self, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
        """Where each row begins, and its fields; none of a row that cannot be told apart into them."""

        def lines() -> Iterator[str]:
            while line := _line(file):
                yield line.decode("utf-8", "replace")

        source = lines()
        while True:
            start = file.tell()
            try:
                row = next(csv.reader(source, delimiter=self._separator, strict=True))
            except StopIteration:
                return
            except csv.Error:  # a field above the csv module's limit, text behind a closing quote
                row = [""]
            if row:
                yield start, row

    def _check_names(self) -> None:
        names = self._names
        if not any(names) or all(_is_number(name) for name in names):
            raise DataError(f"{self._path} has no names of columns in its first row. Put them there.")
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise DataError(f"{self._path} has several columns called {listed(twice)}.")

    def _kind(self, name: str, rows: list[list[str]]) -> str:
        """What a column holds by its first rows: "number", "image" or "text"."""
        place = self._names.index(name)
        fields = [row[place].strip() for row in rows if len(row) > place]
        fields = [field for field in fields if field.lower() not in MISSING]
        if all(is_image(field) for field in fields) and fields:
            return "image"
        return "text" if fields and not any(_is_number(field) for field in fields) else "number"

    def _read_columns(self, label: str | None, time: str | None, keep: Sequence[str]) -> None:
        """Where each row begins, labels, times and what is kept, by reading the file once."""
        self._starts = array("q")
        places = {name: self._names.index(name) for name in (label, time, *keep) if name is not None}
        found: dict[str, list[str | None]] = {name: [] for name in places}
        with self._path.open("rb") as file:
            for number, (start, row) in enumerate(self._rows(file)):
                if not number:  # the names
                    continue
                self._starts.append(start)
                for name, place in places.items():
                    field = row[place].strip() if len(row) == len(self._names) else ""
                    found[name].append(None if field.lower() in MISSING else field)
                if places:
                    limits.check_labels(self._path.name, len(self._starts))
        if not self._starts:
            raise DataError(f"{self._path} has no rows below the names of its columns.")
        if label is not None:
            self.labels, self.classes = encode_labels(_column(found[label]), f"{self._path.name}, {label}")
        if time is not None:
            self.times = parse_timestamps(_column(found[time]), f"{self._path.name}, {time}")
        self.kept = [texts(np.array(found[name], dtype=object)) for name in keep]

    def _image(self, name: str) -> Tensor:
        folder = self._path.parent.resolve()
        file = (folder / name.strip()).resolve()
        if not file.is_relative_to(folder):
            raise DataError(f"the file is not below the folder of {self._path.name}")
        if not file.is_file():
            raise DataError("no such file" if not file.exists() else "not a regular file")
        with file.open("rb") as stream:
            return decode(stream)


def _line(file: IO[bytes]) -> bytes:
    """The next line. Raises: DataError for one above the limit, before it is read."""
    line = file.readline(limits.LARGEST_ITEM + 1)
    limits.check_size("a line", len(line), limits.LARGEST_ITEM)
    return line


def _is_number(field: str) -> bool:
    return NUMBER.fullmatch(field.strip()) is not None or field.strip().lower() in TRUTH


def _number(field: str, name: str) -> float:
    text = field.strip()
    if text.lower() in MISSING:
        return float("nan")
    if not _is_number(text):
        raise DataError(f"{one_line(name)} is {one_line(text)[:40]!r}, not a number with a decimal point")
    return TRUTH[text.lower()] if text.lower() in TRUTH else float(text)


def _column(fields: list[str | None]) -> np.ndarray:
    """Fields as whole numbers or floats where all of them are numbers, else as text."""
    if all(field is None or NUMBER.fullmatch(field) for field in fields):
        numbers = np.array([np.nan if field is None else float(field) for field in fields])
        whole = not np.isnan(numbers).any() and bool((np.abs(numbers) < 2**53).all() and (numbers % 1 == 0).all())
        return numbers.astype(np.int64) if whole else numbers
    return np.array(fields, dtype=object)
