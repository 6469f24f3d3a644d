"""The main job on trained classifiers and real data, small enough for every run; results/ has the full figures."""

from pathlib import Path

import pytest
import torch
from gradgeo.bench.case import Case, Cases

import gradgeo
from gradgeo import Detector, attacks
from gradgeo.metrics import auroc

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def cases(gradgeo_data: Path) -> Cases:
    return Cases(gradgeo_data)


def parts(case: Case, fit: int, report: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first inputs of either half: to fit, and correctly classified ones to report on."""
    x, y = case.x[case.half :][: 2 * report], case.y[case.half :][: 2 * report]
    with torch.no_grad():
        right = case.model(x).argmax(1) == y
    return case.x[:fit], case.y[:fit], x[right][:report], y[right][:report]


def test_strong_attacks_and_other_images_on_cifar10(cases: Cases) -> None:
    case = cases["cifar10"]
    x_fit, y_fit, x, y = parts(case, 500, 60)
    detector = Detector(case.model).fit(x_fit, y_fit)
    clean = detector.outlier_score(x)
    attacked = attacks.pgd(case.model, x[:30], y[:30], epsilon=8 / 255, steps=40)
    assert attacked.success.all()
    assert auroc(clean, detector.outlier_score(attacked.adversarial)).value > 0.9
    other, _ = cases.read("cifar100", 60)
    assert auroc(clean, detector.outlier_score(other)).value > 0.6


def test_one_hundred_classes_by_their_top_five(cases: Cases) -> None:
    case = cases["cifar100"]
    x_fit, y_fit, x, _ = parts(case, 150, 10)
    detector = Detector(case.model, classes=5).fit(x_fit, y_fit)
    assert detector.predict(x).outlier_score.isfinite().all()
    everything = gradgeo.saliency_maps(case.model, x[:1])
    top = case.model(x[:1]).topk(5).indices[0]
    assert (gradgeo.saliency_maps(case.model, x[:1], classes=5)[0] == everything[0, top]).double().mean() > 0.999


def test_beats_and_noise(cases: Cases) -> None:
    case = cases["ecg5000"]
    x_fit, y_fit, x, _ = parts(case, 1000, 300)
    detector = Detector(case.model).fit(x_fit, y_fit)
    verdict = detector.predict(x)
    assert 1 - verdict.trusted.double().mean() < 0.12
    noise = torch.randn(100, 1, 140, generator=torch.Generator().manual_seed(0))
    assert auroc(verdict.outlier_score, detector.outlier_score(noise)).value > 0.8


def test_batch_size_hardly_matters_on_a_residual_network(cases: Cases) -> None:
    case = cases["cifar10"]
    detector = Detector(case.model).fit(case.x[:150])
    x = case.x[case.half :][:64]
    together = detector.outlier_score(x)
    detector.batch_size = 5
    assert ((detector.outlier_score(x) - together).abs() <= 1e-4).double().mean() >= 0.98  # 63 of 64
