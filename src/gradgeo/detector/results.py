"""What a detector answers: a verdict for each prediction, and what it rests on."""

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgeo.detector import html_repr
from gradgeo.errors import expected, require

Rows = SupportsIndex | slice | Tensor | NDArray[Any] | list[int] | list[bool]


@dataclass(frozen=True)
class Predictions:
    """The classifier's predictions of a batch and whether to trust each; every field is a CPU tensor of shape (N,).

    A row that cannot be judged (NaN or infinite input or logits, or no gradient at all) has `outlier_score` and
    `p_value` NaN and `trusted` False; its `label` is -1 where the logits are not finite.

    Some rows are Predictions again, of any index that a tensor takes; so is a single row, and iteration gives one row
    after another:

        >>> import torch, gradgeo
        >>> p = torch.tensor([0.5, 0.01, 0.25])
        >>> found = gradgeo.Predictions(torch.tensor([3, 1, 4]), p, 1 / p, p, p > 0.05)
        >>> found[found.trusted].label
        tensor([3, 4])
        >>> found[-1]
        Predictions(1 input, 1 trusted)
        >>> [bool(one.trusted) for one in found]
        [True, False, True]
    """

    label: Tensor
    """int64, the predicted class."""
    probability: Tensor
    """float64, its softmax probability."""
    outlier_score: Tensor
    """float64, larger = less trustworthy."""
    p_value: Tensor
    """float64, split-conformal."""
    trusted: Tensor
    """bool, p_value > alpha."""

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: Rows) -> "Predictions":
        """Some rows, by a number, a slice, or a tensor, array or list of positions or of booleans.

        Raises: IndexError for a number beyond the last row; ArgumentError for what is no index of rows.
        """
        chosen = _rows(rows, len(self))
        return type(self)(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def __iter__(self) -> Iterator["Predictions"]:
        """One row after another."""
        return (self[i] for i in range(len(self)))

    def to_pandas(self) -> Any:
        """A pandas data frame with a column for each field and a row for each input.

        Raises: MissingDependencyError: pandas is not installed.
        """
        return require("pandas", "tables").DataFrame({f.name: getattr(self, f.name).numpy() for f in fields(self)})

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The same as an Arrow stream, which polars, DuckDB and Arrow itself read: `pyarrow.table(predictions)`.

        Raises: MissingDependencyError: pyarrow is not installed.
        """
        columns = {f.name: getattr(self, f.name).numpy() for f in fields(self)}
        return require("pyarrow", "parquet").table(columns).__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        inputs = "input" if len(self) == 1 else "inputs"
        return f"Predictions({len(self)} {inputs}, {int(self.trusted.sum())} trusted)"

    def _repr_html_(self) -> str:
        return html_repr.predictions(self)


@dataclass(frozen=True, repr=False)
class ConditionalPredictions(Predictions):
    """`Predictions` whose p-values are among calibration inputs of the same class or group."""

    compared: Tensor
    """int64, how many calibration inputs a p-value compares with: those of its kind, or all where these are too few. No
    p-value is below 1 / (compared + 1)."""


def _rows(rows: Any, count: int) -> slice | Tensor:
    """What picks these rows of `count` from a tensor and leaves a tensor of rows."""
    if isinstance(rows, slice):
        return rows
    if isinstance(rows, SupportsIndex) and not (isinstance(rows, Tensor | np.ndarray) and rows.ndim):
        position = operator.index(rows)
        if not -count <= position < count:
            raise IndexError(f"row {position} of {count} predictions")
        return slice(position % count, position % count + 1)
    try:
        chosen = torch.as_tensor(rows)
        if chosen.dtype == torch.bool and len(chosen) != count:
            raise IndexError
        if not len(chosen):
            return chosen.long()
        if chosen.ndim == 1 and not chosen.is_floating_point():
            return chosen
    except (TypeError, ValueError, RuntimeError, IndexError):
        pass
    raise expected(
        "rows",
        f"a number, a slice, or positions or booleans of {count} rows",
        rows,
        "For a column read the attribute: predictions.trusted.",
    )


@dataclass(frozen=True)
class EvidenceScore:
    """What one evidence says of one input."""

    p_value: float
    """Split-conformal, of this evidence alone."""
    surprise: float
    """Its surprisal, -log P(as unusual | trusted), extrapolated beyond what was seen."""


@dataclass(frozen=True)
class Statistic:
    """One feature of one input and the range it has over trusted inputs."""

    value: float
    p_value: float
    """Two-sided rank among the calibration inputs."""
    typical: tuple[float, float]
    """5 % and 95 % quantile over the calibration inputs."""


@dataclass(frozen=True)
class Reference:
    """The calibration input whose features are nearest."""

    index: int
    """Its position in the data given to `fit`."""
    label: int
    """Its predicted class."""
    distance: float
    """Euclidean, between normal scores of the features."""


CAUSE_WORDS = {
    "unstable": "unstable under small changes, as attacked inputs are",
    "unlike": "unlike the trusted inputs: other or spoilt data",
    "undecided": "undecided between classes",
}
"""What a flagged input most looks like, in words."""


def likely_cause(surprisal: Mapping[str, float]) -> str | None:
    """What a flagged input most looks like, by the surprisal of each question, where `fit` could not learn to tell:
    None without confidence and features, or where they have no answer because the input cannot be judged.

    "unstable": its prediction does not survive small changes of the input as trusted ones do, or the classifier is
    surer of it than of half the trusted inputs, as it is of strong attacks. "unlike": the classifier is unsure, and
    features, or the input itself, are further from trusted ones than its doubt explains. "undecided": doubt is the most
    surprising, as for mistakes, inputs at a boundary and near-OOD ones. results/battery.md counts how often each is
    named.

    Of texts, which no small change is made of, it is one of the last two, by the larger of features and layers.
    """
    if not {"confidence", "features"} <= surprisal.keys() or any(math.isnan(v) for v in surprisal.values()):
        return None
    doubt, apart = surprisal["confidence"], max(surprisal["features"], surprisal.get("input", 0.0))
    if "stability" not in surprisal:
        return "unlike" if max(apart, surprisal.get("layers", 0.0)) > doubt else "undecided"
    unstable = surprisal["stability"]
    if unstable > max(doubt, apart) or doubt < math.log(2):
        return "unstable"
    return "unlike" if apart > doubt else "undecided"


SHOWN = 10  # statistics in the text of an explanation


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why one prediction is trusted or not."""

    label: int
    probability: float
    outlier_score: float
    p_value: float
    trusted: bool
    cause: str | None
    """One of `CAUSE_WORDS`; None for a trusted input, and where the evidence cannot tell."""
    questions: dict[str, float]
    """Surprisal by question, the most surprising first."""
    evidence: dict[str, EvidenceScore]
    """By name, the most surprising first."""
    statistics: dict[str, Statistic]
    """By feature name, the most unusual first."""
    classes: tuple[int, ...]
    """The classes of the rows and columns of the CSM (K)."""
    csm: Tensor
    """(K, K)"""
    nearest: Reference | None
    """None for an input that cannot be judged."""
    class_names: tuple[str, ...] = ()
    """Of the classes 0, 1, ...; empty where the detector's notes name none."""
    seen: tuple[str, ...] = ()
    """In which ways an input that is not trusted lies beyond all trusted ones itself: "constant", "less contrast", by
    evidence `spectrum`, or "carat too high" by evidence `columns`; empty for a trusted input, and without these."""

    def name_of(self, label: int) -> str:
        """A class for people: its name and number."""
        return f"class {label}" if not self.class_names else f"class {self.class_names[label]} ({label})"

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON (NaN becomes None)."""
        return {
            "label": self.label,
            "label_name": self.class_names[self.label] if self.class_names and self.label >= 0 else None,
            "probability": _number(self.probability),
            "outlier_score": _number(self.outlier_score),
            "p_value": _number(self.p_value),
            "trusted": self.trusted,
            "cause": self.cause,
            "seen": list(self.seen),
            "questions": {name: _number(surprisal) for name, surprisal in self.questions.items()},
            "evidence": {
                name: {"p_value": _number(e.p_value), "surprise": _number(e.surprise)}
                for name, e in self.evidence.items()
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

    def __repr__(self) -> str:
        return f"Explanation({self._verdict})"

    @property
    def _verdict(self) -> str:
        verdict = "trusted" if self.trusted else "not trusted"
        return f"{self.name_of(self.label)} (probability {self.probability:.3f}): {verdict}, p = {self.p_value:.4f}"

    def __str__(self) -> str:
        head = self._verdict
        lines = [f"{head}, outlier score {self.outlier_score:.2f}" + (f", {self.cause}" if self.cause else "")]
        if self.seen:
            lines.append(f"  beyond all trusted inputs: {', '.join(self.seen)}")
        lines += [f"  {name:<16} p = {e.p_value:.4f}   surprise {e.surprise:.1f}" for name, e in self.evidence.items()]
        lines += [
            f"  {name:<16} {s.value: .4f}   trusted inputs: {s.typical[0]: .4f} .. {s.typical[1]: .4f}   "
            f"p = {s.p_value:.4f}"
            for name, s in list(self.statistics.items())[:SHOWN]
        ]
        if self.nearest is not None:
            n = self.nearest
            lines.append(f"  nearest trusted input: number {n.index} of the fit data, {self.name_of(n.label)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Judgement:
    """All that one pass over a batch yields; every tensor is on the CPU."""

    predictions: Predictions
    logits: Tensor
    """(N, C), of the same pass; NaN where `label` is -1."""
    evidence: dict[str, Tensor]
    """By name: its split-conformal p-value (N,) alone, float64, NaN where not judged."""
    explanations: dict[int, Explanation]
    """By row, of rows that are not trusted, where asked for."""


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
