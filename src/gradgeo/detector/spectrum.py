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
    entries = whole.flatten(1)
    powers = [_power(whole - whole.mean(1, keepdim=True))] if whole.shape[1] > 1 else []
    coarse = whole
    for _ in range(OCTAVES):
        axes = [axis for axis in range(2, coarse.ndim) if coarse.shape[axis] > 1]
        if not axes:
            break
        for axis in axes:
            coarse = coarse.narrow(axis, 0, coarse.shape[axis] // 2 * 2)
        detail = torch.zeros_like(entries[:, 0])
        for axis in axes:
            coarse, difference = _halved(coarse, axis)
            detail = detail + _power(difference)  # orthogonal to the others: their powers add up
        powers.append(detail)
    floor = INVISIBLE * _power(whole) + torch.finfo(torch.float64).tiny
    logarithms = [(power + floor).log() for power in powers]
    return torch.stack([entries.mean(1), entries.amax(1), entries.amin(1), *logarithms], dim=1)


def _power(values: Tensor) -> Tensor:
    """Mean square (N,) of values (N, ...)."""
    return values.square().flatten(1).mean(1)


def _halved(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and half difference of each pair of entries along an axis of even length, which is then half as long."""
    shape = list(values.shape)
    shape[axis : axis + 1] = [shape[axis] // 2, 2]
    even, odd = values.reshape(shape).unbind(axis + 1)
    return (even + odd) / 2, (even - odd) / 2
