"""The causes of the paper's Table 1, made as its section 4 has them: only inputs whose label changed count."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.paper.setups import Case, other_data
from gradgeo import attacks
from gradgeo.bench.attacked import attacked
from gradgeo.bench.cache import CHUNK, cached, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import predicted_classes
from gradgeo.bench.other_attacks import brendel_bethge
from gradgeo.bench.scenarios import Task
from gradgeo.errors import MissingDependencyError

DEGREES = 45.0
DRAWS = {"noise": 8, "rotation": 4}
"""Random changes of an input, of which the first counts that changes the label."""

STEPS = {"PGD": 70, "targeted": 100}

CAUSES = ("noise", "PGD", "PGD, targeted", "rotation", "B&B Linf", "B&B L2", "OOD", "misclassified")
"""The columns, in the order of the paper's, and two that it does not have: targeted PGD, which is in its Table 2, and
misclassified inputs, of which it shows a box plot."""

POOLED = ("noise", "PGD", "rotation", "B&B Linf", "B&B L2", "OOD")
"""What AUROC and AUPR are over."""


@dataclass(frozen=True)
class Caused:
    """The inputs of a cause."""

    x: Tensor
    """(N, *input), those whose label changed."""
    tried: int
    """Of how many."""


def inputs(case: Case, cause: str) -> Caused:
    """The inputs of one cause, cached in pieces; none where it has no meaning, or needs a package that is not there."""
    classifier, size = case.classifier, case.suite.inputs
    task = Task(classifier, size)
    epsilon = case.setup.epsilon
    if cause == "PGD":
        return _attack(case, attacks.pgd, epsilon=epsilon, steps=STEPS["PGD"])
    if cause == "PGD, targeted":
        return _attack(case, attacks.pgd, epsilon=epsilon, targeted=True, steps=STEPS["targeted"])
    if cause.startswith("B&B"):
        try:
            return _attack(case, brendel_bethge, norm="linf" if cause.endswith("Linf") else "l2")
        except MissingDependencyError:
            return Caused(task.x[:0], 0)
    if cause == "rotation" and task.x.dim() != 4:
        return Caused(task.x[:0], 0)  # a signal has nothing to turn, and the paper no such cell
    if cause == "misclassified":
        return Caused(task.misclassified, len(task.misclassified))
    if cause == "OOD":
        x = torch.cat([x for _, x in ood(case)])
        return Caused(x, len(x))
    change = partial(_noisy, epsilon=epsilon, bounds=classifier.bounds) if cause == "noise" else _rotated
    return _changed(case, cause, change, size)


def ood(case: Case) -> list[tuple[str, Tensor]]:
    """The three kinds of the paper's other inputs, half as many of each as of other causes: another data set, uniform
    noise, Gaussian noise of unit variance."""
    size, shape = max(1, case.suite.inputs // 2), case.classifier.x.shape[1:]
    draw = torch.Generator().manual_seed(0)
    return [
        other_data(case, size),
        ("uniform noise", torch.rand(size, *shape, generator=draw)),
        ("Gaussian noise", torch.randn(size, *shape, generator=draw)),
    ]


def _attack(case: Case, attack: Callable[..., Any], **options: Any) -> Caused:
    task = Task(case.classifier, case.suite.inputs)
    result = attacked(case.classifier, task.x, task.y, attack, **options)
    return Caused(result.adversarial[result.flipped], len(result.flipped))


def _changed(case: Case, name: str, change: Callable[[Tensor, torch.Generator], Tensor], wanted: int) -> Caused:
    """Inputs that a random change gives another label, until there are as many as are wanted."""
    classifier = case.classifier
    task, draws = Task(classifier, len(classifier.x)), DRAWS[name]

    def run(x: Tensor, seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        changed, before = x.clone(), predicted_classes(classifier.model, x)
        rest = torch.arange(len(x))  # whose label no draw has changed yet
        for _ in range(draws):
            candidate = change(x[rest], generator)
            flips = predicted_classes(classifier.model, candidate) != before[rest]
            changed[rest[flips]] = candidate[flips]
            rest = rest[~flips]
            if not len(rest):
                break
        flipped = torch.ones(len(x), dtype=torch.bool)
        flipped[rest] = False
        return {"x": changed[flipped].numpy(), "tried": np.array(len(x))}

    found: list[Tensor] = []
    tried = 0
    for seed, part in enumerate(task.x.split(CHUNK)):
        key = ("changed", name, draws, case.setup.epsilon, weights_key(classifier.model), tensor_hash(part))
        piece = cached(partial(run, part, seed), *key)
        found.append(torch.from_numpy(piece["x"]))
        tried += int(piece["tried"])
        if sum(map(len, found)) >= wanted:
            break
    return Caused(torch.cat(found)[:wanted], tried)


def _noisy(x: Tensor, generator: torch.Generator, *, epsilon: float, bounds: tuple[float, float] | None) -> Tensor:
    noisy = x + epsilon * (2 * torch.rand(x.shape, generator=generator) - 1)
    return noisy if bounds is None else noisy.clamp(*bounds)


def _rotated(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, channels, H, W), each turned about its centre by an angle of its own; what comes from outside is 0."""
    angle = torch.deg2rad(DEGREES * (2 * torch.rand(len(x), generator=generator) - 1))
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    ratio = x.shape[2] / x.shape[3]  # coordinates run from -1 to 1 whatever the sides
    rows = torch.stack([cosine, sine * ratio, zero, -sine / ratio, cosine, zero], dim=1).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(rows, list(x.shape), align_corners=False), align_corners=False)
