"""Attacks of other libraries by name: `foolbox:LinfPGD`, `torchattacks:AutoAttack`, with that library's defaults."""

import inspect
import math
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo.attacks import AttackResult
from gradgeo.attacks.norms import Bounds
from gradgeo.bench.attacked import Attack
from gradgeo.bench.other_attacks import as_module, by_foolbox, finite_bounds, foolbox, judged, seeded, told
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.errors import expected, require

LIBRARIES = ("foolbox", "torchattacks")


def is_library_attack(name: str) -> bool:
    """Whether a name is that of another library's attack."""
    return name.partition(":")[0] in LIBRARIES


def library_attack(name: str) -> tuple[Attack, bool]:
    """The attack `foolbox:NAME` or `torchattacks:NAME`, and whether it takes a budget.

    Of an attack in the L2 norm the budget is sqrt(d) times that of L-inf, where d is the number of input entries: an
    L2 ball that touches the corners of the L-inf one.

    Raises: ArgumentError for an unknown name. MissingDependencyError where the library is not installed.
    """
    library, _, kind = name.partition(":")
    return _of_foolbox(kind) if library == "foolbox" else _of_torchattacks(kind)


def _of_foolbox(kind: str) -> tuple[Attack, bool]:
    attacks = foolbox().attacks
    base = attacks.base
    made = _made(attacks, kind, "foolbox", base.Attack)
    bounded = isinstance(made, base.FixedEpsilonAttack)

    def attack(
        model: Model,
        x: Tensor,
        labels: Tensor,
        *,
        bounds: Bounds = (0.0, 1.0),
        generator: torch.Generator | None = None,
        epsilon: float = math.inf,
    ) -> AttackResult:
        if not bounded:
            return by_foolbox(made, model, x, labels, bounds, generator)
        two = getattr(getattr(made, "distance", None), "p", math.inf) == 2
        return by_foolbox(made, model, x, labels, bounds, generator, epsilon=_budget(epsilon, x, two=two))

    return _named(attack, f"foolbox:{kind} {foolbox().__version__}"), bounded


def _of_torchattacks(kind: str) -> tuple[Attack, bool]:
    library = require("torchattacks", "torchattacks")
    type_of = _type(library, kind, "torchattacks", library.attack.Attack)
    bounded = "eps" in inspect.signature(type_of).parameters

    def attack(
        model: Model,
        x: Tensor,
        labels: Tensor,
        *,
        bounds: Bounds = (0.0, 1.0),
        generator: torch.Generator | None = None,
        epsilon: float = math.inf,
    ) -> AttackResult:
        classifier = Classifier(model)
        low, high = finite_bounds(x, bounds)
        scaled = nn.Sequential(_Scaled(low, high), as_module(classifier)).eval()  # it takes inputs in [0, 1]
        options = {"eps": _budget(epsilon, x, two=kind.endswith("L2")) / (high - low)} if bounded else {}
        with seeded(generator), warnings.catch_warnings(), told(f"torchattacks' {kind}"):
            warnings.simplefilter("ignore")
            found = type_of(scaled, **options)(((x - low) / (high - low)).clamp(0, 1), labels)
        adversarial = (found.detach() * (high - low) + low).clamp(low, high)
        return judged(classifier, x, adversarial, labels)

    return _named(attack, f"torchattacks:{kind} {library.__version__}"), bounded


class _Scaled(nn.Module):
    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self._low, self._high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x * (self._high - self._low) + self._low


def _budget(epsilon: float, x: Tensor, *, two: bool) -> float:
    return epsilon * math.sqrt(x[0].numel()) if two else epsilon


def _made(module: Any, kind: str, library: str, base: type) -> Any:
    try:
        return _type(module, kind, library, base)()
    except TypeError as error:  # one that cannot do without arguments
        raise expected("attacks", f"one of {library} that needs no arguments", kind, f"{error}.") from error


def _type(module: Any, kind: str, library: str, base: type) -> Any:
    """The class of an attack; of what a module holds besides, nothing can be named."""
    known = {name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    if kind not in known:
        close = get_close_matches(kind, known, n=3, cutoff=0.4)
        raise expected("attacks", f"an attack of {library}", kind, f"Did you mean {', '.join(close)}?" if close else "")
    return known[kind]


def _named(attack: Callable[..., AttackResult], name: str) -> Attack:
    attack.__name__ = name  # by which its results are cached
    return attack
