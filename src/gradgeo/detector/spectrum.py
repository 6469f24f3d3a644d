"""The input itself, without any pass: its range, its level, and its power by octave, from the finest detail on."""

from collections.abc import Sequence

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
    entries = whole.flatten(1)
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
        powers.append(power - left)
        power = left
    columns = [torch.stack([entries.mean(1), entries.amax(1), entries.amin(1)], dim=1)]
    if powers:
        columns.append((torch.stack(powers, dim=1).clamp_min(0) + floor[:, None]).log())
    return torch.cat(columns, dim=1)


WORDS = {
    "mean": ("lower on average (darker)", "higher on average (lighter)"),
    "largest": ("no entry as high", "entries too high"),
    "smallest": ("entries too low", "no entry as low"),
    "between channels": ("channels more alike (less colour)", "channels more apart (more colour)"),
    "fine detail": ("less fine detail (blurred)", "more fine detail (noisy)"),
    "coarse detail": ("less contrast", "more contrast"),
}
"""What is said of an input that lies below, or above, all trusted ones."""

FINE = 2
"""Octaves of fine detail; the others are of coarse detail."""


def seen(features: Sequence[float], low: Sequence[float], high: Sequence[float], channels: int) -> tuple[str, ...]:
    """In which ways an input lies beyond all trusted ones, in words.

    Args:
        features: (F,) its `spectrum`.
        low: (F,) the smallest of trusted inputs.
        high: (F,) the largest of trusted inputs.
        channels: of the input.
    """
    names = ["mean", "largest", "smallest", *["between channels"] * (channels > 1)]
    octaves = len(features) - len(names)
    names += ["fine detail"] * min(octaves, FINE) + ["coarse detail"] * max(octaves - FINE, 0)
    beyond = [
        WORDS[name][0 if value < least else 1]
        for name, value, least, most in zip(names, features, low, high, strict=True)
        if value < least or value > most
    ]
    if features[1] == features[2]:  # of a constant input all else goes without saying
        beyond = ["constant", *(word for word in beyond if word in WORDS["mean"])]
    return tuple(dict.fromkeys(beyond))


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
