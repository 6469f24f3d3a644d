"""The battery: what a classifier should not trust, one registered column for each way of going wrong.

A column of your own takes one line: `COLUMNS["my sensor fault"] = Column("ood", lambda s: my_inputs)`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradgeo import attacks
from gradgeo.bench.case import Attack, Case, Cases

SIZE = 1000  # inputs in a column, where there are as many


@dataclass(frozen=True)
class Setting:
    """What a column is made for: a classifier, its evaluation inputs, and how strong its attacks are."""

    case: Case
    cases: Cases
    size: int = SIZE

    @property
    def x(self) -> Tensor:
        """Correctly classified inputs of the second half: the trusted ones, and those that are attacked."""
        return self.case.x[self.case.half :][self._right][: self.size]

    @property
    def y(self) -> Tensor:
        """Their classes."""
        return self.case.y[self.case.half :][self._right][: self.size]

    @property
    def wrong(self) -> Tensor:
        """Misclassified inputs of the second half."""
        return self.case.x[self.case.half :][~self._right][: self.size]

    @property
    def _right(self) -> Tensor:
        return self.case.right[self.case.half :]

    @property
    def image(self) -> bool:
        """Whether inputs are images (1 or 3, H, W) in [0, 1]."""
        return self.case.x.ndim == 4 and self.case.x.shape[1] in (1, 3) and self.case.bounds == (0.0, 1.0)

    def draws(self, name: str) -> torch.Generator:
        """A generator that is the column's own, so that columns do not depend on each other."""
        return torch.Generator().manual_seed(sum(map(ord, name)))

    def noise(self, name: str, draw: Callable[..., Tensor]) -> Tensor:
        """As many inputs of the classifier's shape, drawn by `draw`."""
        return draw(self.size, *self.case.x.shape[1:], generator=self.draws(name))

    def attacked(self, attack: Attack, strength: int | None, **options: Any) -> "Made":
        """The successful examples of an attack at one of the case's budgets."""
        if strength is not None:
            options |= {"epsilon": self.case.budgets[strength]}
        made = self.cases.attacked(self.case, self.x, self.y, attack, **options)
        note = "" if strength is None else f"epsilon {_fraction(options['epsilon'])}"
        return Made(made.adversarial[made.success], float(made.success.double().mean()), note)


@dataclass(frozen=True)
class Made:
    """The inputs of a column (N, *input), and for an attack the share of inputs on which it succeeded."""

    x: Tensor
    success: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Column:
    """One way of going wrong: its cause ("ood", "attack" or "mistake"), how it is made, and for which classifiers."""

    cause: str
    make: Callable[[Setting], Tensor | Made]
    applies: Callable[[Setting], bool] = field(default=lambda setting: True)


def _image(setting: Setting) -> bool:
    return setting.image


def _signal(setting: Setting) -> bool:
    return setting.case.x.ndim == 3 and not setting.image


def _other(name: str) -> Column:
    """Another public image data set, brought to the classifier's shape."""

    def applies(setting: Setting) -> bool:
        return setting.image and name in setting.case.siblings

    return Column("ood", lambda s: shaped(s.cases.read(name, s.size)[0], s.case.x.shape[1:]), applies)


def _attack(attack: Attack, strength: int | None, **options: Any) -> Column:
    return Column(
        "attack",
        lambda s: s.attacked(attack, strength, **options),
        lambda s: strength is None or strength < len(s.case.budgets),
    )


def _flat(setting: Setting) -> Tensor:
    level = torch.rand(setting.size, *setting.case.x.shape[1:2], generator=setting.draws("constant"))
    shape = setting.case.x.shape[2:]
    level = level if setting.image else 4 * level - 2
    return level.view(*level.shape, *[1] * len(shape)).expand(-1, -1, *shape).contiguous()


def _blobs(setting: Setting) -> Tensor:
    coarse = torch.rand(setting.size, setting.case.x.shape[1], 6, 6, generator=setting.draws("smooth blobs"))
    return F.interpolate(coarse, size=tuple(setting.case.x.shape[2:]), mode="bicubic").clamp(0, 1)


def _shaken(setting: Setting) -> Tensor:
    noise = torch.randn(setting.x.shape, generator=setting.draws("noisy inputs"))
    shaken = setting.x + 0.2 * noise
    return shaken.clamp(0, 1) if setting.image else shaken


def _gaussian(setting: Setting) -> Tensor:
    noise = setting.noise("Gaussian noise", torch.randn)
    return (0.5 + 0.25 * noise).clamp(0, 1) if setting.image else noise


COLUMNS: dict[str, Column] = {
    "CIFAR-100": _other("cifar100"),
    "CIFAR-10": _other("cifar10"),
    "SVHN": _other("svhn"),
    "MNIST": _other("mnist"),
    "Fashion-MNIST": _other("fashion_mnist"),
    "KMNIST": _other("kmnist"),
    "EMNIST letters": _other("emnist_letters"),
    "other beats": Column(
        "ood", lambda s: s.cases.signals(s.case)[: s.size], lambda s: _signal(s) and bool(s.case.siblings)
    ),
    "reversed": Column("ood", lambda s: s.x.flip(-1), _signal),
    "uniform noise": Column("ood", lambda s: s.noise("uniform noise", torch.rand), _image),
    "Gaussian noise": Column("ood", _gaussian, lambda s: s.image or _signal(s)),
    "constant": Column("ood", _flat, lambda s: s.image or _signal(s)),
    "smooth blobs": Column("ood", _blobs, _image),
    "noisy inputs": Column("ood", _shaken),
    "PGD": _attack(attacks.pgd, 0),
    "PGD, small": _attack(attacks.pgd, 1),
    "PGD, smallest": _attack(attacks.pgd, 2),
    "FGSM": _attack(attacks.fgsm, 0),
    "PGD, targeted": _attack(attacks.pgd, 0, targeted=True),
    "PGD, targeted, MSE": _attack(attacks.pgd, 0, targeted=True, loss="mse"),
    "PGD, targeted, small": _attack(attacks.pgd, 1, targeted=True),
    "minimum L2": _attack(attacks.minimum_norm, None),
    "CSA": _attack(attacks.csa, 0, weight=1.0),
    "misclassified": Column("mistake", lambda s: s.wrong),
}
"""Every column by name."""


def shaped(x: Tensor, shape: torch.Size) -> Tensor:
    """Images (N, c, h, w) as (N, *shape): zero-padded or resized, repeated to three channels or averaged to one."""
    channels, height, width = shape
    if x.shape[1] != channels:
        x = x.expand(-1, channels, -1, -1) if x.shape[1] == 1 else x.mean(1, keepdim=True)
    if x.shape[2] <= height and x.shape[3] <= width:
        down, right = height - x.shape[2], width - x.shape[3]
        return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
    return F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)


def _fraction(epsilon: float) -> str:
    levels = epsilon * 255
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-6 else f"{epsilon:g}"
