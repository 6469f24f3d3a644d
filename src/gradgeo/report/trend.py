"""Windows of a summary, each judged: are its p-values uniform, and is what is flagged within chance?"""

from dataclasses import dataclass

import numpy as np

from gradgeo._typing import IntArray
from gradgeo.metrics import holm
from gradgeo.report.drift import BINS, LEVEL, expected_share, shift
from gradgeo.report.summary import Summary

QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Window:
    """A stretch of time or indices; None where the file does not state what the test needs."""

    start: str
    end: str
    judged: int
    flagged: int
    low: float | None  # the share flagged lies between these if all inputs are trusted
    high: float | None
    quartiles: tuple[float, float, float] | None  # of the trusted inputs' p-values
    distance: float | None  # see `drift.Shift`
    p: float | None  # that they are uniform, corrected for the number of windows

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
    found, about = summary.windows, summary.about
    kept = np.flatnonzero(found.judged)
    tested = about.alpha is not None and about.calibration_size is not None
    alpha, size = about.alpha or 0.0, about.calibration_size or 0
    shifts = [shift(found.steps[i], alpha, size) if tested else None for i in kept]
    corrected = iter(holm([s.p for s in shifts if s is not None]))
    made = []
    for i, moved in zip(kept.tolist(), shifts, strict=True):
        judged = int(found.judged[i])
        low, high = expected_share(judged, alpha, size, LEVEL / len(kept)) if tested else (None, None)
        made.append(
            Window(
                start=moment(found.borders[i], found.by),
                end=moment(found.borders[i + 1], found.by),
                judged=judged,
                flagged=int(found.flagged[i]),
                low=low,
                high=high,
                quartiles=_quartiles(found.steps[i]),
                distance=moved.distance if moved else None,
                p=next(corrected) if moved else None,
            )
        )
    return made


def moment(at: float, by: str) -> str:
    """A time as text: an index, a number as it is, or a date in UTC to the minute."""
    if by == "date":
        return str(np.datetime64(int(np.clip(at, -9e18, 9e18)), "us").astype("datetime64[m]")).replace("T", " ")
    return f"{round(at):,}" if by == "index" else f"{at:.6g}"


def usual_quartiles(alpha: float) -> tuple[float, ...]:
    """Of p-values above alpha that are uniform."""
    return tuple(alpha + (1 - alpha) * share for share in QUARTILES)


def _quartiles(steps: IntArray) -> tuple[float, float, float] | None:
    total = steps.sum()
    if not total:
        return None
    below = np.r_[0, np.cumsum(steps)] / total
    first, middle, last = (float(np.interp(q, below, np.arange(BINS + 1) / BINS)) for q in QUARTILES)
    return first, middle, last
