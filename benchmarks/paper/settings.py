"""The ten statistics under every choice of the grid, from one Jacobian of each input; cached."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.ten_statistics import most_likely
from gradgeo._typing import Array, IntArray
from gradgeo.bench.cache import CHUNK, GEOMETRY_CODE, cached, source_hash, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps
from gradgeo.geometry.similarity import csm_of, csm_statistics

MAPS = (5, 10, 20, 50, 100)
"""Numbers of the most likely classes whose maps are used (the paper's Table 3)."""

LOGITS = ("temperature 1", "own temperature", "rescaled", "raw logits")
MAXIMUM = ", channel maximum"
SETTINGS = (*LOGITS, *(name + MAXIMUM for name in LOGITS))
"""What is differentiated, and whether the maximum over channels is taken after the sign, as the authors' code does."""


@dataclass(frozen=True)
class Statistics:
    """The ten statistics of N inputs under each of S settings, with each of M numbers of maps."""

    features: Array
    """(N, S, M, 10)."""
    label: IntArray
    """(N,) predicted classes."""
    counts: tuple[int, ...]
    """M numbers of maps, rising; the last is all."""

    def of(self, setting: str, maps: int | None = None) -> Array:
        """(N, 10) under one setting, of all maps or of the most likely ones."""
        which = len(self.counts) - 1 if maps is None else self.counts.index(maps)
        return np.asarray(self.features[:, SETTINGS.index(setting), which], np.float64)


def options(name: str, own: float) -> Maps:
    """Which maps a setting makes, with the classifier's own temperature."""
    kind, maximum = name.removesuffix(MAXIMUM), name.endswith(MAXIMUM)
    losses = {
        "temperature 1": Loss(),
        "own temperature": Loss(temperature=own),
        "rescaled": Loss(rescale=True),
        "raw logits": Loss("logit"),
    }
    return Maps(losses[kind], channel_max=maximum)


def statistics(classifier: ClassifierUnderTest, x: Tensor) -> Statistics:
    """The statistics of `x` under every setting: all maps are combinations of the same gradients."""
    classes, own = classifier.logits.shape[1], classifier.temperature
    counts = (*(n for n in MAPS if n < classes), classes)

    def compute(x: Tensor) -> dict[str, Any]:
        def measure(jacobian: InputJacobian, rows: slice) -> tuple[Tensor, Tensor]:
            return _under_each(jacobian, own, counts), jacobian.predicted

        parts = map_chunks(classifier.model, [x], Maps(), measure, streamed=True)
        features, label = (torch.cat([part[i] for part in parts]).numpy() for i in (0, 1))
        return {"features": features, "label": label}

    code = source_hash(*GEOMETRY_CODE)
    key = ("settings", weights_key(classifier.model), code, round(own, 6), counts, SETTINGS)
    parts = [cached(partial(compute, part), *key, tensor_hash(part)) for part in x.split(CHUNK)]
    if not parts:
        return Statistics(np.zeros((0, len(SETTINGS), len(counts), 10)), np.zeros(0, np.int64), counts)
    features, label = (np.concatenate([part[name] for part in parts]) for name in ("features", "label"))
    return Statistics(features, label, counts)


def _under_each(jacobian: InputJacobian, own: float, counts: tuple[int, ...]) -> Tensor:
    """(N, settings, counts, 10), float64."""
    first = torch.zeros(len(jacobian.logits), dtype=torch.long)
    rows: dict[str, Tensor] = {}
    for name in SETTINGS:
        if name.endswith(MAXIMUM) and jacobian.x.shape[1] == 1:  # the maximum of one channel is that channel
            rows[name] = rows[name.removesuffix(MAXIMUM)]
            continue
        matrices = csm_of(jacobian, options(name, own))  # (N, C, C)
        each = [csm_statistics(most_likely(matrices, jacobian.logits, count), first) for count in counts]
        rows[name] = torch.stack(each, dim=1)  # (N, counts, 10)
    return torch.stack([rows[name] for name in SETTINGS], dim=1).double()
