"""Fusing the one-class scores of several kinds of evidence into one outlier score.

Each evidence is blind to some cause, and on that cause its score is noise. Written as surprisal, -log P(score >= s)
over trusted inputs, scores of any kind compare. Summed (Fisher 1932, "Statistical methods for research workers"), many
weak alarms count as much as one strong alarm, but every further member dilutes what a single one knows; the largest
alone does the opposite. We add powers of 1.5, between the two, in two steps: first over the evidence that answers one
question, whose sum becomes a surprisal again, then over the questions, each with the weight that it earns on this
classifier (`gradgeo.detector.weighing`). So ten ways to look at the geometry do not outvote the one that knows of
mistakes. Stability, geometry, layers and the input itself tell attacks and odd inputs by extremes; how far an ordinary
value lies from the middle is noise, in which mistakes drown, so they count from a `FLOOR` on. results/evidence.md
compares this with other rules.

Evidence is dependent, so the sum has no known distribution and claims none: split conformal calibration of the sum is
what makes the p-value valid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, IntArray
from gradgeo.detector import weighing
from gradgeo.detector.one_class.base import Layout, OneClass, checked_arrays, ensure
from gradgeo.detector.one_class.numerics import interpolate
from gradgeo.detector.results import likely_cause
from gradgeo.detector.weighing import CauseModel, Suspects, Weighing, question_groups

FOLDS = 5
LEVELS = 91  # quantiles from 0 to `BODY`
POWER = 1.5
FLOOR = {**dict.fromkeys(("stability", "geometry", "layers"), 1.5), "input": 2.5}
"""The surprisal that a question counts from, where not 0: 22 % of trusted inputs have more than 1.5 (exp -1.5), 8 %
more than 2.5."""
FLOOR_FOR_MISTAKES = dict.fromkeys(("stability", "geometry", "layers", "residual", "input"), 3.0)
"""Where a user stresses mistakes: 5 % have more, and confidence and features rank all others."""
ROUNDING = 1e-9  # relative: far more than float64 sums and powers differ by between processors
BODY = 0.9  # beyond this quantile the tail is taken to be exponential
_FALLING = np.log1p(-np.linspace(BODY, 0, LEVELS))  # minus the surprisal of each quantile, from the last to the first


@dataclass(frozen=True)
class TailSurprisal:
    """-log P(score >= s) of each member over trusted inputs: its quantiles, then an exponential tail.

    The tail is extrapolated by its mean excess, so an input beyond all that was ever seen counts by how far beyond.
    """

    LAYOUT: ClassVar[Layout] = {"quantiles": ("f8", ("members", "levels")), "excess": ("f8", ("members",))}

    quantiles: Array
    """(M, LEVELS), ascending, of each member's scores."""
    excess: Array
    """(M,), positive: the mean excess over the last quantile."""

    @classmethod
    def fit(cls, scores: Array) -> Self:
        """Fit to scores (n, M) of trusted inputs that the members were not fitted on."""
        quantiles = np.quantile(scores, np.linspace(0, BODY, LEVELS), axis=0).T  # (M, LEVELS)
        beyond = np.clip(scores - quantiles[:, -1], 0, None)  # (n, M), 0 within the body
        count = np.maximum((beyond > 0).sum(0), 1)
        # Where no score lies beyond the body the tail is as steep as the body's width makes sense of, never zero.
        body = np.maximum(quantiles[:, -1] - quantiles[:, 0], 1e-12)
        return cls(np.ascontiguousarray(quantiles), np.maximum(beyond.sum(0) / count, 1e-9 * body))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], members: int) -> Self:
        """Of arrays read from a file; ValueError where they are not what `fit` makes of this many `members`."""
        read = cls(**checked_arrays(cls.LAYOUT, arrays, {"members": members, "levels": LEVELS}))
        ensure(bool((np.diff(read.quantiles, axis=1) >= 0).all()), "quantiles are not sorted")
        ensure(bool((read.excess > 0).all()), "excess is not positive")
        return read

    def of(self, scores: Tensor) -> Tensor:
        """Surprisal (N, M), 0 or more, of scores (N, M), differentiable."""
        knots = torch.from_numpy(self.quantiles)  # (M, LEVELS)
        rows = scores.T.contiguous()  # (M, N): each member is interpolated over its own knots
        # Interpolated from above: a score that fills several quantiles counts as the smallest of their levels.
        within = -interpolate(-rows, -knots.flip(1), torch.from_numpy(_FALLING).expand_as(knots))
        beyond = (rows - knots[:, -1:]).clamp_min(0) / torch.from_numpy(self.excess)[:, None]
        return (within + beyond).T  # (N, M)


@dataclass(frozen=True)
class EvidenceFusion:
    """A one-class model for each evidence, how surprising each of its scores is, and which question it answers."""

    members: tuple[OneClass, ...]
    """M fitted models, one for each evidence."""
    questions: tuple[str, ...]
    """The question that each member answers (M)."""
    by_evidence: TailSurprisal
    """Of each member's score."""
    by_question: TailSurprisal
    """Of each question's sum of powers, in the order of `question_names`."""
    weights: Array = field(default_factory=lambda: np.ones(0))
    """(Q,) of the questions; equal ones where none are given."""
    floors: Array = field(default_factory=lambda: np.zeros(0))
    """(Q,) the surprisal that each question counts from; 0 where none are given."""
    causes: CauseModel | None = None
    """Which cause a flag names; None where too little was known to learn it."""

    def __post_init__(self) -> None:
        if not len(self.weights):
            object.__setattr__(self, "weights", np.ones(len(self.question_names)))
        if not len(self.floors):
            object.__setattr__(self, "floors", np.zeros(len(self.question_names)))

    @property
    def question_names(self) -> tuple[str, ...]:
        """The Q questions, each once."""
        return tuple(dict.fromkeys(self.questions))

    @classmethod
    def fit(
        cls,
        kinds: Sequence[type[OneClass]],
        questions: Sequence[str],
        features: Sequence[Tensor],
        predicted: Tensor,
        num_classes: int,
        *,
        seed: int,
        made: "MadeOf | None" = None,
        emphasis: str | None = None,
    ) -> tuple[Self, Weighing | None]:
        """Fit a model of each kind on its features (n, F_m), float64, of trusted inputs predicted as (n,) classes.

        A model knows the inputs that it was fitted on, and would call new ones surprising; so the surprisal is learned
        from the scores of `FOLDS` folds, each by models fitted on the others. What `made` holds is scored by those that
        have not seen the inputs it was made from.

        Returns:
            the fusion, and how its questions were weighed; None where `made` is, and all count the same.
        """
        if len(set(questions)) < 2:
            made = None  # there is nothing to weigh, and no input to set aside for it
        n = len(predicted)
        tables, labels = [table.numpy() for table in features], predicted.numpy()
        fold = _folds(n, seed, () if made is None else made.sources)
        scores = np.empty((n, len(kinds)))
        for held_out in range(min(FOLDS, n)):
            out = fold == held_out
            models = [
                kind.fit(table[~out], labels[~out], num_classes) for kind, table in zip(kinds, tables, strict=True)
            ]
            scores[out] = _scores(
                models, [torch.from_numpy(table[out]) for table in tables], predicted[torch.from_numpy(out)]
            )
            if held_out == 0 and made is not None:
                made_scores = torch.from_numpy(_scores(models, made.features, made.label))  # (S, M)
        members = tuple(kind.fit(table, labels, num_classes) for kind, table in zip(kinds, tables, strict=True))
        by_evidence = TailSurprisal.fit(scores)
        sums = _sums(by_evidence.of(torch.from_numpy(scores)), questions)  # (n, Q)
        fusion = cls(
            members, tuple(questions), by_evidence, TailSurprisal.fit(sums.numpy()), floors=_floors(questions, emphasis)
        )
        if made is None:
            return fusion, None
        trusted = fusion.by_question.of(sums).numpy()
        suspects = Suspects(fusion.group_surprisal(made_scores).numpy(), made.kind, made.families)
        weighed = weighing.weigh(trusted, suspects, fusion.counted, emphasis)
        causes = CauseModel.fit(weighing.flagged(trusted, suspects, weighed.weights, fusion.counted))
        return replace(fusion, weights=weighed.weights, causes=causes), weighed

    def scores(self, features: Sequence[Tensor], predicted: Tensor) -> Tensor:
        """The score of each member (N, M) from its features (N, F_m), float64 on the CPU."""
        return torch.stack([m.score(t, predicted) for m, t in zip(self.members, features, strict=True)], dim=1)

    def group_surprisal(self, scores: Tensor) -> Tensor:
        """The surprisal of each question (N, Q) from the members' scores (N, M)."""
        return self.by_question.of(_sums(self.by_evidence.of(scores), self.questions))

    def likely_causes(self, surprisal: Tensor) -> list[str | None]:
        """What each input most looks like, by the surprisal (N, Q) of its questions; None where they cannot tell."""
        if self.causes is None:
            rows = surprisal.tolist()
            return [likely_cause(dict(zip(self.question_names, row, strict=True))) for row in rows]
        undefined = surprisal.isnan().any(1).tolist()
        names = self.causes.names(surprisal)
        return [None if lacking else name for name, lacking in zip(names, undefined, strict=True)]

    def fuse_bounds(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """What `fuse` gives of scores (N, M) on any processor lies between these two (N,).

        Scores and their quantiles are compared as they were stored. The sums between the two steps are rounded, and a
        sum that equals one of its quantiles may come to lie on either side of it; both steps rise with their scores.
        """
        if scores.shape[1] == 1:
            return scores[:, 0], scores[:, 0]
        sums = _sums(self.by_evidence.of(scores), self.questions)  # (N, Q)
        low, high = (self._weighted(self.by_question.of(sums * (1 + e))) * (1 + e) for e in (-ROUNDING, ROUNDING))
        return low, high

    def fuse(self, scores: Tensor) -> Tensor:
        """One outlier score (N,) of the members' scores (N, M); of a single member, its score itself."""
        return scores[:, 0] if scores.shape[1] == 1 else self._weighted(self.group_surprisal(scores))

    def counted(self, surprisal: Tensor) -> Tensor:
        """What each question adds (N, Q) by its surprisal (N, Q), before its weight."""
        return (surprisal - torch.from_numpy(self.floors)).clamp_min(0) ** POWER

    def _weighted(self, surprisal: Tensor) -> Tensor:
        """The score (N,) of the questions' surprisal (N, Q)."""
        return (self.counted(surprisal) * torch.from_numpy(self.weights)).sum(1)


@dataclass(frozen=True)
class MadeOf:
    """What was measured of S inputs that ought to be flagged: made from trusted ones, or misclassified."""

    features: tuple[Tensor, ...]
    """(S, F_m) of each evidence, float64."""
    label: Tensor
    """(S,) predicted classes."""
    kind: IntArray
    """(S,) of each the index of its kind."""
    families: tuple[str, ...]
    """Of each kind."""
    sources: IntArray
    """Which of the trusted inputs that are learned from they were made from; no more than a fold holds."""


def _folds(n: int, seed: int, first: Sequence[int] | IntArray = ()) -> IntArray:
    """The fold (n,) of each input, drawn by the seed; the `first` are all in fold 0."""
    order = np.random.default_rng(seed).permutation(n)
    inside = np.isin(order, np.asarray(first, np.int64))
    order = np.concatenate([order[inside], order[~inside]])
    fold = np.empty(n, np.int64)
    fold[order] = np.arange(n) * min(FOLDS, n) // max(n, 1)
    return fold


def _scores(models: Sequence[OneClass], features: Sequence[Tensor], predicted: Tensor) -> Array:
    """The score (N, M) of each model."""
    return np.stack([m.score(t, predicted).numpy() for m, t in zip(models, features, strict=True)], axis=1)


def _floors(questions: Sequence[str], emphasis: str | None) -> Array:
    """(Q,) the surprisal that each question counts from. Something must rank ordinary inputs: where every question
    would have a floor, none has."""
    floor = FLOOR_FOR_MISTAKES if emphasis == "mistakes" else FLOOR
    floors = np.array([floor.get(name, 0.0) for name in dict.fromkeys(questions)])
    return np.zeros_like(floors) if floors.all() else floors


def checked_floors(floors: Array, questions: int) -> Array:
    """Those read from a file; ValueError where they are not what `fit` gives for so many `questions`."""
    (floors,) = checked_arrays(
        {"floors": ("f8", ("questions",))}, {"floors": floors}, {"questions": questions}
    ).values()
    ensure(
        bool(((floors >= 0) & (floors <= max(FLOOR_FOR_MISTAKES.values()))).all()) and not floors.all(),
        "floors are not those of a fit",
    )
    return floors


def _sums(surprisal: Tensor, questions: Sequence[str]) -> Tensor:
    """The sum of powers (N, Q) over the members (N, M) that answer each question."""
    raised = surprisal**POWER
    return torch.stack([raised[:, group].sum(1) for group in question_groups(questions)], dim=1)  # Q of (N,) -> (N, Q)
