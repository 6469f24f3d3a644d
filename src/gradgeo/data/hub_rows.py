"""The rows of a Hugging Face data set as items, read as Arrow, so that decoding is done here, within our limits."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradgeo.data import limits
from gradgeo.data.arrays import as_input
from gradgeo.data.images import decode
from gradgeo.data.kept import texts
from gradgeo.data.labels import encode_labels
from gradgeo.data.lines import TEXTS, shortened
from gradgeo.data.source import Record
from gradgeo.data.timestamps import parse_timestamp, parse_timestamps
from gradgeo.errors import DataError, require

LABELS = ("label", "fine_label", "labels", "target")
"""Names of the label column where no column is a ClassLabel."""

NUMBER = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")

STRINGS = ("string", "large_string")

STREAM_BATCH = 64
"""Rows of a stream in one request."""


class Columns:
    """The columns of input, label and time, and how their cells are decoded.

    The input is the first image column, or else the first column of number lists (`Array2D` to `Array5D`, or nested
    lists) or of image bytes. A path in a row is opened only below one of `roots`, the caller's folder and the library's
    caches; any other path is just a name.
    """

    def __init__(
        self,
        features: Any,
        spec: str,
        roots: Sequence[Path],
        time: str | None,
        keep: Sequence[str],
        *,
        of_text: bool = False,
    ) -> None:
        self._library = require("datasets", "hub")
        self._of_text = of_text
        self.input = self._text_column(features, spec) if of_text else self._input_column(features, spec)
        self._dtype = self._numbers(features[self.input])
        if self._dtype is None and not of_text:
            require("PIL.Image", "images")
        self._roots = [root.resolve() for root in roots]
        self.label = self._label_column(features)
        feature = features[self.label] if self.label is not None else None
        self.classes = tuple(feature.names) if isinstance(feature, self._library.ClassLabel) else ()
        for name in (*([] if time is None else [time]), *keep):
            if name not in features:
                raise DataError(f"{spec} has no column {name}; it has {', '.join(features)}.")
        self.time, self.keep = time, keep

    @property
    def wanted(self) -> list[str]:
        """The columns to read."""
        return list(dict.fromkeys(name for name in (self.input, self.label, self.time, *self.keep) if name))

    def name(self, cell: Any) -> str | None:
        """The path stored with the image, relative to the caller's folder, or how a text begins; None without any."""
        if self._of_text:
            return shortened(cell.as_py()) if cell.is_valid else None
        path = _field(cell, "path")
        if not path:
            return None
        below = [root for root in self._roots if Path(path).is_relative_to(root)]
        return Path(path).relative_to(below[0]).as_posix() if below else str(path)

    def load(self, cell: Any) -> Tensor | str:
        """The decoded image (C, H, W), the numbers of the row, or its text."""
        if not cell.is_valid:
            raise DataError("no data in the row")
        if self._of_text:
            return str(cell.as_py())
        if self._dtype is not None:  # an ArrayND is an extension type over a list
            return as_input(np.array(getattr(cell, "value", cell).as_py(), dtype=self._dtype))
        data = _field(cell, "bytes") if hasattr(cell, "keys") else cell.as_py()
        return decode(self._file(_field(cell, "path")) if data is None else data)

    def class_index(self, value: Any) -> int | None:
        """A label of a ClassLabel column; None for -1, which marks a withheld label."""
        return value if value in range(len(self.classes)) else None

    def _file(self, path: str | None) -> bytes:
        """The bytes of a file that a row names."""
        file = Path(path or "").resolve()
        if not path or not any(file.is_relative_to(root) for root in self._roots):
            raise DataError("no data in the row (a file outside the data set that its path names is not read)")
        if not file.is_file():  # opening a named pipe would block
            raise DataError("the row names something that is not a regular file")
        limits.check_size("the file that the row names", file.stat().st_size, limits.LARGEST_ITEM)
        return file.read_bytes()

    def _text_column(self, features: Any, spec: str) -> str:
        """The first column of text, of those in `TEXTS` if there are any."""
        usable = [name for name, f in features.items() if isinstance(f, self._library.Value) and f.dtype in STRINGS]
        if not usable:
            raise DataError(f"expected a column of texts in {spec}, got {', '.join(features) or 'no columns'}.")
        return next((name for name in TEXTS if name in usable), str(usable[0]))

    def _input_column(self, features: Any, spec: str) -> str:
        images = [name for name, feature in features.items() if isinstance(feature, self._library.Image)]
        others = [
            name
            for name, feature in features.items()
            if name not in LABELS and (self._numbers(feature) is not None or self._is_bytes(feature))
        ]
        if not images and not others:
            columns = ", ".join(f"{name}: {self._kind(feature)}" for name, feature in features.items())
            raise DataError(f"expected a column of images or of number lists in {spec}, got {columns or 'no columns'}.")
        return str([*images, *others][0])

    def _label_column(self, features: Any) -> str | None:
        named = [name for name, feature in features.items() if isinstance(feature, self._library.ClassLabel)]
        plain = [name for name in LABELS if isinstance(features.get(name), self._library.Value)]
        return next(iter([*named, *plain]), None)

    def _numbers(self, feature: Any) -> np.dtype[Any] | None:
        """The dtype of a column of arrays or of number lists; None for any other column."""
        library = self._library
        inner = feature
        while isinstance(inner, library.List | library.LargeList):
            inner = inner.feature
        listed = inner is not feature and isinstance(inner, library.Value) and NUMBER.fullmatch(inner.dtype)
        arrays = (library.Array2D, library.Array3D, library.Array4D, library.Array5D)
        if not listed and not isinstance(feature, arrays):
            return None
        dtype: np.dtype[Any] = np.dtype(inner.dtype)
        return dtype

    def _is_bytes(self, feature: Any) -> bool:
        """Whether a column holds encoded images without being declared as images."""
        if isinstance(feature, dict):
            feature = feature.get("bytes")
        return isinstance(feature, self._library.Value) and feature.dtype in ("binary", "large_binary")

    def _kind(self, feature: Any) -> str:
        return str(feature.dtype) if isinstance(feature, self._library.Value) else type(feature).__name__


class Rows:
    """The rows of one split, with random access."""

    def __init__(
        self,
        dataset: Any,
        spec: str,
        roots: Sequence[Path],
        time: str | None = None,
        keep: Sequence[str] = (),
        *,
        of_text: bool = False,
    ) -> None:
        self._columns = columns = Columns(dataset.features, spec, roots, time, keep, of_text=of_text)
        self._rows = dataset.select_columns([columns.input]).with_format("arrow")
        self.labels: list[int | None] | None = None
        self.classes = columns.classes
        if columns.label is not None:
            values = self._column(dataset, columns.label)
            if columns.classes:
                self.labels = [columns.class_index(value) for value in values.to_pylist()]
            else:
                self.labels, self.classes = encode_labels(np.asarray(values.to_numpy()), spec)
        self.times: NDArray[Any] | None = None
        if time is not None:
            self.times = parse_timestamps(self._column(dataset, time).to_pylist(), spec)
        self.kept = [texts(self._column(dataset, name).to_pylist()) for name in keep]
        self.content_id = str(getattr(dataset, "_fingerprint", len(self)))

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """The path stored with the image, or else the number of the row."""
        return self._columns.name(self._cell(index)) or str(index)

    def load(self, index: int) -> Tensor | str:
        """The decoded image (C, H, W), the numbers of the row, or its text."""
        return self._columns.load(self._cell(index))

    def _cell(self, index: int) -> Any:
        return self._rows[index].column(0)[0]

    def _column(self, dataset: Any, name: str) -> Any:
        return dataset.select_columns([name]).with_format("arrow")[:].column(0)


class StreamedRows:
    """The rows of one split in order, without a copy on disk."""

    def __init__(
        self,
        dataset: Any,
        spec: str,
        roots: Sequence[Path],
        time: str | None,
        version: str,
        keep: Sequence[str] = (),
        *,
        of_text: bool = False,
    ) -> None:
        if dataset.features is None:  # files without declared types; the library infers them from the first rows
            dataset = dataset._resolve_features()
        self._columns = columns = Columns(dataset.features, spec, roots, time, keep, of_text=of_text)
        self._rows = dataset.select_columns(columns.wanted)
        self.classes = columns.classes
        self.labelled = columns.label is not None
        self.content_id = version
        first = next(self.records(0), None)
        if first is None:
            raise DataError(f"{spec} has no rows.")
        if time is not None and first.time is None:
            raise DataError(f"the first row of {spec} has no time (number, date or ISO 8601) in its column {time}.")
        self.is_datetime = None if time is None else isinstance(first.time, datetime)

    def records(self, skip: int) -> Iterator[Record]:
        """The rows from number `skip` on."""
        columns, index = self._columns, skip
        rows = self._rows.skip(skip) if skip else self._rows
        for table in rows.with_format("arrow").iter(batch_size=STREAM_BATCH):
            cells = table.column(columns.input).combine_chunks()
            labels = table.column(columns.label).to_pylist() if columns.label else [None] * len(table)
            times = table.column(columns.time).to_pylist() if columns.time else [None] * len(table)
            kept = [texts(table.column(name).to_pylist()) for name in columns.keep]
            values = zip(*kept, strict=True) if kept else [()] * len(table)
            for cell, label, time, own in zip(cells, labels, times, values, strict=True):
                yield Record(
                    columns.name(cell) or str(index),
                    partial(columns.load, cell),
                    self._label(label),
                    parse_timestamp(time),
                    kept=own,
                )
                index += 1

    def count(self) -> int:
        """Raises: DataError, because a stream has to be read to be counted."""
        raise DataError("a stream of Hugging Face is as long as its reading says. Take the data set without streaming.")

    def _label(self, value: Any) -> int | None:
        """The label; None for text in a column that does not list its classes, whose numbers are unknown."""
        if self.classes:
            return self._columns.class_index(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def _field(cell: Any, field: str) -> Any:
    """A field of a struct cell; None where there is none."""
    return cell[field].as_py() if cell.is_valid and field in getattr(cell, "keys", tuple)() else None
