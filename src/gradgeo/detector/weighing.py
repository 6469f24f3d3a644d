"""How much each question counts in the outlier score of one classifier, and which cause a flag names.

No evidence deserves the same trust on every classifier: one knows when it doubts, another is sure of everything; of one
the features tell other data apart, of another they do not. Trusted inputs alone tell which: outliers made from them,
and the inputs that the classifier gets wrong, rank evidence much as real outliers and attacks do (results/battery.md).
No outlier of the user's is looked at, and no input that calibrates, so p-values stay exact.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.detector.one_class.base import Layout, checked_arrays, ensure

MISTAKE = "mistake"
"""The family of inputs that the classifier gets wrong; the others are those of made outliers."""

GRID = (0.5, 1.0, 2.0, 3.0)  # weights that are tried
ROUNDS = 3  # over all questions
PRIOR = 0.4  # AUROC in % that a weight of 2 or 1/2 must gain over 1: a few dozen inputs of a kind decide
LEAST_MISTAKES = 15
REAL = 2.0  # how many times mistakes count: they are real, all other suspects are made
STRESSED = 3.0  # how many times as much a family counts that the user stresses

EMPHASES: Mapping[str, tuple[str, ...]] = {
    "mistakes": (MISTAKE,),
    "ood": ("mixed", "noise", "level", "structure"),
    "attacks": ("attack",),
}
"""What a user may stress, and the families of suspects that stand for it."""

CAUSES = ("unstable", "unlike", "undecided")
"""What a flagged input most looks like."""

_RARITY = np.array([0.5, 1.0, 1.0])
"""How much each of them weighs where causes are learned: attacks are rarer than odd inputs and mistakes, so a flag says
"unstable" only where that is twice as likely as each of the others."""

_INVERSE_PENALTY = 0.3  # scikit-learn's C: slopes stay small, for attacks met in use are stronger than those made here
_NEVER = -1e6  # the intercept of a cause that is named of no input: a file holds finite numbers

_CAUSE_OF = {"attack": 0, "noise": 1, "level": 1, "structure": 1, "mixed": 2, MISTAKE: 2}


@dataclass(frozen=True)
class Suspects:
    """Inputs that ought to be flagged, by what is known of trusted inputs alone."""

    surprisal: Array
    """(S, Q) of each question, by models that have not seen what they were made from."""
    kind: IntArray
    """(S,) of each the index of its kind."""
    families: tuple[str, ...]
    """Of each kind."""

    def of_family(self) -> dict[str, list[Array]]:
        """The surprisal of each kind, by family, of those that are enough to go by."""
        found: dict[str, list[Array]] = {}
        for number, family in enumerate(self.families):
            rows = self.surprisal[self.kind == number]
            if len(rows) >= (LEAST_MISTAKES if family == MISTAKE else 1):
                found.setdefault(family, []).append(rows)
        return found


@dataclass(frozen=True)
class Weighing:
    """The weights of the questions, and how well they tell each family of suspects from trusted inputs."""

    weights: Array
    """(Q,)"""
    families: dict[str, tuple[float, float]]
    """AUROC in % of the mean over kinds: with equal weights, with these."""

    def facts(self) -> dict[str, Any]:
        """For a file and for people."""
        return {name: [round(before, 2), round(after, 2)] for name, (before, after) in self.families.items()}


Count = Callable[[Tensor], Tensor]
"""What each question adds (N, Q) by its surprisal (N, Q), before its weight."""


def weigh(trusted: Array, suspects: Suspects, count: Count, emphasis: str | None = None) -> Weighing:
    """The weights that tell suspects best from trusted inputs, as a mean over families, mistakes counted `REAL` times.

    One weight after the other takes the best of `GRID`, `ROUNDS` times over; leaving 1 costs `PRIOR`.

    Args:
        trusted: (n, Q) surprisal of trusted inputs, by models that have not seen them.
        suspects: of the same questions.
        count: of surprisal, before questions are weighed and added.
        emphasis: of `EMPHASES`, whose families count `STRESSED` times as much.
    """
    base, families = _counted(trusted, count), suspects.of_family()
    raised = {family: [_counted(rows, count) for rows in kinds] for family, kinds in families.items()}
    stressed = () if emphasis is None else EMPHASES[emphasis]
    share = np.array([(REAL if f == MISTAKE else 1.0) * (STRESSED if f in stressed else 1.0) for f in raised])

    def areas(weights: Array) -> Array:
        joined = np.sort(base @ weights)  # (n,)
        return np.array([np.mean([_area(joined, kind @ weights) for kind in kinds]) for kinds in raised.values()])

    def gain(weights: Array) -> float:
        return float(areas(weights) @ share / share.sum() - PRIOR * np.square(np.log2(weights)).sum())

    equal = np.ones(trusted.shape[1])
    weights, best = equal.copy(), gain(equal)
    for _ in range(ROUNDS):
        before = weights.copy()
        for q in range(len(weights)):
            for value in GRID:
                tried = weights.copy()
                tried[q] = value
                if (found := gain(tried)) > best + 1e-9:
                    weights, best = tried, found
        if (weights == before).all():
            break
    both = zip(areas(equal).tolist(), areas(weights).tolist(), strict=True)
    return Weighing(weights, dict(zip(raised, both, strict=True)))


def _counted(surprisal: Array, count: Count) -> Array:
    return count(torch.from_numpy(surprisal)).numpy()


def _area(trusted: Array, suspects: Array) -> float:
    """AUROC in % of scores, the trusted ones ascending; a tie counts half."""
    below = np.searchsorted(trusted, suspects, "left") + np.searchsorted(trusted, suspects, "right")
    return float(below.mean()) / (2 * len(trusted)) * 100


@dataclass(frozen=True)
class CauseModel:
    """Which cause the surprisal of the questions speaks for: a multinomial logistic regression."""

    LAYOUT: ClassVar[Layout] = {"coefficient": ("f8", ("causes", "questions")), "intercept": ("f8", ("causes",))}

    coefficient: Array
    """(3, Q), of the logarithm of 1 + surprisal."""
    intercept: Array
    """(3,)"""

    @classmethod
    def fit(cls, suspects: Suspects) -> Self | None:
        """Fit to suspects, causes weighted by `_RARITY`; None where fewer than two of `CAUSES` have any.

        A cause without suspects is named of no input.
        """
        from sklearn.linear_model import LogisticRegression

        known = np.array([_CAUSE_OF[family] for family in suspects.families])
        cause = known[suspects.kind]  # (S,)
        counts = np.bincount(cause, minlength=len(CAUSES))
        present = np.flatnonzero(counts)
        if len(present) < 2:
            return None
        weight = _RARITY[cause] * len(cause) / len(present) / counts[cause]  # (S,)
        model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000).fit(
            np.log1p(suspects.surprisal), cause, sample_weight=weight
        )
        slope, offset = model.coef_, model.intercept_
        if len(present) == 2:  # scikit-learn then gives the second against the first
            slope, offset = np.concatenate([-slope, slope]) / 2, np.concatenate([-offset, offset]) / 2
        coefficient, intercept = np.zeros((len(CAUSES), slope.shape[1])), np.full(len(CAUSES), _NEVER)
        coefficient[present], intercept[present] = slope, offset
        return cls(coefficient, intercept)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], questions: int) -> Self:
        """Of arrays read from a file; ValueError where they are not what `fit` makes of this many `questions`."""
        return cls(**checked_arrays(cls.LAYOUT, arrays, {"causes": len(CAUSES), "questions": questions}))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: logit i is intercept[i] + the sum over questions q of coefficient[i][q] * log1p(surprisal[q])."""
        return {
            "names": list(CAUSES),
            "coefficient": self.coefficient.tolist(),
            "intercept": self.intercept.tolist(),
        }

    def names(self, surprisal: Tensor) -> list[str]:
        """The cause of each input, by the surprisal (N, Q) of its questions."""
        logits = torch.log1p(surprisal) @ torch.from_numpy(self.coefficient).T + torch.from_numpy(self.intercept)
        return [CAUSES[i] for i in logits.argmax(1).tolist()]


def checked_weights(weights: Array, questions: int) -> Array:
    """Those read from a file; ValueError where they are not what `weigh` gives."""
    (weights,) = checked_arrays(
        {"weights": ("f8", ("questions",))}, {"weights": weights}, {"questions": questions}
    ).values()
    ensure(bool((weights > 0).all()), "weights are not positive")
    return weights


def flagged(trusted: Array, suspects: Suspects, weights: Array, count: Count, share: float = 0.95) -> Suspects:
    """The suspects whose score lies above that of a `share` of the trusted inputs (n, Q): only they need a cause."""
    bound = np.quantile(_counted(trusted, count) @ weights, share)
    rows: BoolArray = _counted(suspects.surprisal, count) @ weights > bound
    return Suspects(suspects.surprisal[rows], suspects.kind[rows], suspects.families)


def question_groups(questions: Sequence[str]) -> list[list[int]]:
    """The positions of the members of each question, in the order in which questions first come."""
    return [[m for m, q in enumerate(questions) if q == name] for name in dict.fromkeys(questions)]
