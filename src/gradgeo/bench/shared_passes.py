"""Detectors that differ in their evidence alone, fitted and run by one set of passes over the inputs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from gradgeo.detector import fitting
from gradgeo.detector.detector import Detector
from gradgeo.detector.evidence import Evidence
from gradgeo.detector.inputs import Data
from gradgeo.detector.results import Predictions
from gradgeo.errors import expected


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
        model, batch_size, seed = self.detectors[0].model, settings[0].batch_size, settings[0].seed
        scanned = fitting.scan(model, data, labels, batch_size=batch_size)
        scanned.warn_if_unusable()
        trusted, extractors = zip(*(fitting.split(model, scanned, each) for each in settings), strict=True)
        if any(list(other.learn_rows) != list(trusted[0].learn_rows) for other in trusted):
            raise expected("data", "so many that all detectors learn from the same inputs", len(scanned.usable))
        union = replace(extractors[0], evidence=_union([extractor.evidence for extractor in extractors]))
        union, measured = fitting.extract(model, data, trusted[0], union, batch_size=batch_size)
        learned = []
        for rows, extractor in zip(trusted, extractors, strict=True):
            own = union.only(extractor.evidence)
            learned.append(fitting.learn(scanned, rows, own, union.part(measured, own.evidence), seed=seed))
        for detector, fitted in zip(self.detectors, learned, strict=True):
            detector.adopt(fitted)
        self._extractor = union
        return self

    def predict(self, x: Data) -> list[Predictions]:
        """What `Detector.predict` gives, of each detector."""
        first, batch_size = self.detectors[0], self.detectors[0].batch_size
        inputs = first.fitted_.inputs(x, batch_size=batch_size)
        measured = self._extractor.measure(first.model, inputs, batch_size=batch_size)
        return [
            detector.fitted_.predictions(
                self._extractor.part(measured, detector.fitted_.extractor.evidence), detector.settings.level
            )
            for detector in self.detectors
        ]


def _union(evidence: Sequence[tuple[Evidence, ...]]) -> tuple[Evidence, ...]:
    return tuple({e.name: e for own in evidence for e in own}.values())
