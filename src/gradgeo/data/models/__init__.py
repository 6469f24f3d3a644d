"""Models by name: `file.py:function`, `package.module:function`, `torchvision:NAME`, `timm:NAME` or `digits`.

The code behind `file.py:function` and `package.module:function` is the user's own and is run. Weights are
read from safetensors only, a format that cannot hold code.
"""

from pathlib import Path

import torch
from torch import nn

from gradgeo.data.models.weights import fill, weights_file
from gradgeo.data.models.zoo import ZOOS, from_zoo
from gradgeo.data.models.zoo import pretrained_preprocessing as pretrained_preprocessing
from gradgeo.data.user_code import call, resolved
from gradgeo.errors import expected, public, warn

KINDS = "file.py:function, package.module:function, torchvision:NAME, timm:NAME or digits"
NAMED = {"digits": "gradgeo.data.digits:digits_classifier"}


@public
def load_model(spec: str, weights: str | Path | None = None) -> nn.Module:
    """The classifier that `spec` names, in eval mode on the CPU.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()

    Args:
        spec: `file.py:function` or `package.module:function`, called without arguments, or the name of an nn.Module
            object; `torchvision:NAME` or `timm:NAME`, the architecture with the number of classes of `weights`,
            without a download; `digits`, the classifier of the demo.
        weights: a .safetensors file whose keys are exactly those of the model.

    The model is built under the random seed 0, so that weights which no file sets are the same every time. The caller's
    random state is restored.

    Raises:
        ArgumentError: the spec, its file or function, or the weights file is missing or of the wrong kind.
        ModelError: the function fails, or the weights are not this model's. MissingDependencyError.
    """
    file = None if weights is None else weights_file(Path(weights).expanduser())
    full = NAMED.get(spec, spec)
    in_zoo = full.startswith(ZOOS)
    place, _, name = full.partition(":") if in_zoo else full.rpartition(":")
    if not (place and name):
        raise expected("model", KINDS, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = from_zoo(place, name, file) if in_zoo else _from_code(place, name)
    if file is not None:
        fill(model, file)
    elif in_zoo:
        warn(f"{spec} has random weights. Pass its trained ones as a .safetensors file.")
    return model.eval()


def is_named(spec: str) -> bool:
    """Whether `spec` names an architecture of a known library, so that building it runs no code of the user."""
    return spec in NAMED or spec.startswith(ZOOS)


def _from_code(place: str, name: str) -> nn.Module:
    """The nn.Module that `name` in the file or package `place` is, or returns."""
    with resolved(place, name) as model:
        if not isinstance(model, nn.Module) and callable(model):
            model = call(model, f"{place}:{name}")
    if not isinstance(model, nn.Module):
        raise expected("model", f"a torch.nn.Module from {place}:{name}", model)
    return model
