"""What a method costs beside its quality: its time over that of the plain classifier, that of `fit`, and memory."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradgeo._typing import Array

VERSION = 1
"""Raise it when what is measured changes: cached costs are then measured again."""

BATCH = 64
"""Inputs of the larger batch."""
FIT_INPUTS = 100
"""Trusted inputs that the time of `fit` is measured on, where there are as many."""
WARM_UP = 8
"""Inputs that a method scores before it is timed."""
ROUNDS = 9
"""Of the plain classifier and the method in turns, at most."""
FEWEST = 3
"""Rounds, unless they last longer than `LONGEST`."""
SECONDS, LONGEST = 1.0, 8.0
"""Of process time: after the first no further round begins once there are `FEWEST`, after the second none at all."""

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Where Linux tells how much memory a process holds and held at most, and takes the order to forget the latter."""

Way = Callable[[Tensor], object]
Costs = dict[str, Any]
"""Arrays by name, as they are cached."""


def measured(make: Callable[[], Any], detector: Any, model: nn.Module, x: Tensor, fit: tuple[Tensor, Tensor]) -> Costs:
    """The cost of a method; NaN where it fails or the system does not tell.

    Args:
        make: the method, not fitted.
        detector: the method, fitted on all trusted inputs, as neighbours take longer among many.
        model: the classifier, in eval mode.
        x: inputs (N, *input); the first 64 are used, and the first one.
        fit: trusted inputs and their classes.
    """
    batch = x[:BATCH]
    detector.predict(x[:WARM_UP])
    ratios, own = over_plain(model, detector.predict, batch)
    return {
        "n64": ratios,
        "n1": _or_nan(lambda: over_plain(model, detector.predict, x[:1])[0], 3),
        "ms_per_input": np.array(1000 * own / len(batch)),
        "fit_ms_per_input": _or_nan(lambda: np.array(fit_milliseconds(make, *fit))),
        "peak_mib": np.array(peak_mib(lambda: detector.predict(batch))),
    }


def over_plain(model: nn.Module, way: Way, x: Tensor) -> tuple[Array, float]:
    """The process time of `way` over that of `model` on `x`: the median of rounds in turns, the least and the most; and
    the median seconds of `way`."""
    plain, own = list[float](), list[float]()
    while len(own) < ROUNDS and sum(own) < (SECONDS if len(own) >= FEWEST else LONGEST):
        plain.append(_seconds(lambda: _plain(model, x)))
        own.append(_seconds(lambda: way(x)))
    ratios = np.array(own) / np.maximum(plain, 1e-9)
    return np.array([np.median(ratios), ratios.min(), ratios.max()]), float(np.median(own))


def fit_milliseconds(make: Callable[[], Any], x: Tensor, y: Tensor) -> float:
    """Process time of making and fitting a method, by trusted input: of the first, or of all where these are too few
    for it."""
    try:
        return _fit_milliseconds(make, x[:FIT_INPUTS], y[:FIT_INPUTS])
    except Exception:  # a peer may need every class, or more inputs than it has features
        return _fit_milliseconds(make, x, y)


def _fit_milliseconds(make: Callable[[], Any], x: Tensor, y: Tensor) -> float:
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH)
    return 1000 * _seconds(lambda: make().fit(loader)) / max(1, len(x))


def peak_mib(way: Callable[[], object]) -> float:
    """The most memory in MiB that the process holds during `way` above what it held before; NaN where the system does
    not tell."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if STATUS.exists() else None
    if trim is not None:  # else what was freed before is used again and does not show
        trim(0)
    before = _forgotten()
    if before is None:
        return float("nan")
    way()
    return max(0.0, _resident("VmHWM") - before)


def _forgotten() -> float | None:
    """Forget how much the process held at most; returns what it holds now, None where the system refuses."""
    try:
        FORGET.write_text("5")
        return _resident("VmRSS")
    except (OSError, StopIteration):
        return None


def _resident(name: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


@torch.no_grad()
def _plain(model: nn.Module, x: Tensor) -> object:
    return model(x)


def _seconds(way: Callable[[], object]) -> float:
    start = time.process_time()
    way()
    return time.process_time() - start


def _or_nan(measure: Callable[[], Array], *shape: int) -> Array:
    try:
        return measure()
    except Exception:  # in whatever way a peer may fail; its other figures count
        return np.full(shape, np.nan)


def facts(costs: Costs | None) -> dict[str, Any] | None:
    """For JSON: the times over plain inference with their ranges, the time of `fit` and the height of memory."""
    if costs is None:
        return None
    found: dict[str, Any] = {}
    for name in ("n64", "n1"):
        middle, low, high = (_number(value) for value in costs[name])
        found |= {name: middle, f"{name}_range": [low, high]}
    return found | {name: _number(costs[name]) for name in ("fit_ms_per_input", "peak_mib")}


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def front(methods: dict[str, tuple[float, float]]) -> list[str]:
    """Of methods by (cost, quality) those that no other reaches at their cost or less, the cheapest first.

    Example:
        >>> front({"a": (1, 0.8), "b": (2, 0.7), "c": (9, 0.9)})
        ['a', 'c']
    """
    found: list[str] = []
    for name, (_, quality) in sorted(methods.items(), key=lambda pair: (pair[1][0], -pair[1][1])):
        if not found or quality > methods[found[-1]][1]:
            found.append(name)
    return found
