"""What every attack is asked and answers: arguments checked once, results re-checked with a fresh forward pass."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.attacks.descent import Samples
from gradgeo.attacks.norms import Norm
from gradgeo.classifier.wrapper import Classifier, Model, preserve_state
from gradgeo.errors import class_labels, expected, public, warn

ROUNDING = 1e-6  # how far outside the bounds an input may lie, relative to their width

BATCH = 128  # samples in one forward pass unless `batch_size` says otherwise

Attack = Callable[[Samples, Tensor], tuple[Tensor, Tensor]]
"""(samples, where they start) -> (where they end, whether their gradient vanished at the start)."""


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, one entry per input, on the device and in the dtype of the inputs."""

    adversarial: Tensor
    """(N, *input) within bounds and budget; also where the attack failed. The input itself where it has NaN or
    infinite values or logits."""
    success: Tensor
    """(N,) bool: the model gives `adversarial`, in a forward pass of its own, another class than the label; for a
    targeted attack: gives it the target."""
    distance: Tensor
    """(N,) |adversarial - x| in the norm of the attack, in input units."""
    masked: Tensor
    """(N,) bool: the gradient was zero everywhere at the start, so that failure proves no robustness."""
    targets: Tensor | None
    """(N,) int64 for a targeted attack, else None."""


@public
def random_targets(
    labels: Tensor, num_classes: int | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """For each input a class other than its own, all others equally likely.

    Example:
        >>> import torch
        >>> from gradgeo.attacks import random_targets
        >>> labels = torch.tensor([0, 1, 2])
        >>> bool((random_targets(labels, 10) == labels).any())
        False

    Args:
        labels: (N,) integers, or logits (N, C) whose predicted classes are the ones to avoid.
        num_classes: C; needed unless logits are given.
        generator: draws the classes. None: the same ones in every call.

    Returns:
        (N,) int64, on the device of `labels`.
    """
    if isinstance(labels, Tensor) and labels.ndim == 2 and labels.is_floating_point():
        labels, num_classes = labels.argmax(1), labels.shape[1]
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise expected("num_classes", "at least 2", num_classes)
    labels = class_labels(labels, len(labels) if isinstance(labels, Tensor) and labels.ndim else 0, num_classes)
    generator = generator or seeded()
    shift = torch.randint(1, num_classes, labels.shape, generator=generator, device=generator.device)
    return (labels + shift.to(labels.device)) % num_classes


def seeded() -> torch.Generator:
    """What draws when the caller gives no generator: the same in every call, and never the global random state."""
    return torch.Generator().manual_seed(0)


class Problem:
    """An attack's arguments, checked; `solve` runs it over batches and restarts and judges the outcome."""

    @torch.inference_mode(False)
    def __init__(
        self,
        model: Model,
        x: Tensor,
        labels: Tensor,
        *,
        norm: Norm,
        targeted: bool,
        targets: Tensor | None,
        generator: torch.Generator | None,
        batch_size: int | None,
        min_classes: int = 2,
    ) -> None:
        self._batch_size = count("batch_size", BATCH if batch_size is None else batch_size)
        self._generator = generator or seeded()
        x, labels = _normal(x), _normal(labels)
        targets = None if targets is None else _normal(targets)
        self._x, self._norm = x, norm
        self.classifier = Classifier(model)
        self._inputs = self.classifier.prepare(x).detach()
        self._given = x.detach().to(self._inputs.device)
        finite = torch.isfinite(self._given).flatten(1).all(1)
        self._check_space(self._given[finite])
        n = len(self._inputs)
        shown = self._inputs if n else self._inputs.new_zeros(1, *x.shape[1:])  # many models refuse an empty batch
        parts = torch.split(shown, self._batch_size)
        logits = torch.cat([self.classifier.judge(part).logits for part in parts])[:n]
        num_classes = logits.shape[1]
        if num_classes < min_classes:
            raise expected("model", f"a classifier of at least {min_classes} classes", num_classes)
        self._usable = finite & torch.isfinite(logits).all(1)
        labels = class_labels(labels, n, num_classes)
        self._targets = None
        if targets is not None:
            self._targets = class_labels(targets, n, num_classes, "targets").to(labels.device)
            same = int((self._targets == labels).sum())
            if same:
                raise expected("targets", "classes other than the labels", f"{same} of {n} equal to the label")
        elif targeted:
            self._targets = random_targets(labels, num_classes, generator=self._generator)
        self._samples = Samples(
            self._inputs,
            (labels if self._targets is None else self._targets).to(self._inputs.device),
            self._targets is not None,
            torch.arange(n, device=self._inputs.device),
        )

    def generators(self) -> list[torch.Generator]:
        """One for each input, for draws that do not depend on its batch, and on which the starts do not depend."""
        source = self._generator.clone_state()
        seeds = torch.randint(1 << 62, (len(self._inputs),), generator=source, device=source.device)
        return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]

    def _check_space(self, x: Tensor) -> None:
        bounds, norm = self._norm.bounds, self._norm
        if bounds is None:
            return
        low, high = bounds
        width = high - low
        if len(x) and not (float(x.min()) >= low - ROUNDING * width and float(x.max()) <= high + ROUNDING * width):
            found = f"values from {float(x.min()):.6g} to {float(x.max()):.6g}"
            raise expected("x", f"within bounds={bounds}", found, "Pass bounds=None for unbounded signals.")
        widest = norm.diameter(width, max(1, x[:1].numel()))
        if len(x) and norm.epsilon != math.inf and norm.epsilon > widest:
            raise expected("epsilon", f"at most {widest:g}, the width of the bounds in this norm", norm.epsilon)

    def solve(self, attack: Attack, *, random_start: bool, restarts: int = 1) -> AttackResult:
        """Run `attack` on each batch, then again from another start on the samples where it failed."""
        if count("restarts", restarts) > 1 and not random_start:
            raise expected("restarts", "1 without random_start", restarts, "Each would end at the same point.")
        device = self._x.device
        with preserve_state(self._inputs, recurrent=self.classifier.recurrent):
            adversarial = self._given.clone()
            success = torch.zeros_like(self._usable)
            masked = self._usable.clone()
            left = self._usable.nonzero()[:, 0]
            for _ in range(restarts):
                start = self._inputs
                if random_start:
                    start = self._norm.project(start + self._norm.draw(start, self._generator), start)
                for rows in torch.split(left, self._batch_size) if len(left) else ():
                    samples = self._samples.take(rows)
                    point, dead = attack(samples, start[rows])
                    adversarial[rows] = self._norm.settle(point.detach(), self._given[rows])
                    masked[rows] &= dead
                    judged = self.classifier.judge(adversarial[rows])
                    success[rows] = samples.reached(judged.logits) & judged.usable
                left = left[~success[left]]
        distance = self._norm.length((adversarial.double() - self._given.double()).nan_to_num_(0.0))
        self._warn(masked)
        return AttackResult(
            adversarial=adversarial.to(device),
            success=success.to(device),
            distance=distance.to(device, self._x.dtype),
            masked=masked.to(device),
            targets=None if self._targets is None else self._targets.to(device),
        )

    def _warn(self, masked: Tensor) -> None:
        n, unusable, vanished = len(masked), int((~self._usable).sum()), int(masked.sum())
        if unusable:
            warn(f"{unusable} of {n} inputs have NaN or infinite values or logits; they are returned unchanged.")
        if vanished:
            warn(
                f"the gradient of {vanished} of {n} inputs is zero everywhere at the start (masked gradients): that "
                "this attack fails on them says nothing about robustness. Look for saturated or quantised "
                "activations, a softmax inside the model, or try random_start=True or another loss."
            )


def _normal(value: Tensor) -> Tensor:
    """What was made in inference mode as a copy that can be differentiated; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def count(argument: str, value: int) -> int:
    """`value`, refused unless it is an integer above zero."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise expected(argument, "a positive integer", value)
    return value
