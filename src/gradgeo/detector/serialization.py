"""The file of a fitted detector: one safetensors file, its settings as JSON in the metadata. Reading executes nothing.

Layout, version 2: the one entry `gradgeo` of the safetensors metadata is a SHA-256, a space, and canonical JSON
(schema, versions, settings, fitted, fingerprint, notes); the hash covers that JSON and every array in the order of
their names. The arrays are those of the calibration and, as `NAME/ARRAY`, those of each evidence's one-class model as
its `LAYOUT` states them. The hash finds damage, it does not authenticate: beyond it every field is checked, so a file
made to deceive is an error.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gradgeo._files import atomic_stream
from gradgeo.detector.fusion import LEVELS
from gradgeo.detector.one_class import KINDS, Layout
from gradgeo.errors import DetectorFileError, public
from gradgeo.geometry.losses import LOSSES

SCHEMA = 2
LARGEST = 1 << 28  # bytes; a detector of 1,000 classes takes a few megabytes

Arrays = dict[str, NDArray[Any]]

_CALIBRATION: Layout = {
    "calibration": ("f8", ("calibrated",)),
    "reference_index": ("i8", ("calibrated",)),
    "reference_label": ("i8", ("calibrated",)),
    "reference_features": ("f8", ("calibrated", "named")),
    "reference_scores": ("f8", ("calibrated", "members")),
    "quantiles": ("f8", ("members", "levels")),
    "excess": ("f8", ("members",)),
    "question_quantiles": ("f8", ("questions", "levels")),
    "question_excess": ("f8", ("questions",)),
}


@dataclass(frozen=True)
class Contents:
    """Everything a detector file holds."""

    settings: dict[str, Any]  # the arguments of Detector
    fitted: dict[str, Any]  # what fit learned, as plain numbers
    fingerprint: dict[str, Any]
    notes: dict[str, Any]
    arrays: Arrays


def write(path: str | PathLike[str], contents: Contents) -> None:
    """Write `contents` to `path`, all or nothing."""
    layout = _layout(contents.settings, contents.fitted)
    arrays = {name: np.ascontiguousarray(a, dtype=layout[name][0]) for name, a in contents.arrays.items()}
    try:
        text = json.dumps(
            {
                "schema": SCHEMA,
                "versions": {name: version(name) for name in ("gradgeo", "torch", "numpy", "scikit-learn")},
                **{name: getattr(contents, name) for name in ("settings", "fitted", "fingerprint", "notes")},
            },
            sort_keys=True,
            allow_nan=False,
        )
    except (TypeError, ValueError) as error:
        raise DetectorFileError(f"expected notes to be something JSON can hold: {error}") from error
    data = save(arrays, metadata={"gradgeo": f"{_digest(text, arrays)} {text}"})
    with atomic_stream(Path(path), DetectorFileError, follow_links=False) as stream:
        stream.write(data)


def read(path: str | PathLike[str]) -> Contents:
    """The checked contents of the file at `path`."""
    document, arrays = _load(Path(path))
    return Contents(**{name: document[name] for name in ("settings", "fitted", "fingerprint", "notes")}, arrays=arrays)


@public
def inspect(path: str | PathLike[str]) -> dict[str, Any]:
    """What a detector file says of itself, without a model: schema, versions, settings, fitted, fingerprint, notes."""
    return _load(Path(path))[0]


def _load(path: Path) -> tuple[dict[str, Any], Arrays]:
    try:
        if path.exists() and not path.is_file():
            raise DetectorFileError(f"{path} is not a regular file.")
        if path.stat().st_size > LARGEST:
            raise DetectorFileError(f"{path} has {path.stat().st_size} bytes; a detector file has at most {LARGEST}.")
        with safe_open(path, framework="numpy") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            if set(metadata) != {"gradgeo"}:
                raise DetectorFileError(f"{path} holds something else than a detector.")
            arrays = {name: file.get_tensor(name) for name in sorted(names)}
        digest, _, text = metadata["gradgeo"].partition(" ")
        if _digest(text, arrays) != digest:
            raise DetectorFileError(f"{path} was altered after it was written: its hash does not match.")
        document = json.loads(text, parse_constant=_no_constant)
        _check(document, arrays)
    except DetectorFileError:
        raise
    except OSError as error:
        raise DetectorFileError(f"cannot read {path}: {error.strerror or error}.") from error
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DetectorFileError(f"{path} is truncated, altered, or not a detector file: {error}.") from error
    return document, arrays


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


def _check(document: Any, arrays: Arrays) -> None:
    """Every field is of the type and range that `write` gives it, and the arrays fit together."""
    _must(isinstance(document, dict), "its settings are not a JSON object")
    _must(
        document.get("schema") == SCHEMA,
        f"schema {document.get('schema')!r} is not {SCHEMA}; fit again with this version",
    )
    _fields(document, {"versions": _texts, "settings": _is_object, "fitted": _is_object, "fingerprint": _is_object,
                       "notes": _is_object, "schema": _count})  # fmt: skip
    _fields(document["settings"], {
        "evidence": lambda v: isinstance(v, list) and all(map(_text, v)) and 0 < len(v) == len(set(v)),
        "alpha": _number, "calibration": _number, "seed": _count, "batch_size": _count, "loss": _text,
        "classes": lambda v: v is None or _count(v) or _counts(v),
        "temperature": lambda v: _text(v) or _number(v),
    })  # fmt: skip
    _fields(document["fitted"], {
        "input_shape": lambda v: _counts(v) and 0 < math.prod(v) <= LARGEST,
        "num_classes": _count, "loss": LOSSES.__contains__,
        "temperature": _positive, "radius": _positive,
        "one_class": lambda v: isinstance(v, list) and all(_text(name) and name in KINDS for name in v),
        "questions": lambda v: isinstance(v, list) and all(map(_text, v)),
        "fit_size": _count, "calibration_size": _count, "misclassified": _count, "unusable": _count,
    })  # fmt: skip
    _fields(document["fingerprint"], {
        "weights": lambda v: v is None or _text(v),
        "logits": lambda v: v is None or (_is_rows(v) and len(v) == 2),
    })  # fmt: skip

    settings, fitted = document["settings"], document["fitted"]
    _must(len(fitted["one_class"]) == len(fitted["questions"]) == len(settings["evidence"]), "its evidence is unclear")
    sizes = {
        "classes": fitted["num_classes"],
        "members": len(settings["evidence"]),
        "questions": len(set(fitted["questions"])),
        "levels": LEVELS,
    }
    layout = _layout(settings, fitted)
    _must(set(arrays) == set(layout), "it does not hold the arrays that its settings ask for")
    for name, array in arrays.items():
        kind, dimensions = layout[name]
        _must(array.dtype == kind and array.ndim == len(dimensions), f"{name} has the wrong type or dimensions")
        for dimension, size in zip(dimensions, array.shape, strict=True):
            _must(sizes.setdefault(dimension, size) == size, f"{name} has the wrong shape")
        _must(bool(np.isfinite(array).all()), f"{name} is not finite")
    for name, array in arrays.items():
        if name.endswith("/quantiles"):
            _must(len(array) >= 2 and bool((np.diff(array, axis=0) >= 0).all()), f"{name} are not sorted")
        if name.endswith("/group"):
            groups = len(arrays[name.replace("/group", "/center")])
            _must(bool(((array >= 0) & (array < groups)).all()), f"{name} is out of range")
        if name.endswith("/references"):
            _must(len(array) >= 1, f"{name} are none")
        if name.endswith("/spread"):
            _must(bool((array > 0).all()), f"{name} is not positive")
    n = sizes["calibrated"]
    _must(n >= 1 and bool((np.diff(arrays["calibration"]) >= 0).all()), "calibration scores are not sorted")
    _must(n == document["fitted"]["calibration_size"], "calibration_size is not the number of scores")
    for prefix in ("", "question_"):
        _must(bool((np.diff(arrays[f"{prefix}quantiles"], axis=1) >= 0).all()), f"{prefix}quantiles are not sorted")
        _must(bool((arrays[f"{prefix}excess"] > 0).all()), f"{prefix}excess is not positive")
    for name, limit in (("reference_label", sizes["classes"]), ("reference_index", 2**62)):
        _must(bool(((arrays[name] >= 0) & (arrays[name] < limit)).all()), f"{name} is out of range")


def _layout(settings: dict[str, Any], fitted: dict[str, Any]) -> Layout:
    """Every array that a detector with these settings has."""
    layout = dict(_CALIBRATION)
    for evidence, kind in zip(settings["evidence"], fitted["one_class"], strict=True):
        for name, (dtype, dimensions) in KINDS[kind].LAYOUT.items():
            own = tuple(d if d == "classes" else f"{evidence}/{d}" for d in dimensions)
            layout[f"{evidence}/{name}"] = (dtype, own)
    return layout


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _fields(value: dict[str, Any], rules: dict[str, Callable[[Any], bool]]) -> None:
    _must(set(value) == set(rules), f"expected the fields {', '.join(rules)}, got {', '.join(value)}"[:500])
    for name, rule in rules.items():
        _must(rule(value[name]), f"{name} is not valid")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -(2.0**1000) < value < 2.0**1000


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(map(_numbers, value)) and len({len(row) for row in value}) == 1


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_count, value))
