"""What a fit learns from: which trusted inputs, and what is measured of them before any evidence is looked at."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from gradgeo._typing import BoolArray, IntArray
from gradgeo.classifier.wrapper import Model
from gradgeo.detector import conformal
from gradgeo.detector.extraction import EvidenceExtractor, EvidenceFeatures
from gradgeo.detector.inputs import Data, batches
from gradgeo.detector.survey import DataScan, first_of, rows_of
from gradgeo.errors import ArgumentError, expected

NEAREST = 256  # trusted inputs whose distances to their boundaries make the radius of the neighbourhood


@dataclass(frozen=True)
class Split:
    """Which trusted inputs are learned from and which are kept apart to calibrate on, by their positions, rising."""

    fit: IntArray
    calibration: IntArray
    learn: int  # inputs that learning takes
    alpha: float

    @classmethod
    def of(cls, survey: DataScan, learn: int, *, calibration: float, alpha: float, seed: int) -> Self:
        """A share of the trusted inputs to calibrate on, drawn by `seed`, and at least `learn` others."""
        _require_enough(survey.trusted, learn, alpha, survey.lost)
        order = np.random.default_rng(seed).permutation(np.flatnonzero(survey.trusted))
        size = conformal.calibration_size(len(order), calibration, alpha, at_most=len(order) - learn)
        return cls(np.sort(order[size:]), np.sort(order[:size]), learn, alpha)

    def alive(self, survey: DataScan, measured: EvidenceFeatures) -> Self:
        """The split without the inputs of which something could not be `measured`."""
        trusted = survey.trusted
        alive = np.zeros_like(trusted)
        alive[trusted] = measured.alive
        dead = f"{int((trusted & ~alive).sum())} have no gradient at all (dead network)"
        _require_enough(alive, self.learn, self.alpha, dead)
        fit, calibration = self.fit[alive[self.fit]], self.calibration[alive[self.calibration]]
        if len(fit) < self.learn or len(calibration) < conformal.needed(self.alpha):
            raise ArgumentError(
                f"expected more inputs with gradients, got {len(fit)} to learn from, {len(calibration)} to calibrate "
                "on after the dead ones were left out. Give more data or a larger alpha."
            )
        return replace(self, fit=fit, calibration=calibration)

    def parts(self, survey: DataScan, measured: EvidenceFeatures) -> tuple[EvidenceFeatures, EvidenceFeatures]:
        """What was measured of the inputs to learn from, and of those to calibrate on."""
        row = np.cumsum(survey.trusted) - 1  # of each input in what was measured
        return measured[row[self.fit]], measured[row[self.calibration]]


def _require_enough(trusted: BoolArray, learn: int, alpha: float, lost: str) -> None:
    calibrate = conformal.needed(alpha)
    if trusted.sum() < calibrate + learn:
        raise ArgumentError(
            f"expected at least {calibrate + learn} trusted inputs ({calibrate} to calibrate alpha = {alpha}, "
            f"{learn} to learn from), got {int(trusted.sum())} of {len(trusted)} inputs: {lost}. "
            "Give more data or a larger alpha."
        )


def measure_trusted(
    model: Model, data: Data, survey: DataScan, split: Split, instrument: EvidenceExtractor, *, batch_size: int
) -> tuple[EvidenceExtractor, EvidenceFeatures]:
    """The second reading: `instrument` with the radius of this classifier, and what it measures of trusted inputs."""
    if any(e.around for e in instrument.evidence):
        near = split.fit[:NEAREST]
        kept = np.zeros(near[-1] + 1, np.bool_)
        kept[near] = True
        inputs = rows_of(first_of(batches(data, batch_size=batch_size, labelled=False), len(kept)), kept)
        instrument = replace(instrument, radius=instrument.typical_radius(model, inputs, batch_size=batch_size))
    inputs = rows_of(batches(data, batch_size=batch_size, labelled=False), survey.trusted)
    measured = instrument.measure(model, inputs, batch_size=batch_size)
    # Another batch may round differently; more than that is another input.
    if (
        len(measured.label) != survey.trusted.sum()
        or np.mean(np.abs(measured.probability - survey.probability[survey.trusted]) > 1e-3) > 0.01
    ):
        raise expected(
            "data",
            "the same at both readings",
            "other predictions at the second",
            "Use a data set without random augmentation and a model that draws no random numbers.",
        )
    return instrument, measured
