"""Parquet files, a row group at a time: the Hugging Face image layout, or a column of number lists or tensors."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradgeo.data.arrays import as_input
from gradgeo.data.files import content_id
from gradgeo.data.images import decode
from gradgeo.data.source import encode_labels
from gradgeo.data.timestamps import parse_timestamps
from gradgeo.errors import DataError, require

INPUTS = ("image", "img", "x", "images", "data")
LABELS = ("label", "labels", "y")
CACHED_GROUPS = 2
"""Row groups in memory, their images still encoded."""


class Parquet:
    """The rows of one file, or of several one after the other.

    The input is the first column called one of `INPUTS`, or else the first of a fitting type: `struct{bytes, path}` or
    binary for encoded images, a list (also fixed-size or nested) or a fixed-shape tensor for numbers. Paths inside a
    file are names and are not opened. Memory: two row groups, and the labels.
    """

    def __init__(self, files: Path | Sequence[Path], time: str | None = None) -> None:
        self._paths = [files] if isinstance(files, Path) else list(files)
        self._arrow = require("pyarrow", "parquet")
        first = self._open(self._paths[0])
        schema = first.schema_arrow
        self._column = self._input_column(self._paths[0], schema)
        label = next((name for name in LABELS if name in schema.names and name != self._column), None)
        if time is not None and time not in schema.names:
            raise DataError(f"{self._paths[0]} has no column {time}; it has {', '.join(schema.names)}.")
        labels: list[NDArray[Any]] = []
        times: list[NDArray[Any]] = []
        rows: list[int] = []
        self._places: list[tuple[int, int]] = []  # per row group: number of its file, number within the file
        for number, path in enumerate(self._paths):
            file = self._open(path)
            self._check_columns(path, file.schema_arrow, schema, [self._column, label, time])
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            if any(count < 0 for count in groups) or sum(groups) != file.metadata.num_rows:
                counts = ", ".join(map(str, groups[:8]))
                raise DataError(f"{path} counts {file.metadata.num_rows} rows, but its row groups {counts}.")
            self._places += [(number, i) for i in range(len(groups))]
            rows += groups
            for name, column in ((label, labels), (time, times)):
                if name is not None:
                    column.append(self._read(file, path, name))
                    if len(column[-1]) != sum(groups):
                        raise DataError(f"{path} has {len(column[-1])} values of {name} for {sum(groups)} rows.")
            file.close()
        self._ends = np.cumsum(rows, dtype=np.int64)
        if not len(self):
            raise DataError(f"{self._paths[0]} has no rows.")
        place = self._paths[0].name
        self.labels: list[int | None] | None = None
        self.classes: tuple[str, ...] = ()
        if label is not None:
            self.labels, text = encode_labels(np.concatenate(labels), place)
            self.classes = text or class_names(schema.metadata, label)
        self.times = parse_timestamps(np.concatenate(times), place) if time is not None else None
        self.content_id = content_id(self._paths)
        self._file: tuple[int, Any] = (-1, None)
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def name(self, index: int) -> str:
        """The path stored with the image, or else the number of the row."""
        cell = self._cell(index)
        path = cell["path"].as_py() if cell.is_valid and _has(cell.type, "path") else None
        return path or str(index)

    def load(self, index: int) -> Tensor:
        """The decoded image (C, H, W), or the numbers of the row."""
        cell = self._cell(index)
        if cell.is_valid and _has(cell.type, "bytes"):
            cell = cell["bytes"]
        if not cell.is_valid:
            raise DataError("no data in the row (a file that its path names is not read)")
        return decode(cell.as_py()) if self._is_binary(cell.type) else as_input(self._numbers(cell))

    def _open(self, path: Path) -> Any:
        try:
            return require("pyarrow.parquet", "parquet").ParquetFile(path)
        except (self._arrow.ArrowException, OSError, ValueError) as error:  # column names need not be UTF-8
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error

    def _cell(self, index: int) -> Any:
        """The input of a row; reads its row group unless it is cached."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        with self._lock:
            if group not in self._groups:
                number, part = self._places[group]
                if self._file[0] != number:
                    self._file = (number, self._open(self._paths[number]))
                self._groups[group] = self._file[1].read_row_group(part, columns=[self._column]).column(0)
                if len(self._groups) > CACHED_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            column = self._groups[group]
        return column[index - (int(self._ends[group - 1]) if group else 0)]

    def _numbers(self, cell: Any) -> NDArray[Any]:
        """A tensor, a list, or a list of lists of equal length, as an array."""
        if self._is_tensor(cell.type):
            kind = cell.type
            stored = np.asarray(cell.value.values.to_numpy(zero_copy_only=False))
            order = kind.permutation
            shape = list(kind.shape)
            return stored.reshape(shape) if order is None else stored.reshape(shape).transpose(order)
        lengths_of = require("pyarrow.compute", "parquet").list_value_length
        values, shape = cell.values, [len(cell.values)]
        while self._is_list(values.type):
            lengths = set(lengths_of(values).to_pylist())
            if len(lengths) != 1 or None in lengths:
                raise DataError(f"the inner lists of the row have {len(lengths)} different lengths")
            shape.append(lengths.pop())
            values = values.flatten()
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)

    def _read(self, file: Any, path: Path, name: str) -> NDArray[Any]:
        """A column of labels or times."""
        try:
            column = file.read(columns=[name]).column(0)
            if self._arrow.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if self._arrow.types.is_timestamp(column.type):  # NumPy has no time zones; Arrow stores UTC
                column = column.cast(self._arrow.timestamp("us"))
            return np.asarray(column.to_numpy())
        except (self._arrow.ArrowException, OSError) as error:
            raise DataError(f"the column {name} of {path} cannot be read: {error}") from error

    def _check_columns(self, path: Path, schema: Any, first: Any, names: list[str | None]) -> None:
        """Raises: DataError unless the file has these columns in the types of the first file."""
        for name in names:
            if name is None:
                continue
            kind = schema.field(name).type if name in schema.names else "no such column"
            if kind != first.field(name).type:
                wanted = f"{name}: {first.field(name).type}"
                raise DataError(f"expected the column {wanted} in {path} as in {self._paths[0]}, got {kind}.")

    def _input_column(self, path: Path, schema: Any) -> str:
        usable = [name for name in schema.names if self._is_input(schema.field(name).type)]
        if not usable:
            raise DataError(
                f"expected a column of images (struct with bytes, or binary), number lists or tensors in {path}, "
                f"got {', '.join(f'{field.name}: {field.type}' for field in schema)}."
            )
        column = next((name for name in INPUTS if name in usable), usable[0])
        kind = schema.field(column).type
        if not self._is_list(kind) and not self._is_tensor(kind):
            require("PIL.Image", "images")
        return column

    def _is_input(self, kind: Any) -> bool:
        if self._is_binary(kind) or _has(kind, "bytes"):
            return True
        if self._is_tensor(kind):
            return self._is_number(kind.value_type)
        depth = 0
        while self._is_list(kind):
            kind, depth = kind.value_type, depth + 1
        return depth > 0 and self._is_number(kind)

    def _is_number(self, kind: Any) -> bool:
        return bool(self._arrow.types.is_integer(kind) or self._arrow.types.is_floating(kind))

    def _is_tensor(self, kind: Any) -> bool:
        return isinstance(kind, self._arrow.FixedShapeTensorType)

    def _is_binary(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def _is_list(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def class_names(metadata: dict[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """The class names of a ClassLabel column, from the Hugging Face schema metadata; empty where there are none."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _has(kind: Any, field: str) -> bool:
    """Whether an Arrow type is a struct with this field."""
    return hasattr(kind, "get_field_index") and kind.get_field_index(field) >= 0
