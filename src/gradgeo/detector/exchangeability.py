"""What calibration rests on: inputs that are drawn one by one. Copies count once, and groups stay on one side."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import BoolArray, IntArray
from gradgeo.detector import conformal
from gradgeo.detector.settings import Settings
from gradgeo.errors import ArgumentError, expected, warn


def is_copy(x: Tensor, counts: Tensor, seen: set[bytes]) -> BoolArray:
    """Whether each row of `x` (n, *input) has been `seen` before, by a hash of its bytes; adds those that are new.

    Args:
        counts: (n,) bool, the rows to look at; the others are no copies and none are copies of them.
        seen: hashes of 16 bytes, which do not collide by chance.
    """
    found = np.zeros(len(x), np.bool_)
    rows = x.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()  # (n, bytes)
    for i in np.flatnonzero(counts.numpy()):
        key = hashlib.blake2b(rows[i], digest_size=16).digest()
        found[i] = key in seen
        seen.add(key)
    return found


def group_numbers(groups: Any, n: int) -> IntArray:
    """The group of each of n inputs (n,), numbered in the order in which they occur."""
    rule = f"one number or text for each of {n} inputs"
    if isinstance(groups, str | bytes) or not isinstance(groups, Sequence | np.ndarray | Tensor):
        raise expected("groups", rule, groups)
    names = groups.tolist() if isinstance(groups, np.ndarray | Tensor) else list(groups)
    if len(names) != n or not all(isinstance(name, str | int) for name in names):
        raise expected("groups", rule, groups)
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])


def set_apart(groups: IntArray, size: int, least: int, settings: Settings) -> BoolArray:
    """Which of T inputs, of `groups` (T,), calibrate (T,): groups in an order drawn by the seed, until there are `size`
    inputs, while `least` are left to learn from."""
    _, groups, counts = np.unique(groups, return_inverse=True, return_counts=True)  # (T,), (G,)
    order = np.random.default_rng(settings.seed).permutation(len(counts))  # (G,)
    together = counts[order].cumsum()  # (G,) inputs of the first groups
    taken = min(int(np.searchsorted(together, size)) + 1, int((len(groups) - together >= least).sum()))
    calibrate = int(together[taken - 1]) if taken else 0
    if calibrate < conformal.min_calibration_size(settings.alpha):
        raise ArgumentError(
            f"expected groups that leave {conformal.min_calibration_size(settings.alpha)} inputs to calibrate on and "
            f"{least} to learn from, got {len(counts)} groups of up to {counts.max()} trusted inputs. Give more groups."
        )
    if taken < calibrate and taken < conformal.min_calibration_size(settings.alpha):
        warn(
            f"only {taken} groups calibrate: on inputs of new groups the false-alarm rate may be far from alpha = "
            f"{settings.alpha}. Give more groups."
        )
    return np.isin(groups, order[:taken])
