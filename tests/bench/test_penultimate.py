"""Penultimate features: the right layer is found, and nothing of the model is changed."""

import pytest
import torch
from torch import nn

from gradgeo.bench.penultimate import Penultimate
from gradgeo.errors import ModelError


class Tied(nn.Module):
    """Two linear layers of the same shape, of which the one defined first makes the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 5)
        self.first = nn.Linear(5, 5)

    def forward(self, x):
        return {"logits": self.last(self.first(x).relu())}


@pytest.fixture
def x():
    return torch.rand(4, 5, generator=torch.Generator().manual_seed(0))


def test_the_head_of_its_features_is_the_model(x):
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3)).train()
    split = Penultimate(model, x)
    assert split(x).shape == (4, 7)
    assert torch.equal(split.head(split(x)), model.eval()(x))


def test_the_layer_is_found_by_its_output_not_by_its_place(x):
    model = Tied()
    split = Penultimate(model, x)
    assert torch.equal(split(x), model.first(x).relu())
    assert split.head.weight.data_ptr() == model.last.weight.data_ptr()  # shared, not copied


def test_the_model_keeps_mode_hooks_and_gradients(x):
    model = nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5), nn.Linear(7, 3)).train()
    Penultimate(model, x)(x)
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(5, 3), nn.Tanh()),
        nn.Sequential(nn.Unflatten(1, (5, 1)), nn.Conv1d(5, 3, 1), nn.Flatten()),
        lambda x: x[:, :3],
    ],
)
def test_no_linear_layer_makes_the_logits(model, x):
    with pytest.raises(ModelError, match="no linear layer of the model makes its logits"):
        Penultimate(model, x)
