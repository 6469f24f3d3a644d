"""Detectors of the grid, and the figures of the paper's tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.paper.settings import Statistics
from gradgeo._typing import Array
from gradgeo.detector.one_class.base import ClassConditionalCopula, OneClass
from gradgeo.detector.one_class.loda import Loda
from gradgeo.metrics import Estimate, auroc, tnr_at_tpr

ONE_CLASS = ("copula", "LODA")
FITTED_ON = ("held-out", "training")


@dataclass(frozen=True)
class Choice:
    """One cell of the grid: which statistics, side by side where there are several, which model, fitted on what."""

    settings: tuple[str, ...]
    one_class: str = "copula"
    fitted_on: str = "held-out"
    maps: int | None = None
    """How many of the most likely classes have maps; None for all."""

    def __str__(self) -> str:
        return f"{' + '.join(self.settings)}; {self.one_class}; {self.fitted_on}"

    def features(self, statistics: Statistics) -> Array:
        """(N, 10) for each setting side by side."""
        return np.concatenate([statistics.of(setting, self.maps) for setting in self.settings], axis=1)

    def scores(
        self, fitted_on: Mapping[str, Statistics], others: Mapping[str, Statistics], classes: int, bins: int
    ) -> dict[str, Array]:
        """Outlier scores of each of `others`; `bins` are LODA's, the paper's number."""
        fit: Callable[..., OneClass] = ClassConditionalCopula.fit
        if self.one_class == "LODA":
            fit = partial(Loda.fit, bins=bins)
        known = fitted_on[self.fitted_on]
        model = fit(self.features(known), known.label, classes)
        return {
            name: model.score(torch.from_numpy(self.features(each)), torch.from_numpy(each.label)).numpy()
            for name, each in others.items()
        }


@dataclass(frozen=True)
class Row:
    """What a detector does with every cause, as Table 1 has it."""

    tnr95: dict[str, Estimate]
    """By cause."""
    auroc: dict[str, Estimate]
    """By cause."""
    pooled: Estimate
    """AUROC over the causes of the paper's table together."""
    aupr_in: float
    """Area under precision and recall, trusted inputs being what is looked for."""
    aupr_out: float
    """The same, the others being looked for."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "tnr95": {cause: _plain(e) for cause, e in self.tnr95.items()},
            "auroc": {cause: _plain(e) for cause, e in self.auroc.items()},
            "pooled": {"auroc": _plain(self.pooled), "aupr_in": self.aupr_in, "aupr_out": self.aupr_out},
        }


def row(scores: Mapping[str, Array], pooled: tuple[str, ...], *, resamples: int = 1000) -> Row:
    """The figures of scores by cause, those of the trusted inputs among them."""
    from sklearn.metrics import average_precision_score

    trusted = scores["trusted"]
    causes = {cause: s for cause, s in scores.items() if cause != "trusted" and len(s) > 1}
    together = np.concatenate([causes[cause] for cause in pooled if cause in causes])
    every, bad = np.concatenate([trusted, together]), np.repeat([0, 1], [len(trusted), len(together)])
    return Row(
        {cause: tnr_at_tpr(trusted, s, resamples=resamples) for cause, s in causes.items()},
        {cause: auroc(trusted, s) for cause, s in causes.items()},
        auroc(trusted, together),
        float(average_precision_score(1 - bad, -every)),
        float(average_precision_score(bad, every)),
    )


def _plain(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high
