"""Cost, causes and made outliers stand on the page beside quality, as the figures are."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradgeo import Detector
from gradgeo.bench import cache, causes, cost
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.evaluate import evaluate
from gradgeo.bench.methods import METHODS, Method
from gradgeo.bench.page import beside, charts, results, write
from gradgeo.bench.scenarios import SCENARIOS, Scenario, Task
from gradgeo.bench.shared_passes import TRUSTED, UNNAMED, DetectorGroup, judge
from gradgeo.detector.weighing import CAUSES
from gradgeo.errors import GradgeoWarning


class Distance:
    def __init__(self, sign: float) -> None:
        self.sign = sign

    def fit(self, loader: Any) -> None:
        self.mean = torch.cat([x for x, _ in loader]).mean(0)

    def predict(self, x: Tensor) -> Tensor:
        return self.sign * (x - self.mean).flatten(1).norm(dim=1)


class Broken(Distance):
    def predict(self, x: Tensor) -> Tensor:
        raise RuntimeError("no luck")


OURS = {name: METHODS[name] for name in ("gradgeo fast", "ten statistics")}
PEERS = {
    "<far> $x$": Method(lambda model, x: Distance(1.0)),
    "near": Method(lambda model, x: Distance(-1.0)),
    "broken": Method(lambda model, x: Broken(1.0)),
}
FAR = {"far away": Scenario("ood", lambda task: task.x + 3), "noisy inputs": SCENARIOS["noisy inputs"]}


@pytest.fixture(scope="module")
def task() -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.randn(360, 3, 4, generator=torch.Generator().manual_seed(1))
    return Task(ClassifierUnderTest("few", model, x, model(x).argmax(1), 300, bounds=None), 40)


@pytest.fixture(scope="module")
def result(task: Task, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "CACHE", tmp_path_factory.mktemp("beside"))
        patch.setattr(cost, "ROUNDS", 1)
        return evaluate(task, scenarios=FAR, methods=OURS | PEERS)


@pytest.mark.simulation
def test_all_of_it_is_in_the_result_and_json(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    for name, facts in result["methods"].items():
        assert (facts["cost"] is None) == (name == "broken"), name
    costs = {name: facts["cost"] for name, facts in result["methods"].items() if facts["cost"]}
    assert all(found["n64"] > 0 and found["fit_ms_per_input"] > 0 for found in costs.values())
    assert costs["gradgeo fast"]["n64"] > costs["near"]["n64"]
    assert set(result["causes"]) == set(OURS)
    assert set(result["made_outliers"]["methods"]) == {*OURS, *PEERS} - {"broken"}


@pytest.mark.simulation
def test_causes_are_those_that_explanations_name(task: Task) -> None:
    detector = Detector(task.classifier.model, evidence="fast").fit(task.classifier.trusted)
    x = torch.cat([task.x, task.x + 3, 0.1 * task.x, torch.full_like(task.x[:1], torch.nan)])
    group = DetectorGroup([Detector(task.classifier.model, evidence="fast")]).fit(task.classifier.trusted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GradgeoWarning)  # of the row of NaN
        explained = [one.cause for one in detector.explain(x)]
        predictions, named = judge(detector, x)
        (in_group,) = group.judge(x)
    assert [None if cause < 0 else CAUSES[int(cause)] for cause in named] == explained
    assert ((named == TRUSTED) == predictions.trusted.numpy()).all()
    assert named[-1] == UNNAMED
    assert len(set(named.tolist())) >= 3
    assert (in_group[1] == named).all()


def test_the_table_counts_flagged_inputs_by_what_they_are_and_are_called() -> None:
    named = {"trusted": [TRUSTED] * 8 + [0, 1], "PGD": [0, 0, 2, TRUSTED], "FGSM": [UNNAMED], "x": [1.0]}
    kinds = {"PGD": "attack", "FGSM": "attack", "x": "near"}
    found = causes.table({name: np.array(each, float) for name, each in named.items()}, kinds, "trusted")
    assert found["kinds"] == {
        "trusted": {"inputs": 10, "flagged": 2, "unstable": 1, "unlike": 1, "undecided": 0, "none": 0},
        "attack": {"inputs": 5, "flagged": 4, "unstable": 2, "unlike": 0, "undecided": 1, "none": 1},
        "near": {"inputs": 1, "flagged": 1, "unstable": 0, "unlike": 1, "undecided": 0, "none": 0},
    }
    assert found["columns"]["FGSM"] == {**dict.fromkeys(CAUSES, 0), "inputs": 1, "flagged": 1, "none": 1}


@pytest.mark.simulation
def test_evidence_that_answers_no_question_names_no_cause(result: dict[str, Any]) -> None:
    counts = result["causes"]["ten statistics"]["kinds"]["far"]
    assert counts["flagged"] == counts["none"]
    assert result["causes"]["gradgeo fast"]["kinds"]["far"]["none"] == 0 < counts["inputs"] == 40


def cells(text: str) -> list[list[str]]:
    """Of the tables of a Markdown page."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]


@pytest.mark.simulation
def test_the_page_shows_it(result: dict[str, Any]) -> None:
    text, page = write.markdown(result), write.html(result)
    tables = cells(text)
    for title in ("Cost", "Causes", "Outliers made from trusted inputs"):
        assert f"### {title}\n" in text
        assert f"<h3>{title}</h3>" in page
    costs = result["methods"]["near"]["cost"]
    (row,) = [row for row in tables if row[0] == "near" and "\\[" in row[2]]
    assert float(row[2].split()[0]) == pytest.approx(costs["n64"], rel=0.06)
    assert float(row[4]) == pytest.approx(costs["fit_ms_per_input"], rel=0.06)
    counts = result["causes"]["gradgeo fast"]["kinds"]["far"]
    share = f"{100 * counts['unlike'] / counts['flagged']:.1f}"
    (told,) = [row for row in tables if row[:2] == ["gradgeo fast", "far OOD"]]
    assert (told[2], told[4]) == (f"{counts['flagged']} of 40", share)
    best = result["made_outliers"]["agreement"]["all"]["chosen"]
    assert re.search(rf"Of all methods made outliers choose .*{re.escape(best[-3:].replace('$', ''))}", text)
    assert "&lt;far&gt; $x$" in page
    assert "<far>" not in page
    assert page.count('<figure class="quality">') == 1


@pytest.mark.simulation
def test_the_picture_holds_every_method_and_names_the_front(result: dict[str, Any]) -> None:
    (run,) = results.parse(result)
    inside = charts.quality(run)
    points = beside.quality_at_cost(run)
    assert set(points) == {*OURS, *PEERS} - {"broken"}
    assert inside.count("<use") == len(points)
    assert inside == charts.quality(run)
    for name in points:
        shown = name.replace("<", "&lt;").replace(">", "&gt;")
        assert (f">{shown}<" in inside) == (name in cost.front(points)), name


@pytest.mark.simulation
def test_former_results_have_no_such_sections(result: dict[str, Any]) -> None:
    former = {name: part for name, part in result.items() if name not in ("causes", "made_outliers")}
    former["methods"] = {
        name: {key: value for key, value in facts.items() if key != "cost"} for name, facts in result["methods"].items()
    }
    text, page = write.markdown(former), write.html(former)
    assert "### Cost" not in text
    assert "### Causes" not in text
    assert "made from trusted" not in text
    assert '<figure class="quality">' not in page


@pytest.mark.simulation
def test_a_full_disk_ends_the_run_and_is_no_failure_of_a_method(
    task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(path: Path, *args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    for scenarios in (FAR, {"attack": SCENARIOS["PGD, small"]}):
        with pytest.raises(cache.CacheError, match=r"cannot write .*No space left on device"):
            evaluate(task, scenarios=scenarios, methods=PEERS)
    assert not list(cache.CACHE.glob("*"))  # no half of a file
    monkeypatch.setattr(cache, "CACHE", tmp_path / "file" / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(cache.CacheError, match="cannot make"):
        evaluate(task, scenarios=FAR, methods=PEERS)
