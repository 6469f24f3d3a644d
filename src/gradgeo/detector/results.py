"""What a detector answers: a verdict for each prediction, and what it rests on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from gradgeo.detector import html_repr as notebook


@dataclass(frozen=True)
class Predictions:
    """The classifier's predictions of a batch and whether to trust each; every field is a CPU tensor of shape (N,).

    A row that cannot be judged (NaN or infinite input or logits, or no gradient at all) has `outlier_score` and
    `p_value` NaN and `trusted` False; its `label` is -1 where the logits are not finite.
    """

    label: Tensor  # int64, the predicted class
    probability: Tensor  # float64, its softmax probability
    outlier_score: Tensor  # float64, larger = less trustworthy
    p_value: Tensor  # float64, split-conformal
    trusted: Tensor  # bool, p_value > alpha

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice | Tensor | NDArray[Any]) -> "Predictions":
        """Those of some rows."""
        return Predictions(*(getattr(self, f.name)[rows] for f in fields(self)))

    def __repr__(self) -> str:
        return f"Predictions({len(self)} inputs, {int(self.trusted.sum())} trusted)"

    def _repr_html_(self) -> str:
        return notebook.predictions(self)


@dataclass(frozen=True)
class EvidenceScore:
    """What one evidence says of one input."""

    p_value: float  # split-conformal, of this evidence alone
    surprise: float  # its share of the outlier score: -log P(as unusual | trusted), extrapolated beyond what was seen


@dataclass(frozen=True)
class Statistic:
    """One feature of one input beside the trusted inputs' range."""

    value: float
    p_value: float  # two-sided rank among the calibration inputs
    typical: tuple[float, float]  # 5 % and 95 % quantile over the calibration inputs


@dataclass(frozen=True)
class Reference:
    """The calibration input whose features are nearest."""

    index: int  # its position in the data given to `fit`
    label: int  # its predicted class
    distance: float  # Euclidean, between normal scores of the features


CAUSES = ("attack-like", "ood-like", "ambiguous")


def likely_cause(surprise: Mapping[str, float]) -> str | None:
    """What a flagged input most looks like, by which question is surprised; None without these questions, or where
    they have no answer because the input cannot be judged.

    "attack-like": its prediction does not survive small changes of the input as trusted ones do, or the classifier is
    surer of it than of half the trusted inputs, as it is of strong attacks. "ood-like": the classifier is unsure, and
    features are further from trusted ones than its doubt explains. "ambiguous": doubt leads, as for mistakes, inputs
    at a boundary and near-OOD ones. results/evidence.md counts how often each is right.
    """
    if not {"confidence", "features", "stability"} <= surprise.keys() or any(math.isnan(v) for v in surprise.values()):
        return None
    doubt, features, unstable = (surprise[name] for name in ("confidence", "features", "stability"))
    if unstable > max(doubt, features) or doubt < math.log(2):
        return "attack-like"
    return "ood-like" if features > doubt else "ambiguous"


SHOWN = 10  # statistics in the text of an explanation


@dataclass(frozen=True)
class Explanation:
    """Why one prediction is trusted or not."""

    label: int
    probability: float
    outlier_score: float
    p_value: float
    trusted: bool
    cause: str | None  # of `CAUSES`; None for a trusted input, and where the evidence cannot tell
    questions: dict[str, float]  # surprise by question, the loudest first
    evidence: dict[str, EvidenceScore]  # by name, the loudest first
    statistics: dict[str, Statistic]  # by feature name, the most unusual first
    classes: tuple[int, ...]  # the classes of the rows and columns of the CSM
    csm: Tensor  # (K, K)
    nearest: Reference | None  # None for an input that cannot be judged

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON (NaN becomes None)."""
        return {
            "label": self.label,
            "probability": _number(self.probability),
            "outlier_score": _number(self.outlier_score),
            "p_value": _number(self.p_value),
            "trusted": self.trusted,
            "cause": self.cause,
            "questions": {name: _number(surprise) for name, surprise in self.questions.items()},
            "evidence": {
                name: {"p_value": _number(v.p_value), "surprise": _number(v.surprise)}
                for name, v in self.evidence.items()
            },
            "statistics": {
                name: {
                    "value": _number(s.value),
                    "p_value": _number(s.p_value),
                    "typical": [_number(v) for v in s.typical],
                }
                for name, s in self.statistics.items()
            },
            "classes": list(self.classes),
            "csm": [[_number(v) for v in row] for row in self.csm.tolist()],
            "nearest": None if self.nearest is None else vars(self.nearest),
        }

    def __str__(self) -> str:
        verdict = "trusted" if self.trusted else "not trusted"
        head = f"class {self.label} (probability {self.probability:.3f}): {verdict}, p = {self.p_value:.4f}"
        lines = [f"{head}, outlier score {self.outlier_score:.2f}" + (f", {self.cause}" if self.cause else "")]
        lines += [f"  {name:<16} p = {v.p_value:.4f}   surprise {v.surprise:.1f}" for name, v in self.evidence.items()]
        lines += [
            f"  {name:<16} {s.value: .4f}   trusted inputs: {s.typical[0]: .4f} .. {s.typical[1]: .4f}   "
            f"p = {s.p_value:.4f}"
            for name, s in list(self.statistics.items())[:SHOWN]
        ]
        if self.nearest is not None:
            n = self.nearest
            lines.append(f"  nearest trusted input: number {n.index} of the fit data, class {n.label}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Judgement:
    """All that one pass over a batch tells; every tensor is on the CPU."""

    predictions: Predictions
    logits: Tensor  # (N, C), of the same pass; NaN where `label` is -1
    evidence: dict[str, Tensor]  # by name: its split-conformal p-value (N,) alone, float64, NaN where not judged
    explanations: dict[int, Explanation]  # by row, of rows that are not trusted, where asked for


def _number(value: float) -> float | None:
    return None if value != value or value in (float("inf"), float("-inf")) else value
