"""What a worker runs: it loads model and detector once, then turns arrays into columns of verdicts."""

import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gradgeo._files import regular_file
from gradgeo.classifier.fingerprint import synthetic_inputs
from gradgeo.classifier.text import TextClassifier
from gradgeo.classifier.wrapper import Classifier
from gradgeo.data.preprocess import Preprocess
from gradgeo.detector.detector import Detector
from gradgeo.errors import DetectorFileError, GradgeoWarning
from gradgeo.serve.protocol import AMONG_ALL, CONDITIONS, Column, Detail


@dataclass(frozen=True)
class Facts:
    """What a server has to know of the detector in its workers."""

    shape: tuple[int, ...]
    """Of one input."""

    classes: int
    float64: bool
    """Whether the model computes in float64."""

    calibration_size: int
    parameters: dict[str, Any]
    """What the metadata of the model say of the detector; `detector_sha256` is its digest."""
    texts: bool = False
    """Whether inputs are texts."""

    mistakes: tuple[float, ...] = ()
    """P-values of mistakes that the traffic is compared with: `Detector.mistake_p_values_`."""

    @property
    def grouped(self) -> bool:
        """Whether `fit` was given groups, so that p-values can be among the calibration inputs of one."""
        return bool(self.parameters.get("groups"))

    @property
    def digest(self) -> str:
        """`Detector.digest()`, which the rows of `score` state too."""
        return str(self.parameters.get("detector_sha256", ""))

    @property
    def datatype(self) -> str:
        """The type of the input, as the protocol names it."""
        return "FP64" if self.float64 else "FP32"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the input, as NumPy names it."""
        return np.dtype(np.float64 if self.float64 else np.float32)


class Inference(Protocol):
    """Columns of verdicts, by the names of the protocol's outputs, on inputs (N, *input)."""

    @property
    def facts(self) -> Facts: ...  # noqa: D102

    def __call__(  # noqa: D102
        self, x: NDArray[Any], explain: Detail, conditional: str | None = None, groups: list[str] | None = None
    ) -> dict[str, Column]: ...


class DetectorInference:
    """Verdicts of a fitted detector."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        notes = detector.notes
        self.facts = Facts(
            shape=detector.input_shape_,
            classes=detector.num_classes_,
            float64=Classifier.of(detector.model).dtype == torch.float64,
            calibration_size=detector.calibration_size_,
            parameters={
                "detector_sha256": detector.digest(),
                "alpha": float(detector.alpha),
                "false_alarm_rate": detector.false_alarm_rate_.as_dict(),
                "conditional": list(CONDITIONS),
                "groups": list(detector.groups_),
                "class_names": notes.get("class_names") or [],
                "preprocess": notes.get("preprocess"),
                **({} if detector.noise_ is None else {"noise": detector.noise_}),
            },
            mistakes=() if detector.mistake_p_values_ is None else tuple(detector.mistake_p_values_.tolist()),
            texts=isinstance(detector.model, TextClassifier),
        )

    def __call__(
        self,
        x: NDArray[Any],
        explain: Detail = Detail.VERDICTS,
        conditional: str | None = None,
        groups: list[str] | None = None,
    ) -> dict[str, Column]:
        """Every output of the protocol; `cause` only with explanations, `detail` only with pictures.

        Of conditional p-values those among all calibration inputs, too, in the column AMONG_ALL. A kind with too few
        calibration inputs is told by `compared`, not by a warning.
        """
        detector, of_text = self._detector, x.dtype == object
        batch = x.tolist() if of_text else torch.from_numpy(x)
        with warnings.catch_warnings():
            if conditional is not None or groups is not None:
                warnings.simplefilter("ignore", GradgeoWarning)
            judgement = detector.judge(batch, explain=bool(explain), conditional=conditional, groups=groups)
        predictions = judgement.predictions
        columns: dict[str, Column] = {name: column.numpy() for name, column in vars(predictions).items()}
        if "compared" in columns:
            columns[AMONG_ALL] = detector.fitted_.calibration.p_value(predictions.outlier_score).numpy()
        else:
            columns["compared"] = np.full(len(x), detector.calibration_size_, np.int64)
        columns["logits"] = judgement.logits.float().numpy()
        if explain:
            explanations = judgement.explanations
            columns["cause"] = [(explanations[row].cause or "") if row in explanations else "" for row in range(len(x))]
        if explain == Detail.PICTURES and not of_text:
            columns["detail"] = self._details(torch.from_numpy(x), judgement.logits)
        return columns

    def _details(self, x: torch.Tensor, logits: torch.Tensor) -> list[str]:
        from gradgeo.serve.web.details import details

        preprocess = Preprocess.from_dict(self._detector.notes.get("preprocess"))
        return details(self._detector, x, logits, self._detector.explain(x), preprocess)


@dataclass(frozen=True)
class DetectorLoader:
    """Loads the detector in a worker, again after it died: from private copies, whatever becomes of the files."""

    file: Path
    model: Callable[[], torch.nn.Module]
    threads: int
    """Of PyTorch."""

    def __call__(self) -> Inference:
        """Load, and run one batch, so that nothing is left to prepare at the first request."""
        torch.set_num_threads(self.threads)
        inference = DetectorInference(Detector.load(self.file, self.model()))
        facts = inference.facts
        inference(synthetic_inputs(facts.shape).numpy().astype(facts.dtype))
        return inference


def private_folder() -> "tempfile.TemporaryDirectory[str]":
    """Where private copies are kept until the server ends."""
    return tempfile.TemporaryDirectory(prefix="gradgeo-serve-")


def private_file(path: Path, folder: Path, *, largest: int | None = None) -> Path:
    """A copy of a file in a private folder, under a name of its own, which stays as it is when the file is replaced.

    Args:
        path: of a regular file, or a link to one.
        folder: for the copy.
        largest: bytes that the file may have; None for as many as there is room for.

    Raises: DetectorFileError, before anything is written where the file is too large or of another kind.
    """
    regular_file(path, DetectorFileError)
    copied = folder / f"{len(list(folder.iterdir()))}-{path.name}"
    try:
        size, room = path.stat().st_size, shutil.disk_usage(folder).free
        if largest is not None and size > largest:
            raise DetectorFileError(f"{path} has {size} bytes; a detector file has at most {largest}.")
        if size > room:
            raise DetectorFileError(f"cannot copy {path} to {folder}: it has {size} bytes, and {room} are free.")
        shutil.copyfile(path, copied)
    except OSError as error:
        raise DetectorFileError(f"cannot read {path}: {error.strerror or error}.") from error
    return copied
