"""How backward operators are written in the exported graph, where PyTorch's own rules are missing or slow.

Every rule gives the gradient with respect to the input alone: weights are constants of the graph. What does not depend
on the cotangent is written so that it can be computed once per input, whatever the number of classes: an elementwise
backward is g * f'(x) with f' made of a cotangent of ones.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten

Rule = Callable[..., Any]

ELEMENTWISE = (
    *("hardtanh_backward", "hardswish_backward", "hardsigmoid_backward", "gelu_backward", "silu_backward"),
    *("elu_backward", "leaky_relu_backward", "softplus_backward", "sigmoid_backward", "tanh_backward"),
    *("log_sigmoid_backward", "mish_backward", "softshrink_backward", "hardshrink_backward"),
)
"""Operators whose first argument is the cotangent and whose result is linear in each entry of it by itself."""


def backward_rules(known: dict[Any, Rule]) -> dict[Any, Rule]:
    """Our rules by operator; `known` are PyTorch's, of which the elementwise ones are made."""
    rules: dict[Any, Rule] = {
        aten.threshold_backward.default: _threshold,
        aten.slice_backward.default: _slice(known[aten.slice_backward.default]),
        aten.select_backward.default: _select(known[aten.select_backward.default]),
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
        slope: Tensor = rule(torch.ones_like(at), *saved)  # f'(x): no cotangent in it, so it is computed once an input
        return cotangent * slope

    return times


def _threshold(cotangent: Tensor, x: Tensor, threshold: float) -> Tensor:
    return cotangent * (x > threshold).to(cotangent.dtype)


def _slice(rule: Rule) -> Rule:
    """Zeros around and between the entries, which runtimes do faster than scattering; along the batch PyTorch's own."""

    def widened(cotangent: Tensor, sizes: list[int], dim: int, start: int, end: int, step: int) -> Tensor:
        dim, size = dim % len(sizes), sizes[dim]
        if not all(isinstance(number, int) for number in (size, start, step)):
            return cast(Tensor, rule(cotangent, sizes, dim, start, end, step))
        start = min(max(start + size if start < 0 else start, 0), size)
        return _placed(cotangent, dim, size, start, step)

    return widened


def _select(rule: Rule) -> Rule:
    def widened(cotangent: Tensor, sizes: list[int], dim: int, index: int) -> Tensor:
        dim, size = dim % len(sizes), sizes[dim]
        if not all(isinstance(number, int) for number in (size, index)):
            return cast(Tensor, rule(cotangent, sizes, dim, index))
        return _placed(cotangent.unsqueeze(dim), dim, size, index % size, 1)

    return widened


def _placed(rows: Tensor, dim: int, size: int, start: int, step: int) -> Tensor:
    """`rows` at start, start + step, ... of an axis of this size, zeros elsewhere."""
    count = rows.shape[dim]
    if step > 1:
        apart = F.pad(rows.unsqueeze(dim + 1), [0, 0] * (rows.ndim - 1 - dim) + [0, step - 1])
        rows = apart.flatten(dim, dim + 1).narrow(dim, 0, min(count * step, size - start))
    margins = [start, size - start - rows.shape[dim]]
    return F.pad(rows, [0, 0] * (rows.ndim - 1 - dim) + margins) if any(margins) else rows


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
        turned = weight.flip(list(range(2, weight.ndim)))  # (groups * out, in, *kernel), in and out of one group
        turned = turned.view(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
        turned = turned.reshape(weight.shape[1] * groups, weight.shape[0] // groups, *kernel)  # (groups * in, out, ...)
        margin = [r - p for r, p in zip(reach, padding, strict=True)]
        back = aten.convolution(cotangent, turned, None, [1] * dims, margin, dilation, False, [0] * dims, groups)
        return back, None, None
    # Of strided sizes several lead to the same output: what is missing to the input's own is `output_padding`.
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
    kernel = _pair(kernel)
    if all(s == 1 for s in dilation) and not any(padding) and (not stride or _pair(stride) == kernel):
        height, width = x.shape[-2:]
        place = torch.arange(height * width, device=x.device).view(height, width)
        # (N, channels, height, width): 1 for the entry that its window chose; no window overlaps another.
        chosen = (_blown_up(indices, kernel, height, width) == place).to(x.dtype)
        return _blown_up(cotangent, kernel, height, width) * chosen
    return _scattered(cotangent, x, indices, 2)


def _max_pool3d(cotangent: Tensor, x: Tensor, *sizes_and_indices: Any) -> Tensor:
    return _scattered(cotangent, x, sizes_and_indices[-1], 3)


def _pair(sizes: list[int]) -> list[int]:
    return list(sizes) * 2 if len(sizes) == 1 else list(sizes)


def _blown_up(pooled: Tensor, kernel: list[int], height: int, width: int) -> Tensor:
    """Each entry at every place of its window (..., height, width), zero where no window is."""
    rows, columns = pooled.shape[-2:]  # each becomes `kernel` equal ones: (..., rows, 1, columns, 1) expanded
    spread = pooled[..., :, None, :, None].expand(*pooled.shape[:-1], kernel[0], columns, kernel[1])
    spread = spread.reshape(*pooled.shape[:-2], rows * kernel[0], columns * kernel[1])
    missing = [0, width - columns * kernel[1], 0, height - rows * kernel[0]]
    return F.pad(spread, missing, value=0 if pooled.is_floating_point() else -1) if any(missing) else spread


def _scattered(cotangent: Tensor, x: Tensor, indices: Tensor, dims: int) -> Tensor:
    flat = cotangent.new_zeros(x.shape).flatten(-dims)
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
    matrix = torch.tensor(rows, dtype=cotangent.dtype)  # (windows, size)
    return (cotangent.movedim(dim, -1) @ matrix).movedim(-1, dim)
