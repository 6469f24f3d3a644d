"""The shipped classifiers: their scenarios and ten statistics, and the battery's work shared among processes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import battery
from benchmarks.battery import Choice
from benchmarks.scenarios import reshaped, shipped_scenarios
from benchmarks.shipped import SHIPPED, Suite, shipped_tasks
from benchmarks.ten_statistics import number_of_maps, ten_statistics
from gradgeo import csm, csm_statistics
from gradgeo.bench import cache
from gradgeo.bench.evaluate import evaluate, silent
from gradgeo.bench.scenarios import SCENARIOS, Task
from gradgeo.cli.console import say
from gradgeo.errors import ArgumentError, DataError
from helpers import ROOT


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")


def test_other_data_sets_come_before_the_scenarios_of_every_classifier() -> None:
    suite = Suite(Path())
    scenarios = shipped_scenarios(suite)
    assert list(scenarios)[-len(SCENARIOS) :] == list(SCENARIOS)
    task = suite.task("digits", 10)
    assert not [name for name in scenarios if name not in SCENARIOS and scenarios[name].applies(task)]


def test_small_images_are_padded_and_large_ones_shrunk() -> None:
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(reshaped(x, torch.Size((3, 32, 32)))[:, 2, 2:30, 2:30], x[:, 0])
    assert reshaped(torch.rand(2, 3, 32, 32), torch.Size((1, 28, 28))).shape == (2, 1, 28, 28)


def test_the_number_of_maps_of_a_share() -> None:
    assert [number_of_maps(share, 100) for share in (1.0, 0.2, 0.05)] == [100, 20, 5]
    assert number_of_maps(0.05, 10) == 3
    assert number_of_maps(0.5, 2) == 2


@pytest.mark.simulation
def test_statistics_of_the_most_likely_classes_are_those_of_fewer_maps() -> None:
    task = Suite(Path()).task("digits", 40)
    found = ten_statistics(task.classifier, task.x[:6], 3.0, share=0.5)
    matrices = csm(task.classifier.model, task.x[:6], temperature=3.0, classes=5)
    direct = csm_statistics(matrices, torch.zeros(6, dtype=torch.long)).double().numpy()
    assert np.allclose(found.features, direct, atol=1e-5)


def test_bad_choices_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pass --data"):
        shipped_tasks(Suite(Path()), None, None)
    with pytest.raises(ArgumentError, match=f"cases.*{next(iter(SHIPPED))}.*imagenet"):
        shipped_tasks(Suite(tmp_path), ("imagenet",), tmp_path)


def test_a_step_that_fails_says_so_and_stops_no_other() -> None:
    said: list[str] = []
    choice = Choice(None, ("digits",), 20)
    battery._work(choice, said.append, lambda choice, say: 1 / 0)  # type: ignore[arg-type, return-value]
    battery._work(choice, said.append, lambda choice, say: say("next"))
    assert said == ["ZeroDivisionError: division by zero; to be tried again", "next"]


@pytest.mark.process
def test_a_process_says_what_it_is_at_and_leaves_its_work_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pytorch_ood", reason="pytorch-ood is not installed")
    monkeypatch.chdir(tmp_path)
    choice = Choice(None, ("digits",), 5, ("MaxSoftmax",))
    battery.share(choice, 1, say)  # a second process would only add its imports
    assert "gradgeo: digits: scoring with MaxSoftmax" in capfd.readouterr().err
    monkeypatch.setattr(cache, "CACHE", tmp_path / ".cache" / "bench")  # that of the process
    stored = set(cache.CACHE.iterdir())
    (task,), scenarios = choice.tasks()
    result = evaluate(task, scenarios=scenarios, methods=choice.selected(), say=silent)
    assert set(result["cells"]) == {"MaxSoftmax"}
    assert len(stored) > 10
    assert set(cache.CACHE.iterdir()) == stored


@pytest.mark.simulation
def test_the_page_is_whole_after_each_network_and_keeps_those_of_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished is on the page when a later network fails, and a run of others leaves it there."""
    page, choice = tmp_path / "battery.json", Choice(None, ("digits",), 10, ("MaxSoftmax",))
    former = json.loads((ROOT / "results" / "battery.json").read_text())[0]
    page.write_text(json.dumps([former | {"model": former["model"] | {"name": "digits"}}]))
    classifier = choice.tasks()[0][0].classifier
    two = [Task(replace(classifier, name=name), 10) for name in ("mnist", "mnist@200")]

    def one_of_two(task: Task, **options: Any) -> dict[str, Any]:
        if task.classifier.name == "mnist@200":
            raise KeyboardInterrupt
        return former | {"model": former["model"] | {"name": task.classifier.name}, "made": {**former["made"]}}

    def write(results: list[dict[str, Any]], out: Path, name: str) -> list[Path]:
        return [page] if page.write_text(json.dumps(results)) else []

    monkeypatch.setattr(battery, "write", write)
    monkeypatch.setattr(battery, "evaluate", one_of_two)
    monkeypatch.setattr(Choice, "tasks", lambda self: (two, {}))
    with pytest.raises(KeyboardInterrupt):
        battery.run(choice, tmp_path, "battery", "a command")
    found = json.loads(page.read_text())
    assert [result["model"]["name"] for result in found] == ["digits", "mnist"]
    assert len({result["made"]["lacking"] for result in found}) == 1
    lacking = found[0]["made"]["lacking"]
    assert "fashion" in lacking
    assert "mnist," not in lacking
    assert "resnet56" not in lacking  # sealed
    page.write_text('{"something": "else"}')
    with pytest.raises(ArgumentError, match=r"--out.*battery\.json is a page.*Move it away"):
        battery.run(choice, tmp_path, "battery", "a command")
    assert page.read_text() == '{"something": "else"}'
