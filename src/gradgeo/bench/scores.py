"""The outlier scores of each method in each scenario: fitted once, scored in pieces, each piece cached."""

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
from gradgeo.bench.cache import CHUNK, cached, load, store, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.methods import Method
from gradgeo.bench.remembered import remembered
from gradgeo.bench.shared_passes import DetectorGroup

BATCH = 50
"""Inputs that a method scores at a time."""
TIMED = 100
"""Inputs that a method is timed on."""
WARM_UP = 8
"""Inputs that it scores before it is timed."""

Group = dict[str, Method]
"""Methods by name that are fitted, and score, by the same passes."""


@dataclass(frozen=True)
class MethodScores:
    """The scores of one method."""

    scores: dict[str, Array]
    """Outlier scores (N,) by scenario."""
    ms_per_input: float | None
    """Of the method by itself; None where it was not timed."""


def shared_groups(methods: dict[str, Method]) -> list[Group]:
    """The methods that share passes, and each of the others, in the order in which each group is first named."""
    groups: dict[str, Group] = {}
    for name, method in methods.items():
        together = f"shared by {'peers' if method.peer else 'ours'}"
        groups.setdefault(together if method.shared else name, {})[name] = method
    return list(groups.values())


def score_or_errors(
    group: Group, classifier: ClassifierUnderTest, inputs: dict[str, Tensor], *, timed: bool = True
) -> dict[str, MethodScores | Exception]:
    """`score`, or why a method has no scores; where methods fail together each half of them is tried by itself."""
    try:
        return dict(score(group, classifier, inputs, timed=timed))
    except Exception as error:  # a peer may fail in any way; the others still count
        if len(group) == 1:
            return dict.fromkeys(group, error)
    members = list(group.items())
    found: dict[str, MethodScores | Exception] = {}
    for half in (dict(members[: len(members) // 2]), dict(members[len(members) // 2 :])):
        found |= score_or_errors(half, classifier, inputs, timed=timed)
    return found


def score(
    group: Group, classifier: ClassifierUnderTest, inputs: dict[str, Tensor], *, timed: bool = True
) -> dict[str, MethodScores]:
    """The scores of the methods of a group, fitted on the trusted inputs of the first half; cached.

    Fitting waits until a score is needed that the cache lacks, and leaves out the methods that lack none.

    `ms_per_input` is that of a method by itself, also where others share its passes: over the first inputs of the first
    scenario, at most `TIMED`, after a few of them to warm up; it is cached like the scores.

    Args:
        inputs: (N, *input) by scenario.
        timed: whether `ms_per_input` is wanted.
    """
    x, y = classifier.trusted, classifier.trusted_classes
    fitted_on = weights_key(classifier.model), tensor_hash(x), tensor_hash(y)
    keys = {name: (name, *fitted_on, method.version) for name, method in group.items()}
    pieces = {scenario: torch.split(values, CHUNK) for scenario, values in inputs.items()}
    hashes = {scenario: [tensor_hash(part) for part in parts] for scenario, parts in pieces.items()}
    first = next(iter(inputs.values()))[:TIMED]
    cost_keys = {name: ("cost", *key, tensor_hash(first)) for name, key in keys.items()} if timed else {}

    def complete(name: str) -> bool:
        needed: list[tuple[object, ...]] = [
            ("scores", *keys[name], each) for parts in hashes.values() for each in parts
        ]
        if timed:
            needed.append(cost_keys[name])
        return all(load(*key) is not None for key in needed)

    missing = {name: method for name, method in group.items() if not complete(name)}
    detectors = _LazyDetectors(missing, classifier.model, x, y)
    cost = {name: cached(partial(detectors.seconds, name, first), *key)["seconds"] for name, key in cost_keys.items()}
    scores: dict[str, dict[str, list[Array]]] = {name: {scenario: [] for scenario in inputs} for name in group}
    for scenario, parts in pieces.items():
        for part, each in zip(parts, hashes[scenario], strict=True):
            scored = _piece(detectors, part, {name: ("scores", *key, each) for name, key in keys.items()})
            for name in group:
                scores[name][scenario].append(scored[name])
    return {
        name: MethodScores(
            {scenario: np.concatenate(parts) for scenario, parts in scores[name].items()},
            1000 * float(cost[name]) / max(1, len(first)) if timed else None,
        )
        for name in group
    }


def _piece(detectors: "_LazyDetectors", part: Tensor, keys: dict[str, tuple[object, ...]]) -> dict[str, Array]:
    """The scores of `part` by each method, computed at once for all whose scores the cache lacks."""
    scored = {name: load(*key) for name, key in keys.items()}
    if any(one is None for one in scored.values()):
        for name, scores in detectors.scores(part).items():
            if scored[name] is None:
                scored[name] = {"scores": scores}
                store({"scores": scores}, *keys[name])
    return {name: one["scores"] for name, one in scored.items() if one is not None}


class _LazyDetectors:
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
        """Outlier scores (n,) of each method."""
        with _seeded():
            _, predict = self._fitted
            batches = [predict(batch) for batch in torch.split(part, BATCH)]
        joined = [torch.cat([one.detach().double().flatten() for one in of]) for of in zip(*batches, strict=True)]
        return {name: scores.numpy() for name, scores in zip(self._group, joined, strict=True)}

    def seconds(self, name: str, x: Tensor) -> dict[str, Any]:
        """The time that a method takes for all of `x`, by itself."""
        with _seeded():
            detector = self._fitted[0][name]
            detector.predict(x[:WARM_UP])
            start = time.perf_counter()
            for batch in torch.split(x, BATCH):
                detector.predict(batch)
            return {"seconds": np.array(time.perf_counter() - start)}

    @cached_property
    def _fitted(self) -> tuple[dict[str, Any], Callable[[Tensor], list[Tensor]]]:
        """The detectors by name, and a function to the scores (n,) of each."""
        with remembered():
            detectors = {name: method.make(self._model, self._x[:2]) for name, method in self._group.items()}
            if len(detectors) > 1 and not any(method.peer for method in self._group.values()):
                together = DetectorGroup([detector.detector for detector in detectors.values()]).fit(self._x, self._y)
                return detectors, lambda x: [_nan_as_infinity(found.outlier_score) for found in together.predict(x)]
            for detector in detectors.values():
                detector.fit(DataLoader(TensorDataset(self._x, self._y), batch_size=64))

        def predict(x: Tensor) -> list[Tensor]:
            with remembered():
                return [detector.predict(x) for detector in detectors.values()]

        return detectors, predict


def _nan_as_infinity(score: Tensor) -> Tensor:
    """The scores of inputs that have none, as `OodDetector` returns them."""
    return torch.where(score.isnan(), torch.inf, score)


@contextmanager
def _seeded() -> Iterator[None]:
    """Peers may draw from the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
