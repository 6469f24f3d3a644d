"""Windows of a summary, each judged: are its p-values uniform, and is what is flagged within chance?"""

from dataclasses import dataclass

import numpy as np

from gradgeo._typing import IntArray
from gradgeo.metrics import holm
from gradgeo.report.drift import BINS, LEVEL, Usual, shift
from gradgeo.report.summary import Summary
from gradgeo.scoring.metadata import Metadata

QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Window:
    """A stretch of time or indices; None where the file does not state what the test needs."""

    start: str
    end: str
    judged: int
    flagged: int
    low: float | None
    """The share flagged lies between this and `high` if all inputs are trusted."""

    high: float | None
    quartiles: tuple[float, float, float] | None
    """Of the trusted inputs' p-values."""

    distance: float | None
    """See `drift.Shift`."""

    p: float | None
    """That the p-values are uniform, corrected for the number of windows."""

    @property
    def share(self) -> float:
        """Flagged, of the judged."""
        return self.flagged / self.judged

    @property
    def shifted(self) -> bool:
        """Whether p-values are not uniform."""
        return self.p is not None and self.p < LEVEL

    @property
    def crowded(self) -> bool:
        """Whether more is flagged than chance explains."""
        return self.high is not None and self.share > self.high


def windows(summary: Summary) -> list[Window]:
    """Those with judged inputs, in order."""
    counts, metadata = summary.windows, summary.metadata
    filled = np.flatnonzero(counts.judged)
    usual = usual_inputs(metadata)
    shifts = [None if usual is None else shift(counts.steps[i], usual) for i in filled]
    corrected = iter(holm([s.p for s in shifts if s is not None]))
    tested_windows = []
    for i, moved in zip(filled.tolist(), shifts, strict=True):
        judged = int(counts.judged[i])
        low, high = (None, None) if usual is None else usual.expected_share(judged, LEVEL / len(filled))
        tested_windows.append(
            Window(
                start=time_text(counts.borders[i], counts.by),
                end=time_text(counts.borders[i + 1], counts.by),
                judged=judged,
                flagged=int(counts.flagged[i]),
                low=low,
                high=high,
                quartiles=_quartiles(counts.steps[i]),
                distance=moved.distance if moved else None,
                p=next(corrected) if moved else None,
            )
        )
    return tested_windows


def time_text(at: float, by: str) -> str:
    """A time as text: an index, a number as it is, or a date in UTC to the minute."""
    if by == "date":
        return str(np.datetime64(int(np.clip(at, -9e18, 9e18)), "us").astype("datetime64[m]")).replace("T", " ")
    return f"{round(at):,}" if by == "index" else f"{at:.6g}"


def usual_inputs(metadata: Metadata) -> Usual | None:
    """What traffic is compared with; None where the file does not state it."""
    alpha, size, mistakes = metadata.threshold, metadata.calibration_size, metadata.mistakes
    if alpha is None or size is None or mistakes is None or metadata.compared:
        return None
    return Usual(alpha, size, np.array(mistakes, np.int64))


def drift_at(summary: Summary, found: list[Window], at: float | None) -> float:
    """How far the p-values of the window that holds an index or time are from uniform; 0 where that is chance."""
    counts = summary.windows
    filled = np.flatnonzero(counts.judged).tolist()
    if at is None or not np.isfinite(at):
        return 0.0
    window = int(np.searchsorted(counts.borders[1:-1], at, side="right"))
    one = found[filled.index(window)] if window in filled else None
    return abs(one.distance) if one is not None and one.shifted and one.distance is not None else 0.0


def usual_quartiles(usual: Usual | None) -> tuple[float, ...]:
    """Of the p-values of usual inputs that are trusted."""
    return () if usual is None else tuple(usual.quantile(share) for share in QUARTILES)


def _quartiles(steps: IntArray) -> tuple[float, float, float] | None:
    total = steps.sum()
    if not total:
        return None
    below = np.r_[0, np.cumsum(steps)] / total
    first, middle, last = (float(np.interp(q, below, np.arange(BINS + 1) / BINS)) for q in QUARTILES)
    return first, middle, last
