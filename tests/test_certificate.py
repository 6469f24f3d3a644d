"""The certificate: half-spaces meet it, nothing exceeds it, and what cannot be certified is not."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

import gradgeo
from gradgeo.certificate import certify, evasion_bound, largest_radius, worst_case
from gradgeo.detector.noise import Noise, repeatable
from gradgeo.detector.results import Predictions
from gradgeo.errors import ArgumentError
from helpers.nets import inputs, network

S = 0.25
X = inputs(300)


class HalfSpace(gradgeo.Detector):
    """Says class 1, trusted, of x + Z where its first entry is above 0, and otherwise that it is not to be trusted."""

    def predict(self, x: Any, **options: Any) -> Predictions:
        first = Noise(S).reading()(x).flatten(1)[:, 0]  # (N,)
        inside, some = first > 0, torch.zeros(len(first), dtype=torch.float64)
        return Predictions(inside.long(), some, some, some, inside)


@pytest.fixture(scope="module")
def detector() -> gradgeo.Detector:
    return gradgeo.Detector(network(), evidence="lite", alpha=0.1, noise=S).fit(X)


@pytest.fixture
def half_space(detector: gradgeo.Detector) -> HalfSpace:
    return HalfSpace(detector.model, noise=S).adopt(detector.fitted_)


@pytest.mark.parametrize("edge", [-1.0, 0.0, 0.3, 1.2])
@pytest.mark.parametrize("r", [0.0, 0.1, 1.0])
def test_a_half_space_meets_the_bound_with_equality_and_a_slab_does_not(edge: float, r: float) -> None:
    beyond = stats.norm.sf(edge / S)  # of u > edge at 0
    assert worst_case(beyond, radius=r, noise=S) == pytest.approx(stats.norm.sf((edge - r) / S), rel=1e-9)
    slab = special.ndtr((edge + 1) / S) - special.ndtr(edge / S)
    for moved in np.linspace(-r, r, 21):
        share = special.ndtr((edge + 1 - moved) / S) - special.ndtr((edge - moved) / S)
        assert share <= worst_case(slab, radius=r, noise=S) + 1e-12


def test_the_map_is_concave_everywhere_so_a_mean_of_bounds_is_below_the_bound_of_the_mean() -> None:
    shares = np.linspace(0, 1, 401)
    bounds = np.array([worst_case(p, radius=0.2, noise=S) for p in shares])
    assert (bounds[0], bounds[-1]) == (0, 1)
    assert (np.diff(bounds) > 0).all()
    assert (np.diff(bounds, 2) <= 1e-12).all()
    some = np.random.default_rng(0).choice(len(shares), 50)
    assert bounds[some].mean() <= worst_case(shares[some].mean(), radius=0.2, noise=S)


def test_the_bound_takes_the_upper_end_of_the_exact_interval() -> None:
    upper = stats.binomtest(7, 500, alternative="less").proportion_ci(0.9, "exact").high
    bound = evasion_bound(7, 500, radius=0.1, noise=S, confidence=0.9)
    assert bound == pytest.approx(worst_case(upper, radius=0.1, noise=S))
    again = evasion_bound(7, 500, radius=0.1, noise=S, confidence=0.9, queries=3)
    assert again == pytest.approx(1 - (1 - bound) ** 3)
    assert evasion_bound(500, 500, radius=0.1, noise=S, queries=2) == 1
    assert evasion_bound(0, 1, radius=0.0, noise=S) == pytest.approx(0.95)


@pytest.mark.parametrize("margin", [0.05, 0.2, 0.5])
def test_the_radius_of_a_half_space_is_at_most_the_way_to_its_edge(half_space: HalfSpace, margin: float) -> None:
    x = torch.full((1, 3, 2, 2), margin)
    with repeatable(0):
        found = certify(half_space, x, draws=20_000, confidence=0.99)
    assert (found.label.tolist(), found.trusted.tolist(), found.abstained.tolist()) == ([1], [True], [False])
    assert 0.9 * margin - 0.01 < float(found.radius) <= margin
    with repeatable(0):
        other = certify(half_space, -x, draws=20_000, confidence=0.99, radius=margin / 2)
    assert (other.label.tolist(), other.trusted.tolist(), other.abstained.tolist()) == ([-1], [False], [False])
    assert 0.9 * margin - 0.01 < float(other.radius) <= margin


def test_on_the_edge_it_abstains_and_a_radius_may_be_asked_for(half_space: HalfSpace) -> None:
    with repeatable(0):
        edge = certify(half_space, torch.zeros(3, 3, 2, 2), draws=500)
        near = certify(half_space, torch.full((1, 3, 2, 2), 0.2), draws=2000, radius=0.3)
    assert edge.abstained.tolist() == [True] * 3
    assert edge.trusted.tolist() == [False] * 3
    assert edge.label.tolist() == [-1] * 3
    assert edge.radius.tolist() == [0.0] * 3
    assert edge.share.isnan().all()
    assert (near.label.tolist(), near.trusted.tolist(), near.abstained.tolist()) == ([1], [False], [False])


def test_certificates_miss_no_more_often_than_is_said(half_space: HalfSpace) -> None:
    with repeatable(1):
        found = certify(half_space, torch.full((300, 3, 2, 2), 0.1), draws=100, pilot=10, confidence=0.9)
    wrong = int((found.radius > 0.1).sum())
    assert stats.binomtest(wrong, 300, 0.1, alternative="greater").pvalue > 1e-4


def test_attacks_do_not_exceed_the_bound(detector: gradgeo.Detector) -> None:
    model, x = detector.model, inputs(60, seed=5)
    y = model(x).argmax(1)

    def evaded(points: Tensor) -> int:
        with repeatable(3):
            verdicts = [detector.predict(points) for _ in range(10)]
        return sum(int((v.trusted & (v.label != y)).sum()) for v in verdicts)

    clean, radius = evaded(x), 0.1
    attacked = gradgeo.attacks.evasion(
        detector, x, y, epsilon=radius, norm="l2", steps=10, draws=2, bounds=None, batch_size=60
    )
    assert float((attacked.adversarial - x).flatten(1).norm(dim=1).max()) <= radius * (1 + 1e-6)
    bound = evasion_bound(clean, 600, radius=radius, noise=S)
    assert clean < evaded(attacked.adversarial) <= 600 * bound


def test_a_fitted_detector_is_certified(detector: gradgeo.Detector) -> None:
    bad = X[:2].clone()
    bad[1, 0] = torch.nan
    with pytest.warns(gradgeo.GradgeoWarning, match="NaN or infinite"):
        found = certify(detector, bad.numpy(), noise=S, draws=50, pilot=10)
    assert (int(found.label[1]), bool(found.trusted[1]), bool(found.abstained[1])) == (-1, False, False)
    assert float(found.radius.max()) <= largest_radius(noise=S, draws=50) + 1e-9
    assert len(certify(detector, X[:0], draws=50)) == 0


def test_what_cannot_be_certified_is_refused(detector: gradgeo.Detector) -> None:
    without = gradgeo.Detector(detector.model, evidence="lite").fit(X)
    for call, words in (
        (lambda: certify(without, X[:1]), "certify: expected a detector fitted with noise, got one without"),
        (lambda: certify(detector, X[:1], noise=0.5), "expected noise to be 0.25, as the detector was fitted, got 0.5"),
        (lambda: certify(detector, X[:1], draws=9), "expected draws to be more than 10 for confidence=0.999, got 9"),
        (
            lambda: certify(detector, X[:1], radius=1.0),
            "expected draws to be more than 218,105 for confidence=0.999 and",
        ),
        (lambda: certify(detector, X[:1], radius=9.0), "more than can be drawn"),
        (lambda: certify(detector, X[:1], confidence=1.0), "expected confidence to be a number between 0 and 1"),
        (lambda: certify(detector, [1.0]), re.escape("expected x to be a tensor or array (N, *input)")),  # type: ignore[arg-type]
        (lambda: certify(detector, X[:1, 0]), re.escape("expected x to be of shape (N, 3, 2, 2) as in fit")),
        (lambda: certify(detector.model, X[:1]), "expected detector to be a gradgeo.Detector"),  # type: ignore[arg-type]
        (lambda: worst_case(0.1, radius=-1.0, noise=S), "worst_case: expected radius to be a number, 0 or more"),
        (lambda: worst_case(1.5, radius=1.0, noise=S), "expected share to be a number from 0 to 1"),
        (lambda: worst_case(0.1, radius=1.0, noise=0.0), "expected noise to be a positive number"),
        (lambda: evasion_bound(5, 4, radius=0.1, noise=S), "expected evaded to be an integer from 0 to inputs=4"),
        (lambda: evasion_bound(0, 0, radius=0.1, noise=S), "expected inputs to be a positive integer"),
        (lambda: evasion_bound(0, 9, radius=math.nan, noise=S), "expected radius"),
    ):
        with pytest.raises(ArgumentError, match=words):
            call()


def test_an_attack_reaches_the_bound_where_one_can() -> None:
    """Of two classes with a linear boundary, wrong and sure is a half-space, across which the best attack is known."""
    torch.manual_seed(0)
    model, x = torch.nn.Linear(6, 2, bias=False), torch.rand(400, 6, generator=torch.Generator().manual_seed(1)) - 0.5
    noisy = gradgeo.Detector(model, evidence=["confidence"], alpha=0.5, loss="logit", noise=S).fit(x)
    x, radius, draws = x[:50], 0.3, 100
    y = model(x).argmax(1)

    def shares(points: Tensor) -> np.ndarray:
        with repeatable(3):
            verdicts = noisy.predict(points.repeat(draws, 1))
        evaded = verdicts.trusted & (verdicts.label != y.repeat(draws))
        return evaded.view(draws, -1).double().mean(0).numpy()

    found = gradgeo.attacks.evasion(
        noisy, x, y, epsilon=radius, norm="l2", steps=10, step_size=0.1, draws=4, bounds=None
    )
    across = (model.weight[1] - model.weight[0]).detach()
    best = torch.where(y[:, None] == 0, across, -across) * radius / across.norm()
    clean, most = shares(x), shares(x + best).mean()
    assert most == pytest.approx(np.mean([worst_case(p, radius=radius, noise=S) for p in clean]), abs=0.03)
    assert clean.mean() < 0.5 * most  # there is something to gain
    assert shares(found.adversarial).mean() > 0.97 * most
