"""The paper's set-ups as far as networks and data are at hand: a classifier, what it was trained on, its attacks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.networks.reading import images
from benchmarks.shipped import Suite
from gradgeo.bench.classifier_under_test import ClassifierUnderTest, predicted_classes
from gradgeo.data.models import load_model
from gradgeo.errors import DataError, MissingDependencyError

FIT = 1000
"""Trusted inputs that a detector is fitted on, of each kind; the paper takes all of its training part."""


@dataclass(frozen=True)
class Setup:
    """A classifier, and what of the paper it stands beside."""

    name: str
    """As options of the command have it."""
    row: str
    """The row of the paper's tables that it stands beside."""
    words: str
    """Network and data."""
    load: Callable[[Suite], ClassifierUnderTest]
    """The classifier, with held-out inputs: detectors are fitted on the first half, and judged on the second."""
    train: Callable[[Suite], tuple[Tensor, Tensor]]
    """Inputs that the classifier was trained on, and their classes."""
    epsilon: float
    """Of the L-inf attacks, the paper's."""
    other: str
    """The data set that stands for other data: the paper's, or where no copy is at hand the nearest one."""
    bins: int
    """Of LODA's histograms, the paper's."""


@dataclass(frozen=True)
class Case:
    """A set-up with its inputs."""

    setup: Setup
    suite: Suite

    @cached_property
    def classifier(self) -> ClassifierUnderTest:
        """The classifier under test."""
        return self.setup.load(self.suite)

    @cached_property
    def fitted_on(self) -> dict[str, Tensor]:
        """Correctly classified inputs by kind: held-out ones, and some that the network was trained on."""
        x, y = self.setup.train(self.suite)
        x, y = x[: 2 * self.size], y[: 2 * self.size]
        right = predicted_classes(self.classifier.model, x) == y
        return {"held-out": self.classifier.trusted[: self.size], "training": x[right][: self.size]}

    @property
    def size(self) -> int:
        """Inputs to fit on."""
        return max(100, min(FIT, 8 * self.suite.inputs))


def _shipped(name: str) -> Callable[[Suite], ClassifierUnderTest]:
    return lambda suite: suite[name]


def _resnet56(suite: Suite) -> ClassifierUnderTest:
    model = load_model(f"{suite.folder}/models/nets.py:cifar10_resnet56")
    x, y = suite.read("cifar10")
    return ClassifierUnderTest("resnet56", model, x, y, len(x) // 2)


def _train(name: str) -> Callable[[Suite], tuple[Tensor, Tensor]]:
    return lambda suite: images(suite.folder, name, "train", 2 * FIT)


SETUPS = {
    setup.name: setup
    for setup in (
        Setup(
            "resnet56",
            "CIFAR-10",
            "ResNet-56, CIFAR-10 (the paper's network)",
            _resnet56,
            _train("cifar10"),
            8 / 255,
            "svhn",
            500,
        ),
        Setup(
            "resnet20",
            "CIFAR-10",
            "ResNet-20, CIFAR-10",
            _shipped("cifar10"),
            _train("cifar10"),
            8 / 255,
            "svhn",
            500,
        ),
        Setup(
            "mnist",
            "MNIST",
            "a CNN of four convolutions, trained on 4,000 digits",
            _shipped("mnist"),
            _train("mnist"),
            0.3,
            "fashion_mnist",
            100,
        ),
        *(
            Setup(name, "MNIST", words, _shipped(name), _train("mnist"), 0.3, "fashion_mnist", 100)
            for name, words in (
                ("mnist-madry", "Madry's CNN (the paper's network), trained on 4,000 digits"),
                ("mnist-madry_robust", "Madry's CNN, trained on 4,000 digits under attack"),
            )
        ),
        Setup(
            "ecg5000",
            "UCR ECG",
            "three convolutions with BatchNorm, ECG5000, five classes (the paper: NonInvasiveFetalECGThorax1, 42)",
            _shipped("ecg5000"),
            lambda suite: suite.read("ucr:ECG5000/train"),
            0.1,
            "ucr:ECG200/test",
            100,
        ),
        Setup(
            "cifar100",
            "CIFAR-100",
            "ResNet-20, CIFAR-100, 62 % right (the paper: PreResNet-164)",
            _shipped("cifar100"),
            _train("cifar100"),
            8 / 255,
            "svhn",
            500,
        ),
    )
}
"""By name."""


def other_data(case: Case, count: int) -> tuple[str, Tensor]:
    """Inputs of another data set: its name and (N, *input). Where SVHN is not at hand, house numbers made here."""
    name, shape = case.setup.other, case.classifier.x.shape[1:]
    try:
        x, _ = case.suite.read(name, count)
        return name, x if x.shape[1:] == shape else F.interpolate(x, size=shape[1:], mode="linear")
    except (DataError, MissingDependencyError):
        from gradgeo.bench.spoilt import house_numbers

        return "made house numbers", house_numbers(count, shape, torch.Generator().manual_seed(0))
