"""The shared front of all attacks: arguments are checked once, results are checked again by a forward pass."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.attacks.descent import AttackBatch
from gradgeo.attacks.norms import Norm
from gradgeo.classifier.wrapper import Classifier, Model, preserve_state
from gradgeo.errors import class_labels, expected, is_integer, positive_integer, public, warn

ROUNDING = 1e-6
"""How far outside the bounds an input may lie, relative to their width: preprocessing rounds."""

BATCH = 128
"""Inputs in one forward pass unless `batch_size` says otherwise."""

Attack = Callable[[AttackBatch, Tensor], tuple[Tensor, Tensor]]
"""(batch, starting points) -> (final points, whether the gradient at the start was zero), (n, *input) and (n,)."""


@dataclass(frozen=True)
class AttackResult:
    """The result of an attack, one entry per input, on the device and in the dtype of the inputs."""

    adversarial: Tensor
    """(N, *input) the final points, within bounds and budget, also where the attack failed; the input itself where it
    has NaN or infinite values or logits."""
    success: Tensor
    """(N,) bool: the model predicts another class than the label (a targeted attack: predicts the target) for
    `adversarial`, in a separate forward pass."""
    distance: Tensor
    """(N,) |adversarial - x| in the norm of the attack, in input units."""
    masked: Tensor
    """(N,) bool: the gradient at the start was zero everywhere, so that failure is no evidence of robustness."""
    targets: Tensor | None
    """(N,) int64 target classes; None for an untargeted attack."""


@public
def random_targets(
    labels: Tensor, num_classes: int | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """A random class other than the label for each input, all of them equally likely.

    Example:
        >>> import torch
        >>> from gradgeo.attacks import random_targets
        >>> labels = torch.tensor([0, 1, 2])
        >>> bool((random_targets(labels, 10) == labels).any())
        False

    Args:
        labels: (N,) integers, or logits (N, C), whose predicted classes then are the labels.
        num_classes: C; not needed with logits.
        generator: draws the classes. None: the same ones in every call.

    Returns:
        (N,) int64, on the device of `labels`.
    """
    if isinstance(labels, Tensor) and labels.ndim == 2 and labels.is_floating_point():
        labels, num_classes = labels.argmax(1), labels.shape[1]
    if not is_integer(num_classes) or num_classes < 2:
        raise expected("num_classes", "at least 2", num_classes)
    labels = class_labels(labels, len(labels) if isinstance(labels, Tensor) and labels.ndim else 0, num_classes)
    generator = generator or seeded()
    shift = torch.randint(1, num_classes, labels.shape, generator=generator, device=generator.device)
    return (labels + shift.to(labels.device)) % num_classes


def seeded() -> torch.Generator:
    """The generator of a call without one: the same draws every time, and the global random state is not touched."""
    return torch.Generator().manual_seed(0)


class AttackRunner:
    """The checked arguments of an attack; `run` takes it over batches and restarts and verifies the outcome.

    Attributes:
        classifier: the model, wrapped.
    """

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
        self._batch_size = positive_integer("batch_size", BATCH if batch_size is None else batch_size)
        self._generator = generator or seeded()
        x, labels = _differentiable(x), _differentiable(labels)
        targets = None if targets is None else _differentiable(targets)
        self._x, self._norm = x, norm
        self.classifier = Classifier(model)
        self._inputs = self.classifier.prepare(x).x.detach()  # (N, *input), the dtype and device of the model
        self._original = x.detach().to(self._inputs.device)  # the same in the dtype of the caller, which may be finer
        finite = torch.isfinite(self._original).flatten(1).all(1)
        self._check_space(self._original[finite])
        n, logits = len(self._inputs), self._logits()
        num_classes = logits.shape[1]
        if num_classes < min_classes:
            raise expected("model", f"a classifier of at least {min_classes} classes", num_classes)
        self._usable = finite & torch.isfinite(logits).all(1)  # (N,)
        labels = class_labels(labels, n, num_classes)
        if targets is not None:
            targets = class_labels(targets, n, num_classes, "targets").to(labels.device)
            same = int((targets == labels).sum())
            if same:
                raise expected("targets", "classes other than the labels", f"{same} of {n} equal to the label")
        elif targeted:
            targets = random_targets(labels, num_classes, generator=self._generator)
        self._targets = targets
        self._batch = AttackBatch(
            self._inputs,
            (labels if targets is None else targets).to(self._inputs.device),
            targets is not None,
            torch.arange(n, device=self._inputs.device),
        )

    def generators(self) -> list[torch.Generator]:
        """One generator per input: its draws depend neither on the rest of its batch nor on the random starts."""
        source = self._generator.clone_state()
        seeds = torch.randint(1 << 62, (len(self._inputs),), generator=source, device=source.device)
        return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]

    def run(self, attack: Attack, *, random_start: bool, restarts: int = 1) -> AttackResult:
        """Run `attack` on each batch, then again from other starts on the inputs where it failed."""
        if positive_integer("restarts", restarts) > 1 and not random_start:
            raise expected("restarts", "1 without random_start", restarts, "Each would end at the same point.")
        device = self._x.device
        with preserve_state(self._inputs, recurrent=self.classifier.recurrent):
            adversarial = self._original.clone()
            success = torch.zeros_like(self._usable)
            masked = self._usable.clone()
            remaining = self._usable.nonzero()[:, 0]  # rows on which the attack has not succeeded yet
            for _ in range(restarts):
                start = self._inputs
                if random_start:  # all N are drawn, so that a start does not depend on which inputs remain
                    start = self._norm.project(start + self._norm.draw(start, self._generator), start)
                for rows in torch.split(remaining, self._batch_size) if len(remaining) else ():
                    batch = self._batch.select(rows)
                    point, zero_gradient = attack(batch, start[rows])
                    adversarial[rows] = self._norm.round_into_ball(point.detach(), self._original[rows])
                    masked[rows] &= zero_gradient
                    # Rounding may undo a success, so the point that is returned is classified, not the attack's own.
                    outcome = self.classifier.logits(adversarial[rows])
                    success[rows] = batch.succeeded(outcome.logits) & outcome.usable
                remaining = remaining[~success[remaining]]
        distance = self._norm.length((adversarial.double() - self._original.double()).nan_to_num_(0.0))
        self._warn(masked)
        return AttackResult(
            adversarial=adversarial.to(device),
            success=success.to(device),
            distance=distance.to(device, self._x.dtype),
            masked=masked.to(device),
            targets=None if self._targets is None else self._targets.to(device),
        )

    def _logits(self) -> Tensor:
        """The logits of all inputs (N, C)."""
        n = len(self._inputs)
        # Many models refuse an empty batch; one input of zeros still tells the number of classes.
        x = self._inputs if n else self._inputs.new_zeros(1, *self._x.shape[1:])
        return torch.cat([self.classifier.logits(part).logits for part in torch.split(x, self._batch_size)])[:n]

    def _check_space(self, x: Tensor) -> None:
        """Raises: ArgumentError for finite inputs outside the bounds, or a budget wider than the bounds."""
        bounds, norm = self._norm.bounds, self._norm
        if bounds is None:
            return
        low, high = bounds
        width = high - low
        if len(x) and not (float(x.min()) >= low - ROUNDING * width and float(x.max()) <= high + ROUNDING * width):
            span = f"values from {float(x.min()):.6g} to {float(x.max()):.6g}"
            raise expected("x", f"within bounds={bounds}", span, "Pass bounds=None for unbounded signals.")
        widest = norm.diameter(width, max(1, x[:1].numel()))
        if len(x) and norm.epsilon != math.inf and norm.epsilon > widest:
            raise expected("epsilon", f"at most {widest:g}, the width of the bounds in this norm", norm.epsilon)

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


def _differentiable(value: Tensor) -> Tensor:
    """A copy of a tensor that was created in inference mode, which autograd refuses; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
