"""Whether outliers made from trusted inputs rank methods as the scenarios do, and what choosing by them costs."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from gradgeo._typing import Array
from gradgeo.bench.averages import means
from gradgeo.bench.cache import cached, source_hash, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.detector.fit.made_outliers import FAMILIES, made_outliers
from gradgeo.errors import GradgeoError
from gradgeo.metrics import auroc

PREFIX = "made outliers: "
"""Before a kind, among the scenarios' inputs."""
TRUSTED = f"{PREFIX}trusted"
OUTLIERS, COMPARED = 50, 100
"""Outliers of a kind, and trusted inputs that they are compared with."""
FEWEST = 10
"""Inputs that outliers are made from; with fewer there are none."""
LEAST_METHODS = 3
"""With fewer there is no rank correlation."""


def inputs(classifier: ClassifierUnderTest) -> dict[str, Tensor]:
    """Trusted inputs that a refitted classifier's detectors are not fitted on, and the outliers made from them; none
    where they are too few, or outliers cannot be made."""
    x = classifier.held_out
    source, axis = x[:OUTLIERS], classifier.channel_axis
    if len(x) < FEWEST or not bool(x.isfinite().all()):
        return {}

    def make() -> dict[str, Any]:
        made = made_outliers(source, model=classifier.model, channel_axis=axis)
        return {kind: each.numpy() for kind, each in made.items()}

    key = source_hash("detector/fit/made_outliers.py"), weights_key(classifier.model), tensor_hash(source), axis
    try:
        found = cached(make, "made outliers", *key)
    except GradgeoError:  # a model without gradient, for instance, has no attacks
        kinds = [kind for kind, family in FAMILIES.items() if family != "attack"]
        found = {kind: each.numpy() for kind, each in made_outliers(source, channel_axis=axis, kinds=kinds).items()}
    return {TRUSTED: x[:COMPARED]} | {f"{PREFIX}{kind}": torch.from_numpy(each) for kind, each in found.items()}


def areas(scores: Mapping[str, Array]) -> dict[str, float]:
    """The AUROC of each kind, of one method's scores of `inputs`."""
    outside = {name.removeprefix(PREFIX): each for name, each in scores.items() if name.startswith(PREFIX)}
    trusted = outside.pop(TRUSTED.removeprefix(PREFIX), None)
    return {} if trusted is None else {kind: auroc(trusted, each).value for kind, each in outside.items()}


def ranking(
    made: Mapping[str, Mapping[str, float]], real: Mapping[str, Mapping[str, Any]], peers: Collection[str]
) -> dict[str, Any]:
    """For JSON: the figures of each method on the made outliers, and how they agree with those on the scenarios.

    "methods": the mean over families, those of families and of kinds. "agreement" of "all" methods and of the "peers":
    over the means, and by family of made outliers, Spearman's rank correlation with the mean over the scenarios, the
    method that comes first on the made ones, and its "regret", how far its mean over the scenarios is from the best;
    "by_kind": the rank correlation with each kind of scenario.

    Args:
        made: AUROC by method and kind of made outlier.
        real: by method, as `averages.summary` gives it, of the methods that have all scenarios.
        peers: methods of others.
    """
    methods = {}
    for name, figures in made.items():
        if figures:
            mean, families = means(figures, FAMILIES)
            methods[name] = {"auroc": mean, "families": families, "kinds": dict(figures)}
    common = [name for name in methods if name in real]
    agreement = {
        label: _agreement({name: methods[name] for name in names}, {name: real[name] for name in names})
        for label, names in (("all", common), ("peers", [name for name in common if name in peers]))
        if names
    }
    return {"methods": methods, "agreement": agreement}


def _agreement(made: dict[str, dict[str, Any]], real: dict[str, Mapping[str, Any]]) -> dict[str, Any]:
    target = {name: float(figures["auroc"]) for name, figures in real.items()}
    by_family = {
        family: _stands({name: figures["families"].get(family) for name, figures in made.items()}, target)
        for family in dict.fromkeys(family for figures in made.values() for family in figures["families"])
    }
    means = {name: figures["auroc"] for name, figures in made.items()}
    kinds = dict.fromkeys(kind for figures in real.values() for kind in figures.get("kinds", {}))
    by_kind = {
        kind: _correlation(means, {name: f["kinds"][kind]["auroc"] for name, f in real.items() if kind in f["kinds"]})
        for kind in kinds
    }
    return {**_stands(means, target), "by_family": by_family, "by_kind": by_kind}


def _stands(made: Mapping[str, float | None], real: Mapping[str, float]) -> dict[str, Any]:
    known = {name: value for name, value in made.items() if value is not None}
    chosen, best = max(known, key=known.__getitem__), max(real, key=real.__getitem__)
    return {
        "rank_correlation": _correlation(known, real),
        "chosen": chosen,
        "reaches": real[chosen],
        "best": best,
        "best_reaches": real[best],
        "regret": real[best] - real[chosen],
    }


def _correlation(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    """Spearman's; None where there are few methods, or one that ranks none above another."""
    names = [name for name in one if name in other]
    ranks = [stats.rankdata([values[name] for name in names]) for values in (one, other)]
    if len(names) < LEAST_METHODS or any(np.ptp(each) == 0 for each in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])
