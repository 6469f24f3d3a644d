"""Series of the UCR archive by name: local .tsv files, or aeon's download.

Source: H. A. Dau et al., "The UCR time series archive", 2018.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gradgeo.data.arrays import Arrays
from gradgeo.data.files import content_id
from gradgeo.data.source import Reader
from gradgeo.errors import DataError, MissingDependencyError, require

PARTS = ("train", "test")


class Series:
    """The lines of UCR's text files: label, then values, separated by tabs. Items are (1, length)."""

    times = None

    def __init__(self, files: list[Path], train: Path) -> None:
        self.content_id = content_id(files)
        self._rows = [(file.name, number, line) for file in files for number, line in enumerate(_lines(file))]
        index, self.classes = _classes(_label(line) for line in _lines(train))
        self.labels = [index.get(_label(line)) for _, _, line in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """The name of the file and the line number, from 0."""
        file, number, _ = self._rows[index]
        return f"{file}:{number}"

    def load(self, index: int) -> Tensor:
        """The series (1, length)."""
        values = self._rows[index][2].split("\t")[1:]
        return torch.from_numpy(np.array([float(value) for value in values], dtype=np.float32))[None]


def open_ucr(spec: str, root: Path | None) -> Reader:
    """`ucr:NAME` for TRAIN followed by TEST, `ucr:NAME/train` or `ucr:NAME/test`.

    The files are NAME/NAME_TRAIN.tsv and NAME/NAME_TEST.tsv under `root` or $UCR_DATA_HOME; otherwise aeon loads the
    data. Labels are numbered 0, 1, ... in the sorted order of those in TRAIN; a label that is not in TRAIN is None.
    """
    name, slash, part = spec.removeprefix("ucr:").partition("/")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or (slash and part not in PARTS):
        raise DataError(f"expected ucr:NAME, ucr:NAME/train or ucr:NAME/test, got {spec}.")
    parts = (part,) if part else PARTS
    home = root or (Path(os.environ["UCR_DATA_HOME"]) if os.environ.get("UCR_DATA_HOME") else None)
    if home is not None:
        file = {part: home / name / f"{name}_{part.upper()}.tsv" for part in PARTS}
        if all(file[part].is_file() for part in ("train", *parts)):
            return Series([file[part] for part in parts], file["train"])
    looked = f"{home / name}" if home else "no folder, for neither --data-root nor $UCR_DATA_HOME is set"
    try:
        return _from_aeon(name, parts)
    except MissingDependencyError as error:
        raise DataError(
            f"{spec} is not here: looked in {looked} for {name}_TRAIN.tsv and {name}_TEST.tsv. "
            "Put the archive's files there, or let aeon download them: in a clone of gradgeo run pip install '.[ucr]'"
        ) from error
    except Exception as error:  # a download fails in many ways
        raise DataError(
            f"{spec} is not here: looked in {looked}, and aeon says {type(error).__name__}: {error}"
        ) from error


def _from_aeon(name: str, parts: tuple[str, ...]) -> Arrays:
    load = require("aeon.datasets", "ucr").load_classification
    loaded = {part: load(name, split=part) for part in {"train", *parts}}
    index, classes = _classes(float(label) for label in loaded["train"][1])
    x = np.concatenate([np.asarray(loaded[part][0], dtype=np.float32) for part in parts])
    labels = [index.get(float(label)) for part in parts for label in loaded[part][1]]
    return Arrays(x, labels, place=f"ucr:{name}", classes=classes)


def _classes(train: Iterable[float | None]) -> tuple[dict[float | None, int], tuple[str, ...]]:
    """The index of each label of the training part, in sorted order, and the names of the classes."""
    labels = sorted({label for label in train if label is not None})
    return {label: i for i, label in enumerate(labels)}, tuple(f"{label:g}" for label in labels)


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in file.read_text("ascii", "replace").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"cannot read {file}: {error}") from error


def _label(line: str) -> float | None:
    try:
        return float(line.partition("\t")[0])
    except ValueError:
        return None
