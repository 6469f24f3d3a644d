"""What a file of verdicts comes to: counted in one pass over its rows, in memory that does not grow with them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.scoring import draw
from gradgeo.scoring.metadata import QUANTILES, Metadata, steps
from gradgeo.scoring.metadata import STEPS as BINS
from gradgeo.scoring.reader import Batch, Scores

SCORE_BINS, P_BINS = 48, 20
WINDOWS, LEAST_IN_WINDOW = 40, 100
SAMPLE = 200_000
"""BoolArray whose scores and times decide where the bins and windows lie."""

FAR = 1e300
"""Beyond it scores and times are not distinguished, so that differences stay finite."""

DISTINCT = 1000
"""Different causes, or errors, that are counted apart; the others are counted together."""

OUTLYING, DRAWN = 120, 120
"""Flagged inputs to look at: those with the largest scores, and others drawn at random."""

REVIEWED = 1000
"""Flagged inputs, and trusted ones, that are drawn for review at most."""

MOST_LABELS = 100_000
"""Different predicted classes that are counted apart; the others are counted together as `OTHER_LABELS`."""

OTHER_LABELS = -1

FIRST_ERRORS = 50
NO_REASON = "no verdict, and no reason given"
OTHERS = "other"


@dataclass
class Windows:
    """Judged inputs in order, cut into windows of about the same number."""

    by: str
    """"index", "time" or "date" (microseconds since 1970), see `Scores.ordered_by`."""

    borders: Array
    """(W + 1,) ascending."""

    judged: IntArray
    """(W,)"""

    flagged: IntArray
    """(W,)"""

    steps: IntArray
    """(W, BINS) p-values of the trusted ones."""

    outside: int = 0
    """Judged inputs without a time."""

    def add(self, at: Array, p: Array, trusted: BoolArray) -> None:
        """Count some judged inputs."""
        timed = np.isfinite(at)
        self.outside += int((~timed).sum())
        at, p, trusted = at[timed], p[timed], trusted[timed]
        window = np.searchsorted(self.borders[1:-1], at, side="right")
        self.judged += np.bincount(window, minlength=len(self.judged))
        self.flagged += np.bincount(window[~trusted], minlength=len(self.judged))
        cell = window[trusted] * BINS + steps(p[trusted])
        self.steps += np.bincount(cell, minlength=self.steps.size).reshape(self.steps.shape)


@dataclass
class Summary:
    """The counts of one file."""

    metadata: Metadata
    windows: Windows
    score_edges: Array
    """Edges of the bins of `scores`; the first and the last bin are open."""

    rows: int = 0
    judged: int = 0
    """BoolArray with a verdict."""

    trusted: int = 0
    """Judged rows that are trusted; the others are flagged."""

    labelled: int = 0
    """Judged rows whose true label is known."""

    correct: int = 0
    trusted_labelled: int = 0
    trusted_correct: int = 0
    causes: Counter[str | None] = field(default_factory=Counter)
    """Flagged rows by cause; None where none is named."""

    significant: Counter[str] = field(default_factory=Counter)
    """Flagged rows by the kinds of evidence whose p-value is at most alpha."""

    most_surprising: Counter[str] = field(default_factory=Counter)
    """Flagged rows by the kind of evidence with the smallest p-value."""

    none_significant: int = 0
    """Flagged rows with evidence of which none is significant alone."""

    scores: IntArray = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    """(`SCORE_BINS`,) judged rows by outlier score."""

    p_values: IntArray = field(default_factory=lambda: np.zeros(P_BINS, np.int64))
    """(`P_BINS`,) judged rows by p-value, in equal bins from 0 to 1."""

    by_class: dict[int, list[int]] = field(default_factory=dict)
    """The number of judged and of flagged rows of each predicted class, and of `OTHER_LABELS` together."""

    by_kept: dict[str, dict[str | None, list[int]]] = field(default_factory=dict)
    """The same of each value of each column that was carried along, None where there is none."""

    errors: Counter[str] = field(default_factory=Counter)
    """BoolArray without a verdict by reason."""

    first_errors: list[int] = field(default_factory=list)
    """Positions of the first rows without a verdict."""

    outlying: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Positions of the flagged rows with the largest scores, to look at."""

    drawn: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Positions of other flagged rows, drawn at random, to look at."""

    reviewed: dict[bool, IntArray] = field(default_factory=dict)
    """Positions of the flagged (False) and of the trusted (True) rows that are drawn for review, in the order of the
    draw; none where a row has no index."""

    @property
    def flagged(self) -> int:
        """Judged rows that are not trusted."""
        return self.judged - self.trusted

    @property
    def unjudged(self) -> int:
        """BoolArray without a verdict."""
        return self.rows - self.judged


def summarise(scores: Scores) -> Summary:
    """Count a file. Two passes: one over scores and times, which decides the bins, one over all but the pictures."""
    seen, at = _sampled(scores)
    windows = _windows(scores.ordered_by, at)
    summary = Summary(scores.metadata, windows, _edges(seen, scores.metadata.calibration_scores))
    summary.by_kept = {name: {} for name in scores.kept}
    outlying, drawn = _Pool(OUTLYING), _Pool(OUTLYING + DRAWN)
    review = {kind: _Pool(REVIEWED) for kind in (False, True)}
    indexed = True
    rng = np.random.default_rng(0)
    wanted = ["label", "outlier_score", "p_value", "trusted", "error", "true_label", "cause", "evidence"]
    wanted += ["index"] if scores.ordered_by == "index" else ["index", "time"]
    for batch in scores.batches([*wanted, *scores.kept], pictured=True):
        flagged, trusted, score = _count(summary, batch, scores)
        where = summary.rows + np.flatnonzero(flagged)
        plain = ~batch.numbers("pictured", False)[flagged]
        outlying.add(where, plain, -score[flagged])
        drawn.add(where, plain, rng.random(len(where)))
        index = batch.numbers("index", -1)
        key = draw.keys(index)
        for kind, some in ((False, flagged), (True, trusted)):
            indexed = indexed and bool((index[some] >= 0).all())
            review[kind].add(summary.rows + np.flatnonzero(some), key[some], index[some])
        summary.rows += len(batch)
    if indexed:
        summary.reviewed = {kind: pool.positions for kind, pool in review.items()}
    summary.outlying = outlying.positions
    others = drawn.positions[~np.isin(drawn.positions, summary.outlying)]
    summary.drawn = others[:DRAWN]
    return summary


def _count(summary: Summary, batch: Batch, scores: Scores) -> tuple[BoolArray, BoolArray, Array]:
    """Add a batch; returns which rows are flagged, which are trusted, and all scores."""
    p, score = batch.numbers("p_value", np.nan), batch.numbers("outlier_score", np.nan)
    failed = batch.present("error")
    judged = ~failed & (p >= 0) & (p <= 1)
    trusted = judged & batch.numbers("trusted", False)
    flagged = judged & ~trusted
    summary.judged += int(judged.sum())
    summary.trusted += int(trusted.sum())
    finite = score[judged & np.isfinite(score)]
    edges = summary.score_edges
    summary.scores += np.histogram(np.clip(finite, edges[0], edges[-1]), edges)[0]
    tenths = np.ceil(p[judged] * P_BINS - 1e-9).astype(np.int64) - 1
    summary.p_values += np.bincount(np.clip(tenths, 0, P_BINS - 1), minlength=P_BINS)

    label = batch.numbers("label", -1)
    labels, which = np.unique(label[judged], return_inverse=True)
    alarms = np.bincount(which[flagged[judged]], minlength=len(labels)).tolist()
    for name, count, alarm in zip(labels.tolist(), np.bincount(which).tolist(), alarms, strict=True):
        full = len(summary.by_class) >= MOST_LABELS and name not in summary.by_class
        entry = summary.by_class.setdefault(OTHER_LABELS if full else name, [0, 0])
        entry[0] += count
        entry[1] += alarm
    for column, counted in summary.by_kept.items():
        for place, rows in enumerate((judged, flagged)):
            for text, count in batch.counts(column, rows):
                full = len(counted) >= DISTINCT and text not in counted
                counted.setdefault(OTHERS if full else text, [0, 0])[place] += count
    if "true_label" in scores.columns:
        known = judged & batch.present("true_label")
        right = known & (label == batch.numbers("true_label", -1))
        summary.labelled += int(known.sum())
        summary.correct += int(right.sum())
        summary.trusted_labelled += int((known & trusted).sum())
        summary.trusted_correct += int((right & trusted).sum())
    at = batch.numbers("index", -1) if scores.ordered_by == "index" else _times(batch, scores.ordered_by)
    summary.windows.add(at[judged].astype(np.float64), p[judged], trusted[judged])
    _count_reasons(summary, batch, scores, flagged)
    if not judged.all():
        _add(summary.errors, batch.counts("error", failed))
        _add(summary.errors, [(NO_REASON, int((~judged & ~failed).sum()))])
        room = FIRST_ERRORS - len(summary.first_errors)
        summary.first_errors += (summary.rows + np.flatnonzero(~judged)[:room]).tolist()
    return flagged, trusted, np.where(np.isnan(score), -np.inf, score)


def _count_reasons(summary: Summary, batch: Batch, scores: Scores, flagged: BoolArray) -> None:
    """Why rows are flagged."""
    metadata = summary.metadata
    if not flagged.any():
        return
    if "cause" in scores.columns:
        _add(summary.causes, batch.counts("cause", flagged))
    else:
        summary.causes[None] += int(flagged.sum())
    if "evidence" not in scores.columns or not metadata.evidence or metadata.alpha is None:
        return
    p = batch.table("evidence", len(metadata.evidence), flagged)
    p = p[np.isfinite(p).all(1)]
    significant = p <= metadata.alpha + 1e-7  # (F, E); they are float32
    summary.none_significant += int((~significant.any(1)).sum())
    least = np.bincount(p.argmin(1), minlength=p.shape[1]) if len(p) else np.zeros(p.shape[1])
    for name, count, first in zip(metadata.evidence, significant.sum(0).tolist(), least.tolist(), strict=True):
        summary.significant[name] += count
        summary.most_surprising[name] += int(first)


def _add(counter: Counter[Any], counts: list[tuple[Any, int]]) -> None:
    for text, count in counts:
        if count:
            counter[text if text in counter or len(counter) < DISTINCT else OTHERS] += count


def _times(batch: Batch, timed: str) -> Array:
    missing = np.iinfo(np.int64).min if timed == "date" else np.nan
    at = batch.numbers("time", missing)
    return np.where(batch.present("time"), at.astype(np.float64), np.nan)


def _sampled(scores: Scores) -> tuple[Array, Array]:
    """Outlier scores and times (or indices) of about `SAMPLE` rows, evenly."""
    stride = max(1, scores.rows // SAMPLE)
    name = "index" if scores.ordered_by == "index" else "time"
    seen: list[Array] = [np.empty(0)]
    at: list[Array] = [np.empty(0)]
    start = 0
    for batch in scores.batches(["outlier_score", name]):
        sampled = slice(-start % stride, None, stride)
        seen.append(batch.numbers("outlier_score", np.nan)[sampled])
        times = batch.numbers("index", -1) if name == "index" else _times(batch, scores.ordered_by)
        at.append(times[sampled].astype(np.float64))
        start += len(batch)
    return tuple(part[np.isfinite(part)].clip(-FAR, FAR) for part in (np.concatenate(seen), np.concatenate(at)))  # type: ignore[return-value]


def _windows(by: str, at: Array) -> Windows:
    # without times rows are in the order of names or folders, over which nothing drifts
    count = 1 if by == "index" else int(np.clip(len(at) // LEAST_IN_WINDOW, 1, WINDOWS))
    borders = np.unique(np.quantile(at, np.linspace(0, 1, count + 1))) if len(at) else np.array([0.0, 1.0])
    borders = borders if len(borders) > 1 else np.r_[borders, borders]
    count = len(borders) - 1
    return Windows(by, borders, np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros((count, BINS), np.int64))


def _edges(seen: Array, calibration: Array | None) -> Array:
    """Bins that hold the calibration scores and nearly all others, with the calibration's a third at least."""
    low, high = (float(value) for value in np.quantile(seen, [0.001, 0.99])) if len(seen) else (0.0, 1.0)
    if calibration is not None:
        first, last = float(calibration[0]), float(calibration[-1])
        low = max(min(low, first), first - (last - first))
        high = min(max(high, last), last + 2 * (last - first))
    low, high = (float(np.clip(value, -FAR, FAR)) for value in (low, high))
    least = 1e-9 * max(1.0, abs(low), abs(high))
    if high - low < least:
        low, high = low - 0.5 * max(1.0, abs(low)), high + 0.5 * max(1.0, abs(high))
    return np.linspace(low, high, SCORE_BINS + 1)


def calibration_shares(edges: Array, calibration: Array) -> Array:
    """The share of calibration scores in each bin, from their `QUANTILES` quantiles."""
    below = np.interp(edges, calibration, np.linspace(0, 1, QUANTILES), left=0, right=1)
    below[0], below[-1] = 0, 1  # the outer bins are open
    return np.diff(below)


class _Pool:
    """The positions with the smallest keys."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.positions: IntArray = np.empty(0, np.int64)
        self._keys: tuple[Array, Array] = (np.empty(0), np.empty(0))

    def add(self, positions: IntArray, first: NDArray[Any], second: Array) -> None:
        """Offer some, with two keys each, the first of which counts more."""
        keys = [np.concatenate(pair) for pair in zip(self._keys, (first, second), strict=True)]
        best = np.lexsort((keys[1], keys[0]))[: self.size]  # in order
        self.positions = np.concatenate([self.positions, positions])[best]
        self._keys = (keys[0][best], keys[1][best])
