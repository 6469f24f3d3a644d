"""What attacks descend: the loss of one class, written so that confident predictions keep their gradient."""

import torch
from torch import Tensor

from gradgeo.attacks.descent import Objective, Samples, Terms
from gradgeo.errors import choice
from gradgeo.geometry.losses import Loss

LOSSES = ("cross_entropy", "mse", "margin")


def class_loss(name: str, *, sized: bool = False) -> Objective:
    """The loss of the class to reach, or minus the loss of the class to leave.

    Args:
        name: "cross_entropy"; "mse", the mean squared error between probabilities and one-hot; "margin",
            max_{j != i} z_j - z_i.
        sized: the gradient at its true size, for a sum with other terms. Otherwise only its direction, which
            does not underflow where the loss is small.
    """
    choice("loss", name, LOSSES)

    def objective(point: Tensor, logits: Tensor, samples: Samples) -> Terms:
        cotangent = _cotangent(name, logits.detach(), samples.classes[:, None], sized).to(logits.dtype)
        return [(logits, cotangent if samples.targeted else -cotangent)]

    return objective


def pull(logits: Tensor, classes: Tensor) -> Tensor:
    """(p - e_i) / (1 - p_i), the unit-sized cross-entropy cotangent of one class i each (n, 1) -> (n, C).

    As `Loss.cotangents` has it, in few operations and differentiable in the logits.
    """
    return logits.scatter(1, classes, -torch.inf).softmax(1).scatter(1, classes, -1.0)


def _cotangent(name: str, logits: Tensor, classes: Tensor, sized: bool) -> Tensor:
    """dL_i/dz (n, C), up to a positive factor per sample unless `sized`."""
    if name == "margin":
        rival = logits.scatter(1, classes, -torch.inf).argmax(1, keepdim=True)
        return torch.zeros_like(logits).scatter_(1, classes, -1.0).scatter_(1, rival, 1.0)
    if name == "cross_entropy" and not sized:
        return pull(logits, classes)
    direction, scale = Loss(name).cotangents(logits, classes)
    return direction[:, 0] * scale if sized else direction[:, 0]
