"""The review queue and an explanation in a notebook: the page's own templates and script, in a widget (anywidget)."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gradgeo.classifier.text import TextClassifier
from gradgeo.data.preprocess import Preparation, Preprocess
from gradgeo.data.source import Item
from gradgeo.detector.detector import Detector
from gradgeo.detector.inputs import one_batch
from gradgeo.detector.results import Explanation, Predictions
from gradgeo.errors import DataError, expected, public, require
from gradgeo.report import parts
from gradgeo.report.gallery import card
from gradgeo.report.review import Subject, mixed, payload
from gradgeo.scoring import draw
from gradgeo.scoring.decisions import LONGEST, Decisions
from gradgeo.scoring.metadata import Metadata
from gradgeo.scoring.previews import picture, saliency, similarities
from gradgeo.scoring.verdicts import VERDICT_COLUMNS, BatchScorer, no_rows


@public
def review(
    detector: Detector,
    x: ArrayLike,
    predictions: Predictions | None = None,
    *,
    names: Sequence[str] | None = None,
    name: str = "verdicts",
    decisions: Decisions | str | Path | None = None,
    preprocess: Preparation | None = None,
) -> Any:
    """The review queue of a report, for verdicts in a notebook: flagged and trusted inputs drawn at random and mixed.

    `queue.decisions` are what a person decided so far: `gradgeo.scoring.decisions.Decisions`, whose `write` makes the
    file that the page of a report exports, and that `gradgeo check` and `gradgeo recalibrate` take.

    Args:
        detector: fitted.
        x: inputs (N, *input), a tensor or array, or a list of texts.
        predictions: of `x`, by `detector.predict`; None to judge now.
        names: (N,) of the inputs; their positions where there are none, texts by themselves.
        name: of the data, for people: decisions are on this name, these inputs and this detector.
        decisions: made before, to go on with, or their file.
        preprocess: what was done to pictures and is undone to show them; None for what the detector's notes say.

    Returns: an `anywidget.AnyWidget`. A notebook saved with its widgets keeps the pictures that the queue shows.

    Cost: `detector.explain` of at most 1,000 flagged inputs, and one backward pass for where they move the class.

    Raises:
        ArgumentError: `predictions` or `names` of another length.
        DataError: `decisions` on other verdicts, or no input could be judged.
        MissingDependencyError: anywidget or Jinja is not installed.
    """
    kind = _widget_class()
    texts = [str(text) for text in x] if isinstance(detector.model, TextClassifier) and isinstance(x, list) else None
    batch = torch.as_tensor(one_batch(detector.model, x))
    predictions = detector.predict(batch) if predictions is None else predictions
    titles = [str(text)[:LONGEST] for text in names or texts or range(len(batch))]
    for argument, given in (("predictions", predictions), ("names", titles)):
        if len(given) != len(batch):
            raise expected(argument, f"of the {len(batch):,} inputs of x", len(given))
    judged = predictions.p_value.isfinite().numpy()
    trusted = predictions.trusted.numpy()
    order = np.argsort(draw.keys(np.arange(len(batch))), kind="stable")
    positions = {of: order[(judged & (trusted == of))[order]].tolist() for of in (False, True)}
    shown = mixed(positions)
    prepared = preprocess or _stated(detector)
    rows = _flagged(detector, batch, shown[False], titles, prepared, pictured=texts is None)
    for i in shown[True]:
        rows[i] = {"index": i, "name": titles[i]} | (picture(batch[i], prepared) if texts is None else {})
    metadata = Metadata(alpha=detector.alpha, class_names=detector.class_names_, evidence=detector.evidence_)
    cards = {of: [card(rows[i] | _verdict(predictions, i), metadata) for i in some] for of, some in shown.items()}
    about = Subject(name, detector.digest(), len(positions[False]), len(positions[True]), (len(batch),))
    queue = payload(about, cards)
    if queue is None:
        raise DataError(f"none of the {len(batch):,} inputs could be judged, so there is none to review")
    document = {key: queue[key] for key in ("format", "report", "detector", "sampling")} | {"decisions": []}
    if decisions is not None:
        document = _continued(decisions, document)
    html = parts.templates().get_template("widget.html.j2").render(queue=queue, cards=[], explanation=None)
    return kind(html=parts.compact(html), payload=queue, document=document)


@public
def explanation(
    explained: Explanation,
    x: ArrayLike | None = None,
    *,
    detector: Detector | None = None,
    name: str = "",
    preprocess: Preparation | None = None,
) -> Any:
    """Why one prediction is trusted or not: picture, CSM, evidence in plain words, and the most unusual statistics.

    Args:
        explained: of `detector.explain`.
        x: the input (*input); None to show none.
        detector: which explained it: a click on the picture then shows where it moves the predicted class.
        name: of the input.
        preprocess: as in `review`.

    Returns: an `anywidget.AnyWidget`.

    Raises: MissingDependencyError: anywidget or Jinja is not installed.
    """
    kind = _widget_class()
    row: dict[str, Any] = {"index": 0, "name": name or "0", "cause": explained.cause}
    row |= {field: getattr(explained, field) for field in VERDICT_COLUMNS}
    row["evidence"] = [score.p_value for score in explained.evidence.values()]
    first = torch.zeros(1 + max((*explained.classes, explained.label)))
    if explained.label >= 0:
        first[explained.label] = 1.0  # before the others, which stay in order
        row |= similarities(explained, first)
    if x is not None:
        seen = torch.as_tensor(x)
        row |= picture(seen, preprocess or (Preprocess() if detector is None else _stated(detector)))
        if detector is not None and explained.label >= 0:
            row["saliency"] = saliency(detector.model, {0: seen}, [explained.label]).get(0)
    alpha = None if detector is None else detector.alpha
    metadata = Metadata(alpha=alpha, class_names=explained.class_names, evidence=tuple(explained.evidence))
    template = parts.templates().get_template("widget.html.j2")
    html = template.render(queue=None, cards=[card(row, metadata)], explanation=explained)
    return kind(html=parts.compact(html), payload={}, document={})


def _flagged(
    detector: Detector, x: Tensor, rows: Sequence[int], names: Sequence[str], prepared: Preparation, *, pictured: bool
) -> dict[int, dict[str, Any]]:
    """By position, what a file of verdicts holds of these inputs."""
    scorer, columns, size = BatchScorer(detector, prepared), no_rows(), detector.batch_size
    for start in range(0, len(rows), size):
        items = [Item(i, names[i], x[i], None, None) for i in rows[start : start + size]]
        scorer.add(items, columns, len(items) if pictured else 0)
    return {i: {name: values[place] for name, values in columns.items()} for place, i in enumerate(rows)}


def _verdict(predictions: Predictions, row: int) -> dict[str, Any]:
    return {name: getattr(predictions, name)[row].item() for name in VERDICT_COLUMNS}


def _stated(detector: Detector) -> Preprocess:
    """What the detector's notes say of how pictures were prepared; code that they name is not run."""
    known = detector.notes.get("preprocess")
    stated = isinstance(known, Mapping) and not known.keys() & {"transform", "text"}
    return Preprocess.from_dict(known) if stated else Preprocess()


def _continued(decisions: Decisions | str | Path, document: dict[str, Any]) -> dict[str, Any]:
    """The document of earlier decisions. Raises: DataError where they are on other verdicts."""
    earlier = (decisions if isinstance(decisions, Decisions) else Decisions.read(decisions)).as_dict()
    for name in ("report", "detector", "sampling"):
        if earlier[name] != document[name]:
            raise DataError(f"these decisions are of the {name} {earlier[name]}. This queue is of {document[name]}.")
    return earlier


def _widget_class() -> Any:
    """The widget, made when its library is there. Raises: MissingDependencyError."""
    return _made_of(require("anywidget", "notebook").AnyWidget, require("traitlets", "notebook"))


@cache
def _made_of(base: Any, traitlets: Any) -> Any:

    class Widget(base):  # type: ignore[misc]
        """A queue or an explanation; see `review` and `explanation`."""

        _esm = parts.script(("widget",)).replace("/* MODULES */", parts.script(parts.QUEUE))
        html = traitlets.Unicode().tag(sync=True)
        payload = traitlets.Dict().tag(sync=True)
        document = traitlets.Dict().tag(sync=True)

        @property
        def decisions(self) -> Decisions:
            """What was decided so far. Raises: DataError for an explanation, on which nothing is decided."""
            if not self.document:
                raise DataError("an explanation is only looked at: make a queue with gradgeo.report.widgets.review")
            try:
                return Decisions.from_dict(self.document)
            except ValueError as error:
                raise DataError(f"what the notebook sent is no file of decisions: {error}") from error

    return Widget
