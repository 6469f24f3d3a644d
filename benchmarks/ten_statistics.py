"""The ten statistics of many inputs, computed once and cached, and the one-class model of them."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.bench.cache import CHUNK, GEOMETRY_CODE, cached, source_hash, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.detector.one_class.base import ClassConditionalCopula
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps
from gradgeo.geometry.similarity import csm_of, csm_statistics

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05)
"""Shares of the classes whose maps are used (the paper's Table 3)."""


@dataclass(frozen=True)
class TenStatistics:
    """The ten statistics of some inputs and their predicted classes."""

    features: Array
    """(N, 10)."""
    label: IntArray
    """(N,)."""

    def __getitem__(self, rows: IntArray | BoolArray) -> "TenStatistics":
        return TenStatistics(self.features[rows], self.label[rows])

    def score(self, model: ClassConditionalCopula) -> Array:
        """Outlier scores (N,) by a one-class model."""
        return model.score(torch.from_numpy(self.features), torch.from_numpy(self.label)).numpy()


def ten_statistics(
    classifier: ClassifierUnderTest, x: Tensor, temperature: float, *, share: float = 1.0
) -> TenStatistics:
    """The ten statistics of `x` at a temperature, from the maps of a share of the classes; cached.

    The gradients that span all maps are the same at every temperature, so those at the classifier's own and at the
    paper's are computed together.

    Args:
        share: one of `SHARES`; the most likely classes of each input are used, at least 3.
    """
    temperatures = tuple(dict.fromkeys((classifier.temperature, 1.0)))
    if temperature not in temperatures:
        temperatures = (temperature,)

    def compute(x: Tensor) -> dict[str, Any]:
        def measure(jacobian: InputJacobian, rows: slice) -> tuple[Tensor, Tensor]:
            return _statistics(jacobian, [Maps(Loss("cross_entropy", t)) for t in temperatures]), jacobian.predicted

        parts = map_chunks(classifier.model, [x], Maps(), measure, streamed=True)
        features, label = (torch.cat([part[i] for part in parts]).numpy() for i in (0, 1))
        return {"features": features, "label": label}

    code = source_hash(*GEOMETRY_CODE)
    key = ("seen", weights_key(classifier.model), code, [round(t, 6) for t in temperatures], SHARES)
    parts = [cached(partial(compute, part), *key, tensor_hash(part)) for part in torch.split(x, CHUNK)]
    wanted = temperatures.index(temperature), SHARES.index(share)
    features = np.concatenate([part["features"][:, *wanted] for part in parts])
    return TenStatistics(features, np.concatenate([part["label"] for part in parts]))


def fit_ten_statistics(
    classifier: ClassifierUnderTest, temperature: float, *, share: float = 1.0
) -> ClassConditionalCopula:
    """The one-class model of `ten_statistics` over the trusted inputs of the first half."""
    trusted = ten_statistics(classifier, classifier.trusted, temperature, share=share)
    return ClassConditionalCopula.fit(trusted.features, trusted.label, classifier.logits.shape[1])


def number_of_maps(share: float, classes: int) -> int:
    """How many maps a share of the classes is; the predicted class and two others are the least to compare."""
    return min(classes, max(3, round(share * classes)))


def _statistics(jacobian: InputJacobian, options: list[Maps]) -> Tensor:
    """The ten statistics (N, options, SHARES, 10) of a batch."""
    first = torch.zeros(len(jacobian.logits), dtype=torch.long)
    counts = [number_of_maps(share, jacobian.logits.shape[1]) for share in SHARES]
    rows = []
    for maps in options:
        matrices = csm_of(jacobian, maps)  # (N, C, C)
        narrowed = [most_likely(matrices, jacobian.logits, count) for count in counts]
        rows.append(torch.stack([csm_statistics(matrix, first) for matrix in narrowed], dim=1))  # (N, SHARES, 10)
    return torch.stack(rows, dim=1).double()


def most_likely(matrices: Tensor, logits: Tensor, count: int) -> Tensor:
    """The CSM (N, count, count) of each input's most likely classes, the predicted one first."""
    rows = logits.topk(count, dim=1).indices  # (N, count)
    narrowed = matrices.gather(1, rows[:, :, None].expand(-1, -1, matrices.shape[2]))  # (N, count, C)
    return narrowed.gather(2, rows[:, None, :].expand(-1, count, -1))
