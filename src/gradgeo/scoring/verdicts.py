"""From items to columns of verdicts: a row for each item, with the verdict of those that can be scored."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradgeo.data.kept import group_of
from gradgeo.data.preprocess import Preparation
from gradgeo.data.source import Item, with_expected_shape
from gradgeo.detector.detector import Detector
from gradgeo.scoring import draw
from gradgeo.scoring.manifest import NOTHING_MORE, RunOptions
from gradgeo.scoring.previews import picture, saliency, similarities
from gradgeo.scoring.schema import ASKED, COLUMNS, PREVIEW_COLUMNS, Columns

VERDICT_COLUMNS = ("label", "probability", "outlier_score", "p_value", "trusted")
"""Columns that are fields of `Predictions`."""

NO_VERDICT = "NaN or infinite logits, or no gradient at all"


def checked(item: Item, shape: tuple[int, ...] | None) -> Item:
    """`item`, with an error in place of an `x` that has another shape or is not finite."""
    item = with_expected_shape(item, shape)
    if item.x is None or bool(torch.isfinite(item.x).all()):
        return item
    return replace(item, x=None, error="NaN or infinite values")


def no_rows(kept: tuple[str, ...] = ()) -> Columns:
    """Columns without rows."""
    return {name: [] for name in (*COLUMNS, *ASKED, *kept)}


@dataclass
class BatchScorer:
    """A detector that fills columns and measures the time of its own work."""

    detector: Detector
    preprocess: Preparation
    """What was done to the inputs, and is undone in previews."""

    kept: tuple[str, ...] = ()
    """Columns of the data that are carried along."""

    options: RunOptions = NOTHING_MORE
    """Among which calibration inputs p-values are."""

    class_names: tuple[str, ...] = ()
    """Of the labels 0, 1, ...; empty where there are none."""

    seconds: float = 0.0
    """Time spent in the detector."""

    def add(self, items: list[Item], columns: Columns, previews: int) -> int:
        """Append a row for each item; returns how many of them got a preview.

        Args:
            items: one batch.
            columns: what to append to.
            previews: how many of the flagged items may get one.
        """
        items = [checked(item, self.detector.input_shape_) for item in items]
        batch: Columns = {name: [None] * len(items) for name in (*COLUMNS, *ASKED)}
        batch["index"] = [item.index for item in items]
        batch["name"] = [self.options.name(item.name) for item in items]
        batch["trusted"] = [False] * len(items)
        batch["error"] = [self.options.error(item.error, item.name) for item in items]
        batch["true_label"] = [item.label for item in items]
        batch["time"] = [item.time for item in items]
        batch |= {name: [item.kept[place] for item in items] for place, name in enumerate(self.kept)}
        usable = {row: item.x for row, item in enumerate(items) if item.x is not None}
        if usable:
            self._judge(usable, batch, previews)
        for name in ("label", "true_label") if self.class_names else ():
            batch[f"{name}_name"] = [self._name(label) for label in batch[name]]
        for name, values in batch.items():
            columns[name] += values
        shown = zip(batch["trusted"], *(batch[name] for name in PREVIEW_COLUMNS), strict=True)
        return sum(not trusted and any(value is not None for value in row) for trusted, *row in shown)

    def _name(self, label: int | None) -> str | None:
        return self.class_names[label] if label is not None and 0 <= label < len(self.class_names) else None

    def _judge(self, usable: dict[int, Tensor], batch: Columns, previews: int) -> None:
        """Fill in the verdicts of the `usable` rows."""
        began = time.perf_counter()
        given: dict[str, Any] = {"conditional": self.options.conditional} if self.options.conditional else {}
        if self.options.groups:
            given["groups"] = [group_of(tuple(batch[name][row] for name in self.options.groups)) for row in usable]
        judgement = self.detector.judge(torch.stack([*usable.values()]), explain=True, **given)
        self.seconds += time.perf_counter() - began
        compared = getattr(judgement.predictions, "compared", None)  # of conditional ones
        verdicts = {name: getattr(judgement.predictions, name).tolist() for name in VERDICT_COLUMNS}  # (U,) each
        evidence = zip(*(p_values.tolist() for p_values in judgement.evidence.values()), strict=True)
        evidence_rows: list[Any] = [list(row) for row in evidence] or [[]] * len(usable)  # (U, E)
        looked_at: dict[int, Tensor] = {}
        for i, (row, x) in enumerate(usable.items()):
            if verdicts["p_value"][i] != verdicts["p_value"][i]:
                batch["error"][row] = NO_VERDICT
                continue
            for name, values in verdicts.items():
                batch[name][row] = values[i]
            batch["evidence"][row] = evidence_rows[i]
            batch["compared"][row] = None if compared is None else int(compared[i])
            explanation = judgement.explanations.get(i)
            if verdicts["trusted"][i]:
                if self.options.pictures and draw.pictured(batch["index"][row]):
                    _fill(batch, row, picture(x, self.preprocess))
                continue
            if explanation is None:
                continue
            batch["cause"][row] = explanation.cause
            if previews > 0:
                previews -= 1
                _fill(batch, row, picture(x, self.preprocess) | similarities(explanation, judgement.logits[i]))
                looked_at[row] = x
        for row, found in saliency(self.detector.model, looked_at, batch["label"]).items():
            batch["saliency"][row] = found


def _fill(batch: Columns, row: int, preview: dict[str, Any]) -> None:
    for name, value in preview.items():
        batch[name][row] = value
