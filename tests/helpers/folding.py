"""Nets whose BatchNorms can be folded, one for each kind of input, and their Jacobians."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gradgeo.classifier.optimized import OptimizedModel
from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.geometry.autograd import AutogradJacobian


class Residual(nn.Module):
    """Convolutions with BatchNorm, one of whose outputs is used twice, before a linear head with few features."""

    def __init__(self, classes: int = 12, features: int = 6) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, features, 3, padding=1, bias=False), nn.BatchNorm2d(features)
        self.conv2, self.bn2 = nn.Conv2d(features, features, 3, padding=1), nn.BatchNorm2d(features, affine=False)
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.bn1(self.conv1(x)))
        return self.head(torch.tanh(h + self.bn2(self.conv2(h))).mean((2, 3)))


def trained(model: nn.Module) -> nn.Module:
    """With statistics in its BatchNorms that are not those of a new one."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            if module.weight is not None:
                module.weight.data.copy_(torch.randn(module.num_features, generator=generator))
    return model.eval()


def signal() -> nn.Module:
    body = nn.Sequential(nn.Conv1d(2, 8, 5, stride=2), nn.BatchNorm1d(8), nn.Tanh(), nn.Flatten(), nn.LazyLinear(4))
    body(torch.rand(2, 2, 21))
    return body


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "few features": (Residual, (3, 9, 8)),
    "many features": (lambda: Residual(4, 10), (3, 9, 8)),
    "signal": (signal, (2, 21)),
    "table": (lambda: nn.Sequential(nn.Linear(9, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Linear(20, 7)), (9,)),
}


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = MODELS[request.param]
    return trained(make()), torch.rand(9, *shape)


def jacobian_of(model: nn.Module, x: Tensor) -> AutogradJacobian:
    classifier = Classifier.of(model)
    batch = classifier.prepare(x)
    with preserve_state(x):
        return AutogradJacobian(classifier.optimized(batch), batch)


def optimized(model: nn.Module, x: Tensor) -> OptimizedModel:
    classifier = Classifier.of(model)
    return classifier.optimized(classifier.prepare(x))
