"""Which one-class model of the ten statistics to use: scikit-learn's candidates on two classifiers."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.covariance import LedoitWolf, MinCovDet
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.preprocessing import QuantileTransformer, StandardScaler
from sklearn.svm import OneClassSVM

from benchmarks.page import Page
from benchmarks.shipped import Suite, pgd_examples
from benchmarks.ten_statistics import TenStatistics, ten_statistics
from gradgeo._typing import Array, IntArray
from gradgeo.detector.one_class.base import ClassConditionalCopula
from gradgeo.metrics import auroc, tnr_at_tpr

SIZE = 500

Score = Callable[[TenStatistics], Array]


class _Gaussian:
    """Negative log likelihood of a shrunk or robust Gaussian, up to a constant."""

    def __init__(self, estimator: Any) -> None:
        self._estimator = estimator

    def fit(self, features: Array) -> "_Gaussian":
        self._fitted = self._estimator.fit(features)
        self._volume = np.linalg.slogdet(self._fitted.covariance_)[1]
        return self

    def score_samples(self, features: Array) -> Array:
        return np.asarray(-self._fitted.mahalanobis(features) - self._volume)


CANDIDATES: dict[str, Callable[[], Any]] = {
    "Gaussian, Ledoit-Wolf": lambda: _Gaussian(LedoitWolf()),
    "Gaussian, MinCovDet": lambda: _Gaussian(MinCovDet(random_state=0)),
    "GaussianMixture, 4": lambda: GaussianMixture(4, reg_covar=1e-3, random_state=0),
    "KernelDensity": lambda: KernelDensity(bandwidth=0.5),
    "LocalOutlierFactor": lambda: LocalOutlierFactor(20, novelty=True),
    "IsolationForest": lambda: IsolationForest(n_estimators=200, random_state=0),
    "OneClassSVM": lambda: OneClassSVM(nu=0.05),
}


def run(suite: Suite) -> Page:
    """AUROC and TNR at 95 % TPR of each candidate, shared or per predicted class, on raw features and normal scores."""
    page = Page("Choosing the one-class model of the ten statistics")
    page.say(
        "Fitted on the correctly classified inputs of the first half of the test split, tuned on these two classifiers "
        f"only. Scenarios: {SIZE} inputs each; AUROC / TNR at 95 % TPR in %. 'Normal scores' are QuantileTransformer's."
    )
    scenarios: dict[str, dict[str, TenStatistics]] = {}
    for name, other, epsilon in (
        ("cifar10", "cifar100", 8 / 255),
        ("fashion", "mnist", 0.1),
    ):
        scenarios[name] = _statistics(suite, name, other, epsilon)
    heading = [
        f"{name}: {c}" for name, statistics in scenarios.items() for c in statistics if c not in ("fit", "clean")
    ]
    rows = []
    for label, make in _all():
        cells, mean = [], []
        for statistics in scenarios.values():
            score = make(statistics["fit"])
            inside = score(statistics["clean"])
            for scenario in (c for c in statistics if c not in ("fit", "clean")):
                outside = score(statistics[scenario])
                area, caught = auroc(inside, outside).value, tnr_at_tpr(inside, outside, resamples=1).value
                cells.append(f"{100 * area:.1f} / {100 * caught:.0f}")
                mean.append((area, caught))
        average = np.mean(mean, axis=0)
        page.data[label] = {"auroc": float(average[0]), "tnr95": float(average[1])}
        rows.append([label, *cells, f"{100 * average[0]:.1f} / {100 * average[1]:.0f}"])
    rows.sort(key=lambda row: -page.data[row[0]]["auroc"])
    page.table(["model", *heading, "mean"], rows)
    page.say(
        "Normal scores with a Gaussian for each predicted class (`gradgeo.detector.one_class.base`) has the best mean, "
        "needs a few matrices to save, and scores in microseconds. With few inputs for a class, shrinkage carries it: "
        "classes with at least as many inputs as features do better with an own Gaussian than with the shared one:"
    )
    page.table(["inputs fitted on", "own from 1 x features", "2 x", "5 x", "always shared"], _thresholds(scenarios))
    return page


def _statistics(suite: Suite, name: str, other: str, epsilon: float) -> dict[str, TenStatistics]:
    classifier = suite[name]
    right = classifier.correct.numpy()
    fit, clean = (
        np.flatnonzero(right[: classifier.half]),
        classifier.half + np.flatnonzero(right[classifier.half :])[: 2 * SIZE],
    )
    temperature = classifier.temperature
    attacked = pgd_examples(classifier, classifier.x[clean[:SIZE]], classifier.y[clean[:SIZE]], epsilon)
    wrong = classifier.half + np.flatnonzero(~right[classifier.half :])[:SIZE]
    inputs = {
        "fit": classifier.x[fit],
        "clean": classifier.x[clean],
        "OOD": suite.read(other, SIZE)[0],
        "PGD": attacked,
    }
    return {
        k: ten_statistics(classifier, x, temperature)
        for k, x in {**inputs, "misclassified": classifier.x[wrong]}.items()
    }


def _all() -> list[tuple[str, Callable[[TenStatistics], Score]]]:
    models: list[tuple[str, Callable[[TenStatistics], Score]]] = []
    for name, candidate in CANDIDATES.items():
        for scores, scaler in (("raw", StandardScaler), ("normal scores", _normal)):
            for per_class in (False, True):
                label = f"{name}, {scores}, {'per class' if per_class else 'shared'}"
                models.append((label, _maker(candidate, scaler, per_class)))
    return models


def _normal() -> QuantileTransformer:
    return QuantileTransformer(n_quantiles=200, output_distribution="normal", subsample=None)


def _maker(
    candidate: Callable[[], Any], scaler: Callable[[], Any], per_class: bool
) -> Callable[[TenStatistics], Score]:
    def fit(statistics: TenStatistics) -> Score:
        scale = scaler().fit(statistics.features)
        rows = scale.transform(statistics.features)
        groups = np.unique(statistics.label) if per_class else [0]
        models = {c: candidate().fit(rows[statistics.label == c] if per_class else rows) for c in groups}

        def score(other: TenStatistics) -> Array:
            rows, result = scale.transform(other.features), np.zeros(len(other.label))
            for c, model in models.items():
                here = other.label == c if per_class else np.ones(len(rows), bool)
                if here.any():
                    result[here] = -model.score_samples(rows[here])
            return result

        return score

    return fit


def _thresholds(scenarios: dict[str, dict[str, TenStatistics]]) -> list[list[str]]:
    rows = []
    for n in (150, 500, 2000):
        cells = []
        for per_feature in (1, 2, 5, 10**6):
            areas = []
            for statistics in scenarios.values():
                chosen: IntArray = np.random.default_rng(0).permutation(len(statistics["fit"].label))[:n]
                fit = statistics["fit"][chosen]
                model = ClassConditionalCopula.fit(fit.features, fit.label, 10, per_class=per_feature)
                inside = statistics["clean"].score(model)
                areas += [
                    auroc(inside, s.score(model)).value for c, s in statistics.items() if c not in ("fit", "clean")
                ]
            cells.append(f"{100 * np.mean(areas):.1f}")
        rows.append([str(n), *cells])
    return rows
