"""A draw of rows that parts and runs agree on: each index has a number, and the least of them are a random sample."""

import numpy as np

from gradgeo._typing import Array, IntArray

FIRST, MANY, FEW = 4096, 1 / 8, 1 / 64
"""Trusted inputs whose number is below `MANY` get a picture among the `FIRST`, below `FEW` behind them: a report that
draws trusted inputs for review draws those first, whatever the size of the file."""


def keys(index: IntArray) -> Array:
    """Numbers (N,) in [0, 1), uniform and independent for all that is known of an input (splitmix64)."""
    with np.errstate(over="ignore"):
        z = np.asarray(index).astype(np.uint64) + np.uint64(1)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53


def pictured(index: int) -> bool:
    """Whether the input gets a picture should it be trusted."""
    return bool(keys(np.array([index]))[0] < (MANY if index < FIRST else FEW))
