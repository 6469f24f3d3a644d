"""Shipped classifiers trained further: on noisy inputs for the certificate, on attacked ones for a robust base."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.networks.making import Network
from benchmarks.networks.reading import image_file, images
from benchmarks.networks.training import fit
from gradgeo.data.models import load_model

NOISE = 0.25
"""Standard deviation, of pixels in [0, 1]."""

STEPS = 4
"""Of the attack within training."""

Change = Callable[[nn.Module, Tensor], Tensor]
"""(model, x) -> the inputs to learn from in its place."""


def _noisy(model: nn.Module, x: Tensor) -> Tensor:
    return x + NOISE * torch.randn_like(x)


def attacked(model: nn.Module, x: Tensor, *, epsilon: float) -> Tensor:
    """Points within `epsilon` (L-inf) that the model, in eval mode, finds least like what it predicts of `x`."""
    training = model.training
    model.eval()  # batch norm by what it has learned: an attack must not move it
    classes = model(x).argmax(1)
    point = (x + epsilon * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(STEPS):
        leaf = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), classes), leaf)
        point = point + 2 * epsilon / STEPS * gradient.sign()
        point = torch.minimum(torch.maximum(point, x - epsilon), x + epsilon).clamp(0, 1)
    model.train(training)
    return point.detach()


def _build(folder: Path, *, net: str) -> nn.Module:
    return load_model(f"{folder}/models/nets.py:{net}").requires_grad_(True)


def _train(
    model: nn.Module, folder: Path, few: int | None, *, data: str, epochs: int, change: Change
) -> dict[str, Tensor]:
    x, y = images(folder, data, "train", few)
    fit(model, x, y, epochs=epochs if few is None else 1, rate=1e-3, augment=partial(change, model))
    return model.state_dict()


def _held_out(model: nn.Module, folder: Path, few: int | None, *, data: str) -> tuple[Tensor, Tensor]:
    return images(folder, data, "test", few)


def _files(folder: Path, *, data: str, net: str) -> list[Path]:
    return [image_file(folder, data, "train"), folder / "models" / f"{net}.safetensors"]


def _network(data: str, net: str, how: str, epochs: int, change: Change, half: int) -> Network:
    return Network(
        kind=f"{net}, {how}",
        trained_on=f"{net}, {epochs} epochs more of {data} {how}",
        licence="as its base",
        module="hardened.py",
        files=partial(_files, data=data, net=net),
        build=partial(_build, net=net),
        train=partial(_train, data=data, epochs=epochs, change=change),
        held_out=partial(_held_out, data=data),
        half=half,
        in_battery=False,
    )


HARDENED = {
    "fashion-noise": _network("fashion_mnist", "fashion_cnn", "with noise", 2, _noisy, 5000),
    "mnist-noise": _network("mnist", "mnist_cnn", "with noise", 2, _noisy, 500),
    "fashion-robust": _network("fashion_mnist", "fashion_cnn", "under attack", 8, partial(attacked, epsilon=0.1), 5000),
    "mnist-robust": _network("mnist", "mnist_cnn", "under attack", 5, partial(attacked, epsilon=0.2), 500),
    "cifar10-robust": _network(
        "cifar10", "cifar10_resnet20", "under attack", 12, partial(attacked, epsilon=8 / 255), 5000
    ),
}
"""Made where a measurement asks for them. They are of a shipped classifier's data."""
