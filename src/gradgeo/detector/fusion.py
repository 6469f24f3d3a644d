"""Joining the one-class scores of several kinds of evidence into one outlier score.

Each evidence is blind to some cause, and on that cause its score is noise. Written as surprise, -log P(score >= s) over
trusted inputs, scores of any kind compare. Summed (Fisher 1932, "Statistical methods for research workers"), many quiet
alarms count as much as a loud one, but every further member dilutes what a single one knows; the largest alone does the
opposite. We add powers of 1.5, between the two, in two steps: first over the evidence that answers one question, whose
sum becomes a surprise again, then over the questions. So ten ways to look at the geometry do not outvote the one that
knows of mistakes. results/evidence.md compares this with other ways.

Evidence is dependent, so the sum has no known distribution and claims none: split conformal calibration of the sum is
what makes the p-value valid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, IntArray
from gradgeo.detector.one_class import OneClass, interpolate

FOLDS = 5
LEVELS = 91  # quantiles from 0 to `BODY`
POWER = 1.5
BODY = 0.9  # beyond this quantile the tail is taken to be exponential


@dataclass(frozen=True)
class TailSurprisal:
    """-log P(score >= s) of each member over trusted inputs: its quantiles, then an exponential tail.

    The tail is extrapolated by its mean excess, so an input beyond all that was ever seen counts by how far beyond.
    """

    quantiles: Array  # (M, LEVELS) of each member's scores
    excess: Array  # (M,) mean excess over the last quantile

    @classmethod
    def fit(cls, scores: Array) -> "TailSurprisal":
        """Learn from scores (n, M) of trusted inputs that the members were not fitted on."""
        quantiles = np.quantile(scores, np.linspace(0, BODY, LEVELS), axis=0).T
        beyond = np.clip(scores - quantiles[:, -1], 0, None)
        count = np.maximum((beyond > 0).sum(0), 1)
        body = np.maximum(quantiles[:, -1] - quantiles[:, 0], 1e-12)
        return cls(np.ascontiguousarray(quantiles), np.maximum(beyond.sum(0) / count, 1e-9 * body))

    def of(self, scores: Tensor) -> Tensor:
        """TailSurprisal (N, M), 0 or more, of scores (N, M), differentiable."""
        knots = torch.from_numpy(self.quantiles)
        levels = -torch.log1p(-torch.linspace(0, BODY, LEVELS, dtype=knots.dtype)).expand_as(knots).contiguous()
        rows = scores.T.contiguous()
        # From above: a score that fills several quantiles counts as the least of them.
        within = -interpolate(-rows, -knots.flip(1), -levels.flip(1))
        beyond = (rows - knots[:, -1:]).clamp_min(0) / torch.from_numpy(self.excess)[:, None]
        return (within + beyond).T


@dataclass(frozen=True)
class EvidenceFusion:
    """A one-class model for each evidence, how surprising each of its scores is, and which question it answers."""

    members: tuple[OneClass, ...]
    questions: tuple[str, ...]  # of each member
    surprise: TailSurprisal  # of each member's score
    together: TailSurprisal  # of each question's sum, in the order of `asked`

    @property
    def asked(self) -> tuple[str, ...]:
        """The questions, each once."""
        return tuple(dict.fromkeys(self.questions))

    @classmethod
    def fit(
        cls,
        kinds: Sequence[type[OneClass]],
        questions: Sequence[str],
        features: Sequence[Array],
        predicted: IntArray,
        num_classes: int,
        *,
        seed: int,
    ) -> "EvidenceFusion":
        """Fit a model of each kind on its features (n, F_m); surprise is learned on folds that were left out."""
        n = len(predicted)
        folds = min(FOLDS, n)
        fold = np.random.default_rng(seed).permutation(n) % folds
        scores = np.empty((n, len(kinds)))
        for left in range(folds):
            out = fold == left
            for m, (kind, table) in enumerate(zip(kinds, features, strict=True)):
                model = kind.fit(table[~out], predicted[~out], num_classes)
                scored = model.score(torch.from_numpy(table[out]), torch.from_numpy(predicted[out]))
                scores[out, m] = scored.numpy()
        members = tuple(kind.fit(t, predicted, num_classes) for kind, t in zip(kinds, features, strict=True))
        alone = TailSurprisal.fit(scores)
        sums = _sums(alone.of(torch.from_numpy(scores)), questions)
        return cls(members, tuple(questions), alone, TailSurprisal.fit(sums.numpy()))

    def scores(self, features: Sequence[Tensor], predicted: Tensor) -> Tensor:
        """The score of each member (N, M) from its features (N, F_m)."""
        return torch.stack([m.score(t, predicted) for m, t in zip(self.members, features, strict=True)], dim=1)

    def answers(self, scores: Tensor) -> Tensor:
        """The surprise of each question (N, Q) from the members' scores (N, M)."""
        return self.together.of(_sums(self.surprise.of(scores), self.questions))

    def join(self, scores: Tensor) -> Tensor:
        """One outlier score (N,) of the members' scores (N, M); of a single member, its score itself."""
        return scores[:, 0] if scores.shape[1] == 1 else _power(self.answers(scores)).sum(1)


def _sums(surprise: Tensor, questions: Sequence[str]) -> Tensor:
    """The sum of powers (N, Q) over the members (N, M) of each question."""
    raised = _power(surprise)
    asked = dict.fromkeys(questions)
    members = [[m for m, q in enumerate(questions) if q == question] for question in asked]
    return torch.stack([raised[:, own].sum(1) for own in members], dim=1)


def _power(surprise: Tensor) -> Tensor:
    return surprise**POWER
