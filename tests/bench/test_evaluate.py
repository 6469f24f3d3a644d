"""A run keeps the place of what fails, scores every method as by itself, and repeats nothing that is finished."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradgeo.bench import cache
from gradgeo.bench import evaluate as evaluating
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.evaluate import evaluate
from gradgeo.bench.methods import METHODS, Method
from gradgeo.bench.scenarios import SCENARIOS, Scenario, Task
from gradgeo.bench.scores import score, shared_groups
from gradgeo.bench.shared_passes import DetectorGroup
from gradgeo.detector.detector import Detector
from gradgeo.detector.fitted import FittedDetector
from gradgeo.errors import DataError

pytestmark = pytest.mark.skipif(find_spec("pytorch_ood") is None, reason="pytorch-ood is not installed")
QUICK = {name: METHODS[name] for name in ("gradgeo", "MaxSoftmax", "KNN")}
OURS = {name: METHODS[name] for name in ("gradgeo", "gradgeo fast", "ten statistics")}


@pytest.fixture(scope="module")
def few() -> Task:
    """A classifier that is measured in no time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.rand(400, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return Task(ClassifierUnderTest("few", model, x, model(x).argmax(1), 250), 30)


def alone(name: str, task: Task, x: Tensor) -> np.ndarray:
    return score({name: METHODS[name]}, task.classifier, {"a": x})[name].scores["a"]


@pytest.mark.simulation
def test_a_run_has_every_part_and_is_json(digits: Task) -> None:
    scenarios = {name: SCENARIOS[name] for name in ("uniform noise", "PGD", "misclassified")}
    said: list[str] = []
    result = evaluate(digits, scenarios=scenarios, methods=QUICK, beside=False, say=said.append)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["columns"]) == set(scenarios)
    assert set(result["cells"]) == set(QUICK)
    assert result["methods"]["gradgeo"]["peer"] is False
    assert any("KNN" in text for text in said)


@pytest.mark.simulation
def test_a_failing_method_and_a_missing_data_set_keep_their_place(digits: Task) -> None:
    class Broken:
        def fit(self, loader: object) -> None:
            raise RuntimeError("no luck")

    def missing(task: Task) -> Tensor:
        raise DataError(f"nothing in {Path.home()}/data and {Path.cwd()}/data")

    scenarios = {"gone": Scenario("ood", missing), "constant": SCENARIOS["constant"]}
    methods = {
        "broken": Method(lambda model, x: Broken()),
        "MaxSoftmax": METHODS["MaxSoftmax"],
        "gradgeo": METHODS["gradgeo"],
    }
    result = evaluate(digits, scenarios=scenarios, methods=methods, beside=False)
    assert result["methods"]["broken"]["error"] == "RuntimeError: no luck"
    assert "broken" not in result["cells"]
    assert "nothing in" in result["columns"]["gone"]["error"]
    assert str(Path.home()) not in result["columns"]["gone"]["error"]
    assert str(Path.cwd()) not in result["columns"]["gone"]["error"]
    assert set(result["cells"]["MaxSoftmax"]) == {"constant"}


def test_finished_pieces_are_not_scored_again(digits: Task) -> None:
    calls: list[object] = []

    class Counting:
        def fit(self, loader: object) -> None:
            calls.append("fit")

        def predict(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return x.flatten(1).sum(1)

    group = {"counting": Method(lambda model, x: Counting())}
    first = score(group, digits.classifier, {"a": digits.x})["counting"]
    assert calls.count("fit") == 2  # to score, and by itself to be timed
    assert calls[-1] == 40
    finished = len(calls)
    second = score(group, digits.classifier, {"a": digits.x})["counting"]
    assert len(calls) == finished
    assert np.array_equal(first.scores["a"], second.scores["a"])
    assert first.ms_per_input == second.ms_per_input > 0
    score(group, digits.classifier, {"a": digits.x, "b": digits.x + 1})
    assert calls[finished:] == ["fit", 40]


@pytest.mark.simulation
def test_methods_that_share_passes_score_as_by_themselves(
    few: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = score(OURS, few.classifier, {"a": few.x, "b": few.noise("b", torch.rand)})
    monkeypatch.setattr(cache, "CACHE", tmp_path / "other")
    for name, found in together.items():
        assert np.allclose(found.scores["a"], alone(name, few, few.x), rtol=1e-4), name
    cost = {name: found.ms_per_input for name, found in together.items()}
    assert cost["gradgeo"] > max(cost["gradgeo fast"], cost["ten statistics"])  # each by itself


@pytest.mark.simulation
def test_only_what_is_not_finished_of_those_that_share_is_done(few: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[str] = []
    adopt = Detector.adopt
    monkeypatch.setattr(Detector, "adopt", lambda self, made: (fitted.append(self.evidence), adopt(self, made))[1])
    fast = {"gradgeo fast": OURS["gradgeo fast"]}
    score(fast, few.classifier, {"a": few.x}, timed=False)
    assert fitted == ["fast"]
    before = set(cache.CACHE.iterdir())
    score(OURS, few.classifier, {"a": few.x}, timed=False)
    assert fitted == ["fast", "full", "paper"]
    assert before < set(cache.CACHE.iterdir())
    score(OURS, few.classifier, {"a": few.x}, timed=False)
    assert len(fitted) == 3
    score(fast, few.classifier, {"a": few.x})
    assert fitted[3:] == ["fast", "fast"]  # its costs were lacking: of the fitted one, and of fitting by itself
    score(fast, few.classifier, {"a": few.x})
    assert len(fitted) == 5


@pytest.mark.simulation
def test_where_sharing_fails_each_is_tried_by_itself(few: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DetectorGroup, "judge", lambda self, x: 1 / 0)
    result = evaluate(few, scenarios={"constant": SCENARIOS["constant"]}, methods=OURS, beside=False)
    assert set(result["cells"]) == set(OURS)
    monkeypatch.setattr(FittedDetector, "predictions", lambda self, measured, level, **by: 1 / 0)
    result = evaluate(few, scenarios={"noise": SCENARIOS["uniform noise"]}, methods=OURS, beside=False)
    assert {facts["error"] for facts in result["methods"].values()} == {"ZeroDivisionError: division by zero"}
    assert list(result["methods"]) == list(OURS)


@pytest.mark.simulation
def test_other_fits_are_of_other_halves_and_score_the_first_inputs(few: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "SPLIT_INPUTS", 20)
    fitted: list[Tensor] = []
    scored: list[int] = []

    class Recording:
        def fit(self, loader: DataLoader) -> None:
            fitted.append(torch.cat([x for x, _ in loader]))

        def predict(self, x: Tensor) -> Tensor:
            scored.append(len(x))
            return (x - fitted[-1].mean(0)).flatten(1).norm(dim=1)

    methods = {"ours": Method(lambda model, x: Recording(), peer=False)}
    scenarios = {"noise": SCENARIOS["uniform noise"]}
    result = evaluate(few, scenarios=scenarios, methods=methods, splits=range(1, 6), beside=False)
    assert [len(x) for x in fitted] == [250] + [125] * 5
    assert len({float(x.sum()) for x in fitted}) == 6
    assert all((x[:, None] == few.classifier.trusted).flatten(2).all(2).any(1).all() for x in fitted[1:])
    assert scored[-10:] == [20] * 10  # trusted and noise of each fit, and no timing
    entry = result["summary"]["ours"]
    assert entry["fits"] == 6
    assert entry["error_over_fits"] > 0
    count = len(scored)
    assert (
        evaluate(few, scenarios=scenarios, methods=methods, splits=range(1, 6), beside=False)["summary"]["ours"]
        == entry
    )
    assert len(scored) == count  # all of it was in the cache
    assert (
        evaluate(few, scenarios=scenarios, methods=methods, beside=False)["summary"]["ours"]["error_over_fits"] is None
    )


def test_groups_keep_the_order_in_which_they_are_named() -> None:
    methods = {name: METHODS[name] for name in ("KNN", "ten statistics", "ODIN", "ViM", "gradgeo")}
    together = [["KNN", "ViM"], ["ten statistics", "gradgeo"], ["ODIN"]]
    assert list(map(list, shared_groups(methods))) == together


def test_peers_are_those_of_pytorch_ood_on_the_same_model(digits: Task) -> None:
    from pytorch_ood.detector import EnergyBased

    scores = alone("EnergyBased", digits, digits.x)
    assert np.allclose(scores, EnergyBased(digits.classifier.model).predict(digits.x).double().numpy())


@pytest.mark.simulation
@pytest.mark.grid
@pytest.mark.parametrize("name", [name for name in METHODS if name != "gradgeo"])
def test_every_peer_runs(digits: Task, name: str) -> None:
    scores = alone(name, digits, digits.x[:10])
    assert scores.shape == (10,)
    assert np.isfinite(scores).all()


def test_ours_are_fitted_on_mistakes_too_and_peers_on_trusted_inputs(few: Task) -> None:
    wrong = torch.zeros(400, dtype=torch.bool)
    wrong[::8] = True
    y = (few.classifier.y + wrong) % 4
    classifier = ClassifierUnderTest("mistaken", few.classifier.model, few.classifier.x, y, 250)
    given: dict[str, tuple[Tensor, Tensor]] = {}

    class Noting:
        def __init__(self, name: str) -> None:
            self.name = name

        def fit(self, loader: DataLoader) -> None:
            x, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
            given[self.name] = x, labels

        def predict(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x))

    for name, peer in (("ours", False), ("peer", True)):
        group = {name: Method(lambda model, x, name=name: Noting(name), peer)}
        score(group, classifier, {"a": classifier.x[300:310]}, timed=False)
    x, labels = given["peer"]
    assert torch.equal(x, classifier.x[:250][~wrong[:250]])
    assert torch.equal(labels, y[:250][~wrong[:250]])
    x, labels = given["ours"]
    assert torch.equal(x[218:], classifier.x[:250][wrong[:250]])
    assert torch.equal(labels[218:], y[:250][wrong[:250]])
    half = classifier.refitted(1)
    x, labels = half.with_mistakes
    assert (len(half.trusted), len(x)) == (109, 125)
    assert half.with_mistakes[0] is x  # copied once
    assert torch.equal(x[: len(half.trusted)], half.trusted)
    assert set(labels[len(half.trusted) :].tolist()) <= set(y[:250][wrong[:250]].tolist())
