"""Parquet files: the Hugging Face image layout, a column of number lists or tensors, or columns of numbers by name."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgeo._files import check_regular
from gradgeo.data import limits
from gradgeo.data.arrays import as_input
from gradgeo.data.files import content_id
from gradgeo.data.images import decode
from gradgeo.data.kept import texts
from gradgeo.data.labels import encode_labels
from gradgeo.data.lines import TEXTS, shortened
from gradgeo.data.parquet_cells import Cells, RowGroup, Size
from gradgeo.data.parquet_pages import Column, columns_of, unpacked
from gradgeo.data.timestamps import parse_timestamps
from gradgeo.errors import DataError, listed, require

INPUTS = ("image", "img", "x", "images", "data")
LABELS = ("label", "labels", "y")

LEVELS = 8
"""Bytes that each number of a list takes in memory beside its own: its levels and offsets."""

COLUMN_ROWS = 1 << 16
"""Rows of a label or time column that are unpacked together."""


class Parquet:
    """The rows of one file, or of several one after the other.

    The input is the first column called one of `INPUTS`, or else the first of a fitting type: `struct{bytes, path}` or
    binary for encoded images, a list (also fixed-size or nested) or a fixed-shape tensor for numbers. Paths inside a
    file are names and are not opened. With `of_text` it is the first column of text, of those in `TEXTS` if there are
    any. Memory: that of `Cells`, and the labels.

    Where no column fits, or `columns` names several, the file is a table, as a .csv file is: an input is (F,), the
    numbers in `columns`, in that order, or else in all but label, time and `keep`. Memory: all of them as float32.

    Args:
        files: of the same columns.
        time: the column of the times; None for none.
        keep: columns whose values are carried along.
        columns: the input, or the inputs of a table, by name; None for what is said above.
        label: the column of the labels; None for the first called one of `LABELS`, if there is one.
        of_text: whether an input is a text.
    """

    def __init__(
        self,
        files: Path | Sequence[Path],
        time: str | None = None,
        keep: Sequence[str] = (),
        *,
        columns: Sequence[str] | None = None,
        label: str | None = None,
        of_text: bool = False,
    ) -> None:
        self._paths = [files] if isinstance(files, Path) else list(files)
        self._of_text = of_text
        self._arrow = require("pyarrow", "parquet")
        self.content_id = content_id(self._paths)
        first = self._open(self._paths[0])
        schema = first.schema_arrow
        asked = [name for name in (label, time, *keep) if name is not None]
        for name in (*asked, *(columns or ())):
            if name not in schema.names:
                raise DataError(f"{self._paths[0]} has no column {name}; it has {listed(schema.names)}.")
        inputs = self._input_columns(self._paths[0], schema, columns, asked)
        if label is None:
            label = next((name for name in LABELS if name in schema.names and name not in inputs), None)
        self.unread = tuple(name for name in schema.names if name not in (*inputs, label, *asked))
        self._column = inputs[0]
        is_table = not self._is_input(schema.field(self._column).type)
        self.columns: tuple[str, ...] | None = tuple(inputs) if is_table else None
        read: dict[str, list[NDArray[Any]]] = {name: [] for name in (label, *asked, *(self.columns or ())) if name}
        groups: list[RowGroup] = []
        for number, path in enumerate(self._paths):
            file = self._open(path)
            self._check_columns(path, file.schema_arrow, schema, [self._column, *read])
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            if any(count < 0 for count in counts) or sum(counts) != file.metadata.num_rows:
                shown = ", ".join(map(str, counts[:8]))
                raise DataError(f"{path} counts {file.metadata.num_rows} rows, but its row groups {shown}.")
            groups += [RowGroup(number, i, rows) for i, rows in enumerate(counts)]
            file.close()
        self._cells = Cells(lambda number: self._open(self._paths[number]), self._size, self._column, groups)
        self._kind = schema.field(self._column).type
        self._columns: tuple[int, list[list[Column]]] = (-1, [])  # of the file that is being read
        place = self._paths[0].name
        if not len(self):
            raise DataError(f"{self._paths[0]} has no rows.")
        if read:
            limits.check_labels(place, len(self))
        if self.columns:
            limits.check_size(f"the table in {place}", 8 * len(self) * len(self.columns), limits.LARGEST_ARRAY)
        for path in self._paths:
            for name, column in read.items():
                try:
                    column.append(self._read(path, name))
                except (self._arrow.ArrowException, OSError, UnicodeDecodeError) as error:
                    raise DataError(f"the column {name} of {path} cannot be read: {error}") from error
        found = {name: np.concatenate(parts) for name, parts in read.items()}
        self._table = np.column_stack([_as_numbers(found[name]) for name in self.columns]) if self.columns else None
        self.labels: list[int | None] | None = None
        self.classes: tuple[str, ...] = ()
        if label is not None:
            self.labels, text = encode_labels(found[label], place)
            self.classes = text or class_names(schema.metadata, label)
        self.times = parse_timestamps(found[time], place) if time is not None else None
        self.kept = [texts(found[name]) for name in keep]

    def __len__(self) -> int:
        return len(self._cells)

    def name(self, index: int) -> str:
        """The path stored with the image, how a text begins, or else the number of the row."""
        if self._table is not None:
            return str(index)
        cell = self._cells[index]
        if self._of_text:
            return shortened(cell.as_py() or str(index))
        path = cell["path"].as_py() if cell.is_valid and _has(cell.type, "path") else None
        return path or str(index)

    def load(self, index: int) -> Tensor | str:
        """The decoded image (C, H, W), the numbers of the row, NaN where one is missing, or its text."""
        if self._table is not None:
            return torch.from_numpy(self._table[index].copy())
        cell = self._cells[index]
        if self._of_text:
            if not cell.is_valid or not cell.as_py():
                raise DataError("no text")
            return str(cell.as_py())
        if cell.is_valid and _has(cell.type, "bytes"):
            cell = cell["bytes"]
        if not cell.is_valid:
            raise DataError("no data in the row (a file that its path names is not read)")
        return decode(cell.as_py()) if self._is_binary(cell.type) else as_input(self._numbers(cell))

    def _open(self, path: Path, **options: Any) -> Any:
        check_regular(path)
        try:
            return require("pyarrow.parquet", "parquet").ParquetFile(path, **options)
        except (self._arrow.ArrowException, OSError, ValueError) as error:  # column names need not be UTF-8
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error

    def _size(self, file: Any, group: RowGroup) -> Size:
        """What a row group takes, and how many of its rows may be unpacked at once."""
        path = self._paths[group.file]
        if self._columns[0] != group.file:
            self._columns = (group.file, columns_of(path, _leaves(file.metadata, self._column)))
        nbytes, numbers, repeated, _ = unpacked(path, self._columns[1][group.number])
        at_once = group.rows
        if self._of_text or self._is_binary(self._kind) or _has(self._kind, "bytes"):
            at_once = limits.ROWS_AT_ONCE // max(1, repeated)
        else:
            each, width = self._fixed(self._kind)
            nbytes = max(nbytes, max(numbers, group.rows * each) * (width + LEVELS))
        at_once = min(at_once, group.rows * limits.ROWS_AT_ONCE // max(1, nbytes))
        return Size(nbytes, max(1, min(group.rows, at_once)))

    def _fixed(self, kind: Any) -> tuple[int, int]:
        """Of a type of lists or tensors: the numbers that every row has, also a missing one, and the bytes of each."""
        if self._is_tensor(kind):
            return math.prod(kind.shape), kind.value_type.bit_width // 8
        each = 1
        while self._is_list(kind):
            each *= kind.list_size if self._arrow.types.is_fixed_size_list(kind) else 1
            kind = kind.value_type
        return each, kind.bit_width // 8

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

    def _read(self, path: Path, name: str) -> NDArray[Any]:
        """A column of labels or times of one file."""
        plain = self._open(path)
        kind = plain.schema_arrow.field(name).type
        kind = kind.value_type if self._arrow.types.is_dictionary(kind) else kind
        rows = self._check_column(path, name, kind, plain.metadata)
        plain.close()
        try:
            # Texts are read as numbers in a dictionary: unpacked, a long one takes its size in each row that has it.
            return self._values(path, self._open(path, read_dictionary=[name]), name, kind, COLUMN_ROWS)
        except (self._arrow.ArrowException, OSError):  # Arrow makes no dictionary of some encodings
            return self._values(path, self._open(path), name, kind, rows)

    def _values(self, path: Path, file: Any, name: str, kind: Any, rows: int) -> NDArray[Any]:
        """A column of labels or times, read `rows` at a time; each text is stored once."""
        texts: dict[str | None, int] = {}
        pieces = [np.asarray(self._arrow.array([], kind).to_numpy(zero_copy_only=False))]
        for batch in file.iter_batches(batch_size=rows, columns=[name], use_threads=False):
            column = batch.column(0)
            if self._is_text(kind):
                pieces.append(_numbered(column, texts))
                continue
            if self._arrow.types.is_dictionary(column.type):
                column = column.cast(kind)
            if self._arrow.types.is_timestamp(kind):  # NumPy has no time zones; Arrow stores UTC
                column = column.cast(self._arrow.timestamp("us"))
            pieces.append(np.asarray(column.to_numpy(zero_copy_only=False)))
        values = np.concatenate(pieces[1:] or pieces)
        if len(values) != file.metadata.num_rows:
            raise DataError(f"{path} has {len(values)} values of {name} for {file.metadata.num_rows} rows.")
        file.close()
        return np.array(list(texts), dtype=object)[values] if texts else values

    def _check_column(self, path: Path, name: str, kind: Any, metadata: Any) -> int:
        """The rows of labels or times that may be unpacked at once. Raises: DataError unless they can be of this type,
        and the column is small."""
        types = self._arrow.types
        scalar = (types.is_boolean, types.is_date, types.is_timestamp, types.is_null, self._is_number, self._is_text)
        if not any(test(kind) for test in scalar):
            raise DataError(f"expected one number, text or date per item in the column {name} of {path}, got {kind}.")
        size = unpacked(path, [column for group in columns_of(path, _leaves(metadata, name)) for column in group])
        limits.check_size(f"the column {name} of {path}", size.nbytes, limits.LARGEST_LABELS)
        return max(1, min(COLUMN_ROWS, limits.ROWS_AT_ONCE // max(1, size.repeated)))

    def _check_columns(self, path: Path, schema: Any, first: Any, names: list[str]) -> None:
        """Raises: DataError unless the file has these columns in the types of the first file."""
        for name in names:
            kind = schema.field(name).type if name in schema.names else "no such column"
            if kind != first.field(name).type:
                wanted = f"{name}: {first.field(name).type}"
                raise DataError(f"expected the column {wanted} in {path} as in {self._paths[0]}, got {kind}.")

    def _input_columns(self, path: Path, schema: Any, columns: Sequence[str] | None, apart: Sequence[str]) -> list[str]:
        """The column whose cells are inputs, or those whose numbers are one together."""
        named = columns or schema.names
        usable = [name for name in named if self._is_input(schema.field(name).type)]
        if not usable and self._of_text:
            raise DataError(f"expected a column of texts in {path}, got {', '.join(named)}.")
        if not usable or (columns is not None and len(columns) > 1):
            apart = [*apart, *LABELS] if columns is None else ()
            names = [name for name in named if name not in apart]
            others = [name for name in names if not self._is_table_number(schema.field(name).type)]
            if not names or (columns is None and len(others) == len(names)):
                raise DataError(
                    "expected a column of images (struct with bytes, or binary), number lists or tensors, or columns "
                    f"of numbers in {path}, got {', '.join(f'{field.name}: {field.type}' for field in schema)}."
                )
            if others:
                raise DataError(
                    f"the columns {listed(others)} of {path} hold no numbers. Name those that are the model's inputs, "
                    "in its order, with columns (--columns a,b,c); what is text must be encoded as for training."
                )
            return names
        column = next((name for name in (TEXTS if self._of_text else INPUTS) if name in usable), usable[0])
        kind = schema.field(column).type
        if not self._of_text and not self._is_list(kind) and not self._is_tensor(kind):
            require("PIL.Image", "images")
        return [column]

    def _is_input(self, kind: Any) -> bool:
        if self._of_text:
            return self._is_text(kind)
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

    def _is_table_number(self, kind: Any) -> bool:
        return self._is_number(kind) or bool(self._arrow.types.is_boolean(kind))

    def _is_tensor(self, kind: Any) -> bool:
        return isinstance(kind, self._arrow.FixedShapeTensorType)

    def _is_binary(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def _is_text(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_string(kind) or types.is_large_string(kind))

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


def _leaves(metadata: Any, column: str) -> list[int]:
    """The numbers of the stored columns that a column of the schema consists of."""
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    return [i for i, path in enumerate(paths) if path == column or path.startswith(f"{column}.")]


def _numbered(column: Any, texts: dict[str | None, int]) -> NDArray[Any]:
    """A column of texts as numbers in `texts`, where new ones are added."""
    column = column if hasattr(column, "indices") else column.dictionary_encode()
    own = [texts.setdefault(text, len(texts)) for text in column.dictionary.to_pylist()]
    missing = texts.setdefault(None, len(texts)) if column.null_count else 0
    indices = np.asarray(column.indices.fill_null(len(own)).to_numpy(zero_copy_only=False))
    if len(indices) and not 0 <= indices.min() <= indices.max() <= len(own):  # Arrow does not look
        raise OSError("a number beyond its dictionary")
    numbers: NDArray[Any] = np.array([*own, missing], dtype=np.int64)[indices]
    return numbers


def _as_numbers(column: NDArray[Any]) -> NDArray[np.float32]:
    """A column of numbers or truth values, NaN where one is missing."""
    if column.dtype == object:
        column = np.array([np.nan if value is None else value for value in column], np.float64)
    return column.astype(np.float32)


def _has(kind: Any, field: str) -> bool:
    """Whether an Arrow type is a struct with this field."""
    return hasattr(kind, "get_field_index") and kind.get_field_index(field) >= 0
