"""Small CNNs as a factory has them: two or three classes, about 2,000 grey pictures, 75 to 90 % right."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.networks.making import Network
from benchmarks.networks.reading import image_file, images, shaped
from benchmarks.networks.training import fit

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
CLASSES = {"cifar10": CIFAR10, "fashion_mnist": FASHION}

HELD_OUT = 4000
"""Pictures at most, two thirds of them to fit on."""


@dataclass(frozen=True)
class Factory:
    """What one is trained on, and how it is built."""

    data: str
    """A public data set."""
    groups: tuple[tuple[str, ...], ...]
    """Its classes, each made of these of the data set."""
    side: int
    """Of a picture, in pixels."""
    widths: tuple[int, ...]
    """Channels of its convolutions, each of which halves the picture."""
    pooled: bool = True
    """Whether features are averaged over the picture, and so do not depend on its size."""
    norm: bool = True
    """Whether it has batch norms."""
    epochs: int = 12

    @property
    def known(self) -> list[int]:
        """The classes of the data set that it was trained on."""
        return [CLASSES[self.data].index(name) for group in self.groups for name in group]

    def pictures(
        self, folder: Path, split: str, limit: int | None = None, *, known: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Grey pictures (N, 1, side, side) and the groups of their classes; with `known=False` those of all others."""
        x, y = images(folder, self.data, split, limit and 10 * limit)
        here = torch.isin(y, torch.tensor(self.known)) == known
        group = torch.full((len(CLASSES[self.data]),), -1)
        for number, names in enumerate(self.groups):
            group[[CLASSES[self.data].index(name) for name in names]] = number
        return shaped(x[here][:limit], (1, self.side, self.side)), group[y[here]][:limit]


FACTORIES = {
    "factory_animals": Factory("cifar10", (("cat", "dog"), ("deer", "horse")), 64, (16, 32, 64, 96)),
    "factory_vehicles": Factory(
        "cifar10",
        (("airplane", "ship"), ("automobile",), ("truck",)),
        32,
        (24, 48),
        pooled=False,
        norm=False,
        epochs=16,
    ),
    "factory_outdoors": Factory("cifar10", (("bird", "frog"), ("airplane", "automobile")), 96, (12, 24, 48, 96)),
    "factory_shirts": Factory("fashion_mnist", (("T-shirt", "dress"), ("shirt", "coat")), 48, (16, 32, 64)),
    "factory_tops": Factory(
        "fashion_mnist", (("pullover",), ("coat",), ("T-shirt", "shirt")), 32, (16, 32), pooled=False, norm=False
    ),
    "factory_knitwear": Factory(
        "fashion_mnist", (("pullover", "coat"), ("dress", "shirt")), 64, (8, 16, 32, 64), norm=False
    ),
}
"""By name."""


class FactoryCnn(nn.Sequential):
    """Convolutions that halve the picture, 96 features, a linear head."""

    def __init__(self, factory: Factory) -> None:
        layers: list[nn.Module] = []
        width_in = 1
        for width in factory.widths:
            first = width_in == 1  # strides where pooling would cost most
            layers += [nn.Conv2d(width_in, width, 3, 2 if first else 1, 1)]
            layers += [nn.BatchNorm2d(width)] if factory.norm else []
            layers += [nn.ReLU()] if first else [nn.ReLU(), nn.MaxPool2d(2)]
            width_in = width
        side = factory.side // 2 ** len(factory.widths)
        layers += [nn.AdaptiveAvgPool2d(1)] if factory.pooled else []
        flat = width_in * (1 if factory.pooled else side * side)
        super().__init__(*layers, nn.Flatten(), nn.Linear(flat, 96), nn.ReLU(), nn.Linear(96, len(factory.groups)))


def _network(factory: Factory) -> Network:
    classes = " against ".join(" and ".join(group) for group in factory.groups)
    cifar = factory.data == "cifar10"
    return Network(
        kind="small CNN",
        trained_on=f"{'CIFAR-10' if cifar else 'Fashion-MNIST'}, grey, {factory.side} px: {classes}; 500 pictures each",
        licence="CIFAR-10: none stated, free to use with citation" if cifar else "Fashion-MNIST: MIT",
        module="factory.py",
        files=lambda folder: [image_file(folder, factory.data, split) for split in ("train", "test")],
        build=lambda folder: FactoryCnn(factory),
        train=partial(_train, factory),
        held_out=partial(_held_out, factory),
        half=HELD_OUT * 2 // 3,
        size=500,
        near=("cifar100",) if cifar else (),
        far=("mnist", "fashion_mnist") if cifar else ("mnist", "cifar10"),
    )


def _train(factory: Factory, model: nn.Module, folder: Path, few: int | None) -> dict[str, Tensor]:
    x, y = factory.pictures(folder, "train", few)
    fit(model, x, y, epochs=1 if few else factory.epochs)
    return model.state_dict()


def _held_out(factory: Factory, model: nn.Module, folder: Path, few: int | None) -> tuple[Tensor, Tensor]:
    return factory.pictures(folder, "test", few or HELD_OUT)


FACTORY_NETWORKS = {name: _network(factory) for name, factory in FACTORIES.items()}
"""By name."""
