"""The file of a fitted detector: one safetensors file, its settings as JSON in the metadata. Reading executes nothing.

Layout, version 2: the one entry `gradgeo` of the safetensors metadata is a SHA-256, a space, and canonical JSON
(schema, versions, settings, fitted, fingerprint, notes); the hash covers that JSON and every array in the order of
their names. The arrays are those of the calibration set, of the fusion and, as `NAME/ARRAY`, those of each evidence's
one-class model; each class states and checks its own `LAYOUT`. The hash finds damage, it does not authenticate: beyond
it every field is checked, so a file made to deceive is an error.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gradgeo._files import atomic_stream
from gradgeo.detector.calibration import CalibrationSet
from gradgeo.detector.evidence import resolve
from gradgeo.detector.extraction import EvidenceExtractor
from gradgeo.detector.fitted import FittedDetector
from gradgeo.detector.fusion import EvidenceFusion, TailSurprisal
from gradgeo.detector.one_class import KINDS, OneClass, ensure
from gradgeo.detector.settings import Settings
from gradgeo.errors import DetectorFileError, public
from gradgeo.geometry.losses import LOSSES, Loss
from gradgeo.geometry.options import Maps

SCHEMA = 2
LARGEST = 1 << 28  # bytes; a detector of 1,000 classes takes a few megabytes

Arrays = dict[str, NDArray[Any]]

_BY_QUESTION = "question_"  # before the names of the arrays of `EvidenceFusion.by_question`


@dataclass(frozen=True)
class Contents:
    """Everything a detector file holds, checked."""

    path: Path
    """The file."""
    settings: dict[str, Any]
    """The arguments of `Detector`."""
    fitted: dict[str, Any]
    """What `fit` learned, as plain numbers."""
    fingerprint: dict[str, Any]
    """Of the model."""
    notes: dict[str, Any]
    """The user's."""
    fusion: EvidenceFusion
    """Of its arrays."""
    calibration: CalibrationSet
    """Of its arrays."""

    def arguments(self) -> dict[str, Any]:
        """Those of `Detector`."""
        classes = self.settings["classes"]
        return self.settings | {"classes": torch.tensor(classes) if isinstance(classes, list) else classes}

    def restored(self) -> FittedDetector:
        """What `fit` learned, with the evidence of this version.

        Raises: ArgumentError for evidence that is not known here; DetectorFileError for evidence that has another
        one-class model here.
        """
        evidence = resolve(self.settings["evidence"])
        if [e.one_class for e in evidence] != [type(member) for member in self.fusion.members]:
            raise DetectorFileError(f"{self.path} holds evidence of another kind than this version's. Fit again.")
        fitted = self.fitted
        maps = Maps(Loss(fitted["loss"], fitted["temperature"]), self.arguments()["classes"])
        return FittedDetector(
            input_shape=tuple(fitted["input_shape"]),
            num_classes=fitted["num_classes"],
            extractor=EvidenceExtractor(evidence, maps, fitted["radius"]),
            fusion=self.fusion,
            calibration=self.calibration,
            fit_size=fitted["fit_size"],
            misclassified=fitted["misclassified"],
            unusable=fitted["unusable"],
        )


def write(
    path: str | PathLike[str],
    settings: Settings,
    fitted: FittedDetector,
    *,
    fingerprint: dict[str, Any],
    notes: dict[str, Any],
) -> None:
    """Write a fitted detector to `path`, all or nothing.

    Args:
        path: the file.
        settings: the arguments of `Detector`; evidence and classes are those it was fitted with.
        fitted: what it learned.
        fingerprint: of its model.
        notes: anything that JSON can hold.
    """
    extractor, fusion = fitted.extractor, fitted.fusion
    settings = replace(settings, evidence=extractor.names, classes=extractor.maps.classes)
    document = {
        "schema": SCHEMA,
        "versions": {name: version(name) for name in ("gradgeo", "torch", "numpy", "scikit-learn")},
        "settings": settings.plain(),
        "fitted": {
            "input_shape": list(fitted.input_shape),
            "num_classes": fitted.num_classes,
            "loss": extractor.maps.loss.name,
            "temperature": extractor.maps.loss.temperature,
            "radius": extractor.radius,
            "fit_size": fitted.fit_size,
            "calibration_size": fitted.calibration_size,
            "misclassified": fitted.misclassified,
            "unusable": fitted.unusable,
            "one_class": [_kind_name(member) for member in fusion.members],
            "questions": list(fusion.questions),
        },
        "fingerprint": fingerprint,
        "notes": notes,
    }
    try:
        text = json.dumps(document, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DetectorFileError(f"expected notes to be something JSON can hold: {error}") from error
    arrays = {
        **_as_laid_out(fitted.calibration, fitted.calibration.arrays()),
        **_as_laid_out(fusion.by_evidence, vars(fusion.by_evidence)),
        **_prefixed(_BY_QUESTION, _as_laid_out(fusion.by_question, vars(fusion.by_question))),
    }
    for name, member in zip(extractor.names, fusion.members, strict=True):
        arrays |= _prefixed(f"{name}/", _as_laid_out(member, vars(member)))
    data = save(arrays, metadata={"gradgeo": f"{_digest(text, arrays)} {text}"})
    with atomic_stream(Path(path), DetectorFileError, follow_links=False) as stream:
        stream.write(data)


def _as_laid_out(owner: CalibrationSet | TailSurprisal | OneClass, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """The arrays in the types that the `LAYOUT` of their owner states."""
    return {name: np.ascontiguousarray(arrays[name], dtype=dtype) for name, (dtype, _) in owner.LAYOUT.items()}


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def _kind_name(member: OneClass) -> str:
    for name, kind in KINDS.items():
        if type(member) is kind:
            return name
    raise DetectorFileError(
        f"a one-class model of type {type(member).__name__} cannot be saved: it is not among "
        "gradgeo.detector.one_class.KINDS."
    )


def read(path: str | PathLike[str]) -> Contents:
    """The checked contents of the file at `path`."""
    document, fusion, calibration = _load(Path(path))
    parts = {name: document[name] for name in ("settings", "fitted", "fingerprint", "notes")}
    return Contents(Path(path), **parts, fusion=fusion, calibration=calibration)


@public
def inspect(path: str | PathLike[str]) -> dict[str, Any]:
    """What a detector file says of itself, without a model: schema, versions, settings, fitted, fingerprint, notes."""
    return _load(Path(path))[0]


def _load(path: Path) -> tuple[dict[str, Any], EvidenceFusion, CalibrationSet]:
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
        _check(document)
        return document, *_models(document["settings"], document["fitted"], arrays)
    except DetectorFileError:
        raise
    except OSError as error:
        raise DetectorFileError(f"cannot read {path}: {error.strerror or error}.") from error
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DetectorFileError(f"{path} is truncated, altered, or not a detector file: {error}.") from error


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


def _check(document: Any) -> None:
    """ValueError unless every field is of the type and range that `write` gives it."""
    ensure(isinstance(document, dict), "its settings are not a JSON object")
    ensure(
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
    ensure(len(fitted["one_class"]) == len(fitted["questions"]) == len(settings["evidence"]), "its evidence is unclear")


def _models(settings: dict[str, Any], fitted: dict[str, Any], arrays: Arrays) -> tuple[EvidenceFusion, CalibrationSet]:
    """What the arrays are of, each checked by its own class; ValueError where one does not fit or is left over."""
    rest, classes, questions = dict(arrays), fitted["num_classes"], tuple(fitted["questions"])
    count = len(questions)

    def taken(names: Iterable[str], prefix: str = "") -> Arrays:
        return {name: rest.pop(prefix + name) for name in names if prefix + name in rest}

    members = []
    for name, kind in zip(settings["evidence"], fitted["one_class"], strict=True):
        with _naming(name):
            members.append(KINDS[kind].from_arrays(taken(KINDS[kind].LAYOUT, f"{name}/"), classes))
    by_evidence = TailSurprisal.from_arrays(taken(TailSurprisal.LAYOUT), count)
    with _naming("questions"):
        by_question = TailSurprisal.from_arrays(taken(TailSurprisal.LAYOUT, _BY_QUESTION), len(set(questions)))
    calibration = CalibrationSet.from_arrays(taken(CalibrationSet.LAYOUT), fitted["calibration_size"], classes, count)
    ensure(not rest, "it holds other arrays than its settings ask for")
    return EvidenceFusion(tuple(members), questions, by_evidence, by_question), calibration


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """ValueErrors say of which part of the file they are."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{part}: {error}") from error


def _fields(value: dict[str, Any], rules: dict[str, Callable[[Any], bool]]) -> None:
    ensure(set(value) == set(rules), f"expected the fields {', '.join(rules)}, got {', '.join(value)}"[:500])
    for name, rule in rules.items():
        ensure(rule(value[name]), f"{name} is not valid")


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
