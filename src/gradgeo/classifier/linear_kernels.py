"""Linear layers whose weights are constants, by oneDNN, on some processors twice as fast as what PyTorch calls.

PyTorch calls MKL. On one thread of a Xeon of 2021 both take about the same: 64 x 3,072 by 3,072 x 512 2.1 (MKL) and
1.9 ms (oneDNN) with AVX-512, 3.8 and 2.7 with AVX2, 8.7 and 8.7 with SSE4.1; 32 rows 1.3 and 1.4, 1.6 and 1.9, 4.8 and
4.7. So oneDNN, never much slower, is taken everywhere: another choice would round otherwise on another machine.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDE = 1 << 18
"""Weights of a layer from which it pays."""
MANY_ROWS = 32
"""Rows from which oneDNN is taken."""


def usable() -> bool:
    """Whether this build of PyTorch has the function, which is private."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias."""
    if x.numel() < MANY_ROWS * x.shape[-1]:
        return F.linear(x, weight, bias)
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], ""))


@torch.library.custom_op("gradgeo::linear_product", mutates_args=())
def _batchable(x: Tensor, weight: Tensor) -> Tensor:
    """The same as an operator, which may have a rule for several cotangents at once."""
    return _product(x, weight)


@_batchable.register_vmap
def _together(info: Any, dims: tuple[int | None, ...], x: Tensor, weight: Tensor) -> tuple[Tensor, int]:
    assert dims[0] is not None
    return _batchable(x.movedim(dims[0], 0), weight), 0  # (K, N, out) @ (out, in)


class _Linear(torch.autograd.Function):
    """May be differentiated any number of times with respect to its input, and to nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        if torch._C._functorch.is_batchedtensor(above[0]):
            return _batchable(above[0], weight.mT), None, None  # v W: the gradient for the input
        return _Linear.apply(above[0], weight.mT, None), None, None


class _Frozen(nn.Linear):
    """A linear layer in a copy of a model, whose weights stay as they are."""

    def forward(self, input: Tensor) -> Tensor:
        if type(input) is Tensor and input.dtype == torch.float32 and input.device.type == "cpu" and input.ndim > 1:
            return cast(Tensor, _Linear.apply(input, self.weight, self.bias))
        return super().forward(input)


def wide(model: nn.Module) -> list[nn.Linear]:
    """The layers of `model` for which it pays."""
    return [module for module in model.modules() if type(module) is nn.Linear and _is_wide(module)] if usable() else []


def _is_wide(layer: nn.Linear) -> bool:
    weight = layer._parameters.get("weight")  # none of its own where it is computed at each call, as by weight_norm
    on_cpu = weight is not None and weight.dtype == torch.float32 and weight.device.type == "cpu"
    return on_cpu and layer.in_features * layer.out_features >= WIDE


def freeze_linear(model: nn.Module) -> None:
    """Change the wide layers of `model`, so that oneDNN multiplies them."""
    for layer in wide(model):
        layer.__class__ = _Frozen
