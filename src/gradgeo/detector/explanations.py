"""Why a verdict fell as it did: each evidence, question and statistic of an input beside those of trusted inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.detector import conformal
from gradgeo.detector.evidence import Evidence
from gradgeo.detector.extraction import EvidenceFeatures
from gradgeo.detector.fusion import EvidenceFusion
from gradgeo.detector.one_class import QUANTILES, normal_scores
from gradgeo.detector.results import EvidenceScore, Explanation, Predictions, Reference, Statistic, likely_cause


@dataclass(frozen=True)
class References:
    """The calibration inputs, as features only: what explanations compare with."""

    reference_index: IntArray  # positions in the fit data
    reference_label: IntArray
    reference_features: Array  # (n, F), those with names
    reference_scores: Array  # (n, M) of each evidence

    def p_values(self, scores: Tensor) -> Array:
        """Split-conformal p-values (N, M) of the score of each evidence."""
        known = np.sort(self.reference_scores, axis=0)
        return np.stack(
            [conformal.p_values(k, s) for k, s in zip(known.T, scores.numpy().T, strict=True)], axis=1
        ).reshape(scores.shape)

    def statistics(self, names: Sequence[str], features: Array) -> list[dict[str, Statistic]]:
        """The named features (N, F) of each input beside the trusted range, the most unusual first."""
        table = self.reference_features
        low, high = np.quantile(table, [0.05, 0.95], axis=0)
        found = []
        for row in features:
            below, above = (1 + (table <= row).sum(0)), (1 + (table >= row).sum(0))
            p = np.where(np.isnan(row), np.nan, np.minimum(1, 2 * np.minimum(below, above) / (len(table) + 1)))
            found.append(
                {
                    names[j]: Statistic(float(row[j]), float(p[j]), (float(low[j]), float(high[j])))
                    for j in np.argsort(p, kind="stable")
                }
            )
        return found

    def nearest(self, features: Array, alive: BoolArray) -> list[Reference | None]:
        """The calibration input whose normal scores of the named features are nearest."""
        count = min(QUANTILES, len(self.reference_features))
        knots = np.quantile(self.reference_features, np.linspace(0, 1, count), axis=0)
        ours, theirs = (
            normal_scores(torch.from_numpy(t), torch.from_numpy(knots)) for t in (features, self.reference_features)
        )
        distance, index = torch.cdist(ours.nan_to_num(0.0), theirs).min(1)
        return [
            Reference(int(self.reference_index[j]), int(self.reference_label[j]), float(distance[i]))
            if alive[i]
            else None
            for i, j in enumerate(index.tolist())
        ]


def named(evidence: Sequence[Evidence], features: Sequence[Array]) -> tuple[list[str], Array]:
    """The features that have names, each name once: the names, and the columns side by side (N, F)."""
    columns = {
        name: table[:, j] for table, e in zip(features, evidence, strict=True) for j, name in enumerate(e.features)
    }
    table = np.stack(list(columns.values()), axis=1) if columns else np.empty((len(features[0]), 0))
    return list(columns), table


def explanations(
    predictions: Predictions,
    measured: EvidenceFeatures,
    scores: Tensor,
    evidence: Sequence[Evidence],
    joint: EvidenceFusion,
    references: References,
) -> list[Explanation]:
    """An explanation of each row of `predictions`, from what was measured of it, its CSM included, and the score
    (N, M) of each evidence."""
    assert measured.csm is not None
    assert measured.classes is not None
    names, table = named(evidence, measured.features)
    statistics, nearest = references.statistics(names, table), references.nearest(table, measured.alive)
    p, surprise = references.p_values(scores), joint.surprise.of(scores).numpy()
    answers = joint.answers(scores).tolist()
    made = []
    for i in range(len(predictions)):
        voices = [(e.name, EvidenceScore(float(p[i, m]), float(surprise[i, m]))) for m, e in enumerate(evidence)]
        questions = dict(sorted(zip(joint.asked, answers[i], strict=True), key=lambda pair: -pair[1]))
        trusted = bool(predictions.trusted[i])
        made.append(
            Explanation(
                label=int(predictions.label[i]),
                probability=float(predictions.probability[i]),
                outlier_score=float(predictions.outlier_score[i]),
                p_value=float(predictions.p_value[i]),
                trusted=trusted,
                cause=None if trusted else likely_cause(questions),
                questions=questions,
                evidence=dict(sorted(voices, key=lambda pair: -pair[1].surprise)),
                statistics=statistics[i],
                classes=tuple(measured.classes[i].tolist()),
                csm=measured.csm[i],
                nearest=nearest[i],
            )
        )
    return made
