"""What `fit` learned, as one frozen record: from measured evidence to scores, p-values and explanations."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradgeo._typing import Array
from gradgeo.classifier import fingerprint
from gradgeo.classifier.wrapper import Model
from gradgeo.detector import conformal
from gradgeo.detector.calibration import CalibrationSet
from gradgeo.detector.explanations import explanations, named_features
from gradgeo.detector.extraction import EvidenceExtractor, EvidenceFeatures
from gradgeo.detector.fusion import EvidenceFusion
from gradgeo.detector.inputs import Data, batches
from gradgeo.detector.one_class import ensure
from gradgeo.detector.results import Explanation, Predictions
from gradgeo.errors import expected, warn


@dataclass(frozen=True)
class FittedDetector:
    """All that verdicts depend on besides the model and alpha."""

    input_shape: tuple[int, ...]
    """Of one input."""
    num_classes: int
    """C, of the model."""
    extractor: EvidenceExtractor
    """What is measured of an input."""
    fusion: EvidenceFusion
    """How that becomes an outlier score."""
    calibration: CalibrationSet
    """How that becomes a p-value."""
    fit_size: int
    """Trusted inputs that the one-class models were fitted on."""
    misclassified: int
    """Inputs left out because another class is predicted than their label says."""
    unusable: int
    """Inputs left out because of NaN or infinite values or logits."""
    model_fingerprint: dict[str, Any]
    """Of the model, as it was at `fit`: see `gradgeo.classifier.fingerprint.of`."""
    columns: tuple[str, ...] | None = None
    """The names of an input's entries, in order, where `fit` was given a table."""

    @property
    def calibration_size(self) -> int:
        """How many inputs p-values compare with."""
        return len(self.calibration.outlier_scores)

    def inputs(self, x: Data, *, batch_size: int) -> Iterator[Tensor]:
        """The batches of `x`; ArgumentError where one is not of the shape that `fit` saw."""
        for batch, _ in batches(x, batch_size=batch_size, labelled=False, columns=self.columns):
            if tuple(batch.shape[1:]) != self.input_shape:
                shape = ", ".join(map(str, self.input_shape))
                raise expected("x", f"of shape (N, {shape}) as in fit", batch)
            yield batch

    def scores(self, measured: EvidenceFeatures) -> Tensor:
        """The score (N, M) of each evidence."""
        if not len(measured.label):
            return torch.empty(0, len(self.extractor.evidence), dtype=torch.float64)
        return self.fusion.scores(measured.features, measured.label)

    def predictions(self, measured: EvidenceFeatures, alpha: float) -> Predictions:
        """The verdicts on N measured inputs."""
        outlier_score = self.fusion.fuse(self.scores(measured))
        p_value = self.calibration.p_value(outlier_score)
        if conformal.min_calibration_size(alpha) > self.calibration_size:
            warn(
                f"no input can be flagged at alpha = {alpha} with {self.calibration_size} calibration inputs: "
                f"p-values start at {1 / (self.calibration_size + 1):.4f}. Fit again with this alpha."
            )
        return Predictions(measured.label, measured.probability, outlier_score, p_value, p_value > alpha)

    def check_widths(self, measured: EvidenceFeatures) -> None:
        """ValueError where a one-class model, or the named features of calibration, are not as wide as `measured`."""
        evidence = self.extractor.evidence
        for e, member, table in zip(evidence, self.fusion.members, measured.features, strict=True):
            ensure(member.width in (None, table.shape[1]), f"{e.name} is of {member.width} features, not as measured")
        named = named_features(evidence, measured.features)[1].shape[1]
        ensure(self.calibration.features.shape[1] == named, "reference_features are not those of its evidence")
        self.fusion.fuse(self.fusion.scores(measured.features, measured.label))

    def with_csms(
        self, model: Model, x: Tensor | Array, measured: EvidenceFeatures, batch_size: int
    ) -> EvidenceFeatures:
        """What was `measured` of inputs `x` (M, *input), with their CSMs where the evidence made none."""
        if measured.csm is not None:
            return measured
        extractor = EvidenceExtractor((), self.extractor.maps)
        inputs, keep = self.inputs(x, batch_size=batch_size), ("csm", "classes")
        csms = extractor.measure(model, inputs, batch_size=batch_size, keep=keep, quiet=True)
        return replace(measured, csm=csms.csm, classes=csms.classes)

    def explanations(self, predictions: Predictions, measured: EvidenceFeatures) -> list[Explanation]:
        """What each verdict rests on; `measured` holds the CSM and its classes."""
        evidence = self.extractor.evidence
        return explanations(predictions, measured, self.scores(measured), evidence, self.fusion, self.calibration)

    def digest(self, alpha: float) -> str:
        """The SHA-256 of this record and `alpha`."""
        maps = self.extractor.maps
        content: dict[str, Any] = {
            "alpha": float(alpha),
            "classes": maps.classes,
            "loss": maps.loss.name,
            "temperature": maps.loss.temperature,
            "radius": self.extractor.radius,
            "input_shape": self.input_shape,
            "evidence": self.extractor.names,
            "fusion": self.fusion,
            "calibration": self.calibration,
        } | ({} if self.columns is None else {"columns": self.columns})
        return fingerprint.content_hash(content)
