"""Attacks of foolbox and torchattacks by name: within their budgets, in any bounds, and what is no attack is refused."""

import math
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from gradgeo.bench.library_attacks import library_attack
from gradgeo.bench.other_attacks import foolbox
from gradgeo.bench.user_model import user_scenarios
from gradgeo.errors import ArgumentError, ModelError

FOOLBOX = pytest.mark.skipif(find_spec("foolbox") is None, reason="foolbox is not installed")
TORCHATTACKS = pytest.mark.skipif(find_spec("torchattacks") is None, reason="torchattacks is not installed")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()


@pytest.mark.parametrize(
    ("name", "bounded", "norm"),
    [
        pytest.param("foolbox:LinfFastGradientAttack", True, math.inf, marks=FOOLBOX),
        pytest.param("foolbox:L2FastGradientAttack", True, 2, marks=FOOLBOX),
        pytest.param("foolbox:L2DeepFoolAttack", False, 2, marks=FOOLBOX),
        pytest.param("torchattacks:FGSM", True, math.inf, marks=TORCHATTACKS),
        pytest.param("torchattacks:PGDL2", True, 2, marks=TORCHATTACKS),
        pytest.param("torchattacks:DeepFool", False, 2, marks=TORCHATTACKS),
    ],
)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.0, 3.0), None])
def test_they_find_something_within_their_budget(
    model: nn.Module, name: str, bounded: bool, norm: float, bounds: tuple[float, float] | None
) -> None:
    low, high = bounds or (0.0, 1.0)
    x = low + (high - low) * torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = model(x).argmax(1)
    attack, takes_budget = library_attack(name)
    assert takes_budget is bounded
    epsilon = 0.2 * (high - low)
    found = attack(model, x, labels, bounds=bounds, **({"epsilon": epsilon} if bounded else {}))
    assert found.success.any()
    assert torch.equal(model(found.adversarial).argmax(1) != labels, found.success)
    if bounded:
        length = (found.adversarial - x).flatten(1).norm(norm, dim=1)
        assert float(length.max()) <= epsilon * (math.sqrt(48) if norm == 2 else 1) * (1 + 1e-4)
    if bounds is not None:
        assert bool(((found.adversarial >= low) & (found.adversarial <= high)).all())
    again = attack(model, x, labels, bounds=bounds, **({"epsilon": epsilon} if bounded else {}))
    assert torch.equal(again.adversarial, found.adversarial)
    assert name in attack.__name__  # which its cached results are found by


@FOOLBOX
def test_names_of_attacks_alone_are_taken() -> None:
    for name in ("foolbox:Linf", "foolbox:base", "foolbox:__loader__", "foolbox:os.system"):
        with pytest.raises(ArgumentError, match="to be an attack of foolbox"):
            library_attack(name)
    with pytest.raises(ArgumentError, match=r"Did you mean .*LinfDeepFoolAttack"):
        library_attack("foolbox:LinfDeepFool")
    with pytest.raises(ArgumentError, match="foolbox:NAME or torchattacks:NAME"):
        user_scenarios((), ("cleverhans:FGSM",))


@FOOLBOX
def test_they_stand_beside_the_others() -> None:
    scenarios = user_scenarios((), ("pgd", "foolbox:LinfPGD"))
    assert scenarios["foolbox:LinfPGD"].cause == "attack"
    assert {"PGD", "PGD, small"} <= set(scenarios)
    assert "FGSM" not in scenarios


@FOOLBOX
def test_an_attack_that_fails_is_named(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    attack, _ = library_attack("foolbox:LinfFastGradientAttack")

    def fail(*_: object, **__: object) -> Tensor:
        raise RuntimeError("no")

    monkeypatch.setattr(foolbox().attacks.LinfFastGradientAttack, "run", fail)
    with pytest.raises(ModelError, match="foolbox's LinfFastGradientAttack failed: RuntimeError: no"):
        attack(model, torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), epsilon=0.1)
