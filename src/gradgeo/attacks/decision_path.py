"""Labels, saliency geometry and outlier scores along the line from an input to another, such as an adversarial one."""

import csv
import json
import math
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgeo.attacks import pgd
from gradgeo.attacks.norms import Bounds, per_input
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.detector.detector import Detector
from gradgeo.errors import ArgumentError, ModelError, expected, is_integer, public
from gradgeo.geometry.jacobian import BATCH
from gradgeo.geometry.neighbourhood import Directions, zeta
from gradgeo.geometry.similarity import STATISTICS, csm, csm_statistics

ENDINGS = (".json", ".csv")
"""File formats of `DecisionPath.write`."""


@dataclass(frozen=True)
class DecisionPath:
    """The classifier and its geometry along a line; CPU tensors, one entry for each of P points.

    Where logits are NaN or infinite, the label is -1 and the rest NaN.
    """

    position: Tensor
    """(P,) float64, rising from 0 at the start to 1 at the end."""
    label: Tensor
    """(P,) int64, the predicted class."""
    probabilities: Tensor
    """(P, C) float64, softmax of the logits."""
    s1_mean: Tensor
    """(P,) float64, mean cosine of the maps of two classes that are not predicted; 0 with fewer than 3 classes."""
    s2_mean: Tensor
    """(P,) float64, mean cosine of the map of the predicted class with the others."""
    zeta_mean: Tensor
    """(P,) float64, zeta (Theorem 1) of the predicted class, mean over the directions."""
    zeta_min: Tensor
    """(P,) float64, the smallest over the directions: negative where the point is no local minimum of the loss."""
    outlier_score: Tensor | None
    """(P,) float64, larger = less trustworthy; None without a detector."""
    p_value: Tensor | None
    """(P,) float64, split-conformal; None without a detector."""
    trusted: Tensor | None
    """(P,) bool; None without a detector."""
    switches: Tensor
    """(S,) float64, the positions at which the label changes, rising."""

    def as_dict(self) -> dict[str, Any]:
        """Lists of plain numbers, ready for JSON (NaN becomes None)."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: None if value is None else _plain(value.tolist()) for name, value in values.items()}

    @public
    def write(self, file: str | PathLike[str]) -> None:
        """Write the path as JSON, or as CSV with one row per point and one column per class probability.

        Args:
            file: ends in .json or .csv, which decides the format.
        """
        file, columns = Path(file), self.as_dict()
        if file.suffix not in ENDINGS:
            raise expected("file", f"one ending in {' or '.join(ENDINGS)}", str(file))
        if file.suffix == ".json":
            file.write_text(json.dumps(columns, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            return
        del columns["switches"]
        of_class = zip(*columns.pop("probabilities"), strict=True)
        columns |= {f"probability_{i}": column for i, column in enumerate(of_class)}
        columns = {name: column for name, column in columns.items() if column is not None}
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))


@public
def decision_path(
    model: Model,
    start: Tensor,
    end: Tensor,
    *,
    points: int = 41,
    detector: Detector | None = None,
    loss: str | None = None,
    temperature: float | None = None,
    rescale: bool = False,
    classes: int | None = None,
    radius: float = 0.01,
    directions: Directions = 16,
    generator: torch.Generator | None = None,
) -> DecisionPath:
    """Labels, mean cosines, zeta and outlier scores at equally spaced points of the line from `start` to `end`.

    Example:
        >>> import torch
        >>> from gradgeo.attacks.decision_path import decision_path
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1), 0 * x[:, 0]], dim=1)
        >>> path = decision_path(model, torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0]), points=9)
        >>> path.label
        tensor([1, 1, 0, 0, 0, 0, 0, 0, 0])
        >>> path.switches
        tensor([0.2500], dtype=torch.float64)

    Args:
        model: a classifier returning logits (N, C), as in `saliency_maps`.
        start, end: one finite input each, of the same shape: (*input), or (1, *input) where the model takes that.
        points: P, both ends included.
        detector: fitted with this same model object; adds its scores.
        loss, temperature: as in `saliency_maps`. None: those of the detector; without one, cross-entropy at temperature
            1, or with two classes the raw logits, because cross-entropy maps of two classes are always opposite.
        rescale: as in `saliency_maps`.
        classes: None for the maps of all classes, or an int K for those of the K most likely at each point.
        radius, directions, generator: as in `zeta`; the displacements are the same at every point.

    Returns:
        DecisionPath. A switch between two points lies where the logits of the two labels, interpolated linearly between
        the points, are equal: exact in a linear piece of the network. A label that appears only between two points is
        missed.

    Cost: per point 1 forward and K backward passes for the CSM, 1 + D of each for zeta, and those of the detector.

    Raises:
        ArgumentError: an argument is not as described, or both ends are the same. ModelError: as `saliency_maps`.
        NotFittedError: the detector is not fitted.

    Source: Schwinn et al. 2021, figure of the decision boundary: between an input and its adversarial example the mean
    of the CSM marks where the decision flips.
    """
    if not is_integer(points) or points < 2:
        raise expected("points", "an integer of at least 2", points)
    if classes is not None and not is_integer(classes):
        raise expected("classes", "an integer or None", classes)
    if detector is not None and detector.model is not model:
        raise expected("detector", "fitted with this model", "one of another model", "Pass its own: detector.model.")
    classifier = Classifier(model)
    shape = getattr(detector, "input_shape_", None) or _input_shape(classifier, "start", start)
    line = _line(_one("start", start, shape), _one("end", end, shape), points)  # (P, *input)

    predictions = None if detector is None else detector.predict(line)
    results = [classifier.logits(part) for part in line.split(BATCH)]
    logits, usable = torch.cat([r.logits for r in results]), torch.cat([r.usable for r in results])  # (P, C), (P,)
    predicted = logits.argmax(1)
    if detector is not None:
        loss = detector.loss_ if loss is None else loss
        temperature = detector.temperature_ if temperature is None else temperature
    elif loss is None:
        loss = "cross_entropy" if logits.shape[1] > 2 else "logit"

    matrices = csm(model, line, loss=loss, temperature=temperature, rescale=rescale, classes=classes)  # (P, K, K)
    # Row 0 belongs to the predicted class where only the K most likely classes have maps.
    statistics = csm_statistics(matrices, predicted if classes is None else torch.zeros_like(predicted)).double().cpu()
    zetas = zeta(
        model,
        line,
        labels=predicted,
        radius=radius,
        directions=directions,
        loss=loss,
        temperature=temperature,
        rescale=rescale,
        generator=generator,
    )
    zetas, logits, usable = zetas.double().cpu(), logits.double().cpu(), usable.cpu()  # (P, D), (P, C), (P,)
    position, label = torch.linspace(0, 1, points, dtype=torch.float64), torch.where(usable, predicted.cpu(), -1)
    return DecisionPath(
        position=position,
        label=label,
        probabilities=torch.where(usable[:, None], logits.softmax(1), torch.nan),
        s1_mean=statistics[:, STATISTICS.index("s1_mean")],
        s2_mean=statistics[:, STATISTICS.index("s2_mean")],
        zeta_mean=zetas.mean(1),
        zeta_min=zetas.amin(1),
        outlier_score=None if predictions is None else predictions.outlier_score,
        p_value=None if predictions is None else predictions.p_value,
        trusted=None if predictions is None else predictions.trusted,
        switches=_switches(position, label, logits),
    )


@public
def adversary(
    model: Model,
    x: Tensor,
    label: int | None = None,
    *,
    epsilon: float,
    norm: str = "linf",
    steps: int = 100,
    target: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """The adversarial example of PGD for one correctly classified input; an error says why there is none.

    PGD does not stop at its first success, so the example lies well inside the other class.

    Example:
        >>> import torch
        >>> from gradgeo.attacks.decision_path import adversary
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], dim=1)
        >>> adversary(model, torch.tensor([0.2, 0.2]), epsilon=0.2)
        tensor([0.4000, 0.4000])

    Args:
        model: as in `saliency_maps`.
        x: one input within `bounds`, (*input), or (1, *input) where the model takes that.
        label: its true class; None: the predicted class.
        epsilon, norm, steps, bounds, generator: as in `attacks.pgd`.
        target: the class to aim at; None: any other.

    Returns:
        The example, in the shape of `x`.

    Raises:
        ArgumentError: `x` is misclassified already, the attack fails within this epsilon, or as in `attacks.pgd`.
    """
    classifier = Classifier(model)
    batch = _one("x", x, _input_shape(classifier, "x", x))
    predicted = int(classifier.logits(batch).logits.argmax(1))
    if label is None:
        label = predicted
    if label != predicted:
        raise expected("x", f"classified as its label, {label}", f"class {predicted}", "Choose another input.")
    result = pgd(
        model,
        batch,
        torch.tensor([label]),
        epsilon=epsilon,
        norm=norm,
        steps=steps,
        bounds=bounds,
        targets=None if target is None else torch.tensor([target]),
        generator=generator,
    )
    if not bool(result.success):
        goal = "out of its class" if target is None else f"to class {target}"
        raise ArgumentError(
            f"the attack did not succeed: {steps} steps of PGD with epsilon {epsilon:g} did not move an input of class "
            f"{label} {goal}. Try a larger epsilon."
        )
    return result.adversarial.view(x.shape)


def _plain(values: Any) -> Any:
    """Nested lists with None in place of NaN and infinity."""
    if isinstance(values, list):
        return [_plain(value) for value in values]
    return values if math.isfinite(values) else None


def _input_shape(classifier: Classifier, argument: str, x: Tensor) -> tuple[int, ...]:
    """The shape of one input: that of `x`, without a first axis of length 1 where the model takes `x` as a batch."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise expected(argument, "one input, a floating-point tensor (*input) or (1, *input)", x)
    if x.ndim > 1 and len(x) == 1:
        try:
            classifier.logits(x)
        except ModelError:
            return tuple(x.shape)
        return tuple(x.shape[1:])
    return tuple(x.shape)


def _one(argument: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`x` as a batch of one input."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or tuple(x.shape) not in (shape, (1, *shape)):
        raise expected(argument, f"one input, a floating-point tensor of shape {shape} or {(1, *shape)}", x)
    if not bool(torch.isfinite(x).all()):
        raise expected(argument, "finite", "NaN or infinite values")
    return x.detach().reshape(1, *shape)


def _line(start: Tensor, end: Tensor, points: int) -> Tensor:
    """Equally spaced points (P, *input), of which the first and the last are exactly `start` and `end`."""
    end = end.to(start.device)
    if bool((start == end).all()):
        raise expected("end", "another input than start", "the same values")
    weight = torch.linspace(0, 1, points, dtype=torch.float64, device=start.device)
    line = torch.lerp(start.double(), end.double(), per_input(weight, start))
    return line.to(torch.promote_types(start.dtype, end.dtype))


def _switches(position: Tensor, label: Tensor, logits: Tensor) -> Tensor:
    """The position of each change of label (S,): where the old label's lead over the new one falls to zero."""
    before = (label[1:] != label[:-1]).nonzero()[:, 0]  # (S,) the last point with the old label
    old, new = label[before, None].clamp_min(0), label[before + 1, None].clamp_min(0)  # (S, 1); -1 has no logit
    lead, next_lead = ((logits[i].gather(1, old) - logits[i].gather(1, new))[:, 0] for i in (before, before + 1))
    share = (lead / (lead - next_lead)).nan_to_num(0.5).clamp(0, 1)  # NaN logits: half way
    return position[before] + share * (position[before + 1] - position[before])
