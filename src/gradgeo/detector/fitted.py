"""What `fit` learned, as one frozen record: from measured evidence to scores, p-values and explanations."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array
from gradgeo.classifier import fingerprint
from gradgeo.classifier.wrapper import Model
from gradgeo.detector.calibration import conformal
from gradgeo.detector.calibration.calibration_set import CalibrationSet
from gradgeo.detector.calibration.conformal import FalseAlarmRate, Level
from gradgeo.detector.calibration.mondrian import CalibrationGroups, Kinds
from gradgeo.detector.explanations import explanations, named_features
from gradgeo.detector.extraction import EvidenceExtractor, EvidenceFeatures
from gradgeo.detector.fusion import EvidenceFusion
from gradgeo.detector.inputs import Data, batches, within_classes
from gradgeo.detector.noise import Noise
from gradgeo.detector.one_class.base import ensure
from gradgeo.detector.results import ConditionalPredictions, Explanation, Predictions
from gradgeo.detector.words import InputKind
from gradgeo.errors import expected, warn


@dataclass(frozen=True)
class Ancestor:
    """A detector of the same scorer with an earlier calibration set."""

    digest: str
    """`Detector.digest()`."""
    why: str
    """What the user says of why it was calibrated anew."""
    date: str
    """When that was, as 2026-11-29, in UTC."""


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
    groups: CalibrationGroups | None = None
    """Of the calibration inputs, where `fit` was given groups."""
    mistakes: Array | None = None
    """(m,) outlier scores, ascending, of misclassified inputs: as large a share of all as calibrates of the others.
    None in files of earlier versions. Verdicts do not depend on them."""
    record: dict[str, Any] | None = None
    """The date of the fit, the SHA-256 of its inputs and labels, and their counts. Verdicts do not depend on it."""
    lineage: tuple[Ancestor, ...] = ()
    """The detectors that this one was calibrated anew from, the last one first."""
    noise: float | None = None
    """Standard deviation of what is added to inputs, in input units; None for nothing."""
    weighed: dict[str, Any] | None = None
    """By family of suspects the AUROC in % with equal weights of the questions and with those chosen; None where all
    count the same. Verdicts do not depend on it."""

    @property
    def calibration_size(self) -> int:
        """How many inputs p-values compare with."""
        return len(self.calibration.outlier_scores)

    def inputs(self, x: Data, *, batch_size: int, drawn: bool = False) -> Iterator[Tensor]:
        """The batches of `x`, with noise of their own unless that is `drawn` already.

        Raises: ArgumentError where one is not of the shape that `fit` saw.
        """
        noisy = Noise(0.0 if drawn or self.noise is None else self.noise).reading()
        for batch, _ in batches(x, batch_size=batch_size, labelled=False, columns=self.columns):
            yield noisy(self._of_this_shape(batch))

    def labelled_inputs(self, x: Data, labels: Any, *, batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The batches of `x`, without noise, and labels, None where there are none.

        Raises: ArgumentError for inputs of another shape than `fit` saw, and for labels that are no class.
        """
        for batch, y in batches(x, labels, batch_size=batch_size, columns=self.columns):
            within_classes(y, self.num_classes)
            yield self._of_this_shape(batch), y

    def _of_this_shape(self, batch: Tensor) -> Tensor:
        if tuple(batch.shape[1:]) != self.input_shape:
            shape = ", ".join(map(str, self.input_shape))
            raise expected("x", f"of shape (N, {shape}) as in fit", batch)
        return batch

    def noisy(self, x: Tensor | Array, *, batch_size: int) -> Tensor | Array:
        """`x` (N, *input) with its noise, for more passes than one over the same inputs."""
        batches = [] if self.noise is None else list(self.inputs(x, batch_size=batch_size))
        return torch.cat(batches) if batches else x

    def scores(self, measured: EvidenceFeatures) -> Tensor:
        """The score (N, M) of each evidence."""
        if not len(measured.label):
            return torch.empty(0, len(self.extractor.evidence), dtype=torch.float64)
        return self.fusion.scores(measured.features, measured.label)

    def predictions(
        self, measured: EvidenceFeatures, level: Level, *, conditional: str | None = None, groups: Any = None
    ) -> Predictions:
        """The verdicts on N measured inputs; see `Detector.predict`."""
        outlier_score = self.fusion.fuse(self.scores(measured))
        n, known = self.calibration_size, self.groups
        if level.least > n:
            sure = "" if level.confidence is None else f" with confidence {level.confidence:g}"
            warn(
                f"no input can be flagged at alpha = {level.alpha}{sure} with {n} calibration inputs: "
                f"p-values start at {1 / (n + 1):.4f}. Fit again with this alpha."
            )
        kinds = Kinds.of(conditional, groups, known, self.calibration.labels, measured.label.numpy())
        if kinds is None:
            p_value = self.calibration.p_value(outlier_score)
            trusted = p_value > level.threshold(n)
            return Predictions(measured.label, measured.probability, outlier_score, p_value, trusted)
        scores = outlier_score.numpy()
        p, compared = kinds.p_values(self.calibration_scores, self.calibration.outlier_scores, scores, level.least)
        if (text := kinds.fallback(~np.isnan(scores), n, level.least)) is not None:
            warn(text)
        flagged = {size: level.threshold(size) for size in np.unique(compared).tolist()}
        bounds = np.array([flagged[size] for size in compared.tolist()])
        columns = (torch.from_numpy(p), torch.from_numpy(p > bounds), torch.from_numpy(compared))
        return ConditionalPredictions(measured.label, measured.probability, outlier_score, *columns)

    @cached_property
    def calibration_scores(self) -> Array:
        """(n,) outlier scores in the order of the other rows of the calibration set.

        A file keeps them ascending, and the scores that they were joined from row by row: these, joined again, give the
        order. Scores within rounding of each other may change places on another processor.
        """
        scores = np.empty(self.calibration_size)
        joined = self.fusion.fuse(torch.from_numpy(self.calibration.scores)).numpy()
        scores[np.argsort(joined, kind="stable")] = self.calibration.outlier_scores
        return scores

    @cached_property
    def mistake_p_values(self) -> Array | None:
        """(m,) p-values of `mistakes`."""
        return None if self.mistakes is None else conformal.p_values(self.calibration.outlier_scores, self.mistakes)

    def rates(self, level: Level, by: str) -> dict[str, FalseAlarmRate]:
        """The false-alarm rate of each predicted class, or of each group of `fit`, judged among its own."""
        if by == "class":
            names, of_row = tuple(map(str, range(self.num_classes))), self.calibration.labels
        elif self.groups is not None:
            names, of_row = self.groups.names, self.groups.of_row
        else:
            return {}
        counts = np.bincount(of_row, minlength=len(names)).tolist()
        return {name: level.rate(count) for name, count in zip(names, counts, strict=True)}

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
        """What was `measured` of inputs `x` (M, *input), noise added, with their CSMs where the evidence made none."""
        if measured.csm is not None:
            return measured
        extractor = EvidenceExtractor((), self.extractor.maps)
        inputs, keep = self.inputs(x, batch_size=batch_size, drawn=True), ("csm", "classes")
        csms = extractor.measure(model, inputs, batch_size=batch_size, keep=keep, quiet=True)
        return replace(measured, csm=csms.csm, classes=csms.classes)

    def explanations(
        self, predictions: Predictions, measured: EvidenceFeatures, class_names: tuple[str, ...] = ()
    ) -> list[Explanation]:
        """What each verdict rests on; `measured` holds the CSM and its classes."""
        of = (self.extractor.evidence, self.fusion, self.calibration)
        inputs = InputKind(self.input_shape[0], self.columns or ())
        return explanations(predictions, measured, self.scores(measured), *of, inputs, class_names)

    def flagged_explanations(
        self,
        model: Model,
        x: Tensor | Array,
        predictions: Predictions,
        measured: EvidenceFeatures,
        batch_size: int,
        class_names: tuple[str, ...],
    ) -> dict[int, Explanation]:
        """By its row, why each input of `x` (N, *input), noise added, that is not trusted is not."""
        rows = torch.nonzero(~predictions.trusted)[:, 0]
        if not len(rows):
            return {}
        flagged_x = x[rows.to(x.device) if isinstance(x, Tensor) else rows.numpy()]
        flagged = self.with_csms(model, flagged_x, measured[rows], batch_size)
        return dict(zip(rows.tolist(), self.explanations(predictions[rows], flagged, class_names), strict=True))

    def digest(self, alpha: float, confidence: float | None = None) -> str:
        """The SHA-256 of this record and what is flagged."""
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
        }
        if maps.loss.rescale or maps.channel_max:
            content["authors"] = [maps.loss.rescale, maps.channel_max]
        if confidence is not None:
            content["confidence"] = float(confidence)
        if self.noise is not None:
            content["noise"] = float(self.noise)
        if self.groups is not None:
            content["groups"] = self.groups
        if self.columns is not None:
            content["columns"] = self.columns
        return fingerprint.content_hash(content)
