"""Why a verdict came out as it did: evidence, questions and statistics of an input against those of trusted inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradgeo.detector.calibration.calibration_set import CalibrationSet
from gradgeo.detector.evidence import Evidence
from gradgeo.detector.extraction import EvidenceFeatures
from gradgeo.detector.fusion import EvidenceFusion
from gradgeo.detector.one_class.base import ClassConditionalCopula
from gradgeo.detector.results import EvidenceScore, Explanation, Predictions
from gradgeo.detector.words import InputKind


def named_features(evidence: Sequence[Evidence], features: Sequence[Tensor]) -> tuple[list[str], Tensor]:
    """The features that have names, each name once: the names, and the columns side by side (N, F)."""
    named = {
        name: table[:, j] for table, e in zip(features, evidence, strict=True) for j, name in enumerate(e.features)
    }
    table = torch.stack(list(named.values()), dim=1) if named else features[0][:, :0]
    return list(named), table


def explanations(
    predictions: Predictions,
    measured: EvidenceFeatures,
    scores: Tensor,
    evidence: Sequence[Evidence],
    fusion: EvidenceFusion,
    calibration: CalibrationSet,
    inputs: InputKind,
    class_names: tuple[str, ...] = (),
) -> list[Explanation]:
    """An explanation of each row of `predictions`.

    Args:
        predictions: of N inputs.
        measured: of the same inputs, with the CSM and its classes.
        scores: (N, M) of each evidence.
        evidence: the M kinds.
        fusion: how they become one score.
        calibration: what they are compared with.
        inputs: what they are.
        class_names: for people.
    """
    assert measured.csm is not None
    assert measured.classes is not None
    names, table = named_features(evidence, measured.features)
    statistics, nearest = calibration.statistics(names, table), calibration.nearest(table, measured.has_gradient)
    p_values, surprisal = calibration.evidence_p_values(scores), fusion.by_evidence.of(scores)  # (N, M) each
    by_question = fusion.group_surprisal(scores)  # (N, Q)
    causes = fusion.likely_causes(by_question)
    words = _seen(predictions, measured, evidence, fusion, inputs)
    explained = []
    for i in range(len(predictions)):
        evidence_scores = {
            e.name: EvidenceScore(float(p_values[i, m]), float(surprisal[i, m])) for m, e in enumerate(evidence)
        }
        questions = dict(zip(fusion.question_names, by_question[i].tolist(), strict=True))
        most_surprising = dict(sorted(questions.items(), key=lambda pair: -pair[1]))
        trusted = bool(predictions.trusted[i])
        explained.append(
            Explanation(
                label=int(predictions.label[i]),
                probability=float(predictions.probability[i]),
                outlier_score=float(predictions.outlier_score[i]),
                p_value=float(predictions.p_value[i]),
                trusted=trusted,
                cause=None if trusted else causes[i],
                questions=most_surprising,
                evidence=dict(sorted(evidence_scores.items(), key=lambda pair: -pair[1].surprise)),
                statistics=statistics[i],
                classes=tuple(measured.classes[i].tolist()),
                csm=measured.csm[i],
                nearest=nearest[i],
                class_names=class_names if predictions.label[i] >= 0 else (),
                seen=words[i],
            )
        )
    return explained


def _seen(
    predictions: Predictions,
    measured: EvidenceFeatures,
    evidence: Sequence[Evidence],
    fusion: EvidenceFusion,
    inputs: InputKind,
) -> list[tuple[str, ...]]:
    """`Explanation.seen` of each of N inputs: what each evidence that has words says of it."""
    said: list[tuple[str, ...]] = [()] * len(predictions)
    flagged = torch.nonzero(~predictions.trusted)[:, 0].tolist()
    for e, member, features in zip(evidence, fusion.members, measured.features, strict=True):
        if e.words is None or not isinstance(member, ClassConditionalCopula):
            continue
        low, high = member.quantiles[0].tolist(), member.quantiles[-1].tolist()  # (F,) each
        for i in flagged:
            said[i] += e.words(features[i].tolist(), low, high, inputs)
    return said


def likeliest(explanation: Explanation, logits: Tensor, most: int) -> tuple[list[int], Tensor]:
    """At most so many classes of an explanation's CSM, the likeliest by `logits` (C,) first, and their part of it."""
    ranked = sorted(range(len(explanation.classes)), key=lambda i: -float(logits[explanation.classes[i]]))[:most]
    return [explanation.classes[i] for i in ranked], explanation.csm[ranked][:, ranked]
