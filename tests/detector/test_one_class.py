"""The Gaussian copula against scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.preprocessing import QuantileTransformer

from gradgeo.detector.one_class.base import ClassConditionalCopula, SmoothCopula
from gradgeo.detector.one_class.kinds import KINDS
from gradgeo.detector.one_class.numerics import inverse_root, normal_scores


@pytest.mark.parametrize("n", [20, 200, 1000])
def test_normal_scores_are_scikit_learns(n: int) -> None:
    rng = np.random.default_rng(0)
    features = np.stack(
        [
            rng.standard_normal(n),
            rng.integers(0, 4, n),
            rng.exponential(size=n) ** 3,
            np.full(n, 2.5),
            rng.random(n) * 1e-9,
        ],
        axis=1,
    )
    transformer = QuantileTransformer(n_quantiles=min(200, n), output_distribution="normal", subsample=None).fit(
        features
    )
    probes = np.vstack([features, features * 1.5, features - 3, transformer.quantiles_, features + 1e-8])
    ours = normal_scores(torch.from_numpy(probes), torch.from_numpy(transformer.quantiles_))
    np.testing.assert_allclose(ours, transformer.transform(probes), atol=1e-9)


def test_normal_scores_can_be_differentiated() -> None:
    quantiles = torch.from_numpy(np.sort(np.random.default_rng(0).standard_normal((50, 3)), axis=0))
    x = torch.rand(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: normal_scores(x, quantiles), x)


def test_one_class_score_is_the_gaussian_log_density_of_normal_scores() -> None:
    rng = np.random.default_rng(0)
    features, predicted = rng.standard_normal((500, 4)), rng.integers(0, 3, 500)
    model = ClassConditionalCopula.fit(features, predicted, 5)
    assert model.group.tolist() == [1, 2, 3, 0, 0]
    x, label = torch.from_numpy(rng.standard_normal((30, 4))), torch.arange(30) % 5
    normal = model.normal_scores(x).numpy()
    for i, score in enumerate(model.score(x, label).tolist()):
        g = int(model.group[label[i]])
        density = stats.multivariate_normal(model.center[g], np.linalg.inv(model.precision[g])).logpdf(normal[i])
        assert score == pytest.approx(-2 * density - 4 * np.log(2 * np.pi), abs=1e-8)


def test_nan_features_have_nan_scores() -> None:
    rng = np.random.default_rng(0)
    model = ClassConditionalCopula.fit(rng.standard_normal((100, 2)), np.zeros(100, np.int64), 2)
    scores = model.score(torch.tensor([[0.0, torch.nan], [0.0, 0.0]], dtype=torch.float64), torch.tensor([-1, 1]))
    assert scores.isnan().tolist() == [True, False]


def test_constant_features_do_no_harm() -> None:
    features = np.zeros((60, 3))
    model = ClassConditionalCopula.fit(features, np.zeros(60, np.int64), 2)
    scores = model.score(torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0]], dtype=torch.float64), torch.zeros(2).long())
    assert scores.isfinite().all()
    assert scores[1] > scores[0]


def test_what_a_class_has_alike_by_habit_is_no_law() -> None:
    """All of one class are at the end of a scale: the first that is not is surprising, not beyond all measure."""
    rng = np.random.default_rng(0)
    predicted = np.repeat([0, 1], 100)
    largest = np.where(predicted == 0, 1.0, np.where(rng.random(200) < 0.7, 1.0, rng.random(200)))
    features = np.stack([largest, rng.standard_normal(200)], axis=1)
    probe, label = torch.tensor([[0.5, 0.0]], dtype=torch.float64), torch.zeros(1).long()
    strict, smooth = (kind.fit(features, predicted, 2) for kind in (ClassConditionalCopula, SmoothCopula))
    assert 10 < smooth.score(probe, label).item() < strict.score(probe, label).item() / 1.5
    elsewhere = torch.ones(1).long()
    assert smooth.score(probe, elsewhere).item() == pytest.approx(strict.score(probe, elsewhere).item(), abs=1)


COPULA = {
    "quantiles": np.array([[0.0, 0.0], [1.0, 1.0]]),
    "center": np.zeros((1, 2)),
    "precision": np.eye(2)[None],
    "log_volume": np.zeros(1),
    "group": np.zeros(3, np.int64),
}
ARRAYS = {
    "copula": COPULA,
    "smooth_copula": COPULA,
    "upper": {"median": np.zeros(2), "spread": np.ones(2)},
    "mirrored": {"median": np.zeros(1), "spread": np.ones(1), "column": np.zeros(1, np.int64)},
    "neighbours": {"references": np.eye(2, dtype=np.float32)},
    "residual": {"mean": np.zeros(2), "minor": np.eye(2)[:, :1]},
    "nearest_mean": {"whitening": np.eye(2), "means": np.zeros((1, 2))},
    "nearest_layer_mean": {"whitening": np.eye(2), "means": np.zeros((1, 2))},
    "loda": {"directions": np.eye(2), "low": -np.ones(2), "high": np.ones(2), "surprisal": np.ones((2, 4))},
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_a_file_are_taken_as_they_are(kind: str) -> None:
    made = KINDS[kind].from_arrays(ARRAYS[kind], 3)
    assert made.score(torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1).long()).shape == (1,)


@pytest.mark.parametrize("kind", KINDS)
def test_each_model_checks_its_own_layout(kind: str) -> None:
    arrays = ARRAYS[kind]
    for name, array in arrays.items():
        others = {key: value for key, value in arrays.items() if key != name}
        with pytest.raises(ValueError, match=f"{name} is missing"):
            KINDS[kind].from_arrays(others, 3)
        for wrong in (array.astype(np.float16), array[None]):
            with pytest.raises(ValueError, match=f"{name} has the wrong type or dimensions"):
                KINDS[kind].from_arrays({**others, name: wrong}, 3)
        if array.dtype.kind == "f":
            with pytest.raises(ValueError, match=f"{name} is not finite"):
                KINDS[kind].from_arrays({**others, name: np.full_like(array, np.nan)}, 3)


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("copula", "quantiles", np.array([[1.0, 0.0], [0.0, 1.0]]), "quantiles are not sorted"),
        ("copula", "quantiles", np.zeros((1, 2)), "quantiles are not sorted"),
        ("copula", "group", np.array([0, 1, 0]), "group is out of range"),
        ("copula", "group", np.array([0, -1, 0]), "group is out of range"),
        ("copula", "group", np.zeros(4, np.int64), "group has the wrong shape"),
        ("copula", "center", np.zeros((1, 3)), "center has the wrong shape"),
        ("copula", "precision", np.zeros((1, 2, 3)), "precision has the wrong shape"),
        ("upper", "spread", np.array([1.0, 0.0]), "spread is not positive"),
        ("upper", "spread", np.ones(3), "spread has the wrong shape"),
        ("mirrored", "column", np.array([2]), "column is out of range"),
        ("mirrored", "spread", np.array([0.0]), "spread is not positive"),
        ("neighbours", "references", np.zeros((0, 2), np.float32), "references are none"),
        ("residual", "minor", np.zeros((3, 1)), "minor has the wrong shape"),
    ],
)
def test_values_that_no_fit_makes_are_refused(kind: str, name: str, value: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KINDS[kind].from_arrays({**ARRAYS[kind], name: value}, 3)


def test_the_root_of_an_inverse_covariance() -> None:
    rows = np.random.default_rng(0).normal(size=(90, 40)) * np.logspace(-3, 3, 40)
    covariance = rows.T @ rows / 90
    root = inverse_root(covariance)
    assert np.allclose(covariance @ root @ root.T, np.eye(40), atol=1e-6)
    # Rounding may leave a direction without variance: what lies in it is far off, and finite.
    flat = inverse_root(np.diag([4.0, -1e-18]))
    assert np.allclose(np.sort(np.square(flat).sum(1)), [0.25, 1e12])
