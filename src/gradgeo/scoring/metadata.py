"""The metadata of a file of verdicts: what it says of the run that wrote it, written and checked in one place."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from gradgeo._typing import Array, IntArray
from gradgeo.data.kept import MOST as MOST_KEPT
from gradgeo.detector.calibration.conformal import FalseAlarmRate, Level
from gradgeo.errors import DataError, one_line
from gradgeo.scoring.schema import ASKED, COLUMNS, FORMAT, METADATA_KEY, MOST_EVIDENCE, VERSION

QUANTILES = 101
"""Quantiles of the calibration scores that a file states, from the smallest to the largest."""


STEPS = 200
"""Equal steps of p-value; step b holds (b / STEPS, (b + 1) / STEPS]."""


def steps(p: Array) -> IntArray:
    """The step that each p-value falls in."""
    return np.clip(np.ceil(p * STEPS - 1e-9).astype(np.int64) - 1, 0, STEPS - 1)


def counted_mistakes(p: Array | None, threshold: float) -> tuple[int, ...] | None:
    """`Metadata.mistakes` of their p-values (m,)."""
    if p is None:
        return None
    trusted = p > threshold
    return (int((~trusted).sum()), *np.bincount(steps(p[trusted]), minlength=STEPS).tolist())


@dataclass(frozen=True)
class Metadata:
    """What a file states of the run that wrote it; None or empty where it does not."""

    gradgeo: str | None = None
    """The version that wrote the file."""

    alpha: float | None = None
    """The false-alarm rate of the detector."""

    confidence: float | None = None
    """With what probability the detector's own rate is at most alpha; None where only its mean is."""

    class_names: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    """Names of the entries of the column `evidence`."""

    input_shape: tuple[int, ...] = ()
    calibration_scores: Array | None = None
    """(`QUANTILES`,) quantiles of the calibration scores, ascending."""

    calibration_size: int | None = None
    mistakes: tuple[int, ...] | None = None
    """(1 + `STEPS`,) misclassified inputs that the detector's calibration set apart: those it flags, then those it
    trusts in equal steps of p-value. None in files of earlier versions."""

    detector: str | None = None
    """`Detector.digest()`."""

    model: str | None = None
    """What the detector's notes call the model."""

    data: str | None = None
    """What the user called the data."""

    preprocess: dict[str, Any] | None = None
    conditional: str | None = None
    """What p-values are conditional on besides groups."""
    groups: tuple[str, ...] = ()
    """Kept columns that make the groups which p-values are conditional on."""
    kept: tuple[str, ...] = ()
    """Columns of the data that are carried along, behind all others."""
    class_sizes: tuple[int, ...] = ()
    """Calibration inputs of each class, where p-values are conditional on it alone."""
    group_sizes: tuple[tuple[str, int], ...] = ()
    """The same of each group, where they are conditional on groups alone."""
    fdr: float | None = None
    """The false discovery rate that was asked for; None without q-values."""
    start: int | None = None
    limit: int | None = None
    time: str | None = None
    seed: int | None = None
    part_size: int | None = None
    run: str | None = None
    """The hash of all settings that the rows depend on: parts of one run have the same."""

    @property
    def level(self) -> Level | None:
        """Which p-values are flagged."""
        return None if self.alpha is None else Level(self.alpha, self.confidence)

    @property
    def compared(self) -> bool:
        """Whether p-values are among the calibration inputs of one class or group."""
        return self.conditional is not None or bool(self.groups)

    @property
    def named(self) -> bool:
        """Whether classes have names that are more than their numbers."""
        return self.class_names != tuple(map(str, range(len(self.class_names))))

    @property
    def threshold(self) -> float | None:
        """The p-value up to which an input is flagged."""
        return None if self.level is None else self.level.threshold(self.calibration_size or 0)

    @property
    def false_alarm_rate(self) -> FalseAlarmRate | None:
        """Of the detector; None where the file does not state what it takes."""
        return None if self.level is None or self.calibration_size is None else self.level.rate(self.calibration_size)

    def class_name(self, label: int) -> str:
        """The name of a label, its number where the file has no name for it."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else f"class {label}"

    def encode(self) -> dict[bytes, bytes]:
        """The metadata of an Arrow schema."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {name: value for name, value in values.items() if name not in _LATER or value not in (None, ())}
        if self.calibration_scores is not None:
            values["calibration_scores"] = self.calibration_scores.tolist()
        return {METADATA_KEY: json.dumps({"format": FORMAT, "version": VERSION, **values}).encode()}

    @classmethod
    def decode(cls, metadata: Mapping[bytes, bytes] | None, file: str) -> "Metadata":
        """The inverse of `encode`; of a file without metadata all fields are None or empty.

        Raises: DataError for another version, and for what no gradgeo writes; it names the `file`.
        """
        if not metadata or METADATA_KEY not in metadata:
            return cls()
        try:
            document = json.loads(metadata[METADATA_KEY])
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} has metadata that are not JSON: {one_line(str(error))}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise DataError(f"{file} has metadata of another format than {FORMAT}. Is it a file that score wrote?")
        if document.get("version") != VERSION:
            raise DataError(
                f"{file} is of version {one_line(str(document.get('version')))[:40]}, this gradgeo reads {VERSION}. "
                f"Use the gradgeo that wrote it ({one_line(str(document.get('gradgeo')))[:40]}), or score again."
            )
        values: dict[str, Any] = {name: document[name] for name in _LEGAL if document.get(name) is not None}
        wrong = [name for name, value in values.items() if not _LEGAL[name](value)]
        if wrong:
            raise DataError(f"{file} has metadata that gradgeo does not write: {', '.join(wrong)}. Score again.")
        for name in ("class_names", "evidence"):  # as `one_line` shows them, wherever they are shown
            values[name] = tuple(map(one_line, values.get(name, ())))
        for name in _TEXTS & values.keys():
            values[name] = one_line(values[name])
        values |= {
            name: tuple(values[name]) for name in ("groups", "kept", "class_sizes", "mistakes") if name in values
        }
        values["group_sizes"] = tuple((one_line(name), size) for name, size in values.get("group_sizes", ()))
        values["input_shape"] = tuple(values.get("input_shape", ()))
        if "calibration_scores" in values:
            values["calibration_scores"] = np.array(values["calibration_scores"], np.float64)
        return cls(**values)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _named_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _text(value[0]) and _integer(value[1]) and value[1] >= 0


_LEGAL: dict[str, Callable[[Any], bool]] = {
    "gradgeo": _text,
    "alpha": lambda value: _number(value) and 0 < value < 1,
    "confidence": lambda value: _number(value) and 0 < value < 1,
    "class_names": _texts,
    "evidence": lambda value: _texts(value) and len(value) <= MOST_EVIDENCE,
    "input_shape": lambda value: isinstance(value, list) and all(map(_integer, value)),
    "calibration_scores": lambda value: (
        isinstance(value, list)
        and len(value) == QUANTILES
        and all(map(_number, value))
        and all(low <= high for low, high in pairwise(value))
    ),
    "calibration_size": lambda value: _integer(value) and value > 0,
    "mistakes": lambda value: (
        isinstance(value, list) and len(value) == 1 + STEPS and all(_integer(count) and count >= 0 for count in value)
    ),
    "detector": _text,
    "model": _text,
    "data": _text,
    "preprocess": lambda value: isinstance(value, dict),
    "conditional": lambda value: value == "class",
    "groups": _texts,
    "kept": lambda value: _texts(value) and len(value) <= MOST_KEPT and not set(value) & {*COLUMNS, *ASKED},
    "class_sizes": lambda value: isinstance(value, list) and all(_integer(size) and size >= 0 for size in value),
    "group_sizes": lambda value: isinstance(value, list) and all(map(_named_size, value)),
    "fdr": lambda value: _number(value) and 0 < value < 1,
    "start": _integer,
    "limit": _integer,
    "time": _text,
    "seed": _integer,
    "part_size": _integer,
    "run": _text,
}

_LATER = {"confidence", "mistakes", "conditional", "groups", "kept", "class_sizes", "group_sizes", "fdr"}
"""Left out where there are none: files without them are as earlier versions wrote them."""

_TEXTS = {name for name, legal in _LEGAL.items() if legal is _text}
