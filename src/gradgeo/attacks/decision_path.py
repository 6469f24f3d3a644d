"""The straight line from one input to another, an adversarial example say: where the decision flips, and what tells."""

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
from gradgeo.attacks.norms import Bounds
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.detector.detector import Detector
from gradgeo.errors import ArgumentError, ModelError, expected, public
from gradgeo.geometry.jacobian import BATCH
from gradgeo.geometry.neighbourhood import Directions, zeta
from gradgeo.geometry.similarity import STATISTICS, csm, csm_statistics

ENDINGS = (".json", ".csv")
"""What `DecisionPath.write` can write."""


@dataclass(frozen=True)
class DecisionPath:
    """What the classifier and its geometry do along a line; CPU tensors, one entry for each of P points.

    Where logits are NaN or infinite, the label is -1 and the rest NaN.
    """

    position: Tensor
    """float64, rising from 0 at the start to 1 at the end."""
    label: Tensor
    """int64, the predicted class."""
    probabilities: Tensor
    """(P, C) float64."""
    s1_mean: Tensor
    """float64, mean cosine between maps of two classes that are not predicted here; 0 with fewer than 3 classes."""
    s2_mean: Tensor
    """float64, mean cosine between the predicted class's map and the others."""
    zeta_mean: Tensor
    """float64, Theorem 1's zeta of the predicted class, over the directions."""
    zeta_min: Tensor
    """float64, its smallest over the directions: negative where the point is no local minimum of the loss."""
    outlier_score: Tensor | None
    """float64, larger = less trustworthy; None without a detector, and so the next two."""
    p_value: Tensor | None
    """float64, split-conformal."""
    trusted: Tensor | None
    """bool."""
    switches: Tensor
    """(S,) float64, the positions where the label switches, rising."""

    def as_dict(self) -> dict[str, Any]:
        """Lists of plain numbers, ready for JSON (NaN becomes None)."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: None if value is None else _plain(value.tolist()) for name, value in values.items()}

    @public
    def write(self, file: str | PathLike[str]) -> None:
        """Write the path as JSON, or as CSV: one row for each point, and a column for each class's probability.

        Args:
            file: its ending, .json or .csv, decides.
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
        >>> found = decision_path(model, torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0]), points=9)
        >>> found.label
        tensor([1, 1, 0, 0, 0, 0, 0, 0, 0])
        >>> found.switches
        tensor([0.2500], dtype=torch.float64)

    Args:
        model: a classifier returning logits (N, C), as in `saliency_maps`.
        start, end: one input each, finite, shaped alike: (*input), or (1, *input) where the model takes that.
        points: P, both ends included.
        detector: fitted with this very model object; its scores are added.
        loss, temperature: as in `saliency_maps`. None: the detector's, or else cross-entropy at temperature 1; with two
            classes the raw logits, as cross-entropy maps of two classes are always opposite.
        rescale: as in `saliency_maps`.
        classes: None for the maps of all classes, or an int for those of each point's most likely.
        radius, directions, generator: of zeta; the displacements are the same at every point.

    Returns:
        DecisionPath. A switch between two points lies where the two logits, each interpolated between the points, are
        equal: exact in a linear piece of the network. Labels that come and go between two points are not seen.

    Cost: 1 forward and K backward passes per point for the CSM, 1 + D of both for zeta, and the detector's.

    Raises:
        ArgumentError: an argument is not as described, or both ends are the same. ModelError: as `saliency_maps`.
        NotFittedError: the detector is not fitted.

    Source: Schwinn et al. 2021, figure of the decision boundary: between an input and its adversarial example the mean
    of the CSM marks where the decision flips.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise expected("points", "an integer of at least 2", points)
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int)):
        raise expected("classes", "an integer or None", classes)
    if detector is not None and detector.model is not model:
        raise expected("detector", "fitted with this model", "one of another model", "Pass its own: detector.model.")
    classifier = Classifier(model)
    shape = getattr(detector, "input_shape_", None) or _input_shape(classifier, "start", start)
    line = _line(_one("start", start, shape), _one("end", end, shape), points)

    scores = None if detector is None else detector.predict(line)
    judged = [classifier.logits(part) for part in line.split(BATCH)]
    logits, usable = torch.cat([j.logits for j in judged]), torch.cat([j.usable for j in judged])
    predicted = logits.argmax(1)
    if detector is not None:
        loss = detector.loss_ if loss is None else loss
        temperature = detector.temperature_ if temperature is None else temperature
    elif loss is None:
        loss = "cross_entropy" if logits.shape[1] > 2 else "logit"

    matrices = csm(model, line, loss=loss, temperature=temperature, rescale=rescale, classes=classes)
    statistics = csm_statistics(matrices, predicted if classes is None else torch.zeros_like(predicted)).double().cpu()
    around = zeta(
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
    around, logits, usable = around.double().cpu(), logits.double().cpu(), usable.cpu()
    position, label = torch.linspace(0, 1, points, dtype=torch.float64), torch.where(usable, predicted.cpu(), -1)
    return DecisionPath(
        position=position,
        label=label,
        probabilities=torch.where(usable[:, None], logits.softmax(1), torch.nan),
        s1_mean=statistics[:, STATISTICS.index("s1_mean")],
        s2_mean=statistics[:, STATISTICS.index("s2_mean")],
        zeta_mean=around.mean(1),
        zeta_min=around.amin(1),
        outlier_score=None if scores is None else scores.outlier_score,
        p_value=None if scores is None else scores.p_value,
        trusted=None if scores is None else scores.trusted,
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
    """The adversarial example that PGD finds for one correctly classified input, or an error that says why not.

    PGD does not stop at its first success, so that the example lies well inside the other class.

    Example:
        >>> import torch
        >>> from gradgeo.attacks.decision_path import adversary
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], dim=1)
        >>> adversary(model, torch.tensor([0.2, 0.2]), epsilon=0.2)
        tensor([0.4000, 0.4000])

    Args:
        model: as in `saliency_maps`.
        x: one input within `bounds`, (*input), or (1, *input) where the model takes that.
        label: its true class; None: the one predicted.
        epsilon, norm, steps, bounds, generator: as in `attacks.pgd`.
        target: the class to lead to; None: any other.

    Returns:
        The example, shaped as `x`.

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
    """The shape of an input: that of `x`, less a first axis of length 1 where the model takes `x` as a batch."""
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
    line = torch.lerp(start.double(), end.double(), weight.view(-1, *[1] * (start.ndim - 1)))
    return line.to(torch.promote_types(start.dtype, end.dtype))


def _switches(position: Tensor, label: Tensor, logits: Tensor) -> Tensor:
    """Where each change of label lies: where the lead of the label before over the label after falls to zero."""
    before = (label[1:] != label[:-1]).nonzero()[:, 0]
    old, new = label[before, None].clamp_min(0), label[before + 1, None].clamp_min(0)
    lead, then = ((logits[i].gather(1, old) - logits[i].gather(1, new))[:, 0] for i in (before, before + 1))
    share = (lead / (lead - then)).nan_to_num(0.5).clamp(0, 1)
    return position[before] + share * (position[before + 1] - position[before])
