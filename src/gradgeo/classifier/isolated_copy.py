"""An isolated copy of the caller's model: the weights are shared, everything else is its own."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.errors import ModelError

Model = nn.Module | Callable[[Tensor], Any]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel or torch.compile."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def isolated_copy(model: nn.Module) -> nn.Module:
    """`model` with the same weight memory and its own structure, buffers, mode and `requires_grad`."""
    with torch.inference_mode(False), torch.no_grad():  # a copy made in inference mode could not be differentiated
        try:
            memo: dict[int, Any] = {}
            for parameter in model.parameters():
                data = parameter.detach()
                data = data.clone() if data.is_inference() else data
                memo[id(parameter)] = nn.Parameter(data, requires_grad=False)
            for buffer in model.buffers():
                memo[id(buffer)] = buffer.detach().clone()
            for module in model.modules():  # weights computed from others, as by weight_norm or pruning
                for value in vars(module).values():
                    if isinstance(value, Tensor) and not value.is_leaf:
                        memo[id(value)] = value.detach()
            copied = copy.deepcopy(model, memo)
            if set(model.modules()) & set(copied.modules()):
                raise TypeError("its copy shares modules with it")
        except Exception as error:  # copying fails in as many ways as there are models
            if any(module.training for module in model.modules()):
                raise ModelError(
                    f"the model is in training mode and cannot be copied ({type(error).__name__}: {error}). "
                    "Call model.eval() first."
                ) from error
            return model
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied.eval()
