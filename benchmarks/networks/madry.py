"""The convolutional network of Madry et al. (2018) for digits, which the paper takes: as it is, and under attack."""

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from benchmarks.networks import hardened
from benchmarks.networks.making import Network
from benchmarks.networks.reading import image_file, images
from benchmarks.networks.training import fit

EPSILON = 0.3
"""Of the attack within training (L-inf), as theirs."""

NATURAL, RISING, ATTACKED = 8, 2, 8
"""Epochs without attack, with one of half the size, and with the whole one. From random weights the whole attack would
leave nothing to learn from."""


def _build(folder: Path) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(7 * 7 * 64, 1024), nn.ReLU(), nn.Linear(1024, 10)),
    )


def _train(model: nn.Module, folder: Path, few: int | None, *, robust: bool) -> dict[str, Tensor]:
    x, y = images(folder, "mnist", "train", few)
    phases = [(NATURAL, 0.0), *([(RISING, EPSILON / 2), (ATTACKED, EPSILON)] if robust else [])]
    for epochs, epsilon in phases:
        augment = partial(hardened.attacked, model, epsilon=epsilon) if epsilon else None
        fit(model, x, y, epochs=epochs if few is None else 1, rate=1e-3, augment=augment)
    return model.state_dict()


def _held_out(model: nn.Module, folder: Path, few: int | None) -> tuple[Tensor, Tensor]:
    return images(folder, "mnist", "test", few)


def _files(folder: Path) -> list[Path]:
    return [image_file(folder, "mnist", "train"), Path(hardened.__file__)]  # whose attack the weights depend on


def _network(kind: str, words: str, *, robust: bool) -> Network:
    return Network(
        kind=kind,
        trained_on=words,
        licence="as MNIST",
        module="madry.py",
        files=_files,
        build=_build,
        train=partial(_train, robust=robust),
        held_out=_held_out,
        half=500,
        in_battery=False,
    )


MADRY = {
    "mnist-madry": _network("Madry's CNN", f"{NATURAL} epochs of mnist", robust=False),
    "mnist-madry_robust": _network(
        "Madry's CNN, under attack",
        f"{NATURAL} epochs of mnist, {RISING + ATTACKED} more under attack of up to {EPSILON}",
        robust=True,
    ),
}
"""Made where a measurement asks for them. They are of a shipped classifier's data."""
