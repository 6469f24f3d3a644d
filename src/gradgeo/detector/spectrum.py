"""The input itself, without any pass: its range, its level, and its power by octave, from the finest detail on."""

import torch
from torch import Tensor

OCTAVES = 6
"""Detail is looked at in steps of two entries, of four, and so on, at most so many times."""

INVISIBLE = 1e-12
"""Of an input's power, below which its detail is rounding."""


def spectrum(x: Tensor) -> Tensor:
    """Features (N, F), float64, of inputs (N, channels, ...): mean, largest and smallest entry, and logarithms of the
    power of what the channels do not share, where there are several, and of each octave of detail (Haar 1910).

    An octave is what blocks of two entries along each axis behind the channels vary by within, then blocks of two such
    blocks, and so on; a last entry without a neighbour is left out.
    """
    whole = x.double()
    power = _power(whole)  # (N,)
    floor = INVISIBLE * power + torch.finfo(torch.float64).tiny
    powers = [_power(whole - whole.mean(1, keepdim=True))] if whole.shape[1] > 1 else []
    coarse = whole
    for _ in range(OCTAVES):
        axes = [axis for axis in range(2, coarse.ndim) if coarse.shape[axis] > 1]
        if not axes:
            break
        for axis in axes:
            if coarse.shape[axis] % 2:
                coarse = coarse.narrow(axis, 0, coarse.shape[axis] - 1)
                power = _power(coarse)
        coarse = _halved(coarse, axes)
        # The variance within blocks is what their averages lack of the power.
        left = _power(coarse)
        powers.append((power - left).clamp_min(0))
        power = left
    logarithms = [(each + floor).log() for each in powers]
    entries = whole.flatten(1)
    return torch.stack([entries.mean(1), entries.amax(1), entries.amin(1), *logarithms], dim=1)


def _power(values: Tensor) -> Tensor:
    """Mean square (N,) of values (N, ...)."""
    return values.square().flatten(1).mean(1)


def _halved(values: Tensor, axes: list[int]) -> Tensor:
    """Means of blocks of two entries along each of some axes of even lengths, which are then half as long."""
    for axis in axes:  # sums of slices: faster than a mean over axes of two entries
        shape = list(values.shape)
        shape[axis : axis + 1] = [shape[axis] // 2, 2]
        even, odd = values.reshape(shape).unbind(axis + 1)
        values = even + odd
    return values / float(2 ** len(axes))
