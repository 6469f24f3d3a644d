"""The images and the files of other packages that networks are trained on."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.named import find
from gradgeo.bench.user_model import read_inputs
from gradgeo.errors import MissingDependencyError


def images(folder: Path, name: str, split: str = "test", limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [0, 1] and classes of a public data set, whose file is in `folder`/data."""
    return read_inputs(find(name, split, folder, limit=limit))


def image_file(folder: Path, name: str, split: str) -> Path:
    """Their file."""
    return Path(find(name, split, folder, limit=1).spec.partition("#")[0])


def shaped(x: Tensor, shape: torch.Size | tuple[int, int, int]) -> Tensor:
    """Images (N, C, H, W) as (N, *shape): resized whole, grey where one channel is asked for."""
    channels, *size = shape
    if x.shape[1] != channels:
        x = x.expand(-1, channels, -1, -1) if x.shape[1] == 1 else x.mean(1, keepdim=True)
    if list(x.shape[2:]) == size:
        return x.contiguous()
    return F.interpolate(x, size=tuple(size), mode="bilinear", antialias=True).clamp(0, 1)


def packaged(package: str, file: str, wheel: str) -> Path:
    """The one file of an installed package that matches `file`; the package itself is not imported.

    Args:
        wheel: what to install it as.

    Raises:
        MissingDependencyError: it is not installed.
    """
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob(file)):
            return path
    raise MissingDependencyError(f"this network needs {wheel}; pip install {wheel}")
