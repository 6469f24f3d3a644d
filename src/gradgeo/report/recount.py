"""What a report says at other alphas: p-values do not depend on alpha, so flags can be counted again, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.report.kinds import Share
from gradgeo.report.summary import Summary
from gradgeo.scoring.metadata import Metadata
from gradgeo.scoring.reader import Batch, Scores

GRID = (*(k / 1000 for k in range(1, 101)), *(k / 200 for k in range(21, 61)), *(k / 100 for k in range(31, 51)),
        *(k / 20 for k in range(11, 20)))  # fmt: skip
"""Alphas that are counted besides the file's own; the page offers those up to `HIGHEST`, its curve has all."""

HIGHEST = 0.5


@dataclass(frozen=True)
class Recount:
    """Judged rows by the first of S ascending alphas at which they are flagged, or none of them (the last column)."""

    alphas: tuple[float, ...]
    own: int
    """The position of the file's alpha."""

    flagged: IntArray
    """(S,) flagged at each."""

    labelled: IntArray
    """(S,) flagged ones whose true label is known."""

    correct: IntArray
    """(S,) those of them that are right."""

    kinds: IntArray
    """(K, S) flagged of each class and group that is shown, in their order."""

    def at(self, summary: Summary, step: int) -> Summary:
        """What `summary` would say had the detector had that alpha."""
        return replace(
            summary,
            metadata=replace(summary.metadata, alpha=self.alphas[step]),
            trusted=summary.judged - int(self.flagged[step]),
            trusted_labelled=summary.labelled - int(self.labelled[step]),
            trusted_correct=summary.correct - int(self.correct[step]),
        )

    @property
    def offered(self) -> int:
        """How many of the alphas, from the smallest, the page offers."""
        return max(self.own, sum(alpha <= HIGHEST for alpha in self.alphas) - 1) + 1


def recount(scores: Scores, summary: Summary, kinds: Sequence[Share]) -> Recount | None:
    """Count a file again at every alpha, in one more pass.

    Args:
        scores: the file.
        summary: its counts.
        kinds: the classes and groups that are shown.

    Returns: None where the file states no alpha, has no verdict, or its flags do not follow from its p-values.
    """
    own = summary.metadata.alpha
    if own is None or not summary.judged:
        return None
    alphas = tuple(sorted({own, *GRID}))
    size = len(alphas) + 1
    counts = np.zeros((3, size), np.int64)
    by_kind = np.zeros((len(kinds), size), np.int64)
    columns = sorted({kind.column for kind in kinds} - {""})
    for batch in scores.batches(["label", "p_value", "error", "true_label", "compared", *columns]):
        p = batch.numbers("p_value", np.nan)
        judged = ~batch.present("error") & (p >= 0) & (p <= 1)
        steps = _first(p[judged], _compared(batch, scores, summary.metadata)[judged], alphas, summary.metadata)
        label = batch.numbers("label", -1)[judged]
        known, right = _known(batch, scores, judged, label)
        for place, rows in enumerate((np.ones(len(steps), bool), known, right)):
            counts[place] += np.bincount(steps[rows], minlength=size)
        _count_kinds(by_kind, batch, kinds, judged, steps)
    flagged, labelled, correct = counts.cumsum(1)[:, :-1]
    position = alphas.index(own)
    if int(flagged[position]) != summary.flagged:
        return None
    return Recount(alphas, position, flagged, labelled, correct, by_kind.cumsum(1)[:, :-1])


def _compared(batch: Batch, scores: Scores, metadata: Metadata) -> IntArray:
    """(N,) with how many calibration inputs each p-value compares."""
    size = metadata.calibration_size or 0
    if "compared" not in scores.columns:
        return np.full(len(batch), size, np.int64)
    return np.asarray(batch.numbers("compared", size), np.int64)


def _first(p: Array, compared: IntArray, alphas: Sequence[float], metadata: Metadata) -> IntArray:
    """(N,) the position of the first alpha at which each p-value is flagged, `len(alphas)` for none."""
    if metadata.confidence is None:
        return np.searchsorted(alphas, p, side="left")
    steps = np.empty(len(p), np.int64)
    for size in np.unique(compared).tolist():
        rows = compared == size
        steps[rows] = np.searchsorted(_thresholds(metadata, alphas, size), p[rows], side="left")
    return steps


def _thresholds(metadata: Metadata, alphas: Sequence[float], size: int) -> list[float]:
    levels = (replace(metadata, alpha=alpha).level for alpha in alphas)
    return [level.threshold(size) for level in levels if level is not None]


def _known(batch: Batch, scores: Scores, judged: BoolArray, label: IntArray) -> tuple[BoolArray, BoolArray]:
    """Of the judged rows: whose true label is known, and whose prediction is right."""
    if "true_label" not in scores.columns:
        none = np.zeros(len(label), bool)
        return none, none
    known = batch.present("true_label")[judged]
    return known, known & (batch.numbers("true_label", -1)[judged] == label)


def _count_kinds(counts: IntArray, batch: Batch, kinds: Sequence[Share], judged: BoolArray, steps: IntArray) -> None:
    """Add a batch to the counts (K, S + 1) of the kinds."""
    size = counts.shape[1]
    for column in dict.fromkeys(kind.column for kind in kinds):
        places = [place for place, kind in enumerate(kinds) if kind.column == column]
        found = batch.positions(column or "label", [kinds[place].value for place in places], judged)  # (N,)
        inside = found >= 0
        cells = np.array(places)[found[inside]] * size + steps[inside]
        counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
