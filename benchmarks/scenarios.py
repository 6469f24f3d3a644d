"""The scenarios of the shipped classifiers: those of every classifier, and other public data sets."""

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.networks.registry import base
from benchmarks.shipped import SHIPPED, Suite
from gradgeo.bench.scenarios import SCENARIOS, Generated, Scenario, Task

IMAGES = {
    "CIFAR-100": "cifar100",
    "CIFAR-10": "cifar10",
    "SVHN": "svhn",
    "MNIST": "mnist",
    "Fashion-MNIST": "fashion_mnist",
    "KMNIST": "kmnist",
    "EMNIST letters": "emnist_letters",
}
"""Public image data sets, by the scenario's name."""

HEARTBEATS = "other beats"
"""The scenario of the archive's other heartbeats."""


def shipped_scenarios(suite: Suite) -> dict[str, Scenario]:
    """Every scenario by name, in the order of the page."""
    images = {label: _images(suite, name) for label, name in IMAGES.items()}
    beats = Scenario(
        "ood", lambda task: _beats(suite, task), lambda task: task.is_signal and bool(_others(task)), "near"
    )
    return {**images, HEARTBEATS: beats, **SCENARIOS}


def _others(task: Task) -> tuple[str, ...]:
    """The data sets that a classifier was not trained on."""
    shipped = SHIPPED.get(base(task.classifier.name))
    return shipped.others if shipped else ()


def _near(task: Task) -> tuple[str, ...]:
    shipped = SHIPPED.get(base(task.classifier.name))
    return shipped.near if shipped else ()


def _images(suite: Suite, name: str) -> Scenario:
    def generate(task: Task) -> Generated:
        x = reshaped(suite.read(name, task.size)[0], task.input_shape)
        return Generated(x, kind="near" if name in _near(task) else "far")

    return Scenario("ood", generate, lambda task: task.is_image and name in _others(task))


def _beats(suite: Suite, task: Task) -> Tensor:
    """Signals of other data sets, resampled to the classifier's length."""
    parts = [suite.read(name)[0] for name in _others(task)]
    size = task.input_shape[-1]
    return torch.cat([F.interpolate(x, size=size, mode="linear", align_corners=True) for x in parts])[: task.size]


def reshaped(x: Tensor, shape: torch.Size) -> Tensor:
    """Images (N, c, h, w) as (N, *shape): zero-padded or resized, repeated to three channels or averaged to one."""
    channels, height, width = shape
    if x.shape[1] != channels:
        x = x.expand(-1, channels, -1, -1) if x.shape[1] == 1 else x.mean(1, keepdim=True)
    if x.shape[2] <= height and x.shape[3] <= width:
        down, right = height - x.shape[2], width - x.shape[3]
        return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
    return F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)
