"""The logits that a model returns, whatever they are wrapped in, the same for every call."""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradgeo.classifier.isolated_copy import Model
from gradgeo.classifier.microbatch import out_of_memory
from gradgeo.errors import ModelError


def logits_of(model: Model, x: Tensor) -> Tensor:
    """Logits (N, C) of a prepared batch; tuples, dicts and Hugging Face outputs are unpacked.

    To be called within `classifier.preserve_state`, for it seeds the random state that a stochastic model draws from.
    """
    _seed(x.device)
    try:
        output = model(x)
    except Exception as error:  # any failure inside foreign code becomes one message with the shape in it
        if out_of_memory(error):
            raise  # fewer inputs may do
        raise ModelError(
            f"the model failed on inputs of shape {_batch(x)}, {x.dtype}: {type(error).__name__}: {error}"
        ) from error
    logits = _unpack(output)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != x.shape[0]:
        raise ModelError(
            f"expected the model to return logits of shape (N, C), got {_shape(logits)}. "
            "Wrap the model so that it returns one row of class scores per input."
        )
    if logits.shape[1] < 2:
        raise ModelError(
            "expected the model to return at least 2 class scores, got 1: the maps of a single score are all "
            "parallel, so there is no geometry between classes to look at."
        )
    return logits


def _unpack(output: Any) -> Any:
    """The logits inside what models return."""
    logits = getattr(output, "logits", None)
    if logits is not None:
        return logits
    if isinstance(output, Mapping):
        return output.get("logits", next(iter(output.values()), None))
    if isinstance(output, tuple | list) and output:
        return output[0]
    return output


def _batch(x: Tensor) -> str:
    return f"({', '.join(['N', *map(str, x.shape[1:])])})"


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def alone() -> bool:
    """Whether the global random state is ours to change: other threads would draw from it too."""
    return threading.active_count() == 1


def _seed(device: torch.device) -> None:
    if alone():
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(0)
