"""TailSurprisal and its fusion: tails, ties, held-out folds, and that many looks at one thing do not outvote another."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from gradgeo._typing import Array
from gradgeo.detector.fusion import BODY, FLOOR, LEVELS, POWER, EvidenceFusion, TailSurprisal, checked_floors
from gradgeo.detector.one_class.base import (
    ClassConditionalCopula,
    NearestMean,
    NearestNeighbours,
    Residual,
    UpperTail,
)
from gradgeo.detector.one_class.kinds import KINDS

RNG = np.random.default_rng(0)


def test_surprise_of_exponential_scores_is_the_score() -> None:
    """-log P(S >= s) = s for a standard exponential, in the body and, extrapolated, far beyond it."""
    surprisal = TailSurprisal.fit(RNG.exponential(size=(50_000, 1)))
    s = torch.tensor([[0.0], [0.5], [1.0], [2.0], [6.0], [20.0]], dtype=torch.float64)
    assert torch.allclose(surprisal.of(s), s, rtol=0.05, atol=0.02)


def test_surprise_at_the_quantiles_and_below_them() -> None:
    surprisal = TailSurprisal.fit(RNG.standard_normal((400, 2)))
    levels = torch.linspace(0, BODY, LEVELS, dtype=torch.float64)
    at_knots = surprisal.of(torch.from_numpy(surprisal.quantiles.T))
    assert torch.allclose(at_knots, -torch.log1p(-levels)[:, None].expand(-1, 2), atol=1e-12)
    assert torch.equal(surprisal.of(torch.full((1, 2), -99.0, dtype=torch.float64)), torch.zeros(1, 2).double())


def test_a_score_that_many_share_counts_as_the_least_of_them() -> None:
    """P(score >= s) includes all who have s."""
    surprisal = TailSurprisal.fit(np.repeat([0.0, 1.0], [80, 20])[:, None])
    tied = surprisal.of(torch.tensor([[1.0]], dtype=torch.float64)).item()
    assert tied == pytest.approx(-math.log(0.2), abs=0.06)  # to within one of the levels


def test_surprise_can_be_differentiated() -> None:
    surprisal = TailSurprisal.fit(RNG.standard_normal((100, 3)))
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    assert torch.autograd.gradcheck(surprisal.of, x.requires_grad_())


def test_constant_scores_do_no_harm() -> None:
    surprisal = TailSurprisal.fit(np.zeros((50, 1)))
    assert surprisal.of(torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64)).isfinite().all()


def fitted(tables: list[np.ndarray], kinds: list, questions: list[str]) -> EvidenceFusion:
    label = torch.zeros(len(tables[0]), dtype=torch.long)
    return EvidenceFusion.fit(kinds, questions, [torch.from_numpy(t) for t in tables], label, 2, seed=0)[0]


def fused(fusion: EvidenceFusion, tables: list[np.ndarray]) -> np.ndarray:
    label = torch.zeros(len(tables[0]), dtype=torch.long)
    return fusion.fuse(fusion.scores([torch.from_numpy(t) for t in tables], label)).numpy()


def test_a_single_member_is_its_own_score() -> None:
    table = RNG.standard_normal((80, 3))
    fusion = fitted([table], [ClassConditionalCopula], ["geometry"])
    alone = ClassConditionalCopula.fit(table, np.zeros(80, np.int64), 2)
    expected = alone.score(torch.from_numpy(table), torch.zeros(80, dtype=torch.long))
    np.testing.assert_array_equal(fused(fusion, [table]), expected)


def test_surprise_is_learned_on_inputs_the_member_was_not_fitted_on() -> None:
    """A nearest-neighbour model knows its own inputs; on new ones of the kind it must be no more surprised than said."""
    table, new = RNG.standard_normal((300, 8)), RNG.standard_normal((2000, 8))
    fusion = fitted([table, table], [NearestNeighbours, Residual], ["a", "b"])
    scores = fusion.scores([torch.from_numpy(new)] * 2, torch.zeros(2000, dtype=torch.long))
    mean = fusion.by_evidence.of(scores).mean(0)
    assert (mean < 1.15).all()  # that of a standard exponential is 1
    itself = _mean_if_learned_on_itself(table, new)
    assert itself > 1.5 * float(mean[0])


def _mean_if_learned_on_itself(table: np.ndarray, new: np.ndarray) -> float:
    model, label = NearestNeighbours.fit(table, np.zeros(300, np.int64), 2), torch.zeros(2000, dtype=torch.long)
    itself = TailSurprisal.fit(model.score(torch.from_numpy(table), label[:300]).numpy()[:, None])
    return float(itself.of(model.score(torch.from_numpy(new), label)[:, None]).mean())


def test_many_looks_at_one_question_do_not_outvote_another() -> None:
    strong, noise = RNG.standard_normal((1000, 1)), RNG.standard_normal((1000, 1))
    once = fitted([strong, noise], [UpperTail] * 2, ["a", "b"])
    often = fitted([strong, *[noise] * 6], [UpperTail] * 7, ["a", *["b"] * 6])
    new = [RNG.standard_normal((500, 1)) for _ in range(2)]
    same = stats.spearmanr(fused(once, new), fused(often, [new[0], *[new[1]] * 6])).statistic
    assert same > 0.99
    flat = fitted([strong, *[noise] * 6], [UpperTail] * 7, list("abcdefg"))
    assert stats.spearmanr(fused(once, new), fused(flat, [new[0], *[new[1]] * 6])).statistic < 0.9


def test_one_strong_alarm_and_many_weak_ones_both_count() -> None:
    tables = [RNG.standard_normal((1000, 1)) for _ in range(4)]
    fusion = fitted(tables, [UpperTail] * 4, list("abcd"))
    usual = fused(fusion, [RNG.standard_normal((2000, 1)) for _ in range(4)])
    strong = fused(fusion, [np.array([[v]]) for v in (5.0, 0.0, 0.0, 0.0)])
    weak = fused(fusion, [np.array([[1.7]])] * 4)
    assert strong > np.quantile(usual, 0.99)
    assert weak > np.quantile(usual, 0.99)


def test_nan_members_make_nan_scores() -> None:
    tables = [RNG.standard_normal((100, 2)) for _ in KINDS]
    fusion = fitted(tables, list(KINDS.values()), ["a"] * len(KINDS))
    for broken in range(len(KINDS)):
        row = [np.zeros((1, 2)) if i != broken else np.array([[0.0, np.nan]]) for i in range(len(KINDS))]
        assert np.isnan(fused(fusion, row)).all(), broken


def test_neighbours_are_scikit_learns() -> None:
    table, new = RNG.standard_normal((200, 6)), RNG.standard_normal((50, 6))
    ours = NearestNeighbours.fit(table, np.zeros(200, np.int64), 2)
    theirs = NearestNeighbors(n_neighbors=10, metric="cosine").fit(table).kneighbors(new)[0][:, -1]
    scores = ours.score(torch.from_numpy(new), torch.zeros(50, dtype=torch.long))
    np.testing.assert_allclose(scores, theirs, atol=1e-6)


def test_few_references_and_zero_features() -> None:
    few = NearestNeighbours.fit(np.eye(3), np.zeros(3, np.int64), 2)
    assert few.score(torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1).long()).tolist() == [1.0]
    assert len(NearestNeighbours.fit(RNG.standard_normal((9000, 2)), np.zeros(9000, np.int64), 2).references) == 4096


def test_residual_is_the_distance_to_the_principal_space() -> None:
    table = RNG.standard_normal((300, 6)) * [5, 4, 3, 1, 0.5, 0.1]
    ours = Residual.fit(table, np.zeros(300, np.int64), 2)
    pca = PCA(3).fit(table)
    new = RNG.standard_normal((20, 6))
    off = new - pca.inverse_transform(pca.transform(new))
    expected = np.log(np.linalg.norm(off, axis=1))
    np.testing.assert_allclose(ours.score(torch.from_numpy(new), torch.zeros(20).long()), expected, atol=1e-9)


def test_nearest_mean_is_the_mahalanobis_distance_on_unit_features() -> None:
    """By scikit-learn's covariance and SciPy's distances, also with a class seen once and one never seen."""
    table, new = (RNG.standard_normal((n, 6)) * [5, 4, 3, 1, 0.5, 0.1] + [3, 0, 0, 0, 0, 0] for n in (200, 50))
    predicted = np.append(RNG.integers(0, 3, 199), 4)
    unit, unit_new = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (table, new))
    means = np.stack([unit[predicted == c].mean(0) for c in (0, 1, 2, 4)])
    deviations = unit[:199] - means[predicted[:199]]
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(deviations).covariance_)
    expected = cdist(unit_new, means, "mahalanobis", VI=precision).min(1) ** 2
    ours = NearestMean.fit(table, predicted, 6)
    np.testing.assert_allclose(ours.score(torch.from_numpy(new), torch.zeros(50).long()), expected, rtol=1e-5)
    again = NearestMean.from_arrays(vars(ours), 6)
    assert torch.equal(*(model.score(torch.from_numpy(new), torch.zeros(50).long()) for model in (again, ours)))


@pytest.mark.parametrize("table", [np.zeros((20, 4)), np.eye(4), np.ones((20, 4)), RNG.standard_normal((9, 40))])
def test_nearest_mean_of_features_that_say_little(table: Array) -> None:
    """Constant, all zero, one input of each class, more features than inputs: finite, and 0 or more."""
    model = NearestMean.fit(table, np.arange(len(table)) % 4, 4)
    scores = model.score(torch.cat([torch.from_numpy(table), 9 * torch.eye(table.shape[1]).double()]), torch.empty(0))
    assert scores.isfinite().all()
    assert (scores >= 0).all()


def test_upper_tail_minds_only_large_values() -> None:
    model = UpperTail.fit(RNG.standard_normal((500, 2)), np.zeros(500, np.int64), 2)
    small, usual, large = model.score(
        torch.tensor([[-9.0, -9.0], [0.0, 0.0], [0.0, 4.0]], dtype=torch.float64), torch.zeros(3).long()
    )
    assert small < usual < large


def test_stability_and_geometry_count_by_extremes_alone() -> None:
    """Below their floors they add nothing, so that what ranks ordinary inputs is what ranks mistakes."""
    n, questions = 400, ["confidence", "stability", "geometry"]
    features = [torch.from_numpy(RNG.exponential(size=(n, 1))) for _ in questions]
    fusion, _ = EvidenceFusion.fit([UpperTail] * 3, questions, features, torch.zeros(n, dtype=torch.long), 2, seed=0)
    assert fusion.floors.tolist() == [0, FLOOR["stability"], FLOOR["geometry"]]
    ordinary = torch.tensor([[0.5, 0.0, 0.0], [0.5, 1.4, 1.4], [0.5, 4.5, 0.0]], dtype=torch.float64)
    added = fusion.counted(ordinary)
    assert added[0].equal(added[1])
    assert added[2, 1] == pytest.approx(3**POWER)


def test_who_stresses_mistakes_hears_extremes_alone() -> None:
    questions = ["confidence", "features", "stability", "geometry", "residual"]
    features = [torch.from_numpy(RNG.exponential(size=(200, 1))) for _ in questions]
    labels = torch.zeros(200, dtype=torch.long)
    fusion, _ = EvidenceFusion.fit([UpperTail] * 5, questions, features, labels, 2, seed=0, emphasis="mistakes")
    assert fusion.floors.tolist() == [0, 0, 3, 3, 3]


def test_where_no_other_question_is_asked_extremes_are_not_all_that_counts() -> None:
    features = [torch.from_numpy(RNG.exponential(size=(400, 1))) for _ in range(2)]
    labels = torch.zeros(400, dtype=torch.long)
    fusion, _ = EvidenceFusion.fit([UpperTail] * 2, ["stability", "geometry"], features, labels, 2, seed=0)
    assert not fusion.floors.any()
    assert len(fusion.fuse(fusion.scores(features, labels)).unique()) > 300


@pytest.mark.parametrize("floors", [[2.0, 2.0], [-1.0, 0.0], [9.0, 0.0], [math.nan, 0.0], [0.0]])
def test_floors_of_no_fit_are_refused(floors: list[float]) -> None:
    with pytest.raises(ValueError, match="floors"):
        checked_floors(np.array(floors), 2)
