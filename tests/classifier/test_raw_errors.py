"""Models and inputs that cannot be used are errors of ours, never raw ones of PyTorch."""

import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo import Detector
from gradgeo.errors import ArgumentError, ModelError
from helpers.nets import inputs, network

X = inputs(120)


class Refuses(torch.autograd.Function):
    """Has no backward pass."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        raise ValueError("no")


class NoBackward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(Refuses.apply(x))


def test_a_backward_pass_that_raises() -> None:
    with pytest.raises(ModelError, match=r"Detector\.fit: the model cannot be differentiated: ValueError: no"):
        Detector(NoBackward(), alpha=0.1).fit(X)
    with pytest.raises(ModelError, match="cannot be differentiated: ValueError: no"):
        gradgeo.saliency_maps(NoBackward(), X[:1])


def test_a_model_without_weights() -> None:
    with pytest.raises(ModelError, match="on the meta device, without weights"):
        Detector(network().to("meta"), alpha=0.1).fit(X)


def test_inputs_without_numbers() -> None:
    with pytest.raises(
        ArgumentError, match="expected x to be inputs with at least one number each, got a tensor of sha"
    ):
        Detector(network(), alpha=0.1).fit(torch.rand(120, 0))
    with pytest.raises(ArgumentError, match="inputs with at least one number"):
        gradgeo.saliency_maps(network(), X[:2].to("meta"))


def test_sparse_inputs() -> None:
    with pytest.raises(ArgumentError, match=r"expected x to be a dense tensor, .*Use x\.to_dense"):
        Detector(network(), alpha=0.1).fit(X.to_sparse())
    with pytest.raises(ArgumentError, match="a dense tensor"):
        gradgeo.csm(network(), X[:2].to_sparse())


def test_an_empty_batch_stays_none() -> None:
    assert gradgeo.saliency_maps(network(), X[:0]).shape == (0, 4, 3, 2, 2)
