"""Folding, memory layouts and the linear head: what may be changed is, and the logits stay."""

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from benchmarks import reference
from gradgeo.classifier.wrapper import preserve_state
from helpers.folding import Residual, jacobian_of, optimized, trained


def test_batchnorm_is_folded_and_the_logits_stay(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    forward = jacobian_of(model, x)
    fast = optimized(model, x).model
    assert isinstance(fast, nn.Module)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in fast.modules())
    assert any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert (forward.logits - model(x)).abs().max() <= 1e-5 * model(x).abs().max()


class UsedTwice(Residual):
    """What its BatchNorm gets is used beside it: folding would change the logits."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        return self.head(torch.tanh(h + self.bn1(h)).mean((2, 3)))


class CalledTwice(Residual):
    """Its BatchNorm serves two layers: only one of them could take it in."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.bn1(self.conv1(x)))
        return self.head(torch.tanh(self.bn1(self.conv2(h))).mean((2, 3)))


class SharedLayer(Residual):
    """Its second convolution is called with and without a BatchNorm behind it."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.conv2(self.conv1(x)))
        return self.head(torch.tanh(self.bn2(self.conv2(h))).mean((2, 3)))


class ReadsItsNorm(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.bn1.eps


class Views(Residual):
    """Its view of an activation fails on channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bn1(self.conv1(x))).view(len(x), 6, -1).mean(2))


@pytest.mark.parametrize("kind", [UsedTwice, CalledTwice, SharedLayer, ReadsItsNorm, Views])
def test_what_cannot_be_folded_or_laid_out_is_left_as_it_is(kind: type[Residual]) -> None:
    torch.manual_seed(0)
    model, x = trained(kind()), torch.rand(3, 3, 9, 8)
    exact = reference.maps(model, x, "logit")
    ours = gradgeo.saliency_maps(model, x, loss="logit", sign=False)
    assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()
    assert (jacobian_of(model, x).logits - model(x)).abs().max() <= 1e-5 * model(x).abs().max()


def test_features_and_head_make_the_logits(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    forward = jacobian_of(model, x)
    assert forward.features is not None
    head = optimized(model, x).head
    assert head is not None
    assert torch.equal(head(forward.features), forward.logits)
    assert not forward.features.requires_grad
    without = jacobian_of(nn.Sequential(model, nn.Tanh()), x)
    assert without.features is None


class Signals(nn.Module):
    """Convolutions of signals, with a view that channels last does not allow, or a function as the last layer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 6, 3))
        self.last = nn.Identity() if kind == "function" else nn.Tanh()
        self.head, self.kind = nn.Linear(6, 3), kind

    def forward(self, x: Tensor) -> Tensor:
        h = self.last(self.body(x))
        if self.kind == "view":
            h = h.view(-1).view_as(h)
        return self.head((torch.tanh(h) if self.kind == "function" else h).mean(2))


@pytest.mark.parametrize("kind", ["plain", "view", "function"])
def test_signals_lie_channels_last_where_gradients_do(kind: str) -> None:
    torch.manual_seed(0)
    model, x = trained(Signals(kind)), torch.rand(9, 2, 20)
    jacobian_of(model, x)
    fast = optimized(model, x).model
    layouts: list[tuple[int, ...]] = []
    with preserve_state(x):
        made = fast.last(fast.body(x.clone().requires_grad_()))
        made.register_hook(lambda above: layouts.append(above.stride()))
        fast.head(made.mean(2)).sum().backward()
    rows = kind == "plain"
    assert (type(fast.body[0]) is not nn.Conv1d) == rows
    assert made.stride() == ((96, 1, 6) if rows else (96, 16, 1))
    assert layouts == [made.stride()]
    exact = reference.maps(model, x, "cross_entropy")
    ours = gradgeo.saliency_maps(model, x, sign=False)
    assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()
