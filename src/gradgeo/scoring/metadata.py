"""What a file of verdicts states of the run that wrote it: the metadata of its Arrow schema, checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gradgeo._typing import Array
from gradgeo.errors import DataError, one_line

KEY = b"gradgeo"
FORMAT, VERSION = "gradgeo-scores", 1

MOST_EVIDENCE = 64
"""Kinds of evidence that a file may name."""

QUANTILES = 101
"""Quantiles of the calibration scores that a file states, from the smallest to the largest."""


@dataclass(frozen=True)
class About:
    """What a file states of the run that wrote it; None or empty where it does not."""

    gradgeo: str | None = None
    alpha: float | None = None
    class_names: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()
    calibration_scores: Array | None = None  # `QUANTILES` of them, ascending
    calibration_size: int | None = None
    detector: str | None = None
    model: str | None = None
    data: str | None = None

    def class_name(self, label: int) -> str:
        """Of a label, its number where the file has no name for it."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else f"class {label}"

    @classmethod
    def of(cls, metadata: Mapping[bytes, bytes] | None, file: str) -> "About":
        """From the metadata of an Arrow schema.

        Raises: DataError for another version, and for what no gradgeo writes.
        """
        if not metadata or KEY not in metadata:
            return cls()
        try:
            told = json.loads(metadata[KEY])
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} has metadata that are not JSON: {one_line(str(error))}") from error
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise DataError(f"{file} has metadata of another format than {FORMAT}. Is it a file that score wrote?")
        if told.get("version") != VERSION:
            raise DataError(
                f"{file} is of version {one_line(str(told.get('version')))[:40]}, this gradgeo reads {VERSION}. "
                f"Use the gradgeo that wrote it ({one_line(str(told.get('gradgeo')))[:40]}), or score again."
            )
        fields: dict[str, Any] = {name: told[name] for name in cls.__dataclass_fields__ if told.get(name) is not None}
        wrong = [name for name, value in fields.items() if not _LEGAL[name](value)]
        if wrong:
            raise DataError(f"{file} has metadata that gradgeo does not write: {', '.join(wrong)}. Score again.")
        for name in ("class_names", "evidence", "input_shape"):
            fields[name] = tuple(fields.get(name, ()))
        if "calibration_scores" in fields:
            fields["calibration_scores"] = np.array(fields["calibration_scores"], np.float64)
        return cls(**fields)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


_LEGAL = {
    "alpha": lambda value: _number(value) and 0 < value < 1,
    "class_names": _texts,
    "evidence": lambda value: _texts(value) and len(value) <= MOST_EVIDENCE,
    "input_shape": lambda value: isinstance(value, list) and all(isinstance(entry, int) for entry in value),
    "calibration_scores": lambda value: (
        isinstance(value, list)
        and len(value) == QUANTILES
        and all(map(_number, value))
        and all(low <= high for low, high in pairwise(value))
    ),
    "calibration_size": lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
    **dict.fromkeys(("gradgeo", "detector", "model", "data"), lambda value: isinstance(value, str)),
}
