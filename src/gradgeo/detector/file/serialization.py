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
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gradgeo._files import atomic_stream
from gradgeo._typing import Array, IntArray
from gradgeo.detector.calibration.calibration_set import CalibrationSet
from gradgeo.detector.calibration.conformal import FalseAlarmRate, Level
from gradgeo.detector.calibration.mondrian import CalibrationGroups
from gradgeo.detector.evidence import resolve
from gradgeo.detector.extraction import EvidenceExtractor
from gradgeo.detector.file.arrays import Arrays, arrays_of, kind_name, models_of
from gradgeo.detector.file.document import LARGEST_INPUT, SCHEMA, check, is_texts
from gradgeo.detector.file.privacy import held
from gradgeo.detector.fitted import Ancestor, FittedDetector
from gradgeo.detector.fusion import EvidenceFusion
from gradgeo.detector.learned import named
from gradgeo.detector.one_class.base import ensure
from gradgeo.detector.settings import Settings
from gradgeo.errors import DetectorFileError, GradgeoError, expected, public
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps

LARGEST = 1 << 28  # bytes; a detector of 1,000 classes takes a few megabytes
LONGEST_HEADER = 1 << 24  # bytes, with the notes


@dataclass(frozen=True)
class Contents:
    """Everything a detector file holds, checked."""

    path: Path
    """The file."""
    sha256: str
    """Of its bytes, in hexadecimal."""
    document: dict[str, Any]
    """Its JSON: schema, versions, settings, fitted, fingerprint, notes."""
    fusion: EvidenceFusion
    """Of its arrays."""
    calibration: CalibrationSet
    """Of its arrays."""
    groups: CalibrationGroups | None = None
    """Of its arrays, where `fit` was given groups."""
    mistakes: Array | None = None
    """Of its arrays, where `fit` wrote them."""

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `Detector`."""
        return cast(dict[str, Any], self.document["settings"])

    @property
    def fitted(self) -> dict[str, Any]:
        """What `fit` learned, as plain numbers."""
        return cast(dict[str, Any], self.document["fitted"])

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Of the model."""
        return cast(dict[str, Any], self.document["fingerprint"])

    @property
    def notes(self) -> dict[str, Any]:
        """The user's."""
        return cast(dict[str, Any], self.document["notes"])

    def arguments(self) -> dict[str, Any]:
        """Those of `Detector`."""
        classes = self.settings["classes"]
        return self.settings | {"classes": torch.tensor(classes) if isinstance(classes, list) else classes}

    def restored(self) -> FittedDetector:
        """What `fit` learned, with the evidence of this version.

        Raises: ArgumentError for evidence that is not known here; DetectorFileError for evidence that has another
        one-class model here.
        """
        settings = self.settings
        evidence = resolve(settings["evidence"], settings.get("one_class", "copula"))
        if [e.one_class for e in evidence] != [type(member) for member in self.fusion.members]:
            raise DetectorFileError(f"{self.path} holds evidence of another kind than this version's. Fit again.")
        fitted = self.fitted
        loss = Loss(fitted["loss"], fitted["temperature"], settings.get("rescale", False))
        maps = Maps(loss, self.arguments()["classes"], channel_max=settings.get("channel_max", False))
        return FittedDetector(
            input_shape=tuple(fitted["input_shape"]),
            num_classes=fitted["num_classes"],
            extractor=EvidenceExtractor(evidence, maps, fitted["radius"]),
            fusion=self.fusion,
            calibration=self.calibration,
            fit_size=fitted["fit_size"],
            misclassified=fitted["misclassified"],
            unusable=fitted["unusable"],
            model_fingerprint=self.fingerprint,
            groups=self.groups,
            noise=self.settings.get("noise"),
            columns=None if "columns" not in fitted else tuple(fitted["columns"]),
            mistakes=self.mistakes,
            weighed=fitted.get("weighed"),
            record=fitted.get("record"),
            lineage=tuple(Ancestor(**each) for each in fitted.get("lineage", ())),
        )

    def require(self, sha256: str | None) -> None:
        """DetectorFileError unless the file has this SHA-256; None asks for nothing."""
        if sha256 is None:
            return
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise expected("sha256", "64 hexadecimal digits", sha256)
        if sha256.lower() != self.sha256:
            raise DetectorFileError(
                f"{self.path} is not the expected file: its SHA-256 is {self.sha256}. Do not use it until you know why."
            )

    def facts(self) -> dict[str, Any]:
        """What `inspect` gives."""
        scores = self.calibration.outlier_scores
        return {
            "sha256": self.sha256,
            "digest": self.digest(),
            "calibration_scores": {
                "least": float(scores[0]),
                "median": float(np.median(scores)),
                "largest": float(scores[-1]),
            },
            "false_alarms": {
                kind: {name: rate.as_dict() for name, rate in rates.items()}
                for kind, rates in self.false_alarms().items()
            },
            "holds": held(
                self.settings["evidence"], self.fusion.members, self.calibration, self.groups, self.mistakes, self.notes
            ),
            **self.document,
        }

    def false_alarms(self) -> dict[str, dict[str, FalseAlarmRate]]:
        """The rate of the detector, and those of its classes and groups where each is judged among its own."""
        level = Level(self.settings["alpha"], self.settings.get("confidence"))
        labels, classes = self.calibration.labels, self.class_names()
        counts = {"all": {"all": len(labels)}, "by_class": _counts(classes, labels)}
        if self.groups is not None:
            counts["by_group"] = _counts(self.groups.names, self.groups.of_row)
        return {kind: {name: level.rate(n) for name, n in sizes.items()} for kind, sizes in counts.items()}

    def class_names(self) -> tuple[str, ...]:
        """See `class_names`."""
        return class_names(self.notes, self.fitted["num_classes"])

    def digest(self) -> str | None:
        """`Detector.digest`; None where the file holds evidence that is not known here."""
        try:
            return self.restored().digest(self.settings["alpha"], self.settings.get("confidence"))
        except GradgeoError:
            return None


def class_names(notes: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """As the notes of a detector have them, where they have one for each class, else the numbers of the classes."""
    return named(notes, count) or tuple(map(str, range(count)))


def _counts(names: Sequence[str], of_row: IntArray) -> dict[str, int]:
    return dict(zip(names, np.bincount(of_row, minlength=len(names)).tolist(), strict=True))


def write(
    path: str | PathLike[str],
    settings: Settings,
    fitted: FittedDetector,
    *,
    notes: dict[str, Any],
) -> None:
    """Write a fitted detector to `path`, all or nothing.

    Args:
        path: the file.
        settings: the arguments of `Detector`; evidence and classes are those it was fitted with.
        fitted: what it learned.
        notes: anything that JSON can hold.
    """
    extractor, fusion = fitted.extractor, fitted.fusion
    if math.prod(fitted.input_shape) > LARGEST_INPUT:
        raise DetectorFileError(f"a detector file is of inputs of at most {LARGEST_INPUT} entries.")
    settings = replace(settings, evidence=extractor.names, classes=extractor.maps.classes, noise=fitted.noise)
    document: dict[str, Any] = {
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
            "one_class": [kind_name(member) for member in fusion.members],
            "questions": list(fusion.questions),
            **({} if fitted.columns is None else {"columns": list(fitted.columns)}),
            **({} if fitted.record is None else {"record": fitted.record}),
            **({} if fitted.weighed is None else {"weighed": fitted.weighed}),
            **({"lineage": [asdict(each) for each in fitted.lineage]} if fitted.lineage else {}),
        },
        "fingerprint": fitted.model_fingerprint,
        "notes": notes,
    }
    if fitted.groups is not None:
        document["fitted"] |= {"groups": list(fitted.groups.names)}
    try:
        text = json.dumps(document, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DetectorFileError(f"expected notes to be something JSON can hold: {error}") from error
    arrays = arrays_of(fitted)
    data = save(arrays, metadata={"gradgeo": f"{_digest(text, arrays)} {text}"})
    with atomic_stream(Path(path), DetectorFileError, follow_links=False) as stream:
        stream.write(data)


def read(path: str | PathLike[str], *, sha256: str | None = None) -> Contents:
    """The checked contents of the file at `path`; DetectorFileError unless it has the `sha256` that is expected."""
    contents = _load(Path(path))
    contents.require(sha256)
    return contents


@public
def inspect(path: str | PathLike[str], *, sha256: str | None = None) -> dict[str, Any]:
    """What a detector file says of itself, without a model.

    Its "sha256"; the "digest" of the detector, None with evidence that is not known here; the least, the median and the
    largest of its "calibration_scores"; schema, versions, settings, fitted, fingerprint, notes.

    Raises: DetectorFileError for a file that is damaged, or has another SHA-256 than the one expected.
    """
    return read(path, sha256=sha256).facts()


def _load(path: Path) -> Contents:
    try:
        data = _bytes(path)
        metadata, arrays = _metadata(data), load(data)
        if set(metadata) != {"gradgeo"}:
            raise DetectorFileError(f"{path} holds something else than a detector.")
        digest, _, text = metadata["gradgeo"].partition(" ")
        if _digest(text, arrays) != digest:
            raise DetectorFileError(f"{path} was altered after it was written: its hash does not match.")
        document = json.loads(text, parse_constant=_no_constant)
        check(document)
        models = models_of(document["settings"], document["fitted"], arrays)
        return Contents(path, hashlib.sha256(data).hexdigest(), document, *models)
    except DetectorFileError:
        raise
    except OSError as error:
        raise DetectorFileError(f"cannot read {path}: {error.strerror or error}.") from error
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DetectorFileError(f"{path} is truncated, altered, or not a detector file: {error}.") from error


def _bytes(path: Path) -> bytes:
    """The whole file at once: one that is mapped ends the process where another shortens it meanwhile."""
    if path.exists() and not path.is_file():
        raise DetectorFileError(f"{path} is not a regular file.")
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        data = b"" if size > LARGEST else stream.read(LARGEST + 1)  # it may grow meanwhile
    if max(size, len(data)) > LARGEST:
        raise DetectorFileError(f"{path} has {max(size, len(data))} bytes; a detector file has at most {LARGEST}.")
    return data


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, which its library gives of mapped files only; ValueError without a header."""
    length = int.from_bytes(data[:8], "little")
    ensure(len(data) >= 8 and length <= min(LONGEST_HEADER, len(data) - 8), "its header is cut off, or too long")
    header = json.loads(data[8 : 8 + length])
    ensure(isinstance(header, dict), "its header is not a JSON object")
    metadata = header.get("__metadata__", {})
    ensure(is_texts(metadata), "its metadata are not texts")
    return cast(dict[str, str], metadata)


def _digest(text: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")
