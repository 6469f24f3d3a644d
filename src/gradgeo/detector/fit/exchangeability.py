"""What calibration rests on: inputs that are drawn one by one. Copies count once; some stay together."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import BoolArray, IntArray
from gradgeo.detector.calibration.conformal import Level
from gradgeo.detector.calibration.mondrian import group_names
from gradgeo.detector.settings import Settings
from gradgeo.errors import ArgumentError, warn


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


def unit_numbers(together: Any, n: int) -> IntArray:
    """What each of n inputs belongs to (n,), numbered in the order in which they occur."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in group_names(together, n, "together")])


def units_of_groups(groups: Sequence[str], rows: IntArray, enough: float) -> IntArray:
    """Which inputs at `rows` belong together, as numbers (T,): those of a group with fewer than `enough`. Every other
    input is by itself, for a rate of its own takes inputs of the group on both sides."""
    _, group, counts = np.unique(np.asarray(groups)[rows], return_inverse=True, return_counts=True)  # (T,), (G,)
    return np.where(counts[group] < enough, group, len(counts) + np.arange(len(rows)))


def set_apart(units: IntArray, size: int, least: int, settings: Settings) -> BoolArray:
    """Which of T inputs, of `units` (T,), calibrate (T,): units in an order drawn by the seed, until there are `size`
    inputs, while `least` are left to learn from."""
    needed = settings.level.least
    _, units, counts = np.unique(units, return_inverse=True, return_counts=True)  # (T,), (G,)
    order = np.random.default_rng(settings.seed).permutation(len(counts))  # (G,)
    together = counts[order].cumsum()  # (G,) inputs of the first units
    taken = min(int(np.searchsorted(together, size)) + 1, int((len(units) - together >= least).sum()))
    calibrate = int(together[taken - 1]) if taken else 0
    if calibrate < needed:
        raise ArgumentError(
            f"expected groups that leave {needed} inputs to calibrate on and "
            f"{least} to learn from, got {len(counts)} groups of up to {counts.max()} trusted inputs. Give more groups."
        )
    if taken < calibrate and taken < needed:
        warn(
            f"only {taken} groups calibrate: on inputs of new groups the false-alarm rate may be far from alpha = "
            f"{settings.alpha}. Give more groups."
        )
    return np.isin(units, order[:taken])


def mistakes_apart(mistakes: BoolArray, share: float, seed: int) -> IntArray:
    """Positions of some of the `mistakes` (N,), each drawn with the probability with which trusted inputs calibrate.

    Together with these they are what the classifier meets when all is well, mistakes included, which is what traffic
    is compared with to see a drift.
    """
    rows = np.flatnonzero(mistakes)
    drawn: BoolArray = np.random.default_rng([seed, 1]).random(len(rows)) < share
    return np.asarray(rows[drawn], np.int64)


def require_enough(trusted: int, total: int, least: int, level: Level, reason: str) -> None:
    """ArgumentError where so many `trusted` of `total` inputs are too few to calibrate and to learn from."""
    calibrate = level.least
    if trusted < calibrate + least:
        sure = "" if level.confidence is None else f" with confidence {level.confidence:g}"
        raise ArgumentError(
            f"expected at least {calibrate + least} trusted inputs ({calibrate} to calibrate alpha = "
            f"{level.alpha}{sure}, {least} to learn from), got {trusted} of {total} inputs: {reason}. "
            "Give more data or a larger alpha."
        )
