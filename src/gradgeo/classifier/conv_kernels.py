"""Convolutions whose weights are constants: differentiated with respect to their input, and to nothing else."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sizes = Sequence[int]

SINGLE = 20_480
"""Entries of a single image up to which PyTorch does without oneDNN: a rule of its own, the same on every processor."""

FEW = 4
"""Input channels up to which a convolution counts as one of a few channels, whose gradient has ways of its own.

oneDNN computes gradients for 16 channels at a time, wanted or not. Of 64 images of one channel, 32 x 32, with 64
filters, the gradient takes 3.3 ms instead of 18 with AVX-512, 3.3 instead of 13 with AVX2, 6.8 instead of 6.4 with
SSE4.1 (one thread of a Xeon of 2021); of three channels by steps of one both ways take the same, so it keeps oneDNN's.
"""

WIDE = 4
"""Strides from which a few channels are treated as one."""

ROWS = 10_000
"""Output entries at stride one, summed over filters, from which a matrix product pays: below, calling a function of
Python takes as long."""

COLUMNS = 4
"""How many times as many entries as the output the columns of the matrix product may have."""


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int
) -> Tensor:
    """The convolution of x (N, channels, *axes), for weights that need no gradient; it may be differentiated twice.

    Its gradient is a transposed convolution. PyTorch's own computes the weights' gradients in every double backward,
    wanted or not, which is a third of a CSA step on a ResNet.
    """
    return cast(Tensor, _Convolved.apply(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups))


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sizes,
        padding: Sizes,
        dilation: Sizes,
        groups: int,
    ) -> Tensor:
        out = torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)
        ctx.save_for_backward(weight)
        ctx.size = x.shape[2:]
        ctx.options, ctx.groups = (stride, padding, dilation), groups
        ctx.columns = _is_narrow(weight, stride, groups)
        ctx.ends = [  # entries that the stride left over at the end of each axis: the transpose must restore them
            size - ((outputs - 1) * s - 2 * p + d * (k - 1) + 1)
            for size, outputs, s, p, d, k in zip(
                x.shape[2:], out.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
            )
        ]
        return out

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        stride, padding, dilation = ctx.options
        if _is_stem(weight, stride, dilation, ctx.groups):
            return _below_stem(above[0], weight, padding, ctx.size), *[None] * 6
        if ctx.columns:
            # W^T v puts into each column what an output gives back to its patch; folding sums what overlaps.
            columns = weight.flatten(1).mT @ above[0].flatten(2)  # (N, channels * kernel, outputs)
            return F.fold(columns, tuple(ctx.size), tuple(weight.shape[2:]), dilation, padding, stride), *[None] * 6
        below = torch.convolution(above[0], weight, None, stride, padding, dilation, True, ctx.ends, ctx.groups)
        return below, *[None] * 6


def _is_small_single(x: Tensor) -> bool:
    """Whether PyTorch would give `x` to other kernels than the same input in a batch, whose rounding differs."""
    one = x.shape[0] == 1 and x.ndim == 4 and x.numel() <= SINGLE
    return one and x.dtype == torch.float32 and x.device.type == "cpu" and torch.backends.mkldnn.is_available()


def _is_stem(weight: Tensor, stride: Sizes, dilation: Sizes, groups: int) -> bool:
    """Whether it takes a few channels by a wide kernel in steps of two: the slowest layer of many models.

    Of 8 images of 224 x 224 the gradient takes 82 ms instead of 129 with AVX-512, 81 instead of 82 with AVX2 and 214
    instead of 100 with SSE4.1, which no server has as its best.
    """
    few = weight.ndim == 4 and weight.shape[1] <= FEW and min(weight.shape[2:]) >= 5 and groups == 1
    return few and tuple(stride) == (2, 2) and tuple(dilation) == (1, 1) and weight.device.type == "cpu"


def _is_narrow(weight: Tensor, stride: Sizes, groups: int) -> bool:
    """Whether it takes one channel, or a few by wide steps, so that its gradient is faster as a matrix product and a
    sum of what falls on the same entry."""
    few = weight.ndim == 4 and groups == 1 and weight.device.type == "cpu"
    few = few and (weight.shape[1] == 1 or (weight.shape[1] <= FEW and min(stride) >= WIDE))
    return few and weight.numel() <= COLUMNS * len(weight) ** 2


def _below_stem(above: Tensor, weight: Tensor, padding: Sizes, size: Sizes) -> Tensor:
    """The gradient of a convolution at stride two, as a convolution at stride one to four times the channels.

    Input pixel (2 a + r, 2 b + s) meets only the kernel entries of one parity, so the gradients of the four parities
    (r, s) are convolutions of `above` by the four subkernels; `pixel_shuffle` interleaves them again. Kernels at stride
    one are better tuned than transposed ones.
    """
    pads: list[int] = []
    wide: list[int] = []
    for kernel, p, entered, outputs in zip(weight.shape[2:], padding, size, above.shape[2:], strict=True):
        # Output i saw the input rows 2 i - p ... 2 i - p + kernel - 1, the pairs of rows i + first ... i + last.
        first, last = (-p) // 2, (kernel - 1 - p) // 2
        before = -p - 2 * first
        pads = [before, 2 * (last - first + 1) - before - kernel, *pads]
        wide = [last, (entered + 1) // 2 - outputs - first, *wide]
    w = F.pad(weight, pads)  # (outputs, channels, 2 h, 2 w): every parity has a kernel of h x w
    w = w.view(*w.shape[:2], w.shape[2] // 2, 2, w.shape[3] // 2, 2)
    # (outputs, channels, h, 2, w, 2) -> (channels, 2, 2, outputs, h, w), flipped as transposing a convolution demands
    w = w.permute(1, 3, 5, 0, 2, 4).flip(4, 5).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    below = F.pixel_shuffle(F.conv2d(F.pad(above, wide), w), 2)  # (N, channels, 2 rows, 2 columns)
    return below[..., : size[0], : size[1]]


class _Frozen(nn.Conv2d):
    """A convolution of constant weights; but for stems, few channels and small single images PyTorch's own."""

    stem: bool
    narrow: bool
    """`_is_stem` and `_is_narrow` of its weight, known before any call."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding, dilation = self.stride, self.padding, self.dilation
        if isinstance(padding, str) or self.padding_mode != "zeros" or x.ndim != 4:
            return cast(Tensor, super()._conv_forward(x, weight, bias))
        if self.stem or (self.narrow and _pays(x, weight)):
            return convolved(x, weight, bias, stride, padding, dilation, self.groups)
        if _is_small_single(x):
            return torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, self.groups)
        return cast(Tensor, super()._conv_forward(x, weight, bias))


class _Frozen1d(nn.Conv1d):
    """The same along one axis, as an image of one row with channels last: oneDNN need not bring what enters and leaves
    it into an order of its own."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if isinstance(padding, str) or self.padding_mode != "zeros" or x.ndim != 3:
            return cast(Tensor, super()._conv_forward(x, weight, bias))
        # (N, channels, length) -> (N, channels, 1, length)
        row, weight = x.unsqueeze(2).contiguous(memory_format=torch.channels_last), weight.unsqueeze(2)
        sizes = ((1, *self.stride), (0, *padding), (1, *self.dilation), self.groups)
        narrow = _is_narrow(weight, (1, *self.stride), self.groups)
        convolve = convolved if narrow and _pays(row, weight) else torch.conv2d
        out = convolve(row, weight, bias, *sizes)
        # Of one channel PyTorch returns channels first.
        return out.contiguous(memory_format=torch.channels_last).squeeze(2)


def _pays(x: Tensor, weight: Tensor) -> bool:
    """Whether the gradient is worth columns: a function of Python costs as much as the product of a short signal."""
    return x.numel() // x.shape[1] * len(weight) >= ROWS


def freeze(model: nn.Module, *, channels_last: bool = False, traced: bool = False) -> None:
    """Change the convolutions of `model`, so that their gradients are fast and a small single image is rounded as in a
    batch. If it is to be `traced`, they stay such as other runtimes have."""
    for module in model.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = _Frozen
            frozen = cast(_Frozen, module)
            frozen.stem = _is_stem(module.weight, module.stride, module.dilation, module.groups)
            frozen.narrow = not traced and _is_narrow(module.weight, module.stride, module.groups)
        elif type(module) is nn.Conv1d and channels_last:
            module.__class__ = _Frozen1d
            if "weight" in module._parameters:  # not computed at each call, as by weight_norm
                row = module.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
                module.weight = nn.Parameter(row.squeeze(2), requires_grad=False)
