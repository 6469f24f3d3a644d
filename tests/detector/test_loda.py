"""LODA against a plain loop of NumPy's histograms, and what a detector does with it."""

import numpy as np
import pytest
import torch

from gradgeo import Detector
from gradgeo.detector.one_class.loda import CUTS, Loda
from helpers.nets import inputs, network

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((400, 10)) @ RNG.standard_normal((10, 10))
LABELS = np.zeros(400, np.int64)


def score(model: Loda, features: np.ndarray) -> np.ndarray:
    return model.score(torch.from_numpy(features), torch.zeros(len(features), dtype=torch.long)).numpy()


@pytest.mark.parametrize("bins", [7, None])
def test_scores_are_those_of_histograms_of_the_projections(bins: int | None) -> None:
    model = Loda.fit(FEATURES, LABELS, 3, bins=bins)
    count = model.surprisal.shape[1] - 1
    assert count == bins if bins else 2 <= count <= 400 / np.log(400)
    probes = np.vstack([FEATURES[:20], 2 * RNG.standard_normal((30, 10))])
    expected = np.zeros(len(probes))
    for cut in range(CUTS):
        direction = model.directions[:, cut]
        assert (direction != 0).sum() == 3  # about the root of 10
        heights, edges = np.histogram(FEATURES @ direction, bins=count)
        for i, value in enumerate(probes @ direction):
            inside = edges[0] <= value <= edges[-1]
            bin_of = min(int(np.searchsorted(edges, value, "right")) - 1, count - 1)
            expected[i] -= np.log(max(heights[bin_of] if inside else 0, 0.5) / 400) / CUTS
    # A value within rounding of an edge may fall on either side of it: one cut of a hundred.
    assert np.median(np.abs(score(model, probes) - expected)) < 1e-9
    np.testing.assert_allclose(score(model, probes), expected, atol=0.05)


def test_the_number_of_bins_grows_with_what_there_is_to_see() -> None:
    smooth = Loda.fit(FEATURES, LABELS, 3).surprisal.shape[1]
    two_heaps = Loda.fit(np.where(RNG.random((400, 1)) < 0.5, -1.0, 1.0) + 0.02 * FEATURES, LABELS, 3)
    assert two_heaps.surprisal.shape[1] > smooth


def test_outliers_score_higher_and_nan_stays_nan() -> None:
    model = Loda.fit(FEATURES, LABELS, 3)
    far = score(model, FEATURES[:50] * 4)
    assert np.median(far) > np.quantile(score(model, FEATURES), 0.99)
    spoilt = FEATURES[:2].copy()
    spoilt[0, 3] = np.nan
    assert np.isnan(score(model, spoilt)).tolist() == [True, False]


def test_equal_inputs_score_equally_in_any_batch_and_order_of_features() -> None:
    few = RNG.integers(0, 3, (300, 6)) / 3  # many inputs are equal, and many lie on edges
    model, order = Loda.fit(few, np.zeros(300, np.int64), 2), RNG.permutation(6)
    turned = Loda(model.directions[order], model.low, model.high, model.surprisal)
    alone = np.concatenate([score(model, row[None]) for row in few[:100]])
    assert np.array_equal(score(model, few)[:100], alone)
    assert np.array_equal(score(turned, few[:, order])[:100], alone)
    assert (alone <= model.surprisal[:, :-1].max()).all()


def test_features_that_never_vary_do_no_harm() -> None:
    model = Loda.fit(np.zeros((60, 3)), np.zeros(60, np.int64), 2)
    same, other = score(model, np.zeros((1, 3))), score(model, np.full((1, 3), 5.0))
    assert same < other < np.inf


def test_slopes_lead_back_and_leave_the_score() -> None:
    model = Loda.fit(FEATURES, LABELS, 3)
    x = torch.from_numpy(FEATURES[:20] * 4).requires_grad_()
    found = model.score(x, torch.zeros(20, dtype=torch.long))
    assert np.allclose(found.detach(), score(model, FEATURES[:20] * 4), rtol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), x)
    nearer = score(model, (x - 3 * slope / slope.norm(dim=1, keepdim=True)).detach().numpy())
    assert nearer.mean() < found.mean().item()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("directions", np.zeros((10, 0)), "wrong shape"),
        ("high", np.full(CUTS, -np.inf), "not finite"),
        ("high", np.full(CUTS, -1e9), "high is not above low"),
        ("surprisal", np.zeros((CUTS, 1)), "surprisal has no bins"),
        ("surprisal", np.full((CUTS, 3), -1.0), "surprisal is negative"),
    ],
)
def test_forged_arrays_are_refused(name: str, value: np.ndarray, message: str) -> None:
    arrays = vars(Loda.fit(FEATURES, LABELS, 3)) | {name: value}
    with pytest.raises(ValueError, match=message):
        Loda.from_arrays(arrays, 3)


def test_two_settings_from_one_jacobian_are_those_of_two_detectors() -> None:
    model, x = network(), inputs(160)
    own = Detector(model, evidence="paper", temperature=3.0).fit(x)
    at_one = Detector(model, evidence="paper", temperature=1.0).fit(x)
    both = Detector(model, evidence=["csm_twice"], temperature=3.0).fit(x)
    features = torch.from_numpy(both.fitted_.calibration.features)
    alone = [torch.from_numpy(d.fitted_.calibration.features) for d in (own, at_one)]
    assert torch.allclose(features, torch.cat(alone, 1), atol=1e-6)


def test_options_are_checked() -> None:
    for option, value in (("rescale", 1), ("channel_max", None), ("one_class", "upper")):
        with pytest.raises(ValueError, match=f"expected {option} to be"):
            Detector(network(), **{option: value})
