"""Detectors that differ in their evidence alone, fitted and run by one set of passes over the inputs."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from gradgeo.detector.detector import Detector
from gradgeo.detector.evidence import Evidence
from gradgeo.detector.fitting import measure_trusted
from gradgeo.detector.inputs import Data
from gradgeo.detector.results import Predictions
from gradgeo.detector.survey import DataScan
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
        fresh = [copy.copy(detector) for detector in self.detectors]
        model, batch_size = fresh[0].model, fresh[0].batch_size
        survey = DataScan.of(model, data, labels, batch_size=batch_size)
        survey.told()
        splits = [detector._prepare(survey) for detector in fresh]
        if any(list(split.fit) != list(splits[0].fit) for split in splits):
            raise expected("data", "so many that all detectors learn from the same inputs", len(survey.usable))
        own = [detector._instrument.evidence for detector in fresh]
        union = replace(fresh[0]._instrument, evidence=_union(own))
        self._instrument, measured = measure_trusted(model, data, survey, splits[0], union, batch_size=batch_size)
        for detector, evidence, split in zip(fresh, own, splits, strict=True):
            detector._learn(survey, split, *self._instrument.only(evidence, measured))
        for detector, made in zip(self.detectors, fresh, strict=True):
            vars(detector).update(vars(made))
        return self

    def predict(self, x: Data) -> list[Predictions]:
        """What `Detector.predict` gives, of each detector."""
        first = self.detectors[0]
        measured = self._instrument.measure(first.model, first._inputs(x), batch_size=first.batch_size)
        return [
            detector._verdicts(self._instrument.only(detector._evidence, measured)[1]) for detector in self.detectors
        ]


def _union(evidence: Sequence[tuple[Evidence, ...]]) -> tuple[Evidence, ...]:
    return tuple({e.name: e for own in evidence for e in own}.values())
