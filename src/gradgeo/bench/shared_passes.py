"""Detectors that differ in their evidence alone, fitted and run by one set of passes over the inputs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from gradgeo._typing import Array
from gradgeo.detector.detector import Detector
from gradgeo.detector.evidence import Evidence
from gradgeo.detector.extraction import EvidenceFeatures
from gradgeo.detector.fit import fitting
from gradgeo.detector.fit.data_scan import scan
from gradgeo.detector.fitted import FittedDetector
from gradgeo.detector.inputs import Data
from gradgeo.detector.results import Predictions
from gradgeo.detector.weighing import CAUSES
from gradgeo.errors import expected

TRUSTED, UNNAMED = -2, -1
"""Where a cause is expected: the input is not flagged; it is, and no cause is named."""


class DetectorGroup:
    """Detectors with the results they would have alone; evidence that several of them use is measured once.

    Args:
        detectors: of the same model, with the same settings but for `evidence`; fitted in place by `fit`.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self.detectors = tuple(detectors)

    def fit(self, data: Data, labels: Any = None) -> Self:
        """As `Detector.fit`; ArgumentError where so few inputs are trusted that evidence decides which are learned
        from."""
        settings = [detector.settings for detector in self.detectors]
        if any(each.noise is not None for each in settings):
            raise expected("detectors", "without noise, of which each has its own", "one with noise")
        model, batch_size = self.detectors[0].model, settings[0].batch_size
        scanned = scan(model, data, labels, batch_size=batch_size)
        scanned.warn_if_unusable()
        trusted, extractors = zip(*(fitting.split(model, scanned, each) for each in settings), strict=True)
        if any(list(other.learn_rows) != list(trusted[0].learn_rows) for other in trusted):
            raise expected("data", "so many that all detectors learn from the same inputs", len(scanned.usable))
        union = replace(extractors[0], evidence=_union([extractor.evidence for extractor in extractors]))
        mistakes = fitting.Mistakes.of(scanned, trusted[0], settings[0].seed)
        union, measured, made = fitting.extract(model, data, trusted[0], union, mistakes, settings=settings[0])
        learned = []
        for rows, extractor, each in zip(trusted, extractors, settings, strict=True):
            own = union.only(extractor.evidence)
            suspects = None if made is None else made.part(union, own.evidence)
            features = union.part(measured, own.evidence)
            learned.append(fitting.learn(scanned, rows, own, features, mistakes, suspects, settings=each))
        for detector, fitted in zip(self.detectors, learned, strict=True):
            detector.adopt(fitted)
        self._extractor = union
        return self

    def predict(self, x: Data) -> list[Predictions]:
        """What `Detector.predict` gives, of each detector."""
        return [predictions for predictions, _ in self.judge(x)]

    def judge(self, x: Data) -> list[tuple[Predictions, Array]]:
        """What `Detector.predict` gives, of each detector, and the causes that it names (N,), as `named_causes`."""
        first, batch_size = self.detectors[0], self.detectors[0].batch_size
        inputs = first.fitted_.inputs(x, batch_size=batch_size)
        measured = self._extractor.measure(first.model, inputs, batch_size=batch_size)
        return [
            _judged(detector, self._extractor.part(measured, detector.fitted_.extractor.evidence))
            for detector in self.detectors
        ]


def judge(detector: Detector, x: Data) -> tuple[Predictions, Array]:
    """What `DetectorGroup.judge` gives, of a detector by itself."""
    fitted, batch_size = detector.fitted_, detector.batch_size
    inputs = fitted.inputs(x, batch_size=batch_size)
    return _judged(detector, fitted.extractor.measure(detector.model, inputs, batch_size=batch_size))


def _judged(detector: Detector, measured: EvidenceFeatures) -> tuple[Predictions, Array]:
    predictions = detector.fitted_.predictions(measured, detector.settings.level)
    return predictions, named_causes(detector.fitted_, measured, predictions)


def named_causes(fitted: FittedDetector, measured: EvidenceFeatures, predictions: Predictions) -> Array:
    """The cause that an explanation would name of each input (N,): its place among `CAUSES`, or one of the two
    numbers below 0. Unlike explanations it takes no CSM."""
    found = np.full(len(predictions), float(TRUSTED))
    causes = fitted.fusion.likely_causes(fitted.fusion.group_surprisal(fitted.scores(measured)))
    for row in (~predictions.trusted).nonzero()[:, 0].tolist():
        cause = causes[row]
        found[row] = UNNAMED if cause is None else CAUSES.index(cause)
    return found


def _union(evidence: Sequence[tuple[Evidence, ...]]) -> tuple[Evidence, ...]:
    return tuple({e.name: e for own in evidence for e in own}.values())
