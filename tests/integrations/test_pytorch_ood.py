"""Our detector under pytorch-ood's contract, judged by pytorch-ood's own metrics."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradgeo
from gradgeo.integrations.pytorch_ood import OodDetector
from gradgeo.metrics import auroc

pytorch_ood = pytest.importorskip("pytorch_ood", reason="pytorch-ood is not installed")


@pytest.fixture(scope="module")
def fitted():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5))
    x = torch.rand(400, 3, 2, 2, generator=generator)
    y = model(x).argmax(1)
    y[:40] = -1  # pytorch-ood's mark of an outlier: not for fitting
    detector = OodDetector(gradgeo.Detector(model))
    assert detector.fit(DataLoader(TensorDataset(x, y), batch_size=64)) is detector
    return detector, x, y


def test_inputs_with_a_negative_label_are_not_fitted_on(fitted):
    detector, _, _ = fitted
    assert detector.detector.fit_size_ + detector.detector.calibration_size_ <= 360


def test_scores_are_the_detectors_outlier_scores(fitted):
    detector, x, _ = fitted
    assert torch.equal(detector(x[:50]), detector.detector.predict(x[:50]).outlier_score)
    broken = x[:3].clone()
    broken[1] = float("nan")
    with pytest.warns(gradgeo.GradgeoWarning):
        scores = detector.to("cpu").predict(broken)
    assert scores.isinf().tolist() == [False, True, False]


def test_pytorch_oods_metrics_agree_with_ours(fitted):
    detector, x, _ = fitted
    odd = 3 * torch.randn(60, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    metrics = (
        pytorch_ood.utils.OODMetrics() if hasattr(pytorch_ood.utils, "OODMetrics") else pytorch_ood.metrics.OODMetrics()
    )
    inside, outside = detector.predict(x[40:240]), detector.predict(odd)
    metrics.update(inside, torch.zeros(len(inside), dtype=torch.long))
    metrics.update(outside, -torch.ones(len(outside), dtype=torch.long))
    assert float(metrics.compute()["AUROC"]) == pytest.approx(auroc(inside, outside).value, abs=1e-6)
