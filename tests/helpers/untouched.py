"""What a call must leave as it was."""

import random
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def state(model: nn.Module, x: Tensor) -> list[Any]:
    """All that a call could leave changed of a model, an input, and the settings and random states of the process."""
    found: list[Any] = [v.clone() for v in model.state_dict().values()]
    for module in model.modules():
        own = vars(module)
        found += [module.training, sorted(own), [list(own[name]) for name in own if name.endswith("hooks")]]
    for parameter in model.parameters():
        found += [parameter.requires_grad, id(parameter), id(parameter.grad), parameter.grad, parameter._version]
    found += [x.clone(), x.grad, x.requires_grad, x._version, x.is_leaf]
    found += [torch.get_rng_state(), random.getstate(), *np.random.get_state()[1:3]]  # noqa: NPY002
    found += [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")]
    found += [torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()]
    found += [list(warnings.filters), warnings.showwarning, np.geterr()]
    return found


def same(a: Any, b: Any) -> bool:
    """Equal through tensors, arrays and lists, NaN and all."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a.detach().nan_to_num(-7), b.detach().nan_to_num(-7))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
