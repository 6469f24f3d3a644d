"""P-values among calibration inputs of the same kind: the same predicted class, the same group, or both.

The false-alarm rate then holds for each kind by itself, not only over all of them together (Vovk et al. 2005, section
4.5, "Mondrian" conformal predictors): inputs of one kind are exchangeable with the calibration inputs of that kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.detector.calibration import conformal
from gradgeo.detector.one_class.base import Layout, checked_arrays, ensure
from gradgeo.errors import choice, expected, listed, warn

CONDITIONS = ("class",)
"""What p-values can be made conditional on, besides the groups of `fit`."""

LAYOUT: Layout = {"reference_group": ("i8", ("calibrated",))}


def group_names(groups: Any, n: int, argument: str = "groups") -> list[str]:
    """The group of each of n inputs as text; a number is the same group as its digits."""
    rule = f"one number or text for each of {n} inputs"
    if isinstance(groups, str | bytes) or not isinstance(groups, Sequence | np.ndarray | Tensor):
        raise expected(argument, rule, groups)
    names = groups.tolist() if isinstance(groups, np.ndarray | Tensor) else list(groups)
    if len(names) != n or not all(isinstance(name, str | int) for name in names):
        raise expected(argument, rule, groups)
    return [str(name) for name in names]


@dataclass(frozen=True)
class CalibrationGroups:
    """Which group each calibration input is of."""

    names: tuple[str, ...]
    """Of the groups that `fit` was given, in the order in which they occur."""
    of_row: IntArray
    """(n,) positions in `names`, in the order of the rows of the calibration set."""

    @classmethod
    def of(cls, groups: Any, n: int, calibrate: IntArray) -> "CalibrationGroups | None":
        """The groups of those of n inputs that `calibrate`, by position; None without groups."""
        if groups is None:
            return None
        numbers: dict[str, int] = {}
        of_input = np.array([numbers.setdefault(name, len(numbers)) for name in group_names(groups, n)], np.int64)
        return cls(tuple(numbers), of_input[calibrate])

    @classmethod
    def from_arrays(cls, names: Sequence[str], arrays: dict[str, NDArray[Any]], size: int) -> "CalibrationGroups":
        """Of a file; ValueError where they are not what `of` makes."""
        (of_row,) = checked_arrays(LAYOUT, arrays, {"calibrated": size}).values()
        ensure(bool(((of_row >= 0) & (of_row < len(names))).all()), "reference_group is out of range")
        return cls(tuple(names), of_row)

    def warn_of_few(self, least: int) -> None:
        """Warn of groups that calibration has too little of."""
        counts = np.bincount(self.of_row, minlength=len(self.names)).tolist()
        few = [f"{name} ({count})" for name, count in zip(self.names, counts, strict=True) if count < least]
        if few:
            units = " If they are patients or videos, say together= in place of groups=."
            warn(
                f"{len(few)} of {len(counts)} groups have fewer than the {least} calibration inputs that flagging "
                f"takes: {listed(few)}. Their inputs will be compared with all {len(self.of_row)}."
                + (units if len(few) == len(counts) else "")
            )

    def numbers(self, names: Sequence[str]) -> IntArray:
        """The positions (N,) of some names, -1 of a group that `fit` was not given."""
        known = {name: number for number, name in enumerate(self.names)}
        return np.array([known.get(name, -1) for name in names], np.int64)


@dataclass(frozen=True)
class Kinds:
    """Of which kind each calibration input and each new one is, and how kinds are called."""

    calibration: IntArray
    """(n,)"""
    asked: IntArray
    """(N,), -1 of a kind that calibration cannot know."""
    names: tuple[str, ...]
    """(N,), for messages."""

    @classmethod
    def of(
        cls,
        conditional: str | None,
        groups: Any,
        known: CalibrationGroups | None,
        calibration_labels: IntArray,
        labels: IntArray,
    ) -> "Kinds | None":
        """What `Detector.predict` was asked for; None for nothing.

        Raises: ArgumentError for another condition, or groups where `fit` was given none.
        """
        if conditional is not None:
            choice("conditional", conditional, CONDITIONS)
        if groups is not None and known is None:
            raise expected("groups", "None", groups, "The detector was fitted without groups: fit(data, groups=...).")
        if conditional is None and groups is None:
            return None
        calibration, asked, names = np.zeros(len(calibration_labels), np.int64), np.zeros(len(labels), np.int64), []
        if known is not None and groups is not None:
            texts = group_names(groups, len(labels))
            calibration, asked, names = known.of_row, known.numbers(texts), texts
        if conditional == "class":
            count = 1 + max(int(calibration_labels.max(initial=0)), int(labels.max(initial=0)))
            asked = np.where((asked < 0) | (labels < 0), -1, asked * count + labels)
            calibration = calibration * count + calibration_labels
            own = [f"class {label}" for label in labels.tolist()]
            names = [f"{one}, {name}" for one, name in zip(own, names, strict=True)] if names else own
        return cls(calibration, asked, tuple(names))

    def p_values(self, by_row: Array, pool: Array, scores: Array, least: int) -> tuple[Array, IntArray]:
        """The p-value (N,) of each score among calibration inputs of its kind, and with how many it was compared (N,).

        A kind with fewer than `least` calibration inputs falls back to all of them, as does an unknown one: no p-value
        is below 1 / (n + 1), and so few could flag nothing.

        Args:
            by_row: (n,) calibration scores, in the order of `calibration`.
            pool: (n,) the same, ascending.
            scores: (N,) new ones.
            least: the fewest that a p-value is taken among.
        """
        p, compared = conformal.p_values(pool, scores), np.full(len(scores), len(pool), np.int64)
        for kind in np.unique(self.asked[self.asked >= 0]).tolist():
            own = np.sort(by_row[self.calibration == kind])
            if len(own) >= least:
                rows = self.asked == kind
                p[rows], compared[rows] = conformal.p_values(own, scores[rows]), len(own)
        return p, compared

    def fallback(self, judged: BoolArray, n: int, least: int) -> str | None:
        """Which of the `judged` inputs (N,) are compared with all n instead of their kind, in words; None for none."""
        counts = dict(zip(*(each.tolist() for each in np.unique(self.calibration, return_counts=True)), strict=True))
        own = np.array([counts.get(kind, 0) for kind in self.asked.tolist()], np.int64)  # (N,)
        rows = np.flatnonzero(judged & (own < least))
        if not len(rows):
            return None
        few = {self.names[row]: int(own[row]) for row in rows.tolist()}
        shown = listed([f"{name} ({count})" for name, count in few.items()])
        return (
            f"{len(rows)} of {len(judged)} inputs are compared with all {n} calibration inputs, for of their own kind "
            f"there are fewer than the {least} that flagging takes: {shown}. The stated rate holds over all "
            "kinds, not for these."
        )
