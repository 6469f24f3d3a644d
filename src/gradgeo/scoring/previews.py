"""What a person is shown of a flagged input: a small picture of an image, the course of a signal, the likeliest CSM."""

from io import BytesIO
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gradgeo.data.images import to_pillow
from gradgeo.data.preprocess import Preparation
from gradgeo.detector.explanations import likeliest
from gradgeo.detector.results import Explanation
from gradgeo.errors import MissingDependencyError
from gradgeo.scoring.schema import MOST_CLASSES, MOST_POINTS

SIDE = 96  # pixels of the longer side of a thumbnail


def picture(x: Tensor, preprocess: Preparation) -> dict[str, Any]:
    """The `thumbnail` (PNG) of an image (C, H, W), or else the `signal` of a series (C, L) or table (d,).

    Of volumes, which are neither, nothing; of an image without Pillow nothing.
    """
    shown = preprocess.undone(x.detach().float().cpu())
    if shown.ndim == 3 and min(shown.shape[1:]) > 1:
        return {"thumbnail": thumbnail(shown)}
    if 1 <= shown.ndim <= 3:
        return {"signal": signal(shown if shown.ndim == 1 else shown[0].flatten())}
    return {}


def thumbnail(image: Tensor) -> bytes | None:
    """A PNG of an image (C, H, W): grey of one or two channels, the first three as RGB; at most `SIDE` pixels a side.

    Values within [0, 1] are taken as they are, others stretched to that range.
    """
    try:
        preview = to_pillow(image)
    except MissingDependencyError:
        return None
    preview.thumbnail((SIDE, SIDE))
    stream = BytesIO()
    preview.save(stream, "PNG")
    return stream.getvalue()


def signal(values: Tensor) -> list[float]:
    """At most `MOST_POINTS` values: all, or the least and the largest of equal stretches, so that no peak is lost."""
    if len(values) <= MOST_POINTS:
        return values.tolist()
    extremes: list[int] = []
    edges = torch.linspace(0, len(values), MOST_POINTS // 2 + 1).long().tolist()
    for first, last in pairwise(edges):
        part = values[first:last]
        extremes += sorted((first + int(part.argmin()), first + int(part.argmax())))
    return values[extremes].tolist()


def similarities(explanation: Explanation, logits: Tensor) -> dict[str, Any]:
    """The `csm` of the likeliest classes, the predicted one first, row after row, and which `csm_classes` they are."""
    classes, matrix = likeliest(explanation, logits, MOST_CLASSES)
    if not bool(matrix.isfinite().all()):
        return {}
    return {"csm": matrix.flatten().tolist(), "csm_classes": classes}
