"""Weights from files that cannot hold code."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model as read_weights
from torch import nn

from gradgeo.errors import ModelError, expected


def weights_file(file: Path) -> Path:
    """`file` itself. Raises: ArgumentError unless it exists and is safetensors."""
    if not file.is_file():
        raise expected("weights", "a file that exists", str(file))
    if file.suffix != ".safetensors":
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
