"""Noise: fresh in each query, the same in each reading of a fit, kept in the file, and no matter without it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import gradgeo
from gradgeo.detector.file import document, serialization
from gradgeo.detector.noise import Noise, repeatable
from gradgeo.errors import ArgumentError, ExportError
from helpers.nets import inputs, network

X = inputs(400)


@pytest.fixture(scope="module")
def detector() -> gradgeo.Detector:
    return gradgeo.Detector(network(), evidence="lite", alpha=0.1, noise=0.2, batch_size=128).fit(X)


def test_draws_are_normal_and_other_in_each_reading_and_row() -> None:
    x = torch.zeros(3, 20_000, dtype=torch.float64)
    first, second = Noise(0.5).reading()(x), Noise(0.5).reading()(x)
    rows = torch.cat([first, second])  # (6, 20000)
    assert np.abs(np.corrcoef(rows.numpy()) - np.eye(6)).max() < 0.05
    assert stats.kstest(rows.flatten().numpy() / 0.5, "norm").pvalue > 1e-4


def test_the_draw_of_a_row_depends_on_no_other_row_and_no_batch() -> None:
    x, others = inputs(10), inputs(10, seed=9)
    others[4] = x[4]
    noise = Noise(0.2, seed=3)
    whole, add = noise.reading()(x), noise.reading()
    assert torch.equal(torch.cat([add(part) for part in x.split(3)]), whole)
    assert torch.equal(noise.reading()(others)[4], whole[4])
    assert not torch.equal(Noise(0.2, seed=4).reading()(x), whole)
    assert Noise().reading()(x) is x
    integers = torch.zeros(2, 3, dtype=torch.int64)
    assert noise.reading()(integers) is integers  # the classifier says what it takes


def test_queries_differ_and_fits_do_not(detector: gradgeo.Detector) -> None:
    again = gradgeo.Detector(detector.model, evidence="lite", alpha=0.1, noise=0.2, batch_size=64).fit(X)
    assert np.allclose(again.calibration_scores_, detector.calibration_scores_, atol=1e-5)
    first, second = detector.outlier_score(X[:20]), detector.outlier_score(X[:20])
    assert (first != second).all()
    repeated = detector.outlier_score(X[:1].expand(8, *X.shape[1:]))
    assert len(repeated.unique()) == 8
    with repeatable(5):
        one = detector.outlier_score(X[:20])
    with repeatable(5):
        other = again.outlier_score(X[:20])
    assert torch.allclose(one, other, atol=1e-5)
    assert (detector.noise_, again.noise_) == (0.2, 0.2)
    assert "noise=0.2" in repr(detector)
    assert "0.2" in detector._repr_html_()


def test_the_false_alarm_rate_is_that_of_noisy_inputs(detector: gradgeo.Detector) -> None:
    fresh = inputs(2000, seed=2)
    with repeatable(0):
        flagged = int((~detector.predict(fresh).trusted).sum())
    rate = detector.false_alarm_rate_
    law = stats.betabinom(2000, rate.ranks, rate.calibration_size + 1 - rate.ranks)
    assert law.ppf(1e-4) <= flagged <= law.ppf(1 - 1e-4)


def test_explanations_are_of_the_input_that_was_judged(detector: gradgeo.Detector) -> None:
    x = 4 * X[:6]
    with repeatable(1):
        judged = detector.judge(x, explain=True)
    with repeatable(1):
        noisy = Noise(0.2).reading()(x)
    assert torch.allclose(judged.logits, detector.model(noisy), atol=1e-5)
    assert judged.explanations
    for row, why in judged.explanations.items():
        expected = gradgeo.csm(detector.model, noisy[[row]], temperature=detector.temperature_)[0]
        assert torch.allclose(torch.as_tensor(why.csm).float(), expected.float(), atol=1e-5)


def test_the_file_keeps_the_noise(detector: gradgeo.Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "noisy.gradgeo")
    loaded = gradgeo.Detector.load(tmp_path / "noisy.gradgeo", detector.model)
    assert (loaded.noise, loaded.noise_, loaded.digest()) == (0.2, 0.2, detector.digest())
    assert serialization.inspect(tmp_path / "noisy.gradgeo")["settings"]["noise"] == 0.2
    loaded.noise = 0.3  # as other settings, it counts at the next fit
    assert (loaded.noise_, loaded.digest()) == (0.2, detector.digest())
    loaded.save(tmp_path / "again.gradgeo")
    assert serialization.inspect(tmp_path / "again.gradgeo")["settings"]["noise"] == 0.2
    plain = gradgeo.Detector(detector.model, evidence="lite", alpha=0.1).fit(X)
    plain.save(tmp_path / "plain.gradgeo")
    assert "noise" not in serialization.inspect(tmp_path / "plain.gradgeo")["settings"]
    assert plain.noise_ is None
    assert plain.digest() != detector.digest()


def test_a_file_with_noise_that_is_none_is_refused(detector: gradgeo.Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "noisy.gradgeo")
    content = serialization.read(tmp_path / "noisy.gradgeo").document
    document.check(content)
    for value in (0, -1.0, "0.2", None, True):
        with pytest.raises(ValueError, match="noise is not valid"):
            document.check(content | {"settings": content["settings"] | {"noise": value}})


def test_noise_that_says_nothing_is_refused(detector: gradgeo.Detector) -> None:
    model = detector.model
    for value in (0, -0.1, float("nan"), float("inf"), True, "much"):
        with pytest.raises(ArgumentError, match="expected noise to be None or a number above 0, in input units"):
            gradgeo.Detector(model, noise=value)  # type: ignore[arg-type]
    wide = gradgeo.Detector(model, evidence="lite", noise=1.5)
    with pytest.raises(
        ArgumentError, match=r"expected noise to be at most 0\.99.*, the width of the inputs' range, got 1.5"
    ):
        wide.fit(X)

    class Random(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return model(x + 0.01 * torch.randn_like(x))

    with pytest.raises(ArgumentError, match="expected a model that draws no random numbers, for noise"):
        gradgeo.Detector(Random(), evidence="lite", noise=0.1).fit(X)
    with pytest.raises(ExportError, match=r"judges inputs with fresh noise \(noise=0.2\)"):
        gradgeo.export.pt2(detector, X[:4], "detector.pt2")


def test_another_site_is_calibrated_with_noise_too(detector: gradgeo.Detector) -> None:
    x, y = inputs(200, seed=7), detector.model(inputs(200, seed=7)).argmax(1)
    other = detector.recalibrate(x, y, why="another site")
    assert other.noise_ == 0.2
    with repeatable(2):
        own = detector.outlier_score(x)
    assert other.calibration_size_ + other.misclassified_ == 200
    assert other.misclassified_ > 0  # by the noise: each is its own prediction without
    assert stats.ks_2samp(other.calibration_scores_, own.numpy()).pvalue > 1e-4


def test_texts_get_no_noise() -> None:
    with pytest.raises(ArgumentError, match=r"expected noise to be None for texts, got 0\.1"):
        Noise(0.1).refuse_texts(True)
    Noise(0.1).refuse_texts(False)
    Noise().refuse_texts(True)
