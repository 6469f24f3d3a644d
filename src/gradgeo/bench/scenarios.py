"""The scenarios of the benchmark: inputs that a classifier should not trust, one for each way of going wrong.

A scenario of your own takes one line: `SCENARIOS["sensor fault"] = Scenario("ood", lambda task: my_inputs)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradgeo.attacks import csa, fgsm, minimum_norm, pgd
from gradgeo.bench import spoilt
from gradgeo.bench.apgd import apgd_ensemble
from gradgeo.bench.attacked import Attack, attacked
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.bench.other_attacks import brendel_bethge, carlini_wagner, noise_in_ball, rotation
from gradgeo.errors import expected

SIZE = 1000
"""Inputs in a scenario, where there are as many."""

COSTLY = 100
"""Inputs that an attack of hundreds of passes is tried on."""

KINDS = {"attack": "attack", "near": "ood", "far": "ood", "spoilt": "ood", "mistake": "mistake"}
"""The kinds of scenarios, finer than their causes, each with its cause. Near: other classes of data like the trusted;
far: data of another sort; spoilt: trusted inputs gone bad, and what a broken sensor gives."""


@dataclass(frozen=True)
class Task:
    """What a scenario is generated for: a classifier and the number of inputs."""

    classifier: ClassifierUnderTest
    """Its second half of inputs is used."""
    size: int = SIZE
    """Inputs in a scenario."""
    attacked: int | None = None
    """Inputs that attacks are tried on, where there are as many; None for as many as in a scenario."""

    @property
    def x(self) -> Tensor:
        """Correctly classified inputs of the second half: the trusted ones, and those that are attacked."""
        return self._second_half(self.classifier.x)[self._correct][: self.size]

    @property
    def y(self) -> Tensor:
        """Their classes."""
        return self._second_half(self.classifier.y)[self._correct][: self.size]

    @property
    def misclassified(self) -> Tensor:
        """Misclassified inputs of the second half."""
        return self._second_half(self.classifier.x)[~self._correct][: self.size]

    @property
    def _correct(self) -> Tensor:
        return self._second_half(self.classifier.correct)

    def _second_half(self, values: Tensor) -> Tensor:
        return values[self.classifier.half :]

    @property
    def input_shape(self) -> torch.Size:
        """Of one input."""
        return self.classifier.x.shape[1:]

    @property
    def is_image(self) -> bool:
        """Whether inputs are images (1 or 3, H, W) in [0, 1]."""
        channels_known = len(self.input_shape) == 3 and self.input_shape[0] in (1, 3)
        return channels_known and self.classifier.bounds == (0.0, 1.0)

    @property
    def is_signal(self) -> bool:
        """Whether inputs are signals (channels, time)."""
        return len(self.input_shape) == 2

    def generator(self, name: str) -> torch.Generator:
        """A random generator of the scenario's own, so that scenarios do not depend on each other."""
        return torch.Generator().manual_seed(sum(map(ord, name)))

    def noise(self, name: str, draw: Callable[..., Tensor]) -> Tensor:
        """Inputs (size, *input) drawn by `draw`, such as `torch.rand`."""
        return draw(self.size, *self.input_shape, generator=self.generator(name))

    def attack(self, attack: Attack, budget: int | None, most: int | None = None, **options: Any) -> "Generated":
        """The successful examples of an attack at one of the classifier's budgets; None for an attack without.

        Args:
            most: inputs that are attacked, where there are as many; None for all.
        """
        if budget is not None:
            options |= {"epsilon": self.classifier.budgets[budget]}
        most = min((number for number in (most, self.attacked) if number is not None), default=None)
        result = attacked(self.classifier, self.x[:most], self.y[:most], attack, **options)
        note = "" if budget is None else f"epsilon {_fraction(options['epsilon'])}"
        return Generated(result.adversarial[result.success], float(result.success.double().mean()), note)


@dataclass(frozen=True)
class Generated:
    """The inputs of a scenario."""

    x: Tensor
    """Inputs (N, *input)."""
    success: float | None = None
    """Of an attack: the share of inputs on which it succeeded."""
    note: str = ""
    """For the page."""
    kind: str = ""
    """One of `KINDS` where it is another than the scenario's, as one data set is near to one classifier's and far from
    another's."""


def _always(task: Task) -> bool:
    return True


@dataclass(frozen=True)
class Scenario:
    """One way of going wrong."""

    cause: str
    """"ood", "attack" or "mistake"."""
    generate: Callable[[Task], Tensor | Generated]
    """The inputs of the scenario."""
    applies: Callable[[Task], bool] = _always
    """Whether the scenario makes sense for the task's classifier."""
    kind: str = ""
    """One of `KINDS`; where it is not given "far" of the cause "ood", else the cause itself."""

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", "far" if self.cause == "ood" else self.cause)
        if KINDS.get(self.kind) != self.cause:
            named = ", ".join(f"{kind} ({cause})" for kind, cause in KINDS.items())
            raise expected("kind", f"that of its cause among {named}", f"{self.kind} ({self.cause})")

    def inputs(self, task: Task) -> Generated:
        """The inputs, with what is known of them."""
        generated = self.generate(task)
        return generated if isinstance(generated, Generated) else Generated(generated)


def _image(task: Task) -> bool:
    return task.is_image


def _signal(task: Task) -> bool:
    return task.is_signal


def _image_or_signal(task: Task) -> bool:
    return task.is_image or task.is_signal


def _colour(task: Task) -> bool:
    return task.is_image and task.input_shape[0] == 3


def _attack(
    attack: Attack,
    budget: int | None,
    applies: Callable[[Task], bool] = _always,
    most: int | None = None,
    **options: Any,
) -> Scenario:
    return Scenario(
        "attack",
        lambda task: task.attack(attack, budget, most, **options),
        lambda task: applies(task) and (budget is None or budget < len(task.classifier.budgets)),
    )


def attack_scenario(attack: Attack, bounded: bool) -> Scenario:
    """That of an attack which may be costly, at the classifier's largest budget where it takes one."""
    return _attack(attack, 0 if bounded else None, most=COSTLY)


def _spoilt(spoil: Callable[[Tensor], Tensor]) -> Scenario:
    return Scenario("ood", lambda task: spoil(task.x), _image, "spoilt")


def _made(
    name: str, make: Callable[[int, torch.Size, torch.Generator], Tensor], applies: Callable[[Task], bool]
) -> Scenario:
    return Scenario("ood", lambda task: make(task.size, task.input_shape, task.generator(name)), applies)


def _textures(task: Task) -> Tensor:
    textures = spoilt.random_phases(task.x, task.generator("textures"))
    return textures.clamp(0, 1) if task.is_image else textures


def _constant(task: Task) -> Tensor:
    channels, *rest = task.input_shape
    level = torch.rand(task.size, channels, generator=task.generator("constant"))  # (N, channels)
    level = level if task.is_image else 4 * level - 2
    return level.view(*level.shape, *[1] * len(rest)).expand(-1, -1, *rest).contiguous()


def smooth_blobs(n: int, shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """6 x 6 uniform noise upsampled bicubically to images (n, *shape) in [0, 1]."""
    channels, *size = shape
    coarse = torch.rand(n, channels, 6, 6, generator=generator)
    return F.interpolate(coarse, size=tuple(size), mode="bicubic").clamp(0, 1)


def _noisy(task: Task) -> Tensor:
    noise = torch.randn(task.x.shape, generator=task.generator("noisy inputs"))
    noisy = task.x + 0.2 * noise
    return noisy.clamp(0, 1) if task.is_image else noisy


def _gaussian(task: Task) -> Tensor:
    noise = task.noise("Gaussian noise", torch.randn)
    return (0.5 + 0.25 * noise).clamp(0, 1) if task.is_image else noise


SCENARIOS: dict[str, Scenario] = {
    "reversed": Scenario("ood", lambda task: task.x.flip(-1), _signal, "spoilt"),
    "uniform noise": Scenario("ood", lambda task: task.noise("uniform noise", torch.rand), _image),
    "Gaussian noise": Scenario("ood", _gaussian, _image_or_signal),
    "constant": Scenario("ood", _constant, _image_or_signal, "spoilt"),
    "smooth blobs": _made("smooth blobs", smooth_blobs, _image),
    "textures": Scenario("ood", _textures, _image_or_signal),
    "photographs": _made("photographs", spoilt.photographs, _image),
    "house numbers": _made("house numbers", spoilt.house_numbers, _colour),
    "noisy inputs": Scenario("ood", _noisy, kind="spoilt"),
    "blurred": _spoilt(spoilt.blurred),
    "JPEG": _spoilt(spoilt.jpeg),
    "low contrast": _spoilt(spoilt.low_contrast),
    "overexposed": _spoilt(spoilt.overexposed),
    "dark": _spoilt(spoilt.dark),
    "PGD": _attack(pgd, 0),
    "PGD, small": _attack(pgd, 1),
    "PGD, smallest": _attack(pgd, 2),
    "FGSM": _attack(fgsm, 0),
    "PGD, targeted": _attack(pgd, 0, targeted=True),
    "PGD, targeted, MSE": _attack(pgd, 0, targeted=True, loss="mse"),
    "PGD, targeted, small": _attack(pgd, 1, targeted=True),
    "minimum L2": _attack(minimum_norm, None),
    "CSA": _attack(csa, 0, weight=1.0),
    "APGD ensemble": _attack(apgd_ensemble, 0, most=COSTLY),
    "APGD ensemble, small": _attack(apgd_ensemble, 1, most=COSTLY),
    "C&W": _attack(carlini_wagner, None, most=COSTLY),
    "B&B": _attack(brendel_bethge, None, most=COSTLY),
    "noise in the ball": _attack(noise_in_ball, 0),
    "rotation": _attack(rotation, None, _image),
    "misclassified": Scenario("mistake", lambda task: task.misclassified),
}
"""Every scenario by name, in the order of the page."""


def attack_kind(name: str) -> str:
    """Of an attack's scenario: "pgd" of "PGD, small"."""
    return name.split(",")[0].lower()


def _fraction(epsilon: float) -> str:
    levels = epsilon * 255
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-6 else f"{epsilon:g}"
