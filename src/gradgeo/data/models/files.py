"""Whole models in one file: TorchScript (.pt, .pth, .ts) and torch.export (.pt2).

Both are programs, which their reader compiles: read only those that you would run. Python code is in neither.
"""

from pathlib import Path

import torch
from torch import nn

from gradgeo.errors import ModelError, expected, one_line

ENDINGS = (".pt", ".pth", ".ts", ".pt2")


def from_file(file: Path) -> nn.Module:
    """The model. Raises: ArgumentError for a file that is missing; ModelError for another kind of content."""
    if not file.is_file():
        raise expected("model", "a file that exists", str(file))
    try:
        if file.suffix == ".pt2":
            return torch.export.load(file).module()
        return torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-any-return]
    except Exception as error:  # whatever the readers raise on other content
        kind = "of torch.export" if file.suffix == ".pt2" else "TorchScript"
        raise ModelError(
            f"{file} is no model {kind} ({one_line(str(error).strip().split(chr(10))[0])[:200]}). Pickled models are "
            "not read, for that executes what is in them: name the code that builds it (file.py:function) and its "
            "weights as .safetensors."
        ) from error
