"""A new calibration set for the scorer of a fitted detector: for a site of its own, or as time goes by."""

from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader, Dataset

from gradgeo.classifier.wrapper import Model
from gradgeo.detector.calibration.mondrian import CalibrationGroups, group_names
from gradgeo.detector.file.document import LONGEST_REASON
from gradgeo.detector.fit.data_record import today
from gradgeo.detector.fit.held_out import calibration_set, outlier_scores
from gradgeo.detector.fit.reading import LabelledReading
from gradgeo.detector.fitted import Ancestor, FittedDetector
from gradgeo.detector.inputs import Data, for_model
from gradgeo.detector.learned import Learned
from gradgeo.detector.settings import Settings
from gradgeo.errors import ArgumentError, expected, public_as


class Recalibrated(Learned):
    """What makes a detector with another calibration set out of a fitted one."""

    model: Model
    notes: dict[str, Any]

    @abstractmethod
    def adopt(self, fitted: FittedDetector) -> Self:
        """Judge by what was learned elsewhere."""

    @abstractmethod
    def digest(self) -> str:
        """Tells two fitted detectors apart."""

    @public_as("Detector.recalibrate")
    def recalibrate(
        self,
        data: ArrayLike | Dataset[Any] | DataLoader[Any],
        labels: ArrayLike | None = None,
        *,
        groups: Sequence[int | str] | ArrayLike | None = None,
        why: str,
    ) -> Self:
        """A new detector with the same scorer, whose p-values compare with the inputs of `data` alone.

        For another site, scanner or season, where `gradgeo.check` finds that the stated rate does not hold: outlier
        scores stay as they are, and the false-alarm rate holds for inputs exchangeable with these. This detector stays
        as it is; the new one names it, by its digest, and why (`lineage_`).

        Args:
            data: inputs as in `fit`, of the place where the new detector is to judge: a few hundred, drawn as they
                come, none of which it was fitted on. All calibrate.
            labels: (N,) true classes. Where there are labels only right predictions calibrate; without, all inputs are
                taken to be trustworthy.
            groups: (N,) as in `fit`; the groups of this detector do not go over.
            why: what is to stand in the new file, at most 1,000 characters.

        Cost: that of `predict`.

        Raises: ArgumentError for fewer right predictions than flagging takes, labels that are none of the classes, or
            inputs of another shape.
        """
        if not isinstance(why, str) or not why.strip() or len(why) > LONGEST_REASON:
            raise expected("why", f"a text of at most {LONGEST_REASON} characters", why, "It stands in the new file.")
        ancestor = Ancestor(self.digest(), why, today())
        fitted = recalibrated(self.fitted_, self.model, data, labels, groups, self.settings)
        arguments = {field.name: getattr(self, field.name) for field in fields(Settings)}
        make: Any = type(self)
        detector: Self = make(self.model, **arguments)
        detector.adopt(replace(fitted, lineage=(ancestor, *self.fitted_.lineage)))
        detector.notes = deepcopy(self.notes)
        return detector


def recalibrated(
    fitted: FittedDetector, model: Model, data: Data, labels: Any, groups: Any, settings: Settings
) -> FittedDetector:
    """What was fitted, with the right predictions of `data` as its calibration set; see `Recalibrated.recalibrate`."""
    reading = LabelledReading(fitted, for_model(model, data), labels, batch_size=settings.batch_size)
    measured = fitted.extractor.measure(model, reading, batch_size=settings.batch_size)
    label = measured.label.numpy()  # (N,)
    names = None if groups is None else group_names(groups, len(label))
    usable = measured.has_gradient.numpy()
    right = reading.right(label, usable)
    trusted = usable & right & ~reading.copies
    rows, needed = np.flatnonzero(trusted), settings.level.least
    misclassified, unusable = int((usable & ~right).sum()), int((~usable).sum())
    if len(rows) < needed:
        raise ArgumentError(
            f"expected at least {needed} trusted inputs to calibrate alpha = {settings.alpha}, got {len(rows)} of "
            f"{len(label)} inputs: {misclassified} are misclassified, {unusable} unusable, "
            f"{int((usable & right & reading.copies).sum())} copies of others. Give more data."
        )
    known = CalibrationGroups.of(names, len(label), rows)
    if known is not None:
        known.warn_of_few(needed)
    mistakes = measured[np.flatnonzero(usable & ~right)]
    return replace(
        fitted,
        calibration=calibration_set(fitted.extractor, fitted.fusion, measured[rows], rows),
        misclassified=misclassified,
        unusable=unusable,
        groups=known,
        mistakes=outlier_scores(fitted.fusion, mistakes),
    )
