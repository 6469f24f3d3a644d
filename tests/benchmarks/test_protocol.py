"""The sealed part of the battery stays closed unless a reason is given, which is written down and shown."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import battery, protocol
from benchmarks.__main__ import app
from benchmarks.battery import Choice
from benchmarks.scenarios import shipped_scenarios
from benchmarks.shipped import SHIPPED, Suite
from gradgeo.bench import cache
from gradgeo.bench.scenarios import SCENARIOS, Scenario, Task
from gradgeo.errors import ArgumentError

REASON = "the choice is made, these are its figures"


@pytest.fixture(autouse=True)
def openings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(protocol, "OPENINGS", tmp_path / "openings.jsonl")
    monkeypatch.setattr(cache, "CACHE", tmp_path / "cache")
    return tmp_path / "openings.jsonl"


def test_a_third_of_the_scenarios_is_sealed_and_no_mistakes() -> None:
    found = protocol.read()
    sealed = [name for name, each in SCENARIOS.items() if found.scenario_is_sealed(name, each)]
    assert 0.15 < len(sealed) / len(SCENARIOS) < 0.5
    many = {f"{number}": Scenario("attack", lambda task: task.x) for number in range(600)}
    assert 0.27 < 1 - len(found.scenarios_allowed(many)) / 600 < 0.4
    for kind in ("attack", "far"):
        own = [name for name in SCENARIOS if SCENARIOS[name].kind == kind]
        assert 0 < len(set(own) & set(sealed)) < len(own)
    kinds = {SCENARIOS[name].kind for name in SCENARIOS if name not in sealed}
    assert kinds == {scenario.kind for scenario in SCENARIOS.values()}  # each kind can be chosen for
    assert all(SCENARIOS[name].kind != "mistake" for name in sealed)


def test_sealed_networks_exist() -> None:
    registry = pytest.importorskip("benchmarks.networks.registry", reason="no networks are made here")
    assert set(protocol.read().networks) <= {*SHIPPED, *registry.NETWORKS}


def test_sealed_networks_are_refused_by_name_and_left_out_by_default() -> None:
    found = protocol.read()
    for name in ("resnet56", "resnet56@200"):
        with pytest.raises(ArgumentError, match=f"{name}, sealed by protocol.toml. Pass --open-sealed REASON"):
            found.networks_allowed((name, "mnist"), ())
    assert found.networks_allowed(None, ("mnist", "resnet56", "languages@500", "ecg5000")) == ("mnist", "ecg5000")
    assert found.networks_allowed(("mnist", "cifar10@200"), ()) == ("mnist", "cifar10@200")


def test_the_tasks_of_a_choice_are_those_for_choosing_until_it_is_opened() -> None:
    suite = Suite(Path())
    every = Choice(None, ("digits",), 20).all_scenarios(suite)
    assert set(every) > set(shipped_scenarios(suite))
    _, scenarios = Choice(None, ("digits",), 20).tasks()
    assert set(scenarios) == set(protocol.read().scenarios_allowed(every)) < set(every)
    _, opened = Choice(None, ("digits",), 20, opened=True).tasks()
    assert set(opened) == set(every)
    with pytest.raises(ArgumentError, match="sealed by"):
        Choice(None, ("vit_fashion",), 20).tasks()


def test_fits_for_choosing_are_other_ones() -> None:
    closed, opened = Choice(None, None, 20, splits=5).seeds, Choice(None, None, 20, splits=5, opened=True).seeds
    assert len(closed) == len(opened) == 5
    assert not set(closed) & set(opened)
    assert 0 not in closed + opened  # that is the fit on the whole first half


def test_an_opening_is_counted_and_written_down(openings: Path) -> None:
    assert "opening 1, on 20" in protocol.opening(REASON, "battery --open-sealed")
    assert protocol.opening(f" {REASON}\n again ", "c").endswith(f": {REASON} again")
    first, second = map(json.loads, openings.read_text().splitlines())
    assert (first["count"], second["count"]) == (1, 2)
    assert (first["reason"], first["command"]) == (REASON, "battery --open-sealed")
    with pytest.raises(ArgumentError, match="expected --open-sealed to be a reason of 10 characters or more, got 'why"):
        protocol.opening("why  ", "c")
    assert len(openings.read_text().splitlines()) == 2


def test_the_command_opens_nothing_without_a_reason(
    tmp_path: Path, openings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def evaluate(task: Task, *, scenarios: dict[str, Scenario], **options: object) -> dict:
        asked.append(list(scenarios))
        return {"made": {}}

    def write(results: list[dict], out: Path, name: str) -> list[Path]:
        asked[-1].append(results[0]["made"]["protocol"])
        return []

    monkeypatch.setattr(battery, "evaluate", evaluate)
    monkeypatch.setattr(battery, "write", write)

    def run(*options: str) -> object:
        return CliRunner().invoke(app, ["battery", "--out", str(tmp_path), "--methods", "MaxSoftmax", *options])

    refused = run("--cases", "resnet56")
    assert isinstance(refused.exception, ArgumentError) or "sealed by protocol.toml" in refused.output
    assert asked == []
    run("--quick")
    run("--quick", "--open-sealed", REASON)
    (*closed, said_closed), (*opened, said_opened) = asked
    assert set(closed) < set(opened)
    hidden = sorted(set(opened) - set(closed))
    assert said_closed.startswith("For choosing: the sealed networks (factory_vehicles")
    assert all(name in said_closed for name in hidden)
    assert said_opened.startswith("The sealed networks and scenarios were opened, opening 1, on 20")
    assert said_opened.endswith(REASON)
    run("--quick", "--open-sealed", "no")
    run("--cases", "vehicles", "--open-sealed", REASON)  # no network's name
    assert len(asked) == 2
    assert len(openings.read_text().splitlines()) == 1
