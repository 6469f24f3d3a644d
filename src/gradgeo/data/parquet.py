"""One Parquet file, a row group at a time: the Hugging Face image layout, or a column of number lists."""

import json
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradgeo.data.arrays import as_input
from gradgeo.data.images import decode
from gradgeo.data.source import class_labels
from gradgeo.errors import DataError, require

INPUTS = ("image", "img", "x", "images", "data")
LABELS = ("label", "labels", "y")
KEPT = 2
"""Row groups held in memory, encoded as they are in the file."""


class Parquet:
    """The rows of a file.

    The input is the first column called one of `INPUTS`, or else the first that can be one: `struct{bytes,
    path}` or binary holds encoded images, a list (also fixed-size or nested) holds numbers. Paths inside the
    file are names and are never opened.
    """

    def __init__(self, path: Path) -> None:
        self._arrow = require("pyarrow", "parquet")
        try:
            self._file = require("pyarrow.parquet", "parquet").ParquetFile(path)
        except (self._arrow.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error
        schema = self._file.schema_arrow
        self._column = self._input_column(path, schema)
        self.labels: list[int | None] | None = None
        self.classes: tuple[str, ...] = ()
        for name in [name for name in LABELS if name in schema.names][:1]:
            self.labels, text = class_labels(self._read_labels(path, name), path.name)
            self.classes = text or class_names(schema.metadata, name)
        file = self._file.metadata
        self._ends = np.cumsum([file.row_group(i).num_rows for i in range(file.num_row_groups)], dtype=np.int64)
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()
        if not len(self):
            raise DataError(f"{path} has no rows.")
        if self.labels is not None and len(self.labels) != len(self):
            raise DataError(f"{path} has {len(self.labels)} labels for {len(self)} rows.")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def name(self, index: int) -> str:
        """The path written beside the image, which is only a name, or else the row's number."""
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

    def _cell(self, index: int) -> Any:
        """The input of a row; its row group is read where it is not at hand."""
        group = int(np.searchsorted(self._ends, index, side="right"))
        with self._lock:
            if group not in self._groups:
                self._groups[group] = self._file.read_row_group(group, columns=[self._column]).column(0)
                if len(self._groups) > KEPT:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            column = self._groups[group]
        return column[index - (int(self._ends[group - 1]) if group else 0)]

    def _numbers(self, cell: Any) -> NDArray[Any]:
        """A list, or a list of lists of one length, as an array."""
        lengths_of = require("pyarrow.compute", "parquet").list_value_length
        values, shape = cell.values, [len(cell.values)]
        while self._is_list(values.type):
            lengths = set(lengths_of(values).to_pylist())
            if len(lengths) != 1 or None in lengths:
                raise DataError(f"the inner lists of the row have {len(lengths)} different lengths")
            shape.append(lengths.pop())
            values = values.flatten()
        return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)

    def _read_labels(self, path: Path, name: str) -> NDArray[Any]:
        try:
            column = self._file.read(columns=[name]).column(0)
            if self._arrow.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            return np.asarray(column.to_numpy())
        except (self._arrow.ArrowException, OSError) as error:
            raise DataError(f"the column {name} of {path} cannot be read: {error}") from error

    def _input_column(self, path: Path, schema: Any) -> str:
        usable = [name for name in schema.names if self._is_input(schema.field(name).type)]
        if not usable:
            raise DataError(
                f"expected a column of images (struct with bytes, or binary) or of number lists in {path}, "
                f"got {', '.join(f'{field.name}: {field.type}' for field in schema)}."
            )
        column = next((name for name in INPUTS if name in usable), usable[0])
        if not self._is_list(schema.field(column).type):
            require("PIL.Image", "images")
        return column

    def _is_input(self, kind: Any) -> bool:
        if self._is_binary(kind) or _has(kind, "bytes"):
            return True
        depth = 0
        while self._is_list(kind):
            kind, depth = kind.value_type, depth + 1
        return depth > 0 and bool(self._arrow.types.is_integer(kind) or self._arrow.types.is_floating(kind))

    def _is_binary(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def _is_list(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def class_names(metadata: dict[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """The names of a ClassLabel column in the schema metadata of Hugging Face; empty where there are none."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _has(kind: Any, field: str) -> bool:
    """Whether an Arrow type is a struct with this field."""
    return hasattr(kind, "get_field_index") and kind.get_field_index(field) >= 0
