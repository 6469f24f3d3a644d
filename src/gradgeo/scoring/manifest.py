"""What a run is: all that its rows depend on, so that parts of different runs never mix."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradgeo import __version__
from gradgeo.classifier import fingerprint
from gradgeo.data.source import Source
from gradgeo.detector.detector import Detector

FORMAT, VERSION = "gradgeo-scores", 1
LEVELS = 101
"""Quantiles of the calibration scores that go with the verdicts."""


@dataclass(frozen=True)
class Run:
    """Settings that must be the same for two parts to belong together, and what every file says of them."""

    settings: dict[str, Any]
    metadata: dict[str, Any]

    def differences(self, settings: dict[str, Any]) -> list[str]:
        """The names of the settings that differ from those of another run."""
        names = dict.fromkeys([*self.settings, *settings])
        return [name for name in names if self.settings.get(name) != settings.get(name)]


def run_of(detector: Detector, source: Source, part_size: int) -> Run:
    """The run that judges `source` by `detector`.

    How many inputs go through the model at once is no setting: it moves scores by a rounding, and a run that ran out of
    memory must be able to go on with fewer.
    """
    settings = {
        "version": VERSION,
        "detector": detector.digest(),
        "model weights": fingerprint.weights_hash(detector.model),
        "data": source.spec,
        "content of the data": source.content_id,
        "preprocess": source.preprocess.as_dict(),
        "class names": list(source.classes),
        "start": source.start,
        "limit": source.limit,
        "time": source.time,
        "part size": part_size,
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "gradgeo": __version__,
        "alpha": float(detector.alpha),
        "class_names": [str(name) for name in detector.notes.get("class_names") or source.classes],
        "evidence": list(detector.evidence_),
        "input_shape": list(detector.input_shape_),
        "calibration_scores": np.quantile(detector.calibration_scores_, np.linspace(0, 1, LEVELS)).tolist(),
        "calibration_size": detector.calibration_size_,
        "detector": settings["detector"],
        "model": detector.notes.get("model"),
        "data": source.spec,
        "preprocess": source.preprocess.as_dict(),
        "start": source.start,
        "limit": source.limit,
        "time": source.time,
        "seed": int(detector.seed),
        "part_size": part_size,
        "run": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
    }
    return Run(settings, metadata)
