"""Derivatives for what has none: the sign and the kink of a ReLU keep their values and get smooth slopes.

Attacks on gradient geometry differentiate a second time. In a ReLU network J = dz/dx is piecewise constant and a sign
has no slope at all, so plain double backward sees next to nothing of what a step does to the maps.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gradgeo.classifier.conv_kernels import convolved


def soft_sign(maps: Tensor) -> Tensor:
    """sign(maps) with the slope of tanh(maps / rms), rms the root mean square of each map (N, K, *input)."""
    rms = maps.detach().flatten(2).square().mean(2).sqrt().view(*maps.shape[:2], *[1] * (maps.ndim - 2))
    soft = torch.tanh(maps / torch.where(rms > 0, rms, 1.0))
    return soft + (maps.sign() - soft).detach()


class SmoothReLU(TorchFunctionMode):
    """Within this context a ReLU keeps its value and has the derivatives of softplus.

    The bend has the width rms / sharpness, with rms the root mean square of what enters the ReLU, per sample.
    Convolutions with frozen weights are differentiated twice at what that costs, see `conv_kernels`.
    """

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (torch.relu, torch.Tensor.relu, F.relu):
            return self.relu(args[0] if args else (kwargs or {})["input"])
        if func in (torch.relu_, torch.Tensor.relu_):
            return args[0].copy_(self.relu(args[0].clone()))
        if func in _CONVOLUTIONS:
            return _convolution(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def relu(self, x: Tensor) -> Tensor:
        """max(x, 0) with derivative sigmoid(k x)."""
        rms = x.detach().flatten(1).square().mean(1).sqrt().view(-1, *[1] * (x.ndim - 1))
        return cast(Tensor, _BentReLU.apply(x, self.sharpness / torch.where(rms > 0, rms, 1.0)))


class _BentReLU(torch.autograd.Function):
    """max(x, 0) differentiated as softplus(k x) / k; one step of its own, as composing it costs a CSA step a third."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor) -> Tensor:
        ctx.save_for_backward(x, k)
        return x.clamp_min(0)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        x, k = ctx.saved_tensors
        return above[0] * torch.sigmoid(k * x), None


_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


def _convolution(
    func: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    dims = _CONVOLUTIONS[func]
    learnt = weight.requires_grad or (bias is not None and bias.requires_grad)
    if learnt or isinstance(padding, str) or x.ndim != dims + 2:
        return func(x, weight, bias, stride, padding, dilation, groups)
    sizes = [[size] * dims if isinstance(size, int) else list(size) for size in (stride, padding, dilation)]
    if any(len(size) != dims for size in sizes):
        return func(x, weight, bias, stride, padding, dilation, groups)
    stride, padding, dilation = sizes
    return convolved(x, weight, bias, stride, padding, dilation, groups)
