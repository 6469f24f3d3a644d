"""The outlier scores of each method in each scenario: fitted once, scored in pieces, each piece cached."""

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
from gradgeo.bench import cost
from gradgeo.bench.cache import CHUNK, CacheError, cached, load, store, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.methods import Method
from gradgeo.bench.remembered import remembered
from gradgeo.bench.shared_passes import DetectorGroup, judge
from gradgeo.detector.results import Predictions
from gradgeo.integrations.pytorch_ood import OodDetector

BATCH = 50
"""Inputs that a method scores at a time."""

Group = dict[str, Method]
"""Methods by name that are fitted, and score, by the same passes."""

_Arrays = dict[str, Array]


@dataclass(frozen=True)
class MethodScores:
    """The scores of one method."""

    scores: dict[str, Array]
    """Outlier scores (N,) by scenario."""
    costs: cost.Costs | None = None
    """Of the method by itself; None where they were not measured."""
    causes: dict[str, Array] | None = None
    """By scenario the causes that it names (N,), as `shared_passes.named_causes`; None of a method that names none."""

    @property
    def ms_per_input(self) -> float | None:
        """Process time in a batch; None where it was not measured."""
        return None if self.costs is None else float(self.costs["ms_per_input"])


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
    except CacheError:
        raise
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
    """The scores of the methods of a group, fitted on the trusted inputs of the first half, ours on its mistakes, too;
    cached.

    Fitting waits until a score is needed that the cache lacks, and leaves out the methods that lack none.

    Costs are those of a method by itself, also where others share its passes, on the first inputs of the first
    scenario; they are cached like the scores.

    Args:
        inputs: (N, *input) by scenario.
        timed: whether `costs` are wanted.
    """
    peers = any(method.peer for method in group.values())
    x, y = (classifier.trusted, classifier.trusted_classes) if peers else classifier.with_mistakes
    fitted_on = weights_key(classifier.model), tensor_hash(x), tensor_hash(y)
    keys = {name: (name, *fitted_on, method.version) for name, method in group.items()}
    pieces = {scenario: torch.split(values, CHUNK) for scenario, values in inputs.items()}
    hashes = {scenario: [tensor_hash(part) for part in parts] for scenario, parts in pieces.items()}
    first = next(iter(inputs.values()))[: cost.BATCH]
    timed_as = "cost", cost.VERSION, tensor_hash(first)
    cost_keys = {name: (*timed_as, *key) for name, key in keys.items()} if timed and len(first) else {}

    def complete(name: str) -> bool:
        needed: list[tuple[object, ...]] = [
            ("scores", *keys[name], each) for parts in hashes.values() for each in parts
        ]
        if name in cost_keys:
            needed.append(cost_keys[name])
        return all(load(*key) is not None for key in needed)

    missing = {name: method for name, method in group.items() if not complete(name)}
    detectors = _LazyDetectors(missing, classifier.model, x, y)
    costs = {name: cached(partial(detectors.costs, name, first), *key) for name, key in cost_keys.items()}
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: {scenario: [] for scenario in inputs} for name in group}
    for scenario, parts in pieces.items():
        for part, each in zip(parts, hashes[scenario], strict=True):
            scored = _piece(detectors, part, {name: ("scores", *key, each) for name, key in keys.items()})
            for name in group:
                found[name][scenario].append(scored[name])

    def joined(name: str, array: str) -> dict[str, Array] | None:
        parts = found[name]
        if any(array not in part for each in parts.values() for part in each):
            return None
        return {scenario: np.concatenate([part[array] for part in each]) for scenario, each in parts.items()}

    return {name: MethodScores(joined(name, "scores") or {}, costs.get(name), joined(name, "causes")) for name in group}


def _piece(detectors: "_LazyDetectors", part: Tensor, keys: dict[str, tuple[object, ...]]) -> dict[str, Any]:
    """The scores of `part` by each method, computed at once for all whose scores the cache lacks."""
    scored = {name: load(*key) for name, key in keys.items()}
    if any(one is None for one in scored.values()):
        for name, arrays in detectors.scores(part).items():
            if scored[name] is None:
                scored[name] = arrays
                store(arrays, *keys[name])
    return scored


class _LazyDetectors:
    """The detectors of a group, fitted when they are first needed.

    Args:
        group: the methods.
        model: the classifier.
        x: inputs to fit on.
        y: their labels.
    """

    def __init__(self, group: Group, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self._group, self._model, self._x, self._y = group, model, x, y

    def scores(self, part: Tensor) -> dict[str, dict[str, Array]]:
        """Of each method the arrays "scores" (n,) and, where it names them, "causes" (n,)."""
        with _seeded():
            _, predict = self._fitted
            batches = [predict(batch) for batch in torch.split(part, BATCH)]
        each = zip(*batches, strict=True)  # a method's arrays of every batch
        return {name: _joined(arrays) for name, arrays in zip(self._group, each, strict=True)}

    def costs(self, name: str, x: Tensor) -> cost.Costs:
        """What a method costs by itself."""
        method, fit = self._group[name], (self._x, self._y)
        with _seeded():
            detector = self._fitted[0][name]
            return cost.measured(lambda: method.make(self._model, self._x[:2]), detector, self._model, x, fit)

    @cached_property
    def _fitted(self) -> tuple[dict[str, Any], Callable[[Tensor], list[_Arrays]]]:
        """The detectors by name, and a function to the arrays (n,) of each."""
        with remembered():
            detectors = {name: method.make(self._model, self._x[:2]) for name, method in self._group.items()}
            ours = [detector.detector for detector in detectors.values() if isinstance(detector, OodDetector)]
            if len(detectors) == len(ours) > 1:
                together = DetectorGroup(ours).fit(self._x, self._y)
                return detectors, lambda x: [_of_ours(*judged) for judged in together.judge(x)]
            for detector in detectors.values():
                detector.fit(DataLoader(TensorDataset(self._x, self._y), batch_size=64))

        def predict(x: Tensor) -> list[_Arrays]:
            if len(ours) == len(detectors):
                return [_of_ours(*judge(detector, x)) for detector in ours]
            with remembered():
                found = [detector.predict(x) for detector in detectors.values()]
                return [{"scores": scores.detach().double().flatten().numpy()} for scores in found]

        return detectors, predict


def _of_ours(predictions: Predictions, causes: Array) -> _Arrays:
    """Inputs without a score have that of `OodDetector.predict`."""
    return {"scores": predictions.outlier_score.nan_to_num(torch.inf, torch.inf, -torch.inf).numpy(), "causes": causes}


def _joined(parts: tuple[_Arrays, ...]) -> _Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextmanager
def _seeded() -> Iterator[None]:
    """Peers may draw from the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
