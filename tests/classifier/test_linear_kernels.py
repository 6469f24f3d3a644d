"""Frozen linear layers say what PyTorch's say, forwards, backwards, twice and for several cotangents at once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.classifier import linear_kernels as linear
from gradgeo.classifier.wrapper import Classifier

pytestmark = pytest.mark.skipif(not linear.usable(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WIDE", 1)


def made(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pair(into: int = 40, out: int = 24, *, bias: bool = True) -> tuple[nn.Sequential, nn.Sequential]:
    """A layer and the same one frozen."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(into, out, bias=bias)).requires_grad_(False)
    frozen = nn.Sequential(nn.Linear(into, out, bias=bias)).requires_grad_(False)
    frozen.load_state_dict(plain.state_dict())
    linear.freeze_linear(frozen)
    assert type(frozen[0]) is not nn.Linear
    assert isinstance(frozen[0], nn.Linear)
    return plain, frozen


@pytest.mark.parametrize("shape", [(40,), (1, 40), (64, 40), (2, 5, 40), (3, 50, 40), (0, 40)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_pytorchs(shape: tuple[int, ...], *, bias: bool) -> None:
    plain, frozen = pair(bias=bias)
    found = []
    for net in (plain, frozen):
        x = made(*shape).requires_grad_()
        y = net(x)
        above = made(*y.shape)
        found.append((y, *torch.autograd.grad(y, x, above)))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("rows", [1, 64])
def test_several_cotangents_at_once_and_a_second_derivative(rows: int) -> None:
    plain, frozen = pair()

    def maps(net: nn.Module) -> Tensor:
        x = made(rows, 40).requires_grad_()
        y = net(x)
        above = made(50, *y.shape)
        return torch.func.vmap(lambda v: torch.autograd.grad(y, x, v, retain_graph=True)[0])(above)

    torch.testing.assert_close(maps(frozen), maps(plain))

    def turn(net: nn.Module) -> Tensor:
        x = made(rows, 40).requires_grad_()
        (slope,) = torch.autograd.grad(net(x).tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    torch.testing.assert_close(turn(frozen), turn(plain))


@pytest.mark.parametrize("change", [lambda t: t.double(), lambda t: t.bfloat16()], ids=["float64", "bfloat16"])
def test_other_types_are_pytorchs_own(change: Callable[..., nn.Module]) -> None:
    plain, frozen = pair()
    x = change(made(64, 40))
    assert torch.equal(change(frozen)(x), change(plain)(x))


def test_only_plain_wide_layers_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return -super().forward(input)

    monkeypatch.setattr(linear, "WIDE", 12)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    net = nn.Sequential(nn.Linear(4, 2), nn.Linear(4, 3), Own(4, 4), normed, nn.Linear(4, 4).double())
    assert linear.wide(net) == [net[1]]


def test_a_classifier_of_such_layers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 6))
    x = torch.rand(40, 3, 4, 4)
    classifier = Classifier.of(net)
    fast = classifier.optimized(classifier.prepare(x)).model
    assert isinstance(fast, nn.Module)
    assert linear.wide(net)
    assert not linear.wide(fast)
    exact = gradgeo.saliency_maps(net.double(), x.double(), sign=False)
    found = gradgeo.saliency_maps(net.float(), x, sign=False)
    assert torch.allclose(found.double(), exact, rtol=1e-3, atol=1e-5 * float(exact.abs().max()))
