"""Texts: one a line in a .txt file, or as a key of the JSON object in each line of a .jsonl file."""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradgeo._files import check_regular
from gradgeo.classifier.items import input_and_label
from gradgeo.data import limits
from gradgeo.data.files import content_id
from gradgeo.data.kept import texts
from gradgeo.data.labels import encode_labels
from gradgeo.data.timestamps import parse_timestamps
from gradgeo.errors import ArgumentError, DataError, one_line

ENDINGS = (".txt", ".jsonl")
TEXTS = ("text", "sentence")
"""Usual names of a column of texts."""

SHOWN = 60
"""Characters of a text that name it."""


class Lines:
    """The lines of one file, each read on access; an empty one, or one that is no JSON, is an item with an error.

    Memory: where each line begins, labels and times.

    Args:
        path: the file, UTF-8.
        keys: of text and label in .jsonl; none for the usual ones (`gradgeo.classifier.items`).
        time: the key of the times; None for none.
        keep: keys whose values are carried along.

    Raises: DataError for keys of a .txt file, or labels that are neither numbers nor texts.
    """

    def __init__(self, path: Path, keys: Sequence[str] = (), time: str | None = None, keep: Sequence[str] = ()) -> None:
        check_regular(path)
        self.content_id = content_id([path])
        self._path, self._keys, self._json = path, tuple(keys), path.suffix.lower() == ".jsonl"
        if not self._json and (keys or time or keep):
            raise DataError(f"{path} is plain text, without keys. Lines of JSON (.jsonl) or columns (.csv) have some.")
        self._starts = array("q")
        labels: list[Any] = []
        named: dict[str, list[Any]] = {name: [] for name in (*([] if time is None else [time]), *keep)}
        with path.open("rb") as file:
            while line := file.readline(limits.LARGEST_TEXT + 1):
                limits.check_size("a line", len(line), limits.LARGEST_TEXT)
                if not line.strip() and self._json:
                    continue
                self._starts.append(file.tell() - len(line))
                limits.check_labels(path.name, len(self._starts))
                if self._json:
                    known = _object(line)
                    labels.append(_label(known, self._keys))
                    for name, values in named.items():
                        values.append(known.get(name))
        if not self._starts:
            raise DataError(f"{path} has no lines.")
        self.labels: list[int | None] | None = None
        self.classes: tuple[str, ...] = ()
        if any(label is not None for label in labels):
            self.labels, self.classes = encode_labels(_array(labels), path.name)
        self.times = None if time is None else parse_timestamps(named[time], f"{path.name}, {time}")
        self.kept = [texts(named[name]) for name in keep]

    def __len__(self) -> int:
        return len(self._starts)

    def name(self, index: int) -> str:
        """How the text begins."""
        return shortened(self.load(index))

    def load(self, index: int) -> str:
        """The text."""
        with self._path.open("rb") as file:
            file.seek(self._starts[index])
            line = file.readline(limits.LARGEST_TEXT)
        if not self._json:
            text = line.decode("utf-8", "replace").strip()
        else:
            known = _object(line)
            if not known:
                raise DataError("the line is no JSON object")
            text = input_and_label(known, self._keys)[0]
        if not isinstance(text, str) or not text:
            raise DataError("no text")
        return text


def shortened(text: str) -> str:
    """How a text begins, on one line."""
    return one_line(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def _object(line: bytes) -> dict[str, Any]:
    """The JSON object in a line; empty where it is none."""
    try:
        known = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _label(known: dict[str, Any], keys: Sequence[str]) -> Any:
    try:
        return input_and_label(known, keys)[1] if known else None
    except ArgumentError:  # what is missing is said where the text is read
        return None


def _array(labels: list[Any]) -> np.ndarray:
    """Labels as numbers where all of them are, else as they are."""
    if all(label is None or (isinstance(label, int) and not isinstance(label, bool)) for label in labels):
        return np.array([np.nan if label is None else label for label in labels], dtype=np.float64)
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array
