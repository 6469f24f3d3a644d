"""Detectors that share passes: each is what it would be alone."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradgeo import Detector
from gradgeo.bench.shared_passes import DetectorGroup
from gradgeo.errors import ArgumentError
from gradgeo.geometry.autograd import AutogradJacobian

PRESETS = ("full", "fast", "paper")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16))
    return nn.Sequential(body, nn.ReLU(), nn.Linear(16, 6)).eval()


def inputs(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def trusted(model: nn.Module) -> tuple[Tensor, Tensor]:
    x = inputs(300)
    y = model(x).argmax(1)
    y[::9] = (y[::9] + 1) % 6  # so many are misclassified
    return x, y


@pytest.fixture(scope="module")
def group(model: nn.Module) -> DetectorGroup:
    return DetectorGroup([Detector(model, evidence=preset) for preset in PRESETS]).fit(*trusted(model))


@pytest.mark.simulation
@pytest.mark.parametrize("number", range(len(PRESETS)))
def test_each_detector_is_what_it_would_be_alone(number: int, group: DetectorGroup, model: nn.Module) -> None:
    alone, shared = Detector(model, evidence=PRESETS[number]).fit(*trusted(model)), group.detectors[number]
    for name in ("evidence_", "fit_size_", "calibration_size_", "misclassified_", "temperature_", "radius_"):
        assert getattr(shared, name) == getattr(alone, name), name
    assert np.array_equal(shared.fitted_.calibration.rows, alone.fitted_.calibration.rows)
    new = torch.cat([inputs(60, seed=1), 2 * inputs(30, seed=2)])
    found, right = group.predict(new)[number], alone.predict(new)
    if PRESETS[number] == "fast":  # its nearest boundary is now told by the gradients that the others need
        assert torch.allclose(found.outlier_score, right.outlier_score, rtol=1e-4)
        assert torch.equal(found.outlier_score.argsort(), right.outlier_score.argsort())
        assert torch.equal(found.p_value, right.p_value)
    else:
        assert shared.digest() == alone.digest()
        assert torch.equal(found.outlier_score, right.outlier_score)
    assert torch.equal(found.label, right.label)


def test_detectors_of_a_panel_judge_by_themselves_too(group: DetectorGroup) -> None:
    together = group.predict(inputs(20, seed=1))
    for detector, found in zip(group.detectors, together, strict=True):
        assert torch.allclose(detector.outlier_score(inputs(20, seed=1)), found.outlier_score, rtol=1e-4)


def test_an_input_is_measured_once(group: DetectorGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    rows = AutogradJacobian._rows

    def counting(self: AutogradJacobian, cotangents: torch.Tensor) -> torch.Tensor:
        made.append(cotangents.shape[1])
        return rows(self, cotangents)

    monkeypatch.setattr(AutogradJacobian, "_rows", counting)
    group.predict(inputs(4))
    shared, made[:] = sum(made), []
    group.detectors[0].predict(inputs(4))
    assert shared == sum(made) > 0


@pytest.mark.simulation
def test_so_few_inputs_that_they_would_be_split_otherwise_are_refused(model: nn.Module) -> None:
    x = inputs(60)
    detectors = [Detector(model, evidence=preset) for preset in PRESETS]
    assert len({len(detector.fit(x).calibration_scores_) for detector in detectors}) == 2
    fresh = [Detector(model, evidence=preset) for preset in PRESETS]
    with pytest.raises(ArgumentError, match="all detectors learn from the same inputs, got 60"):
        DetectorGroup(fresh).fit(x)
    assert not any(hasattr(detector, "fit_size_") for detector in fresh)
