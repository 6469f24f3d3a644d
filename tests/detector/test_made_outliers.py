"""Outliers made from trusted inputs: bounded, reproducible, each kind what its name says, and of use to rank methods."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradgeo.bench import made_ranking
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.evaluate import evaluate
from gradgeo.bench.made_ranking import ranking
from gradgeo.bench.methods import Method
from gradgeo.bench.scenarios import SCENARIOS, Scenario, Task
from gradgeo.detector.fit import made_outliers as making
from gradgeo.detector.fit.made_outliers import BUDGETS, FAMILIES, KINDS, made_outliers
from gradgeo.errors import ArgumentError

SHAPES = {"image": (12, 3, 16, 12), "grey": (12, 1, 8, 8), "signal": (12, 2, 40), "text": (12, 20, 6), "table": (12, 7)}


def trusted(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Smooth inputs, each with a pattern of its own."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    for axis in range(2, x.ndim):
        x = x.cumsum(axis)
    return x


def linear(shape: tuple[int, ...]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape[1:])), 3)).eval()


@pytest.mark.parametrize("name", SHAPES)
def test_every_kind_differs_keeps_to_the_range_and_is_the_same_again(name: str) -> None:
    shape, axis = SHAPES[name], 2 if name == "text" else 1
    x, model = trusted(shape), linear(SHAPES[name])
    before = x.clone()
    made = made_outliers(x, model=model, channel_axis=axis)
    again = made_outliers(x, model=model, channel_axis=axis)
    assert torch.equal(x, before)
    over = tuple(i for i in range(x.ndim) if i != axis)
    low, high = x.amin(over, keepdim=True), x.amax(over, keepdim=True)
    assert set(made) == {k for k in FAMILIES if name != "table" or k not in KINDS or not KINDS[k].positions}
    for kind, outliers in made.items():
        assert outliers.shape == x.shape
        assert outliers.dtype == x.dtype
        assert bool(((outliers >= low) & (outliers <= high)).all()), kind
        assert bool((outliers != x).flatten(1).any(1).all()), kind
        assert torch.equal(outliers, again[kind]), kind
    other = made_outliers(x, seed=1, channel_axis=axis)
    assert not torch.equal(other["noise"], made["noise"])
    alone = made_outliers(x, kinds=["pasted"], channel_axis=axis)
    assert list(alone) == ["pasted"]
    assert torch.equal(alone["pasted"], made["pasted"])


def test_kinds_are_what_their_names_say() -> None:
    x = trusted((10, 1, 32))
    made = made_outliers(x)
    sort = {kind: each.flatten(1).sort(1).values for kind, each in made.items()}
    own = x.flatten(1).sort(1).values
    for kind in ("permuted", "rolled", "reversed", "shuffled"):  # the same entries
        assert torch.equal(sort[kind], own), kind
    assert torch.equal(made["reversed"], x.flip(-1))
    assert float(made["constant"].std(2).max()) == 0
    rough = {kind: float(each.diff(dim=2).abs().mean()) for kind, each in made.items()} | {
        "": float(x.diff().abs().mean())
    }
    assert rough["smoothed"] < 0.7 * rough[""] < 0.7 * rough["a little noise"] < 0.7 * rough["noise"]
    contrast = {kind: float(each.std(2).mean()) for kind, each in made.items()} | {"": float(x.std(2).mean())}
    assert (
        contrast["faded"]
        < contrast["dark"] + contrast["bright"]
        < contrast[""]
        < contrast["gain"]
        < contrast["clipped"]
    )
    assert float(made["dark"].mean()) < float(x.mean()) < float(made["bright"].mean())
    kept = (made["pasted"] == x).double().mean((1, 2))
    assert bool(((kept > 0.4) & (kept < 0.6)).all())  # a half is another's
    wide = torch.cat([x, torch.full_like(x[:2], 99), torch.full_like(x[:2], -99)])  # nothing is clipped
    spectra = [torch.fft.rfft(each)[:10] for each in (wide, made_outliers(wide, kinds=["phases"])["phases"])]
    assert torch.allclose(spectra[0].abs(), spectra[1].abs(), atol=1e-3)
    assert torch.allclose(spectra[0][..., 0], spectra[1][..., 0], atol=1e-3)  # the mean with its sign
    assert not torch.allclose(spectra[0], spectra[1], atol=0.1)


def test_others_are_never_the_input_itself() -> None:
    for n in (2, 3, 50):
        t = making.Trusted(torch.arange(n, dtype=torch.float32)[:, None], torch.Generator().manual_seed(n))
        for _ in range(20):
            other = t.others()
            assert bool((other != t.x).all())
            assert torch.equal(other.sort(0).values, t.x)


def test_crossed_rows_of_a_table_are_usual_by_column_and_unusual_together() -> None:
    z = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    x = torch.cat([z, z, -z], 1)
    crossed = made_outliers(x, kinds=["crossed"])["crossed"]
    assert torch.equal(crossed.sort(0).values, x.sort(0).values)
    assert abs(float(torch.corrcoef(crossed.T)[0, 1])) < 0.3


@torch.no_grad()
def test_attacks_stay_in_their_budget_and_turn_the_class() -> None:
    x, model = trusted((40, 12)), linear((40, 12))
    before = [p.clone() for p in model.parameters()]
    made = made_outliers(x, model=model)
    first = model(x).argmax(1)
    width = 4 * x.std(0, correction=0)
    turned = {}
    for kind, budget in BUDGETS.items():
        assert bool(((made[kind] - x).abs() <= budget * width + 1e-5).all())
        turned[kind] = float((model(made[kind]).argmax(1) != first).double().mean())
    assert turned["attacked"] >= turned["attacked a little"]
    margin = {k: float(model(v).topk(2).values.diff(dim=1).abs().mean()) for k, v in {**made, "": x}.items()}
    assert margin["attacked a little"] < margin[""]
    assert turned["attacked"] > 0
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert not set(BUDGETS) & set(made_outliers(x))  # they need a model


def test_bad_inputs_are_refused() -> None:
    for x in (torch.rand(1, 4), torch.rand(4), torch.ones(4, 4, dtype=torch.int64), torch.full((3, 2), torch.nan)):
        with pytest.raises(ArgumentError, match="expected x to be"):
            made_outliers(x)
    with pytest.raises(ArgumentError, match="expected kinds to be among mixed"):
        made_outliers(torch.rand(4, 4), kinds=["nonsense"])
    with pytest.raises(ArgumentError, match="channel_axis"):
        made_outliers(torch.rand(4, 4), channel_axis=2)


def test_a_constant_column_and_a_single_position_do_no_harm() -> None:
    for x in (torch.zeros(5, 3), torch.zeros(5, 2, 1), torch.rand(5, 1, 1, 1)):
        assert all(bool(made.isfinite().all()) for made in made_outliers(x).values())


def test_what_makes_them_knows_no_benchmark() -> None:
    """So that fitting can use it."""
    tree = ast.parse(Path(making.__file__).read_text())
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name.split(".")[1] for name in named if name.startswith("gradgeo.")} <= {"classifier", "errors", "geometry"}


def figures(**areas: float) -> dict[str, dict]:
    return {name: {"auroc": area, "kinds": {"attack": {"auroc": area}}} for name, area in areas.items()}


def test_the_ranking_says_how_far_to_trust_the_made_ones() -> None:
    made = {
        "a": {"noise": 0.9, "mixed": 0.5, "pasted": 0.7},
        "b": {"noise": 0.7, "mixed": 0.9, "pasted": 0.9},
        "c": {"noise": 0.6, "mixed": 0.4, "pasted": 0.4},
        "failed": {},
    }
    found = ranking(made, figures(a=0.95, b=0.8, c=0.7, d=1.0), {"b", "c"})
    assert found["methods"]["a"]["auroc"] == pytest.approx((0.9 + 0.6) / 2)  # families count once
    assert found["methods"]["a"]["families"] == pytest.approx({"noise": 0.9, "mixed": 0.6})
    agreement = found["agreement"]["all"]
    assert agreement["rank_correlation"] == pytest.approx(0.5)
    assert (agreement["chosen"], agreement["best"]) == ("b", "a")
    assert agreement["regret"] == pytest.approx(0.15)
    assert agreement["by_family"]["noise"] == pytest.approx(
        {"rank_correlation": 1.0, "chosen": "a", "reaches": 0.95, "best": "a", "best_reaches": 0.95, "regret": 0.0}
    )
    assert agreement["by_kind"] == {"attack": pytest.approx(0.5)}
    peers = found["agreement"]["peers"]
    assert peers["regret"] == 0
    assert peers["rank_correlation"] is None  # two methods have no ranking to speak of
    assert ranking({}, figures(a=1), set()) == {"methods": {}, "agreement": {}}
    level = ranking({name: {"noise": 0.5} for name in "abc"}, figures(a=0.9, b=0.8, c=0.7), set())
    assert level["agreement"]["all"]["rank_correlation"] is None


class Distance:
    """From the mean of the trusted inputs, or of the first of them alone."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def fit(self, loader: object) -> None:
        self.seen = torch.cat([x for x, _ in loader])  # type: ignore[attr-defined]

    def predict(self, x: Tensor) -> Tensor:
        return self.sign * (x - self.seen.mean(0)).flatten(1).norm(dim=1)


def task(n: int = 200) -> Task:
    x = trusted((n, 6))
    model = linear((n, 6))
    return Task(ClassifierUnderTest("table", model, x, model(x).argmax(1), n // 2, bounds=None), 40)


def test_a_run_judges_outliers_made_from_what_a_further_fit_left_out() -> None:
    methods = {
        name: Method(lambda model, x, sign=sign: Distance(sign)) for name, sign in (("near", -1.0), ("far", 1.0))
    }
    scenarios = {"far away": Scenario("ood", lambda task: 5 * task.x), "noisy inputs": SCENARIOS["noisy inputs"]}
    one = task()
    result = evaluate(one, scenarios=scenarios, methods=methods)
    found = result["made_outliers"]
    assert found["methods"]["far"]["auroc"] > 0.5 > found["methods"]["near"]["auroc"]
    assert found["agreement"]["all"]["chosen"] == "far"
    assert found["agreement"]["all"]["regret"] == 0
    assert set(result["cells"]["far"]) == set(scenarios)  # they are no columns
    other = one.classifier.refitted(1)
    inputs = made_ranking.inputs(other)
    rows = {tuple(row) for row in other.trusted.tolist()}
    assert rows.isdisjoint(map(tuple, inputs[made_ranking.TRUSTED].tolist()))
    assert set(map(tuple, inputs[made_ranking.TRUSTED].tolist())) | rows == set(
        map(tuple, one.classifier.trusted.tolist())
    )


def test_too_few_trusted_inputs_or_a_model_without_gradient_cost_the_run_nothing() -> None:
    assert made_ranking.inputs(task(20).classifier.refitted(1)) == {}
    x = trusted((100, 4))

    def blind(x: Tensor) -> Tensor:
        return x.detach().round()

    classifier = ClassifierUnderTest("blind", blind, x, blind(x).argmax(1), 60, bounds=None)  # type: ignore[arg-type]
    kinds = {name.removeprefix(made_ranking.PREFIX) for name in made_ranking.inputs(classifier.refitted(1))}
    assert "noise" in kinds
    assert not kinds & set(BUDGETS)
