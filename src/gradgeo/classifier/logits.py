"""The logits that a model returns, whatever they are wrapped in, the same for every call."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from gradgeo.classifier.isolated_copy import Model
from gradgeo.classifier.microbatch import out_of_memory
from gradgeo.classifier.randomness import SeededDraws, seed_global_state
from gradgeo.errors import ModelError


class Draws:
    """Whether a model draws random numbers: not known before its first pass, which shows it."""

    def __init__(self) -> None:
        self.possible = True


def logits_of(model: Model, x: Tensor, draws: Draws | None = None) -> Tensor:
    """Logits (N, C) of a prepared batch, the same in every call; tuples, dicts and Hugging Face outputs are unpacked.

    To be called within `classifier.preserve_state`.

    Args:
        draws: kept from call to call of one model. Watching a pass for random numbers takes a few microseconds for
            each of its operators, which a model that draws none is spared after the first.
    """
    seed_global_state(x.device)
    seeded = SeededDraws() if draws is None or draws.possible else None
    try:
        with nullcontext() if seeded is None else seeded:
            output = model(x)
    except Exception as error:  # any failure inside foreign code becomes one message with the shape in it
        if out_of_memory(error):
            raise  # fewer inputs may do
        raise ModelError(
            f"the model failed on inputs of shape {_batch(x)}, {x.dtype}: {type(error).__name__}: {error}"
        ) from error
    if draws is not None and seeded is not None:
        draws.possible = seeded.drew
    logits = unpack(output)
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


def unpack(output: Any) -> Any:
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
