"""What a run of `score` came to, counted row by row and part by part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass
class Summary:
    """What a run of `score` came to.

    Attributes:
        rows: inputs, all of which have a row.
        scored: of these, inputs with a verdict; the others have an error text.
        trusted: of the scored, those with a p-value above alpha.
        first_error: name and error of the first input without a verdict.
        labelled, correct: scored inputs whose true label is known, and those predicted correctly.
        trusted_labelled, trusted_correct: the same among the trusted.
        resumed: of the rows, those that an earlier, interrupted run had written.
        seconds: wall time of reading, judging and writing the other rows.
        model_seconds: of these, the time within the detector, summed over `lanes`.
        lanes: detectors that worked side by side.
    """

    rows: int = 0
    scored: int = 0
    trusted: int = 0
    first_error: str | None = None
    labelled: int = 0
    correct: int = 0
    trusted_labelled: int = 0
    trusted_correct: int = 0
    resumed: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    lanes: int = 1

    @property
    def utilisation(self) -> float | None:
        """The share of the wall time that the detectors were at work; None of a run that had nothing to do."""
        return self.model_seconds / (self.seconds * self.lanes) if self.seconds else None

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row."""
        self.rows += 1
        if row["error"] is not None:
            self.first_error = self.first_error or f"{row['name']}: {row['error']}"
            return
        true_label = row.get("true_label")
        labelled = true_label is not None
        correct = labelled and true_label == row["label"]
        self.scored += 1
        self.trusted += row["trusted"]
        self.labelled += labelled
        self.correct += correct
        self.trusted_labelled += labelled and row["trusted"]
        self.trusted_correct += correct and row["trusted"]

    def merge(self, other: "Summary") -> None:
        """Count the rows that `other` has counted, which stand behind these."""
        for name in ("rows", "scored", "trusted", "labelled", "correct", "trusted_labelled", "trusted_correct"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_error = self.first_error or other.first_error
        self.model_seconds += other.model_seconds


COUNTED = ("name", "label", "trusted", "error", "true_label")
"""What `Summary.add` looks at."""
