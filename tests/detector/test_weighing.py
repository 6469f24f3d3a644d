"""The weights of the questions and the causes, from suspects that a user has at `fit`."""

import numpy as np
import pytest
import torch
from torch import nn

from gradgeo import Detector
from gradgeo.detector import weighing
from gradgeo.detector.fit import fitting
from gradgeo.detector.fit import suspects as making
from gradgeo.detector.fit.data_scan import scan
from gradgeo.detector.weighing import CAUSES, EMPHASES, CauseModel, Suspects, checked_weights, flagged, weigh
from gradgeo.errors import ArgumentError

RNG = np.random.default_rng(0)
TRUSTED = RNG.exponential(size=(400, 2))


def raised(surprisal: torch.Tensor) -> torch.Tensor:
    return surprisal**1.5


def suspects(**kinds: tuple[float, float]) -> Suspects:
    """Two questions, each of which sees a family by so much."""
    rows = [RNG.exponential(size=(60, 2)) + np.array(seen) for seen in kinds.values()]
    return Suspects(np.concatenate(rows), np.repeat(np.arange(len(rows)), 60), tuple(kinds))


def test_what_sees_more_counts_more() -> None:
    weights = weigh(TRUSTED, suspects(noise=(2.0, 0.0), level=(2.0, 0.0)), raised).weights
    assert weights[0] > weights[1]


def test_what_sees_alike_counts_alike() -> None:
    found = weigh(TRUSTED, suspects(noise=(2.0, 0.1), attack=(0.1, 2.0)), raised)
    assert found.weights.tolist() == [1, 1]
    assert found.families.keys() == {"noise", "attack"}
    assert all(0 <= area <= 100 for pair in found.families.values() for area in pair)


def test_mistakes_are_real_and_count_more_than_what_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighing, "PRIOR", 0.0)  # that what each gains shows
    seen = suspects(mistake=(2.0, 0.0), noise=(0.0, 2.0))
    other = Suspects(seen.surprisal, seen.kind, ("noise", "mistake"))  # the same, but for which of them is real
    first, second = (weigh(TRUSTED, each, raised).weights for each in (seen, other))
    assert first[0] / first[1] > 1 > second[0] / second[1]


def test_an_input_that_speaks_for_an_attack_as_much_as_for_oddity_is_no_attack() -> None:
    attack, odd = RNG.exponential(size=(2, 60, 2)) + np.array([[[2.0, 0.0]], [[0.0, 2.0]]])
    both = np.concatenate([attack, odd, odd[:, ::-1], attack[:, ::-1]])  # the questions change roles: symmetric
    model = CauseModel.fit(Suspects(both, np.repeat([0, 1, 0, 1], 60), ("attack", "noise")))
    assert model is not None
    found = model.names(torch.tensor([[1.0, 1.0], [9.0, 0.1], [0.1, 9.0]], dtype=torch.float64))
    assert found == ["unlike", "unstable", "unlike"]


def test_emphasis_moves_the_weight() -> None:
    seen = suspects(noise=(2.0, 0.0), attack=(0.0, 2.0))
    attacks, ood = (weigh(TRUSTED, seen, raised, emphasis).weights for emphasis in ("attacks", "ood"))
    assert attacks[1] / attacks[0] > ood[1] / ood[0]


def test_few_mistakes_are_not_gone_by() -> None:
    few = Suspects(np.full((5, 2), 9.0), np.zeros(5, np.int64), ("mistake",))
    assert few.of_family() == {}
    assert Suspects(np.full((20, 2), 9.0), np.zeros(20, np.int64), ("mistake",)).of_family().keys() == {"mistake"}


def test_causes_are_learned_from_two_on() -> None:
    seen = suspects(attack=(0.0, 6.0), noise=(6.0, 0.0), mistake=(3.0, 3.0))
    model = CauseModel.fit(flagged(TRUSTED, seen, np.ones(2), raised))
    assert model is not None
    assert model.names(torch.tensor([[0.3, 7.0], [7.0, 0.3]], dtype=torch.float64)) == ["unstable", "unlike"]
    two = CauseModel.fit(suspects(attack=(0.0, 6.0), noise=(6.0, 0.0)))
    assert two is not None
    assert two.names(torch.tensor([[0.3, 7.0], [7.0, 0.3]], dtype=torch.float64)) == ["unstable", "unlike"]
    assert CauseModel.fit(suspects(attack=(0.0, 6.0))) is None
    again = CauseModel.from_arrays({"coefficient": model.coefficient, "intercept": model.intercept}, 2)
    assert np.array_equal(again.coefficient, model.coefficient)
    with pytest.raises(ValueError, match="wrong shape"):
        CauseModel.from_arrays({"coefficient": model.coefficient, "intercept": model.intercept}, 3)
    with pytest.raises(ValueError, match="not positive"):
        checked_weights(np.array([1.0, -1.0]), 2)


def test_no_input_that_calibrates_is_looked_at() -> None:
    """Weights are those of a fit whose calibration inputs are others."""
    x = torch.randn(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    first = Detector(model, evidence="lite").fit(x)
    other, rows = x.clone(), torch.from_numpy(first.fitted_.calibration.rows)
    with torch.no_grad():
        rows = rows[(model(1.5 * x).argmax(1) == model(x).argmax(1))[rows]]
    other[rows] = 1.5 * x[rows]
    second = Detector(model, evidence="lite").fit(other)
    assert not np.array_equal(first.fitted_.calibration.scores, second.fitted_.calibration.scores)
    assert np.array_equal(first.fitted_.fusion.weights, second.fitted_.fusion.weights)
    assert first.fitted_.weighed == second.fitted_.weighed


@pytest.mark.parametrize("count", [60, 200])
def test_few_inputs_weigh_all_alike(count: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).eval()
    detector = Detector(model, evidence="lite").fit(torch.randn(count, 8))
    assert (detector.fitted_.weighed is None) == (count == 60)
    assert detector.fitted_.fusion.weights.shape == (len(detector.fitted_.fusion.question_names),)


def test_a_model_that_cannot_be_attacked_is_fitted() -> None:
    class NoGradient(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach().flatten(1)[:, :3] * 2

    made = making.make(NoGradient().eval(), torch.rand(10, 1, 4, 4), 0)
    assert made
    assert "attacked" not in made


def test_emphasis_is_one_of_three() -> None:
    assert set(EMPHASES) == {"mistakes", "ood", "attacks"}
    assert len(CAUSES) == 3
    with pytest.raises(ArgumentError, match="emphasis"):
        Detector(nn.Linear(2, 2), emphasis="everything")


LABELLED = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))


def three_classes() -> tuple[nn.Module, torch.Tensor]:
    """A network, and labels of `LABELLED` of which every fourth is another than it predicts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        labels = model(LABELLED).argmax(1)
    labels[::4] = (labels[::4] + 1) % 3
    return model, labels


@pytest.mark.parametrize("argument", ["together", "groups"])
def test_nothing_is_learned_from_mistakes_of_a_patient_who_calibrates(argument: str) -> None:
    model, labels = three_classes()
    patient = np.arange(300) // 4  # a mistake of each
    scanned = scan(model, LABELLED, labels, batch_size=64)
    settings = Detector(model, evidence="lite").settings
    trusted, _ = fitting.split(model, scanned, settings, **{argument: patient.astype(str)})
    calibrating = set(patient[trusted.rows[trusted.calibrates]])
    found = fitting.Mistakes.of(scanned, trusted, 0)
    assert len(found.learned) > 10
    assert calibrating.isdisjoint(patient[found.learned])
    alone, _ = fitting.split(model, scanned, settings)
    calibrating = set(patient[alone.rows[alone.calibrates]])
    assert not calibrating.isdisjoint(patient[fitting.Mistakes.of(scanned, alone, 0).learned])


def test_nothing_is_learned_from_a_calibrating_input_under_another_label() -> None:
    model, labels = three_classes()
    labels = torch.cat([labels, (labels + 1) % 3])  # all by a second person, who agrees on few
    scanned = scan(model, LABELLED.repeat(2, 1), labels, batch_size=64)
    trusted, _ = fitting.split(model, scanned, Detector(model, evidence="lite").settings)
    found = fitting.Mistakes.of(scanned, trusted, 0)
    assert len(found.learned) > 10
    assert set(trusted.rows[trusted.calibrates] % 300).isdisjoint(found.learned % 300)
