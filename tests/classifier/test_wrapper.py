"""The caller's model, random state and grad mode are as before after every call, also a failing one."""

import threading

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo import GradgeoError


def conv_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


def snapshot(model: nn.Module) -> list:
    state = [v.clone() for v in model.state_dict().values()]
    modes = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    grads = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    return [state, modes, grads, torch.get_rng_state(), torch.is_grad_enabled()]


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_train_mode_is_judged_in_eval_mode() -> None:
    model, x = conv_net(), torch.rand(4, 1, 8, 8)
    expected = gradgeo.csm(model.eval(), x)
    assert torch.equal(gradgeo.csm(model.train(), x), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_in_train_mode() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 5))
    ).train()  # the old kind, a tensor attribute
    x = torch.rand(3, 1, 8, 8)
    model(x).sum().backward()
    assert gradgeo.csm(model, x).isfinite().all()
    assert model.training
    assert model[1].weight_g.requires_grad


def test_a_copy_that_is_no_copy_is_not_changed() -> None:
    class Single(nn.Linear):
        def __deepcopy__(self, memo: dict) -> "Single":
            return self

    model = nn.Sequential(nn.Flatten(), Single(64, 5)).eval()
    x = torch.rand(2, 1, 8, 8)
    before = snapshot(model)
    gradgeo.csm(model, x)
    assert same(snapshot(model), before)
    with pytest.raises(GradgeoError, match=r"in training mode and cannot be copied .*shares modules"):
        gradgeo.csm(model.train(), torch.rand(2, 1, 8, 8))


def test_functions_of_modules_that_act_in_training_are_refused() -> None:
    model = conv_net().train()
    with pytest.raises(GradgeoError, match=r"a function of modules in eval mode \(model is not\).*model\.eval\(\)"):
        gradgeo.csm(lambda x: model(x), torch.rand(2, 1, 8, 8))


@pytest.mark.filterwarnings("ignore")
def test_scripted_models_in_train_mode() -> None:
    model, x = torch.jit.trace(conv_net().eval(), torch.rand(2, 1, 8, 8)), torch.rand(2, 1, 8, 8)
    assert gradgeo.csm(model, x).isfinite().all()


def test_weights_are_shared_not_copied() -> None:
    model, x = conv_net(), torch.rand(4, 1, 8, 8)
    before = gradgeo.csm(model, x)
    with torch.no_grad():
        model[5].weight.neg_()
    assert not torch.equal(gradgeo.csm(model, x), before)


def test_hooks_of_the_caller_see_nothing() -> None:
    model, seen = conv_net(), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(module))
    gradgeo.csm(model, torch.rand(2, 1, 8, 8))
    assert all(module is not model[0] for module in seen)


class Uncopyable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.lock = conv_net(), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_a_model_that_cannot_be_copied_must_be_in_eval_mode() -> None:
    model, x = Uncopyable().eval(), torch.rand(2, 1, 8, 8)
    before = snapshot(model)
    assert gradgeo.csm(model, x).isfinite().all()
    assert same(snapshot(model), before)
    with pytest.raises(GradgeoError, match=r"in training mode and cannot be copied .* Call model\.eval\(\) first"):
        gradgeo.csm(model.train(), x)
