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


def content_numbers(x: Tensor, seen: dict[bytes, int]) -> IntArray:
    """A number for each row of `x` (n, *input), the same (n,) for rows that are equal entry by entry; adds those that
    are new to what has been `seen`, by hashes of 16 bytes, which do not collide by chance."""
    rows = x.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()  # (n, bytes)
    return np.array(
        [seen.setdefault(hashlib.blake2b(row, digest_size=16).digest(), len(seen)) for row in rows], np.int64
    )


def repeats(numbers: IntArray) -> BoolArray:
    """Whether each of the numbers (n,) occurs earlier."""
    found = np.ones(len(numbers), np.bool_)
    found[np.unique(numbers, return_index=True)[1]] = False
    return found


def unit_numbers(
    trusted: BoolArray, settings: Settings, together: Any = None, groups: Sequence[str] | None = None
) -> IntArray:
    """What each of N inputs belongs to, as numbers (N,): what it belongs `together` with, or, where nothing is said of
    that, its group, where too few of that are `trusted` (N,) for a rate of its own. Every other input is by itself, for
    such a rate takes inputs of the group on both sides."""
    n = len(trusted)
    if together is not None:
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(name, len(numbers)) for name in group_names(together, n, "together")])
    if groups is None:
        return np.arange(n)
    names, group = np.unique(groups, return_inverse=True)  # (G,), (N,)
    few = np.bincount(group[trusted], minlength=len(names)) < settings.level.least / settings.calibration  # (G,)
    return np.where(few[group], group, len(names) + np.arange(n))


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
