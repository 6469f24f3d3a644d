"""What a person is shown of a flagged input: a small picture of an image, the course of a signal, the likeliest CSM."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgeo.classifier.wrapper import Model
from gradgeo.data.images import to_pillow
from gradgeo.data.preprocess import Preparation
from gradgeo.detector.explanations import likeliest
from gradgeo.detector.results import Explanation
from gradgeo.errors import MissingDependencyError, ModelError, require
from gradgeo.geometry.saliency import saliency_maps
from gradgeo.scoring.schema import MOST_CLASSES, MOST_POINTS

SIDE, MAP_SIDE = 96, 32  # pixels of the longer side of a thumbnail, and of a saliency map


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
    return _png(preview)


def saliency(model: Model, inputs: Mapping[int, Tensor], labels: Sequence[int]) -> dict[int, bytes]:
    """By row, where an image (C, H, W) moves the predicted class most: a grey PNG of at most `MAP_SIDE` pixels a side.

    The magnitude of the gradient of that class's cross-entropy, summed over channels, as a share of its largest value.
    Costs a backward pass for all of them together. Of what is no image, of a model without gradients, and without
    Pillow, nothing.

    Args:
        model: the classifier.
        inputs: by row, all of one shape.
        labels: (N,) the predicted class of each row.
    """
    shapes = {x.shape for x in inputs.values() if x.ndim == 3 and min(x.shape[1:]) > 1}
    if len(shapes) != 1:
        return {}
    try:
        pillow = require("PIL.Image", "images")
    except MissingDependencyError:
        return {}
    classes = torch.tensor([[labels[row]] for row in inputs])  # (N, 1)
    try:
        maps = saliency_maps(model, torch.stack([*inputs.values()]), classes=classes, sign=False)  # (N, 1, C, H, W)
    except ModelError:  # it has judged these inputs: what it lacks are gradients, or memory for them
        return {}
    where = maps[:, 0].float().abs().sum(1).cpu()  # (N, H, W)
    height, width = (max(1, round(side * min(1, MAP_SIDE / max(where.shape[1:])))) for side in where.shape[1:])
    where = torch.nn.functional.adaptive_avg_pool2d(where, (height, width))
    where = where / where.amax((1, 2), keepdim=True).clamp(min=1e-30)
    return {row: _png(pillow.fromarray(one)) for row, one in zip(inputs, _bytes(where), strict=True)}


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


def _bytes(values: Tensor) -> NDArray[np.uint8]:
    """Values in [0, 1] as 0..255."""
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _png(image: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
