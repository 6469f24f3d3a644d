"""The classification losses of the attacks, with gradients that do not underflow where a prediction is confident."""

import torch
from torch import Tensor

from gradgeo.attacks.descent import AttackBatch, Objective, Terms
from gradgeo.errors import choice
from gradgeo.geometry.losses import Loss

LOSSES = ("cross_entropy", "mse", "margin")


def class_loss(name: str, *, sized: bool = False) -> Objective:
    """The objective of a plain attack: the loss of the target class, or minus the loss of the label.

    Args:
        name: "cross_entropy"; "mse", the mean squared error between probabilities and one-hot; "margin",
            max_{j != i} z_j - z_i.
        sized: True: the gradient at its true size, for a sum with other terms. False: a positive multiple of it,
            which does not underflow where the loss is small.
    """
    choice("loss", name, LOSSES)

    def objective(point: Tensor, logits: Tensor, batch: AttackBatch) -> Terms:
        cotangent = _cotangent(name, logits.detach(), batch.classes[:, None], sized).to(logits.dtype)
        return [(logits, cotangent if batch.targeted else -cotangent)]

    return objective


def unit_cotangent(logits: Tensor, classes: Tensor) -> Tensor:
    """The cotangent of the cross-entropy of one class i per input, (p - e_i) / (1 - p_i): classes (n, 1) -> (n, C).

    Its positive entries sum to 1 however confident the prediction. The same as the direction of `Loss.cotangents`, in
    few operations, and differentiable in the logits.
    """
    # Softmax over the other classes is p_j / (1 - p_i), without the difference 1 - p_i that rounds to 0.
    return logits.scatter(1, classes, -torch.inf).softmax(1).scatter(1, classes, -1.0)


def _cotangent(name: str, logits: Tensor, classes: Tensor, sized: bool) -> Tensor:
    """dL_i/dz of one class i per input, classes (n, 1) -> (n, C); times a positive factor per input unless `sized`."""
    if name == "margin":  # max_{j != i} z_j - z_i
        rival = logits.scatter(1, classes, -torch.inf).argmax(1, keepdim=True)
        return torch.zeros_like(logits).scatter_(1, classes, -1.0).scatter_(1, rival, 1.0)
    if name == "cross_entropy" and not sized:
        return unit_cotangent(logits, classes)
    direction, scale = Loss(name).cotangents(logits, classes)  # (n, 1, C), (n, 1)
    return direction[:, 0] * scale if sized else direction[:, 0]
