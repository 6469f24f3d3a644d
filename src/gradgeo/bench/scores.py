"""What methods make of the columns of a classifier: each fitted once, its scores kept piece by piece."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradgeo._typing import Array
from gradgeo.bench.cache import CHUNK, cached, content, keep, kept, weights
from gradgeo.bench.case import Case
from gradgeo.bench.methods import Method
from gradgeo.bench.shared_passes import Panel

BATCH = 50  # inputs that a method scores at a time
TIMED = 100  # inputs that a method is timed on
WARM = 8  # inputs that it has scored before

Group = dict[str, Method]
"""Methods by name that are fitted, and score, by the same passes."""


@dataclass(frozen=True)
class Scored:
    """Outlier scores (N,) by column, and what the method takes for one input by itself."""

    scores: dict[str, Array]
    ms_per_input: float


def groups(methods: dict[str, Method]) -> list[Group]:
    """The methods that share passes, and each of the others, in the order in which each group is first named."""
    found: dict[str, Group] = {}
    for name, method in methods.items():
        found.setdefault("" if method.shared else name, {})[name] = method
    return list(found.values())


def attempt(group: Group, case: Case, columns: dict[str, Tensor]) -> dict[str, Scored | Exception]:
    """`scored`, or why a method has no scores; where methods fail together each is tried by itself."""
    try:
        return dict(scored(group, case, columns))
    except Exception as error:  # a peer may fail in any way; the others still count
        if len(group) == 1:
            return dict.fromkeys(group, error)
    return {name: attempt({name: method}, case, columns)[name] for name, method in group.items()}


def scored(group: Group, case: Case, columns: dict[str, Tensor]) -> dict[str, Scored]:
    """What the methods of a group, fitted on the trusted inputs of the first half, make of each column; cached.

    Fitting waits until something is needed that the cache does not hold, and leaves out the methods that need nothing.

    `ms_per_input` is that of a method by itself, also where others share its passes: over the first inputs of the first
    column, at most `TIMED`, after a few of them to warm up; it is kept like the scores.
    """
    right = case.right[: case.half]
    # The predicted classes are the labels, also where there are none.
    x, y = case.x[: case.half][right], case.logits[: case.half][right].argmax(1)
    fitted_on = weights(case.model), content(x), content(y)
    keys = {name: (name, *fitted_on, method.version) for name, method in group.items()}
    pieces = {column: torch.split(inputs, CHUNK) for column, inputs in columns.items()}
    told = {column: [content(part) for part in parts] for column, parts in pieces.items()}
    timed = next(iter(columns.values()))[:TIMED]
    costs = {name: ("cost", *key, content(timed)) for name, key in keys.items()}

    def complete(name: str) -> bool:
        wanted = [("scores", *keys[name], each) for parts in told.values() for each in parts]
        return all(kept(*key) is not None for key in (costs[name], *wanted))

    fitted = _Fitted({name: method for name, method in group.items() if not complete(name)}, case.model, x, y)
    cost = {name: cached(partial(fitted.seconds, name, timed), *key)["seconds"] for name, key in costs.items()}
    scores: dict[str, dict[str, list[Array]]] = {name: {column: [] for column in columns} for name in group}
    for column, parts in pieces.items():
        for part, each in zip(parts, told[column], strict=True):
            found = _piece(fitted, part, {name: ("scores", *key, each) for name, key in keys.items()})
            for name in group:
                scores[name][column].append(found[name])
    return {
        name: Scored(
            {column: np.concatenate(parts) for column, parts in scores[name].items()},
            1000 * float(cost[name]) / max(1, len(timed)),
        )
        for name in group
    }


def _piece(fitted: "_Fitted", part: Tensor, keys: dict[str, tuple[object, ...]]) -> dict[str, Array]:
    """The scores of `part` by each method, made for all that lack them at once."""
    found = {name: kept(*key) for name, key in keys.items()}
    if any(one is None for one in found.values()):
        for name, scores in fitted.scores(part).items():
            if found[name] is None:
                found[name] = {"scores": scores}
                keep({"scores": scores}, *keys[name])
    return {name: one["scores"] for name, one in found.items() if one is not None}


class _Fitted:
    """The detectors of a group, fitted when they are first needed.

    Args:
        group: the methods.
        model: the classifier.
        x: trusted inputs to fit on.
        y: their classes.
    """

    def __init__(self, group: Group, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self._group, self._model, self._x, self._y = group, model, x, y

    def scores(self, part: Tensor) -> dict[str, Array]:
        """Of each method (n,)."""
        with _seeded():
            _, predict = self._fit
            batches = [predict(batch) for batch in torch.split(part, BATCH)]
        columns = [torch.cat([one.detach().double().flatten() for one in of]) for of in zip(*batches, strict=True)]
        return {name: column.numpy() for name, column in zip(self._group, columns, strict=True)}

    def seconds(self, name: str, x: Tensor) -> dict[str, Any]:
        """What a method takes for all of `x`, by itself."""
        with _seeded():
            detector = self._fit[0][name]
            detector.predict(x[:WARM])
            start = time.perf_counter()
            for batch in torch.split(x, BATCH):
                detector.predict(batch)
            return {"seconds": np.array(time.perf_counter() - start)}

    @cached_property
    def _fit(self) -> tuple[dict[str, Any], Callable[[Tensor], list[Tensor]]]:
        """The detectors by name, and what gives the scores (n,) of each."""
        detectors = {name: method.make(self._model, self._x[:2]) for name, method in self._group.items()}
        if len(detectors) > 1:
            panel = Panel([detector.detector for detector in detectors.values()]).fit(self._x, self._y)
            return detectors, lambda x: [_judgeable(found.outlier_score) for found in panel.predict(x)]
        (alone,) = detectors.values()
        alone.fit(DataLoader(TensorDataset(self._x, self._y), batch_size=64))
        return detectors, lambda x: [alone.predict(x)]


def _judgeable(score: Tensor) -> Tensor:
    """NaN as infinity, as `OodDetector` has it."""
    return torch.where(score.isnan(), torch.inf, score)


@contextmanager
def _seeded() -> Iterator[None]:
    """Peers may draw from the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
