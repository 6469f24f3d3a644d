"""Telling models apart: a hash of the weights, and the logits of two synthetic inputs."""

import hashlib
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradgeo.classifier.isolated_copy import unwrapped
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.errors import ModelError

_PART = 1 << 16
"""Entries of a synthetic input that are computed at a time."""


def of(model: Model, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """What identifies `model`: the SHA-256 of its weights, None for a plain function, and two rows of logits,
    None where `model` gives none that are finite.

    The hash sees any changed weight; the logits see what weights do not show: another architecture, pre-processing or
    mode over the same weights.
    """
    rows: list[list[float]] | None = None
    try:
        logits = Classifier.of(model).logits(synthetic_inputs(input_shape)).logits
        rows = logits.double().tolist() if bool(logits.isfinite().all()) else None
    except ModelError:  # a model may refuse inputs that are not like its own
        pass
    return {"weights": weights_hash(model), "logits": rows}


def difference(known: dict[str, Any], model: Model, input_shape: tuple[int, ...]) -> str | None:
    """In what `model` differs from the one whose fingerprint is `known`, or None."""
    if known["weights"] != weights_hash(model):
        return "its weights differ"
    if known["logits"] is None:
        return None
    logits = Classifier.of(model).logits(synthetic_inputs(input_shape)).logits
    before = torch.tensor(known["logits"], dtype=torch.float64)
    if logits.shape != before.shape:
        return f"it has {logits.shape[1]} classes instead of {before.shape[1]}"
    tolerance = 5e-2 if logits.dtype in (torch.bfloat16, torch.float16) else 1e-3
    if not bool(((logits.double().cpu() - before).abs() <= tolerance * before.abs().max().clamp_min(1e-6)).all()):
        return "the same weights give other logits (another architecture, pre-processing or mode)"
    return None


def synthetic_inputs(input_shape: tuple[int, ...]) -> Tensor:
    """Two smooth inputs (2, *input), float32 in [0, 1], that depend on nothing but the shape."""
    x = torch.empty(2, max(1, int(torch.Size(input_shape).numel())))
    for start in range(0, x.shape[1], _PART):  # in float64, of which there is never more than a part
        t = torch.arange(start, min(start + _PART, x.shape[1]), dtype=torch.float64)
        x[:, start : start + _PART] = 0.5 + 0.5 * torch.stack([torch.cos(0.37 * t), torch.cos(0.011 * t + 1)])
    return x.view(2, *input_shape)


def weights_hash(model: Model) -> str | None:
    """The SHA-256 of all weights and buffers; None for a plain function."""
    if not isinstance(model, nn.Module):
        return None
    digest = hashlib.sha256()
    for name, value in sorted(unwrapped(model).state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def content_hash(value: Any) -> str:
    """The SHA-256 of the names, types and values in `value`: dataclasses, dicts and sequences of arrays and plain data,
    in their order."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if is_dataclass(value) and not isinstance(value, type):
        value = {"": type(value).__name__, **{f.name: getattr(value, f.name) for f in fields(value)}}
    if isinstance(value, dict):
        for name, entry in value.items():
            digest.update(f"{name}:".encode())
            _feed(digest, entry)
    elif isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value.cpu().numpy() if isinstance(value, Tensor) else value)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}[".encode())
        for entry in value:
            _feed(digest, entry)
    else:
        digest.update(f"{value.item() if isinstance(value, np.generic) else value!r};".encode())
