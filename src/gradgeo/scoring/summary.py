"""What a run of `score` came to, counted part by part."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradgeo._typing import BoolArray


@dataclass
class Summary:
    """What a run of `score` came to."""

    rows: int = 0
    """Inputs, each of which has a row."""

    scored: int = 0
    """Inputs with a verdict; the others have an error text."""

    trusted: int = 0
    """Scored inputs with a p-value above alpha."""

    first_error: str | None = None
    """Name and error of the first input without a verdict."""

    labelled: int = 0
    """Scored inputs whose true label is known."""

    correct: int = 0
    """Labelled inputs that are predicted correctly."""

    trusted_labelled: int = 0
    trusted_correct: int = 0
    """As `labelled` and `correct`, among the trusted."""

    causes: dict[str, int] = field(default_factory=dict)
    """What the others look like, as the column `cause` says; "" where it does not."""

    first_flagged: str | None = None
    """Name of the first of them."""

    selected: int | None = None
    """Scored inputs with a q-value of at most the false discovery rate that was asked for; None without one."""

    resumed: int = 0
    """Rows that an earlier, interrupted run had written."""

    seconds: float = 0.0
    """Wall time of reading, scoring and writing the other rows."""

    model_seconds: float = 0.0
    """Time within the detector, summed over `detectors`."""

    detectors: int = 1
    """Detectors that worked in parallel."""

    @property
    def utilisation(self) -> float | None:
        """The share of the wall time that the detectors were at work; None of a run that had nothing to do."""
        return self.model_seconds / (self.seconds * self.detectors) if self.seconds else None

    @classmethod
    def of(
        cls,
        failed: BoolArray,
        trusted: BoolArray,
        labelled: BoolArray,
        correct: BoolArray,
        first_error: str | None,
        causes: Sequence[str | None] = (),
        first_flagged: str | None = None,
    ) -> "Summary":
        """Count rows by masks (N,): without a verdict, trusted, with a true label, predicted correctly; and by the
        causes (N,) of those that are neither trusted nor without a verdict."""
        scored = ~failed
        trusted, labelled = trusted & scored, labelled & scored
        correct = correct & labelled
        return cls(
            rows=len(failed),
            scored=int(scored.sum()),
            trusted=int(trusted.sum()),
            first_error=first_error,
            labelled=int(labelled.sum()),
            correct=int(correct.sum()),
            trusted_labelled=int((labelled & trusted).sum()),
            trusted_correct=int((correct & trusted).sum()),
            causes=dict(Counter(causes[row] or "" for row in np.flatnonzero(scored & ~trusted).tolist()))
            if causes
            else {},
            first_flagged=first_flagged,
        )

    @classmethod
    def of_columns(cls, columns: Mapping[str, Sequence[Any]]) -> "Summary":
        """Count rows by their columns `COUNTED_COLUMNS`, of which `true_label` may be missing."""
        errors, labels = columns["error"], columns["label"]
        truth = columns.get("true_label") or [None] * len(errors)
        failed = [error is not None for error in errors]
        first = failed.index(True) if any(failed) else None
        good = zip(columns["trusted"], failed, strict=True)
        doubted = next((row for row, (trusted, error) in enumerate(good) if not (trusted or error)), None)
        return cls.of(
            np.array(failed, bool),
            np.array(columns["trusted"], bool),
            np.array([label is not None for label in truth], bool),
            np.array([label == true for label, true in zip(labels, truth, strict=True)], bool),
            None if first is None else f"{columns['name'][first]}: {errors[first]}",
            columns.get("cause") or [None] * len(errors),
            None if doubted is None else str(columns["name"][doubted]),
        )

    def merge(self, other: "Summary") -> None:
        """Add what `other` has counted; its rows come after these."""
        for name in ("rows", "scored", "trusted", "labelled", "correct", "trusted_labelled", "trusted_correct"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.causes = dict(Counter(self.causes) + Counter(other.causes))
        self.first_error = self.first_error or other.first_error
        self.first_flagged = self.first_flagged or other.first_flagged
        self.model_seconds += other.model_seconds
