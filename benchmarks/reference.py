"""The slow and plain float64 reference that every numeric path is compared with."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def maps(model: nn.Module, x: Tensor, loss: str, temperature: float | None = None, rescale: bool = False) -> Tensor:
    """Gradients (N, C, *input) in float64, one sample and one class at a time, by the textbook formulas."""
    model = copy.deepcopy(model).double().eval()
    rows = []
    for sample in x.double():
        leaf = sample[None].clone().requires_grad_()
        z = model(leaf)
        if rescale:
            z = z / z.abs().max() * 10
        z = z / (temperature or 1.0)
        for i in range(z.shape[1]):
            (gradient,) = torch.autograd.grad(_loss(z, i, loss), leaf, retain_graph=True)
            rows.append(gradient[0])
    return torch.stack(rows).reshape(len(x), -1, *x.shape[1:])


def _loss(z: Tensor, i: int, loss: str) -> Tensor:
    if loss == "cross_entropy":
        return F.cross_entropy(z, torch.tensor([i]))
    if loss == "mse":
        return F.mse_loss(z.softmax(1)[0], F.one_hot(torch.tensor(i), z.shape[1]).to(z.dtype))
    score: Tensor = z[0, i]
    return score


def cosines(maps: Tensor) -> Tensor:
    """The CSM (N, K, K) in float64, entry by entry; NaN where a map is zero."""
    rows = maps.flatten(2).double()
    n, k = rows.shape[:2]
    result = torch.empty(n, k, k, dtype=torch.float64)
    for s in range(n):
        for i in range(k):
            for j in range(k):
                a, b = rows[s, i], rows[s, j]
                result[s, i, j] = (a @ b) / (a.norm() * b.norm())
    return result
