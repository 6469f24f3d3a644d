"""From items to rows: one for each, with the verdict on those that can be judged."""

import math
import time
from dataclasses import dataclass, replace

import torch

from gradgeo.data.preprocess import Preprocess
from gradgeo.data.source import Item, with_expected_shape
from gradgeo.detector.detector import Detector
from gradgeo.scoring.previews import picture, similarities
from gradgeo.scoring.schema import COLUMNS
from gradgeo.scoring.summary import Row

PICTURES = 64
"""Rows of a part that keep a picture and a CSM."""

SHOWN = ("thumbnail", "signal", "csm")


def checked(item: Item, shape: tuple[int, ...] | None) -> Item:
    """`item`, with an error in place of an `x` that has another shape or is not finite."""
    item = with_expected_shape(item, shape)
    if item.x is None or bool(torch.isfinite(item.x).all()):
        return item
    return replace(item, x=None, error="NaN or infinite values")


@dataclass
class Judge:
    """A detector that writes rows and takes the time of its own work.

    Attributes:
        seconds: spent in the detector.
    """

    detector: Detector
    preprocess: Preprocess
    seconds: float = 0.0

    def rows(self, items: list[Item], pictures: int) -> list[Row]:
        """A row for each item; the first `pictures` of those flagged have what a person is shown."""
        items = [checked(item, self.detector.input_shape_) for item in items]
        rows = [
            dict.fromkeys(COLUMNS)
            | {"index": item.index, "name": item.name, "trusted": False, "error": item.error}
            | {"true_label": item.label, "time": item.time}
            for item in items
        ]
        judged = [(row, item.x) for row, item in zip(rows, items, strict=True) if item.x is not None]
        if not judged:
            return rows
        began = time.perf_counter()
        found = self.detector.judge(torch.stack([x for _, x in judged]), explain=True)
        self.seconds += time.perf_counter() - began
        verdicts = found.predictions
        evidence = torch.stack([*found.evidence.values()], dim=1) if found.evidence else torch.empty(len(judged), 0)
        for i, (row, x) in enumerate(judged):
            p_value = float(verdicts.p_value[i])
            if math.isnan(p_value):
                row["error"] = "NaN or infinite logits, or no gradient at all"
                continue
            row.update(
                label=int(verdicts.label[i]),
                probability=float(verdicts.probability[i]),
                outlier_score=float(verdicts.outlier_score[i]),
                p_value=p_value,
                trusted=bool(verdicts.trusted[i]),
                evidence=evidence[i].tolist(),
            )
            why = found.explanations.get(i)
            if row["trusted"] or why is None:
                continue
            row["cause"] = why.cause
            if pictures > 0:
                pictures -= 1
                row.update(picture(x, self.preprocess) | similarities(why, found.logits[i]))
        return rows
