"""From what was measured of inputs that were not learned from to what traffic is compared with."""

import numpy as np

from gradgeo._typing import Array, IntArray
from gradgeo.detector.calibration.calibration_set import CalibrationSet
from gradgeo.detector.explanations import named_features
from gradgeo.detector.extraction import EvidenceExtractor, EvidenceFeatures
from gradgeo.detector.fusion import EvidenceFusion


def calibration_set(
    extractor: EvidenceExtractor, fusion: EvidenceFusion, measured: EvidenceFeatures, rows: IntArray
) -> CalibrationSet:
    """The inputs at `rows` (n,) of the data, as they were `measured`."""
    scores = fusion.scores(measured.features, measured.label)  # (n, M)
    return CalibrationSet(
        outlier_scores=np.sort(fusion.fuse(scores).numpy()),
        rows=rows,
        labels=measured.label.numpy(),
        features=named_features(extractor.evidence, measured.features)[1].numpy(),
        scores=scores.numpy(),
    )


def outlier_scores(fusion: EvidenceFusion, measured: EvidenceFeatures) -> Array:
    """(m,) of those that have gradients, ascending."""
    measured = measured[np.flatnonzero(measured.has_gradient.numpy())]
    if not len(measured.label):
        return np.empty(0)
    return np.sort(fusion.fuse(fusion.scores(measured.features, measured.label)).numpy())
