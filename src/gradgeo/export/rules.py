"""How backward operators are written for the exported graph, where PyTorch's own rules are missing, slow or inexact.

Every rule gives the gradient with respect to the input alone: weights are constants of the graph. What does not depend
on the cotangent is written so that it can be computed once per input, whatever the number of classes: an elementwise
backward is g * f'(x) with f' made of a cotangent of ones.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradgeo.export.normal_quantile import ndtri

aten = torch.ops.aten

Rule = Callable[..., Any]

ELEMENTWISE = (
    *("threshold_backward", "hardtanh_backward", "hardswish_backward", "hardsigmoid_backward", "gelu_backward"),
    *("silu_backward", "elu_backward", "leaky_relu_backward", "softplus_backward", "sigmoid_backward", "tanh_backward"),
    *("log_sigmoid_backward", "mish_backward", "softshrink_backward", "hardshrink_backward"),
)
"""Operators whose first argument is the cotangent and whose result is linear in each entry of it by itself."""


def backward_rules(known: dict[Any, Rule]) -> dict[Any, Rule]:
    """Our rules by operator; `known` are PyTorch's, of which the elementwise ones are made."""
    rules: dict[Any, Rule] = {
        aten.convolution_backward.default: _convolution,
        aten.max_pool2d_with_indices_backward.default: _max_pool2d,
        aten.max_pool3d_with_indices_backward.default: _max_pool3d,
        aten.avg_pool2d_backward.default: _avg_pool,
        aten.avg_pool3d_backward.default: _avg_pool,
        aten._adaptive_avg_pool2d_backward.default: _adaptive_avg_pool,
        aten._adaptive_avg_pool3d_backward.default: _adaptive_avg_pool,
    }
    for name in ELEMENTWISE:
        operator = getattr(aten, name).default
        if operator in known:
            rules[operator] = _slope_times_cotangent(known[operator])
    return rules


def _slope_times_cotangent(rule: Rule) -> Rule:
    def times(cotangent: Tensor, *saved: Any) -> Tensor:
        at = next(argument for argument in saved if isinstance(argument, Tensor))
        slope: Tensor = rule(torch.ones_like(at), *saved)
        return cotangent * slope

    return times


def _convolution(
    cotangent: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[Tensor | None, None, None]:
    dims = x.ndim - 2
    stride, padding, dilation = (list(s) * dims if len(s) == 1 else list(s) for s in (stride, padding, dilation))
    if not wanted[0]:
        return None, None, None
    if transposed:
        back = aten.convolution(cotangent, weight, None, stride, padding, dilation, False, [0] * dims, groups)
        return back, None, None
    kernel = weight.shape[2:]
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(s == 1 for s in stride) and all(r >= p for r, p in zip(reach, padding, strict=True)):
        # A plain convolution with the kernel turned around, which runtimes do faster than a transposed one.
        turned = weight.flip(list(range(2, weight.ndim)))
        turned = turned.view(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
        turned = turned.reshape(weight.shape[1] * groups, weight.shape[0] // groups, *kernel)
        margin = [r - p for r, p in zip(reach, padding, strict=True)]
        return aten.convolution(cotangent, turned, None, [1] * dims, margin, dilation, False, [0] * dims, groups), *(
            None,
            None,
        )
    least = [
        (o - 1) * s - 2 * p + r + 1 for o, s, p, r in zip(cotangent.shape[2:], stride, padding, reach, strict=True)
    ]
    rest = [i - at_least for i, at_least in zip(x.shape[2:], least, strict=True)]
    return aten.convolution(cotangent, weight, None, stride, padding, dilation, True, rest, groups), None, None


def _max_pool2d(
    cotangent: Tensor,
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    kernel = list(kernel) * 2 if len(kernel) == 1 else list(kernel)
    if all(s == 1 for s in dilation) and not any(padding) and (not stride or _pair(stride) == kernel):
        height, width = x.shape[-2:]
        place = torch.arange(height * width, device=x.device).view(height, width)
        chosen = (_blown_up(indices, kernel, height, width) == place).to(x.dtype)
        return _blown_up(cotangent, kernel, height, width) * chosen
    return _scattered(cotangent, x, indices, 2)


def _max_pool3d(cotangent: Tensor, x: Tensor, *sizes_and_indices: Any) -> Tensor:
    return _scattered(cotangent, x, sizes_and_indices[-1], 3)


def _pair(sizes: list[int]) -> list[int]:
    return list(sizes) * 2 if len(sizes) == 1 else list(sizes)


def _blown_up(pooled: Tensor, kernel: list[int], height: int, width: int) -> Tensor:
    """Each entry at every place of its window (..., height, width), zero where no window is."""
    rows, columns = pooled.shape[-2:]
    spread = pooled[..., :, None, :, None].expand(*pooled.shape[:-1], kernel[0], columns, kernel[1])
    spread = spread.reshape(*pooled.shape[:-2], rows * kernel[0], columns * kernel[1])
    missing = [0, width - columns * kernel[1], 0, height - rows * kernel[0]]
    return F.pad(spread, missing, value=0 if pooled.is_floating_point() else -1) if any(missing) else spread


def _scattered(cotangent: Tensor, x: Tensor, indices: Tensor, dims: int) -> Tensor:
    flat = torch.zeros_like(cotangent.new_zeros(()).expand(x.shape)).flatten(-dims)
    return flat.scatter_add(-1, indices.flatten(-dims), cotangent.flatten(-dims)).view(x.shape)


def _avg_pool(
    cotangent: Tensor,
    x: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    dims = len(kernel)
    for dim, (k, s, p) in enumerate(zip(kernel, stride or kernel, padding, strict=True), start=-dims):
        size, windows = x.shape[dim], []
        for window in range(cotangent.shape[dim]):
            start = window * s - p
            end = min(start + k, size + p)
            inside = range(max(start, 0), min(end, size))
            count = k if divisor_override else (end - start if count_include_pad else len(inside))
            windows.append((inside, count))
        cotangent = _spread(cotangent, dim, size, windows)
    return cotangent if divisor_override is None else cotangent * (math.prod(kernel) / divisor_override)


def _adaptive_avg_pool(cotangent: Tensor, x: Tensor) -> Tensor:
    for dim in range(-(cotangent.ndim - 2), 0):
        size, out = x.shape[dim], cotangent.shape[dim]
        windows = [range(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
        cotangent = _spread(cotangent, dim, size, [(window, len(window)) for window in windows])
    return cotangent


def _spread(cotangent: Tensor, dim: int, size: int, windows: list[tuple[range, int]]) -> Tensor:
    """Each entry along `dim` shared out evenly over its window: a product with a constant matrix."""
    rows = [[1 / count if i in inside else 0.0 for i in range(size)] for inside, count in windows]
    matrix = torch.tensor(rows, dtype=cotangent.dtype)
    return (cotangent.movedim(dim, -1) @ matrix).movedim(-1, dim)


def graph_rules() -> dict[Any, Rule]:
    """Rules for operators of the evidence that ONNX does not have, in float64."""
    return {
        aten.searchsorted.Tensor: _searchsorted,
        aten.special_ndtri.default: ndtri,
        aten.median.dim: _median,
        aten.diagonal_scatter.default: _diagonal_scatter,
    }


def _searchsorted(
    knots: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    below = knots[..., None, :] <= x[..., None] if right or side == "right" else knots[..., None, :] < x[..., None]
    return below.to(torch.int64).sum(-1)


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, indices = x.sort(dim)
    middle = (x.shape[dim] - 1) // 2
    value, index = values.select(dim, middle), indices.select(dim, middle)
    value = torch.where(x.isnan().any(dim), torch.nan, value)
    return (value.unsqueeze(dim), index.unsqueeze(dim)) if keepdim else (value, index)


def _diagonal_scatter(x: Tensor, diagonal: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    first, second = dim1 % x.ndim, dim2 % x.ndim
    if offset or (first, second) != (x.ndim - 2, x.ndim - 1) or x.shape[-1] != x.shape[-2]:
        return NotImplemented
    eye = torch.eye(x.shape[-1], dtype=torch.bool)
    return torch.where(eye, diagonal[..., None], x)
