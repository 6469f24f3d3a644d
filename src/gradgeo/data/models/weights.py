"""Weights from files that cannot hold code."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model as read_weights
from torch import nn

from gradgeo.errors import ModelError, expected

CHECKPOINT = ".ckpt"


def weights_file(file: Path) -> Path:
    """`file` itself. Raises: ArgumentError unless it exists and is safetensors or a checkpoint."""
    if not file.is_file():
        raise expected("weights", "a file that exists", str(file))
    if file.suffix not in (".safetensors", CHECKPOINT):
        load = f"torch.load({file.name!r}, weights_only=True)"
        save = f"save_file({{k: v.clone().contiguous() for k, v in {load}.items()}}, {file.stem + '.safetensors'!r})"
        code = f"import torch; from safetensors.torch import save_file; {save}"
        raise expected(
            "weights",
            "a .safetensors file",
            file.name,
            "Other formats are pickles, which execute code when they are read. "
            f'Convert a state dict that you trust: python -c "{code}"',
        )
    return file


def checkpoint(file: Path) -> dict[str, Any]:
    """A checkpoint of Lightning: tensors and plain values, as PyTorch's restricted reader takes them.

    Raises: ModelError for one with other objects, which executes code when it is read, or without weights.
    """
    known = _read(file)
    found: dict[str, Any] = known if isinstance(known, dict) else {}
    if not _are_weights(found.get("state_dict")):
        raise ModelError(f"expected {file.name} to be a checkpoint of Lightning with a state_dict, got none.")
    return found


def tensors_in(file: Path) -> dict[str, torch.Tensor]:
    """A state dict as `torch.save` writes it, bare or as "model" or "state_dict" among other plain values.

    Raises: ModelError for a file with other objects, which executes code when it is read, or without weights.
    """
    known = _read(file)
    inside = [known.get(name) for name in ("model", "state_dict")] if isinstance(known, dict) else []
    weights: dict[str, torch.Tensor] | None = next(filter(_are_weights, [known, *inside]), None)
    if weights is None:
        raise ModelError(f"expected {file.name} to be a state dict of tensors, got none.")
    return weights


def _read(file: Path) -> Any:
    """Tensors and plain values."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the reader raises on other content
        raise ModelError(
            f"{file.name} holds other objects than tensors and plain values, or is broken. Reading such objects "
            "executes code, so it is not done: save the state dict alone, as .safetensors."
        ) from error


def _are_weights(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(each, torch.Tensor) for each in value.values())


def arguments_in(known: dict[str, Any], build: Callable[..., Any]) -> dict[str, Any]:
    """The hyperparameters of a checkpoint that `build` has parameters for."""
    stored = known.get("hyper_parameters")
    if not isinstance(stored, dict):
        return {}
    parameters = inspect.signature(build).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return {str(name): value for name, value in stored.items()}
    return {p.name: stored[p.name] for p in parameters if p.name in stored}


def fill_from(model: nn.Module, weights: dict[str, torch.Tensor], file: Path) -> None:
    """Load the weights; where the model is a part of the module that was trained, those below its one name there.

    Raises: ModelError unless each tensor of the model is there, in its shape.
    """
    own = model.state_dict()
    shortest = min(own, key=len, default="")
    ends = [key for key in weights if key == shortest or key.endswith(f".{shortest}")]
    prefixes = {key.removesuffix(shortest) for key in ends}
    fitting = [p for p in prefixes if all(p + key in weights for key in own)]
    if set(own) == set(weights):
        fitting = [""]
    if len(fitting) != 1:
        found = "several" if fitting else "none"
        raise ModelError(
            f"expected one module in {file.name} with the {len(own)} tensors of the model ({', '.join(sorted(own)[:3])}"
            f", ...), got {found} among {', '.join(sorted(weights)[:3])}, ..."
        )
    part = {key: weights[fitting[0] + key] for key in own}
    differing = [key for key in own if part[key].shape != own[key].shape]
    if differing:
        key = differing[0]
        raise ModelError(
            f"{file.name} has other shapes for {len(differing)} of the model's {len(own)} tensors: "
            f"{key} is {tuple(part[key].shape)} there and {tuple(own[key].shape)} in the model."
        )
    model.load_state_dict(part)


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file, from its header."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise expected("weights", "a safetensors file", file.name, f"Reading it says: {error}.") from error


def fill(model: nn.Module, file: Path) -> None:
    """Load the weights. Raises: ModelError unless the keys and shapes are exactly those of the model."""
    shapes, own = shapes_in(file), model.state_dict()
    differing = [key for key in own if key in shapes and shapes[key] != tuple(own[key].shape)]
    if differing:
        key = differing[0]
        raise ModelError(
            f"{file.name} has other shapes for {len(differing)} of the model's {len(own)} tensors: "
            f"{key} is {shapes[key]} there and {tuple(own[key].shape)} in the model."
        )
    missing, unexpected = read_weights(model, file, strict=False)
    if missing or unexpected:
        facts = [
            f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise ModelError(f"the keys of {file.name} are not those of the model: {'; '.join(facts)}.")
