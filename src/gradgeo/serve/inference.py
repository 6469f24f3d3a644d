"""What a worker does: loads model and detector once, then turns arrays into columns of verdicts."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gradgeo.classifier.fingerprint import synthetic_inputs
from gradgeo.classifier.wrapper import Classifier
from gradgeo.detector import serialization as detector_file
from gradgeo.detector.detector import Detector
from gradgeo.errors import DetectorFileError
from gradgeo.serve.protocol import Column


@dataclass(frozen=True)
class Facts:
    """What a server has to know of what its workers judge by."""

    shape: tuple[int, ...]  # of one input
    classes: int
    float64: bool  # whether the model computes in float64
    calibration_size: int
    parameters: dict[str, Any]  # for the metadata

    @property
    def datatype(self) -> str:
        """Of the input, as the protocol names it."""
        return "FP64" if self.float64 else "FP32"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the input, as NumPy names it."""
        return np.dtype(np.float64 if self.float64 else np.float32)


class Judge(Protocol):
    """Columns of verdicts, by the names of the protocol's outputs, on inputs (N, *input)."""

    @property
    def facts(self) -> Facts: ...  # noqa: D102

    def __call__(self, x: NDArray[Any], explain: bool) -> dict[str, Column]: ...  # noqa: D102


class DetectorJudge:
    """Judges by a fitted detector."""

    def __init__(self, detector: Detector, parameters: dict[str, Any] | None = None) -> None:
        self._detector = detector
        wide = Classifier.of(detector.model).dtype == torch.float64
        size = detector.calibration_size_  # before anything else: not there before `fit`
        self.facts = Facts(detector.input_shape_, detector.num_classes_, wide, size, parameters or {})

    def __call__(self, x: NDArray[Any], explain: bool = False) -> dict[str, Column]:
        """Every output; `cause` is made with explanations only."""
        judged = self._detector.judge(torch.from_numpy(x), explain=explain)
        verdict = judged.predictions
        columns: dict[str, Column] = {name: column.numpy() for name, column in vars(verdict).items()}
        columns["logits"] = judged.logits.float().numpy()
        if explain:
            why = judged.explanations
            columns["cause"] = [(why[row].cause or "") if row in why else "" for row in range(len(x))]
        return columns


@dataclass(frozen=True)
class DetectorLoader:
    """What a worker loads, and loads again after it died: private copies, whatever becomes of the files meanwhile."""

    file: Path
    model: Callable[[], torch.nn.Module]
    threads: int  # of PyTorch
    parameters: dict[str, Any]

    def __call__(self) -> Judge:
        """Load, and judge once, so that nothing is left to prepare at the first request."""
        torch.set_num_threads(self.threads)
        judge = DetectorJudge(Detector.load(self.file, self.model()), self.parameters)
        shape = judge.facts.shape
        judge(synthetic_inputs(judge.facts.shape).numpy().astype(judge.facts.dtype))
        return judge


def isolated_copy(path: Path, folder: Path) -> Path:
    """A copy of a file in a private folder, which stays what it is when the file is replaced."""
    copied = folder / path.name
    try:
        shutil.copyfile(path, copied)
    except OSError as error:
        raise DetectorFileError(f"cannot read {path}: {error.strerror or error}.") from error
    return copied


def detector_parameters(file: Path) -> dict[str, Any]:
    """What the metadata of the model says of its detector."""
    known = detector_file.inspect(file)
    notes = known["notes"]
    return {
        "detector_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "alpha": known["settings"]["alpha"],
        "class_names": notes.get("class_names") or [],
        "preprocess": notes.get("preprocess"),
    }


def notes(file: Path) -> dict[str, Any]:
    """What `fit` noted in a detector file."""
    found: dict[str, Any] = detector_file.inspect(file)["notes"]
    return found


def private_folder() -> "tempfile.TemporaryDirectory[str]":
    """Where private copies live, until the server ends."""
    return tempfile.TemporaryDirectory(prefix="gradgeo-serve-")
