"""What a page shows of an input beside its verdict: the picture as it was prepared, maps over it, and the CSM.

A worker makes it, as JSON: pictures are PNG in base64.
"""

import base64
from io import BytesIO
from typing import Any

import pydantic_core
import torch
from torch import Tensor

from gradgeo.data.images import to_pillow
from gradgeo.data.preprocess import Preprocess
from gradgeo.detector.detector import Detector
from gradgeo.detector.explanations import likeliest
from gradgeo.detector.results import Explanation
from gradgeo.errors import ModelError, require
from gradgeo.geometry.saliency import saliency_maps

MOST_CLASSES = 10
"""Rows of the CSM that is shown, the likeliest first."""

MAPS = 2
"""Of the predicted class and the next."""

STRONG = 0.99
"""Quantile of a map's entries that, with all above, are shown at full strength."""

COLOUR = (255, 64, 0)


def details(
    detector: Detector, x: Tensor, logits: Tensor, explanations: list[Explanation], preprocess: Preprocess
) -> list[str]:
    """For each input (N, C, H, W) a JSON object.

    `picture`; `maps`, each with its `class` and a `picture` to lay over it, opaque where the gradient of the loss of
    that class is large, none of a model without gradients; `csm`, row after row, of `csm_classes`; `evidence`, p-values
    by name.
    """
    names = min(MAPS, detector.num_classes_)
    ranked = torch.nan_to_num(logits, -torch.inf).topk(names, dim=1).indices  # (N, M)
    try:
        maps = saliency_maps(detector.model, x, classes=ranked, sign=False).float().cpu()  # (N, M, C, H, W)
    except ModelError:  # it has judged these inputs: what it lacks are gradients, or memory for them
        ranked, maps = ranked[:, :0], x.new_empty(len(x), 0, *x.shape[1:])
    return [
        pydantic_core.to_json(
            {
                "picture": _png(to_pillow(torch.nan_to_num(preprocess.undone(x[i].float())))),
                "maps": [{"class": int(c), "picture": _overlay(m)} for c, m in zip(ranked[i], maps[i], strict=True)],
                **_csm(explanations[i], logits[i]),
                "evidence": {name: score.p_value for name, score in explanations[i].evidence.items()},
            },
            inf_nan_mode="null",
        ).decode()
        for i in range(len(x))
    ]


def _csm(explanation: Explanation, logits: Tensor) -> dict[str, Any]:
    classes, matrix = likeliest(explanation, logits, MOST_CLASSES)
    return {"csm": matrix.flatten().tolist(), "csm_classes": classes}


def _overlay(gradient: Tensor) -> str:
    """A gradient (C, H, W) as a picture of one colour whose opacity is its size, over all channels."""
    size = torch.nan_to_num(gradient.abs().sum(0))  # (H, W)
    strong = float(size.flatten().kthvalue(max(1, round(STRONG * size.numel()))).values)
    opacity = (size / strong).clamp(0, 1) if strong > 0 else torch.zeros_like(size)
    mask = to_pillow(opacity[None])
    overlay = require("PIL.Image", "images").new("RGB", mask.size, COLOUR)
    overlay.putalpha(mask)
    return _png(overlay)


def _png(picture: Any) -> str:
    stream = BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
