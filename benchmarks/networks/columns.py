"""The scenarios of the laboratory's own networks, beside those of every classifier."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.networks.factory import FACTORIES
from benchmarks.networks.making import Network
from benchmarks.networks.reading import images, shaped
from benchmarks.networks.registry import NETWORKS, base
from benchmarks.networks.table import TABLE_SCENARIOS
from benchmarks.networks.text import TEXT_SCENARIOS
from gradgeo.bench.scenarios import Generated, Scenario, Task

PUBLIC = {
    "CIFAR-100": "cifar100",
    "CIFAR-10": "cifar10",
    "MNIST": "mnist",
    "Fashion-MNIST": "fashion_mnist",
}
"""Public image data sets, by the scenario's name."""


def network_scenarios(folder: Path, common: dict[str, Scenario]) -> dict[str, Scenario]:
    """Every scenario by name: those of our own networks, and `common` ones but for what a network leaves out.

    A name that both have is one scenario, for each classifier that of the two which applies to it.
    """
    own = {label: _public(folder, name) for label, name in PUBLIC.items()}
    own |= {"other classes": _other_classes(folder)} | SPOILT | TEXT_SCENARIOS | TABLE_SCENARIOS
    kept = {name: replace(scenario, applies=_unless_left_out(name, scenario)) for name, scenario in common.items()}
    both = {name: _either(own[name], kept[name]) for name in own if name in kept}
    return own | kept | both


def _either(first: Scenario, second: Scenario) -> Scenario:
    def generate(task: Task) -> Generated:
        chosen = first if first.applies(task) else second
        generated = chosen.inputs(task)
        return replace(generated, kind=generated.kind or chosen.kind)

    return replace(second, generate=generate, applies=lambda task: first.applies(task) or second.applies(task))


def _network(task: Task) -> Network | None:
    return NETWORKS.get(base(task.classifier.name))


def _unless_left_out(name: str, scenario: Scenario) -> Callable[[Task], bool]:
    def applies(task: Task) -> bool:
        network = _network(task)
        return scenario.applies(task) and not (network and name in network.without)

    return applies


def _public(folder: Path, name: str) -> Scenario:
    def applies(task: Task) -> bool:
        network = _network(task)
        return network is not None and name in (*network.near, *network.far)

    def generate(task: Task) -> Generated:
        network = _network(task)
        x, _ = images(folder, name, "test", task.size)
        return Generated(shaped(x, task.input_shape), kind="near" if network and name in network.near else "far")

    return Scenario("ood", generate, applies)


def _of_factory(task: Task) -> bool:
    return base(task.classifier.name) in FACTORIES


def _other_classes(folder: Path) -> Scenario:
    def generate(task: Task) -> Tensor:
        factory = FACTORIES[base(task.classifier.name)]
        return factory.pictures(folder, "test", task.size, known=False)[0]

    return Scenario("ood", generate, _of_factory, "near")


def _clipped(task: Task) -> Tensor:
    """Contrast beyond the sensor's range: most pixels are black or white."""
    return (0.5 + 4 * (task.x - task.x.mean((1, 2, 3), keepdim=True))).clamp(0, 1)


def _box(task: Task, name: str) -> tuple[Tensor, Tensor]:
    """A mask (N, 1, H, W) of a box of a third of the side, somewhere, and a level for each (N, 1, 1, 1)."""
    _, height, width = task.input_shape
    n, generator = len(task.x), task.generator(name)
    side = max(height // 3, 1)
    down = torch.randint(height - side + 1, (n, 1, 1), generator=generator)
    right = torch.randint(width - side + 1, (n, 1, 1), generator=generator)
    rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    inside = (rows >= down) & (rows < down + side) & (columns >= right) & (columns < right + side)
    return inside[:, None], torch.rand(n, 1, 1, 1, generator=generator)


def _patched(task: Task) -> Tensor:
    """A label over a part of it: a box of one grey."""
    mask, level = _box(task, "patched")
    return torch.where(mask, level, task.x)


def _foreign(task: Task) -> Tensor:
    """Something else in the picture: a box out of another one, turned upside down, its contrast reversed."""
    mask, _ = _box(task, "foreign object")
    return torch.where(mask, 1 - task.x.roll(1, 0).flip(-2), task.x)


SPOILT = {
    "clipped": Scenario("ood", _clipped, _of_factory, "spoilt"),
    "turned": Scenario("ood", lambda task: task.x.rot90(1, (-2, -1)), _of_factory, "spoilt"),
    "patched": Scenario("ood", _patched, _of_factory, "spoilt"),
    "foreign object": Scenario("ood", _foreign, _of_factory, "spoilt"),
}
"""What a camera in a factory meets, beside what is common to all images."""
