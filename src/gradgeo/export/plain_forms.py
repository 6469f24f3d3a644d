"""What the evidence asks of PyTorch and ONNX does not have, in terms that it has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class PlainForms(TorchFunctionMode):
    """Within this context those functions of torch are made of others, with the same values up to rounding."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return FORMS.get(func, func)(*args, **(kwargs or {}))


def searchsorted(knots: Tensor, x: Tensor, *, right: bool = False) -> Tensor:
    """How many of the sorted `knots` (..., Q) are below each `x` (..., N), with `right` or at it."""
    knots, x = knots[..., None, :], x[..., None]
    return (knots <= x if right else knots < x).to(torch.int64).sum(-1)


def median(x: Tensor, dim: int) -> torch.return_types.median:
    """The lower median along an axis, and where it is; NaN where one is NaN."""
    values, indices = x.sort(dim)
    middle = (x.shape[dim] - 1) // 2
    value = torch.where(x.isnan().any(dim), torch.nan, values.select(dim, middle))
    return torch.return_types.median((value, indices.select(dim, middle)))


def diagonal_scatter(x: Tensor, diagonal: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Square matrices (N, K, K) with another diagonal (N, K)."""
    k = x.shape[-1]
    if offset or (dim1 % x.ndim, dim2 % x.ndim) != (x.ndim - 2, x.ndim - 1) or x.shape[-2] != k:
        return torch.diagonal_scatter(x, diagonal, offset, dim1, dim2)
    place = torch.arange(k, device=x.device)
    return torch.where(place[:, None] == place, diagonal[..., None], x)


def triu_indices(row: int, col: int, offset: int = 0, **options: Any) -> Tensor:
    """As in torch, which for no entry at all concatenates nothing, and that ONNX cannot."""
    nothing = min(row, col - offset) <= 0
    return torch.empty(2, 0, dtype=torch.int64) if nothing else torch.triu_indices(row, col, offset, **options)


def ndtri(p: Tensor) -> Tensor:
    """The normal quantile in float64 as Cephes computes it (S. Moshier, "Methods and programs for mathematical
    functions", 1989), which is what PyTorch runs."""
    mirrored = p > 1 - _TAIL
    y = torch.where(mirrored, 1 - p, p)
    inside = y > _TAIL
    centred = y - 0.5
    square = centred * centred
    middle = (centred + centred * (square * _polynomial(square, _P0) / _polynomial(square, _Q0))) * _ROOT_2_PI
    x = (-2 * torch.where(inside, _TAIL, y).log()).sqrt()
    z = 1 / x
    near, far = (z * _polynomial(z, above) / _polynomial(z, below) for above, below in ((_P1, _Q1), (_P2, _Q2)))
    tail = x - x.log() / x - torch.where(x < 8, near, far)
    value = torch.where(inside, middle, torch.where(mirrored, tail, -tail))
    value = torch.where(p == 0, -torch.inf, torch.where(p == 1, torch.inf, value))
    return torch.where((p < 0) | (p > 1), torch.nan, value)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


FORMS: dict[Any, Callable[..., Any]] = {
    torch.searchsorted: searchsorted,
    torch.median: median,
    Tensor.median: median,
    torch.diagonal_scatter: diagonal_scatter,
    torch.special.ndtri: ndtri,
    torch.triu_indices: triu_indices,
}

_TAIL = 0.1353352832366127  # exp(-2)
_ROOT_2_PI = 2.5066282746310002
# fmt: off
_P0 = (
    -59.96335010141079, 98.00107541859997, -56.67628574690703, 13.931260938727968, -1.2391658386738125,
)
_Q0 = (
    1.0, 1.9544885833814176, 4.676279128988815, 86.36024213908905, -225.46268785411937,
    200.26021238006066, -82.03722561683334, 15.90562251262117, -1.1833162112133,
)
_P1 = (
    4.0554489230596245, 31.525109459989388, 57.16281922464213, 44.08050738932008, 14.684956192885803,
    2.1866330685079025, -0.1402560791713545, -0.03504246268278482, -0.0008574567851546854,
)
_Q1 = (
    1.0, 15.779988325646675, 45.39076351288792, 41.3172038254672, 15.04253856929075,
    2.504649462083094, -0.14218292285478779, -0.03808064076915783, -0.0009332594808954574,
)
_P2 = (
    3.2377489177694603, 6.915228890689842, 3.9388102529247444, 1.3330346081580755, 0.20148538954917908,
    0.012371663481782003, 0.00030158155350823543, 2.6580697468673755e-06, 6.239745391849833e-09,
)
_Q2 = (
    1.0, 6.02427039364742, 3.6798356385616087, 1.3770209948908132, 0.21623699359449663,
    0.013420400608854318, 0.00032801446468212774, 2.8924786474538068e-06, 6.790194080099813e-09,
)
# fmt: on
