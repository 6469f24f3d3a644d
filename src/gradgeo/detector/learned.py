"""What a fitted detector shows of itself: values that `fit` learned, whose names end in _."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from gradgeo._typing import Array
from gradgeo.detector.calibration.conformal import FalseAlarmRate
from gradgeo.detector.fitted import Ancestor, FittedDetector
from gradgeo.detector.settings import Settings
from gradgeo.errors import NotFittedError, choice, expected, one_line
from gradgeo.geometry.options import Classes


def named(notes: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """The names of classes in notes, which a file brought; empty unless there is one for each, and no two the same."""
    names = notes.get("class_names")
    if not isinstance(names, list | tuple) or not len(set(map(str, names))) == num_classes == len(names):
        return ()
    return tuple(one_line(str(name)) for name in names)


class Learned(ABC):
    """The attributes that a `Detector` has after `fit`; NotFittedError before."""

    _fitted: FittedDetector | None = None
    notes: dict[str, Any]

    @property
    @abstractmethod
    def settings(self) -> Settings:
        """How it was to be fitted, which the detector itself knows."""

    @property
    def fitted_(self) -> FittedDetector:
        """All that `fit` learned, as one frozen record; NotFittedError before."""
        if self._fitted is None:
            raise NotFittedError("the detector is not fitted. Call fit(data) with trusted inputs first.")
        return self._fitted

    @property
    def input_shape_(self) -> tuple[int, ...]:
        """Of one input."""
        return self.fitted_.input_shape

    @property
    def columns_(self) -> tuple[str, ...] | None:
        """The names of an input's entries, by which tables are read; None where `fit` was given none."""
        return self.fitted_.columns

    @property
    def num_classes_(self) -> int:
        """Of the model."""
        return self.fitted_.num_classes

    @property
    def class_names_(self) -> tuple[str, ...]:
        """Of the classes 0, 1, ..., as `notes["class_names"]` has them; empty unless there is one for each."""
        return named(self.notes, self.num_classes_)

    @property
    def classes_(self) -> Classes:
        """Whose saliency maps are made, as `classes` was at `fit`."""
        return self.fitted_.extractor.maps.classes

    @property
    def loss_(self) -> str:
        """Whose gradients the maps are."""
        return self.fitted_.extractor.maps.loss.name

    @property
    def temperature_(self) -> float:
        """At which the loss is differentiated."""
        return self.fitted_.extractor.maps.loss.temperature or 1.0

    @property
    def radius_(self) -> float:
        """Of the neighbourhood, root mean square per input entry, in input units."""
        return self.fitted_.extractor.radius

    @property
    def noise_(self) -> float | None:
        """Standard deviation of the noise that inputs are judged with, in input units; None for none."""
        return self.fitted_.noise

    @property
    def fit_size_(self) -> int:
        """Trusted inputs that were learned from."""
        return self.fitted_.fit_size

    @property
    def calibration_size_(self) -> int:
        """Trusted inputs that p-values compare with."""
        return self.fitted_.calibration_size

    @property
    def misclassified_(self) -> int:
        """Inputs left out because another class is predicted than their label says."""
        return self.fitted_.misclassified

    @property
    def unusable_(self) -> int:
        """Inputs left out because of NaN or infinite values or logits."""
        return self.fitted_.unusable

    @property
    def evidence_(self) -> tuple[str, ...]:
        """The names of the evidence in use: what this model has of `evidence`."""
        return self.fitted_.extractor.names

    @property
    def calibration_scores_(self) -> Array:
        """The outlier scores of the calibration inputs, in rising order: what p-values compare with."""
        return self.fitted_.calibration.outlier_scores.copy()

    @property
    def mistake_p_values_(self) -> Array | None:
        """(m,) p-values of misclassified inputs of `fit`, as large a share of them as calibrates of the others: what
        traffic holds when all is well, besides inputs like those of calibration. For `gradgeo.watch.Watch`. None in a
        detector from a file of an earlier version."""
        return self.fitted_.mistake_p_values

    @property
    def lineage_(self) -> tuple[Ancestor, ...]:
        """The detectors that this one was recalibrated from, the last one first; empty for one that `fit` made."""
        return self.fitted_.lineage

    @property
    def groups_(self) -> tuple[str, ...]:
        """Names of the groups that `fit` was given, in the order in which they occur; empty without."""
        return self.fitted_.groups.names if self.fitted_.groups is not None else ()

    @property
    def false_alarm_rate_(self) -> FalseAlarmRate:
        """How often this detector flags trusted inputs: the mean over calibration sets, and what its own rate exceeds
        with probability 1 - `confidence` only (0.05 where none was given), by alpha and confidence as they are now."""
        return self.settings.level.rate(self.calibration_size_)

    def false_alarm_rates(self, by: str = "class") -> dict[str, FalseAlarmRate]:
        """The same of each predicted class, by number, or with by="group" of each group of `fit`, where `predict` is
        conditional on it. With too few calibration inputs `ranks` is 0, and `predict` compares with all instead."""
        choice("by", by, ("class", "group"))
        if by == "group" and self.fitted_.groups is None:
            raise expected("by", "'class'", by, "The detector was fitted without groups: fit(data, groups=...).")
        return self.fitted_.rates(self.settings.level, by)
