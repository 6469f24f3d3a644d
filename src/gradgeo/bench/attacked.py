"""Adversarial examples of a classifier under test, generated once and cached in pieces."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradgeo.attacks import AttackResult
from gradgeo.bench.cache import CHUNK, cached, tensor_hash, weights_key
from gradgeo.bench.classifier_under_test import ClassifierUnderTest, predicted_classes

VERSION = 2
"""Raise it when an attack's results change: cached ones are then generated again."""

Attack = Callable[..., AttackResult]
"""(model, x, y, bounds=..., generator=..., **options) -> adversarial examples."""


@dataclass(frozen=True)
class Attacked:
    """An attack's result on correctly classified inputs."""

    adversarial: Tensor
    """Adversarial examples (N, *input), failed ones included."""
    success: Tensor
    """Whether the attack reached its goal (N,): another class, or its target."""
    flipped: Tensor
    """Whether the prediction is another than before (N,), whichever."""


def attacked(
    classifier: ClassifierUnderTest, x: Tensor, y: Tensor, attack: Attack, *, against: str = "", **options: Any
) -> Attacked:
    """The result of an attack with these options on `x`; each piece of `CHUNK` inputs is cached by itself.

    Args:
        against: what the attack depends on besides the model, such as the code of a detector that it also attacks.
    """
    name = " ".join([f"{attack.__name__}{against}", *(f"{key}={value}" for key, value in sorted(options.items()))])

    def run(x: Tensor, y: Tensor, seed: int) -> dict[str, Any]:
        result = attack(
            classifier.folded, x, y, bounds=classifier.bounds, generator=torch.Generator().manual_seed(seed), **options
        )
        # Judged by the model itself: the folded copy differs from it by rounding.
        after = predicted_classes(classifier.model, result.adversarial)
        success = result.success if result.targets is None else after == result.targets
        return {
            "adversarial": result.adversarial.numpy(),
            "success": success.numpy(),
            "flipped": (after != predicted_classes(classifier.model, x)).numpy(),
        }

    model = weights_key(classifier.model)
    parts = [
        cached(
            partial(run, part, labels, seed),
            *("attacked", VERSION, model, name, seed, tensor_hash(part), tensor_hash(labels)),
        )
        for seed, (part, labels) in enumerate(zip(torch.split(x, CHUNK), torch.split(y, CHUNK), strict=True))
    ]
    return Attacked(**{key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in parts[0]})
