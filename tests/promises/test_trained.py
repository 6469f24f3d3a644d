"""The main job on trained classifiers and real data, small enough for every run; results/ has the full figures."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import gradgeo
from benchmarks.shipped import Suite
from gradgeo import Detector, attacks
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.metrics import auroc

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def suite(gradgeo_data: Path) -> Suite:
    return Suite(gradgeo_data, most=600)


def parts(
    classifier: ClassifierUnderTest, fit: int, report: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first inputs of either half: to fit, and correctly classified ones to report on."""
    x, y = classifier.x[classifier.half :][: 2 * report], classifier.y[classifier.half :][: 2 * report]
    with torch.no_grad():
        right = classifier.model(x).argmax(1) == y
    return classifier.x[:fit], classifier.y[:fit], x[right][:report], y[right][:report]


@dataclass(frozen=True)
class Seen:
    """A detector of the residual network, correctly classified inputs and their scores."""

    detector: Detector
    x: torch.Tensor
    y: torch.Tensor
    score: torch.Tensor


@pytest.fixture(scope="module")
def cifar10(suite: Suite) -> Seen:
    x_fit, y_fit, x, y = parts(suite["cifar10"], 250, 50)
    detector = Detector(suite["cifar10"].model).fit(x_fit, y_fit)
    return Seen(detector, x, y, detector.outlier_score(x))


def test_strong_attacks_and_other_images_on_cifar10(suite: Suite, cifar10: Seen) -> None:
    model, x, y = cifar10.detector.model, cifar10.x[:20], cifar10.y[:20]
    attacked = attacks.pgd(model, x, y, epsilon=8 / 255, steps=40)
    assert attacked.success.all()
    assert auroc(cifar10.score, cifar10.detector.outlier_score(attacked.adversarial)).value > 0.9
    other, _ = suite.read("cifar100", 50)
    assert auroc(cifar10.score, cifar10.detector.outlier_score(other)).value > 0.6


def test_one_hundred_classes_by_their_top_five(suite: Suite) -> None:
    classifier = suite["cifar100"]
    x_fit, y_fit, x, _ = parts(classifier, 150, 10)
    detector = Detector(classifier.model, classes=5).fit(x_fit, y_fit)
    assert detector.predict(x).outlier_score.isfinite().all()
    everything = gradgeo.saliency_maps(classifier.model, x[:1])
    top = classifier.model(x[:1]).topk(5).indices[0]
    assert (gradgeo.saliency_maps(classifier.model, x[:1], classes=5)[0] == everything[0, top]).double().mean() > 0.999


def test_beats_and_noise(gradgeo_data: Path) -> None:
    classifier = Suite(gradgeo_data)["ecg5000"]
    x_fit, y_fit, x, _ = parts(classifier, 1000, 300)
    detector = Detector(classifier.model).fit(x_fit, y_fit)
    verdict = detector.predict(x)
    assert 1 - verdict.trusted.double().mean() < 0.12
    noise = torch.randn(100, 1, 140, generator=torch.Generator().manual_seed(0))
    assert auroc(verdict.outlier_score, detector.outlier_score(noise)).value > 0.8


def test_batch_size_hardly_matters_on_a_residual_network(cifar10: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10.detector, "batch_size", 5)
    assert int(((cifar10.detector.outlier_score(cifar10.x) - cifar10.score).abs() > 1e-4).sum()) <= 1  # of 50
