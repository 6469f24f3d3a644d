"""Flagged inputs to look at: what a page shows of each, made from rows that are not to be trusted."""

import base64
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradgeo.errors import one_line
from gradgeo.scoring.metadata import Metadata
from gradgeo.scoring.schema import MOST_CLASSES, MOST_POINTS

LARGEST_SIDE, LARGEST_BYTES = 96, 65_536
"""Of a thumbnail, in pixels and bytes."""

LEVELS = 11
"""Colours of a CSM, from cosine -1 to 1."""

SIGNAL = (255, 100)
"""Width and height of the picture of a signal, in units of its own."""

BUDGET = 1_500_000
"""Characters that the pictures of all cards may take; cards beyond have none."""

NAME, CLASS_NAME = 200, 60
"""Characters of the name of an input and of a class that are shown."""


@dataclass(frozen=True)
class Card:
    """One flagged input; texts are not escaped."""

    index: int
    name: str
    label: int
    label_name: str
    true_name: str | None
    probability: float
    outlier_score: float
    p_value: float
    cause: str | None
    evidence: list[tuple[str, float]]
    """Kinds of evidence with their p-values, the most surprising first."""

    significant: list[str]
    """Those with a p-value of at most alpha."""

    thumbnail: str | None
    """Base64 of a PNG."""

    signal: str | None
    """An SVG path, see `SIGNAL`."""

    csm: dict[int, str]
    """By level, the SVG path of its cells, each 1 x 1."""

    csm_classes: list[str]
    csm_own: int | None
    """The row and column of the predicted class."""

    csm_levels: str
    """The levels of the CSM, row after row, each a letter from "a" on; "" without a CSM."""

    saliency: str | None
    """Base64 of a PNG: where the picture moves the predicted class."""

    time: str
    """When, "" where the file does not say."""

    drift: float
    """How far the p-values of its time have moved."""

    largest: bool
    """Whether it was chosen for its outlier score, not drawn."""


def card(row: dict[str, Any], metadata: Metadata, *, largest: bool = False, time: str = "", drift: float = 0.0) -> Card:
    """From a row of a file of verdicts."""
    label, truth = row["label"], row.get("true_label")
    values = _numbers(row.get("evidence"), most=len(metadata.evidence))
    p = dict(zip(metadata.evidence, values, strict=True)) if len(values) == len(metadata.evidence) else {}
    finite = [(one_line(name)[:CLASS_NAME], value) for name, value in p.items() if math.isfinite(value)]
    evidence = sorted(finite, key=lambda entry: entry[1])
    alpha = metadata.alpha or 0.0
    named = _numbers(row.get("csm_classes"), most=MOST_CLASSES)
    classes = [int(c) for c in named] if all(map(math.isfinite, named)) else []
    levels = csm_levels(_numbers(row.get("csm"), most=MOST_CLASSES**2), len(classes))
    cells = csm_paths(levels)
    cause = row.get("cause")
    return Card(
        index=int(row["index"] if row["index"] is not None else -1),
        name=one_line(str(row["name"] or ""))[:NAME],
        label=-1 if label is None else int(label),
        label_name=_class_name(metadata, -1 if label is None else int(label)),
        true_name=None if truth is None else _class_name(metadata, int(truth)),
        probability=_float(row["probability"]),
        outlier_score=_float(row["outlier_score"]),
        p_value=_float(row["p_value"]),
        cause=None if cause is None else one_line(cause)[:NAME],
        evidence=evidence,
        significant=[name for name, value in evidence if value <= alpha + 1e-7],  # they are float32
        thumbnail=thumbnail(row.get("thumbnail")),
        signal=signal_path(_numbers(row.get("signal"), most=MOST_POINTS)),
        csm=cells,
        csm_classes=[_class_name(metadata, c) for c in classes] if cells else [],
        csm_own=classes.index(label) if cells and label in classes else None,
        csm_levels="".join(chr(ord("a") + level) for line in levels for level in line),
        saliency=thumbnail(row.get("saliency")),
        time=time,
        drift=drift,
        largest=largest,
    )


def thumbnail(data: object) -> str | None:
    """Base64 of a PNG of at most `LARGEST_SIDE` pixels each way; None for anything else."""
    if not isinstance(data, bytes) or not 45 <= len(data) <= LARGEST_BYTES:
        return None
    if data[:16] != b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" or b"IEND" not in data[-12:]:
        return None
    sides = struct.unpack(">II", data[16:24])
    return base64.b64encode(data).decode() if all(1 <= side <= LARGEST_SIDE for side in sides) else None


def signal_path(values: Sequence[float]) -> str | None:
    """A line through the values, which fill the height of `SIGNAL`; gaps where they are not finite."""
    y = np.asarray(values, np.float64)
    finite = np.isfinite(y)
    if finite.sum() < 2:
        return None
    low, high = float(y[finite].min()), float(y[finite].max())
    middle = (y - low) / (high - low) if 0 < high - low < math.inf else np.where(finite, 0.5, np.nan)
    across = np.linspace(0, SIGNAL[0], len(y)).round().astype(int).tolist()
    parts, pen = [], "M"
    for x, up, here in zip(across, middle.tolist(), finite.tolist(), strict=True):
        if not here:
            pen = "M"
            continue
        parts.append(f"{pen}{x} {round(SIGNAL[1] * (1 - up))}")
        pen = "L"
    return "".join(parts)


def csm_levels(values: Sequence[float], size: int) -> list[list[int]]:
    """The level of each cell of a matrix (size, size); none for what is no CSM, and of two classes, whose one
    similarity is -1 for every input."""
    if size < 3 or len(values) != size * size:
        return []
    matrix = np.asarray(values, np.float64).reshape(size, size)
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 1.001:
        return []
    levels: list[list[int]] = np.clip(np.rint((matrix + 1) / 2 * (LEVELS - 1)), 0, LEVELS - 1).astype(int).tolist()
    return levels


def csm_paths(levels: Sequence[Sequence[int]]) -> dict[int, str]:
    """The cells of a matrix by level, side by side as one path."""
    paths: dict[int, str] = {}
    size = len(levels)
    for y, row in enumerate(levels):
        x = 0
        while x < size:
            run = 1
            while x + run < size and row[x + run] == row[x]:
                run += 1
            paths[row[x]] = f"{paths.get(row[x], '')}M{x} {y}h{run}v1h-{run}z"
            x += run
    return dict(sorted(paths.items()))


def within(cards: Sequence[Card], budget: int = BUDGET) -> list[Card]:
    """The cards, those at the end without pictures where all together would take more than `budget` characters."""
    shown = []
    for entry in cards:
        pictures = (entry.thumbnail or "", entry.signal or "", entry.saliency or "", *entry.csm.values())
        size = sum(map(len, pictures))
        budget -= size
        if budget < 0:
            entry = bare(entry)
        shown.append(entry)
    return shown


def bare(entry: Card) -> Card:
    """A card without its pictures."""
    return replace(entry, thumbnail=None, signal=None, saliency=None, csm={}, csm_levels="", csm_classes=[])


def _class_name(metadata: Metadata, label: int) -> str:
    return one_line(metadata.class_name(label))[:CLASS_NAME]


def _numbers(values: object, *, most: int) -> list[float]:
    """A list of at most `most` numbers (NaN for none); empty for anything else."""
    if not isinstance(values, list) or len(values) > most:
        return []
    return [_float(value) for value in values]


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)
