"""What is flagged of each class and group: its share with an exact interval, and whether chance explains it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradgeo.data.kept import MISSING
from gradgeo.detector.calibration.conformal import FalseAlarmRate, exact_interval
from gradgeo.errors import one_line
from gradgeo.metrics import holm
from gradgeo.report.drift import LEVEL
from gradgeo.report.gallery import CLASS_NAME
from gradgeo.report.summary import MOST_LABELS, OTHER_LABELS, Summary

SHOWN, MOST = 12, 200
"""Classes, groups and reasons in a table, and classes in its folded rest."""


@dataclass(frozen=True)
class Share:
    """A name with a count of flagged ones and the exact 95 % interval of their share."""

    name: str
    judged: int
    flagged: int
    low: float
    high: float
    p: float | None = None
    """That so few or so many are flagged by chance, corrected for all kinds of the page; None where not known."""
    column: str = ""
    """The kept column whose value it is, "" for a predicted class."""
    value: int | str | None = None
    """In the file: a label, or the value of that column."""

    @property
    def share(self) -> float:
        """Flagged, of the judged."""
        return self.flagged / self.judged

    @property
    def off(self) -> bool:
        """Whether chance does not explain it."""
        return self.p is not None and self.p < LEVEL


def classes_and_groups(summary: Summary) -> tuple[list[Share], dict[str, list[Share]]]:
    """Predicted classes, and the values of each column that was carried along; first what surely is flagged most.

    If all inputs were exchangeable with the calibration inputs that their p-values compare with, the number flagged
    would be beta-binomial; what is too far out on either side after Holm's correction, over all kinds, is marked.
    """
    metadata = summary.metadata
    if not summary.judged:
        return [], {}
    by_class = metadata.conditional == "class" and not metadata.groups
    sizes: dict[int, int] = dict(enumerate(metadata.class_sizes)) if by_class else {}
    counts = [
        _Count("", label, _class_name(summary, label), judged, flagged, _rate(summary, sizes.get(label)))
        for label, (judged, flagged) in summary.by_class.items()
    ]
    for column, values in summary.by_kept.items():
        by_group = metadata.groups == (column,) and metadata.conditional is None
        named = dict(metadata.group_sizes) if by_group else {}
        for text, (judged, flagged) in values.items():
            name = _value(text)
            counts.append(_Count(column, text, name, judged, flagged, _rate(summary, named.get(name))))
    part, whole = (np.array(each, np.float64) for each in zip(*((c.flagged, c.judged) for c in counts), strict=True))
    lows, highs = exact_interval(part, whole)
    chances = [None if c.rate is None else chance(c.flagged, c.judged, c.rate) for c in counts]
    corrected = iter(holm([p for p in chances if p is not None]))
    shares: dict[str, list[Share]] = {column: [] for column in ("", *summary.by_kept)}
    for c, low, high, p in zip(counts, lows.tolist(), highs.tolist(), chances, strict=True):
        known = None if p is None else next(corrected)
        shares[c.column].append(Share(c.name, c.judged, c.flagged, low, high, known, c.column, c.value))
    ranked = {column: sorted(each, key=lambda e: (-e.low, -e.judged, e.name)) for column, each in shares.items()}
    return ranked.pop(""), ranked


def listed(classes: Sequence[Share], groups: Mapping[str, Sequence[Share]]) -> list[Share]:
    """Those that the page lists."""
    return [*classes[:MOST], *(entry for entries in groups.values() for entry in entries[:SHOWN])]


@dataclass(frozen=True)
class _Count:
    """What was counted of one kind, and the rate of the calibration inputs that it is compared with."""

    column: str
    """ "" for a predicted class."""
    value: int | str | None
    name: str
    judged: int
    flagged: int
    rate: FalseAlarmRate | None


def chance(flagged: int, judged: int, rate: FalseAlarmRate) -> float:
    """That of `judged` trusted inputs at most, or at least, so many are flagged, whichever is less likely, twice."""
    return min(1.0, 2 * min(rate.chance_of_less(flagged, judged), rate.chance_of_more(flagged, judged)))


def _rate(summary: Summary, size: int | None) -> FalseAlarmRate | None:
    """That of the calibration inputs that a kind is compared with: `size` of its own, or all where those are few."""
    level, whole = summary.metadata.level, summary.metadata.false_alarm_rate
    if level is None or size is None or size < level.least:
        return whole
    return level.rate(size)


def _class_name(summary: Summary, label: int) -> str:
    others = label == OTHER_LABELS and len(summary.by_class) > MOST_LABELS
    return "other classes" if others else one_line(summary.metadata.class_name(label))[:CLASS_NAME]


def _value(text: str | None) -> str:
    return MISSING if text is None else one_line(text)[:CLASS_NAME]
