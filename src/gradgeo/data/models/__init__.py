"""Models by name: code of the user's, a file, a MONAI bundle, a name of Hugging Face, torchvision or timm, or `digits`.

The code behind `file.py:function` and `package.module:function`, and that of a bundle, is the user's own and is run.
Weights are read from safetensors, a format that cannot hold code, or by PyTorch's reader of tensors and plain values.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradgeo.data.models.bundle import from_bundle
from gradgeo.data.models.files import ENDINGS, from_file
from gradgeo.data.models.hub import class_names as class_names
from gradgeo.data.models.hub import from_hub
from gradgeo.data.models.weights import (
    CHECKPOINT,
    arguments_in,
    checkpoint,
    fill,
    fill_from,
    weights_file,
)
from gradgeo.data.models.zoo import ZOOS, from_zoo
from gradgeo.data.models.zoo import pretrained_preprocessing as pretrained_preprocessing
from gradgeo.data.user_code import call, resolved
from gradgeo.errors import expected, public, warn

KINDS = (
    "file.py:function, package.module:function, a .pt or .pt2 file, hf:ORG/NAME, monai:FOLDER, torchvision:NAME, "
    "timm:NAME or digits"
)
WITH_WEIGHTS = {"hf:": from_hub, "monai:": from_bundle}
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
            without a download; `hf:ORG/NAME` or `hf:FOLDER`, a classifier of images or texts of Hugging Face, the
            latter as `gradgeo.text` makes them; `monai:FOLDER`, the network of a bundle, whose code is run; a file of
            TorchScript (.pt, .pth, .ts) or torch.export (.pt2), which are programs: read only what you would run;
            `digits`, the classifier of the demo.
        weights: a .safetensors file whose keys are exactly those of the model, or a checkpoint of Lightning (.ckpt) of
            tensors and plain values; a class that `spec` names is called with its hyperparameters.

    The model is built under the random seed 0, so that weights which no file sets are the same every time. The caller's
    random state is restored.

    Raises:
        ArgumentError: the spec, its file or function, or the weights file is missing or of the wrong kind.
        ModelError: the function fails, or the weights are not this model's. MissingDependencyError.
    """
    file = None if weights is None else weights_file(Path(weights).expanduser())
    if spec.startswith(tuple(WITH_WEIGHTS)) or (":" not in spec and Path(spec).suffix in ENDINGS):
        if file is not None:
            raise expected("weights", f"None for {spec}, which brings its own", file.name)
        read = WITH_WEIGHTS.get(f"{spec.partition(':')[0]}:")
        with torch.random.fork_rng(devices=[]):
            return _in_eval_mode(from_file(Path(spec).expanduser()) if read is None else read(spec))
    full = NAMED.get(spec, spec)
    in_zoo = full.startswith(ZOOS)
    place, _, name = full.partition(":") if in_zoo else full.rpartition(":")
    if not (place and name):
        raise expected("model", KINDS, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        known = checkpoint(file) if file is not None and file.suffix == CHECKPOINT else None
        model = from_zoo(place, name, file if known is None else None) if in_zoo else _from_code(place, name, known)
    if file is not None and known is not None:
        fill_from(model, known["state_dict"], file)
    elif file is not None:
        fill(model, file)
    elif in_zoo:
        warn(f"{spec} has random weights. Pass its trained ones as a .safetensors file.")
    return model.eval()


def _in_eval_mode(model: nn.Module) -> nn.Module:
    """`model` in eval mode; what torch.export wrote stays in the mode that it was exported in."""
    try:
        return model.eval()
    except NotImplementedError:
        return model


def is_named(spec: str) -> bool:
    """Whether `spec` names an architecture of a known library, so that building it runs no code of the user."""
    return spec in NAMED or spec.startswith(ZOOS)


def _from_code(place: str, name: str, known: dict[str, Any] | None = None) -> nn.Module:
    """The nn.Module that `name` in the file or package `place` is, or returns; of a class, with the hyperparameters of
    the checkpoint that is `known`."""
    with resolved(place, name) as model:
        if not isinstance(model, nn.Module) and callable(model):
            arguments = arguments_in(known, model) if known is not None and isinstance(model, type) else {}
            model = call(partial(model, **arguments), f"{place}:{name}()")
    if not isinstance(model, nn.Module):
        raise expected("model", f"a torch.nn.Module from {place}:{name}", model)
    return model
