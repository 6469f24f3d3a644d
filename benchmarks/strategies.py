"""Ways to compute the gradients of all logits for one input or a batch, timed against each other."""

from collections.abc import Callable
from functools import cache, partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.page import Page
from benchmarks.shipped import Suite
from benchmarks.timing import timed
from gradgeo.report.html.numbers import NONE

Way = Callable[[], object]


def strategies(page: Page, suite: Suite, mlp: nn.Module, *, quick: bool) -> None:
    """Add the table to `page`; if `quick` of the smallest model, and without compiling."""
    ten, beats = suite["cifar10"], suite["ecg5000"]
    flat = torch.rand(1, 3072, generator=torch.Generator().manual_seed(0))
    models: dict[str, tuple[nn.Module, Tensor]] = {"1-D CNN, C 5, N 1": (beats.folded, beats.x[:1])}
    if not quick:
        models |= {
            "1-D CNN, C 5, N 64": (beats.folded, beats.x[:64]),
            "ResNet-20, C 10, N 1": (ten.folded, ten.x[:1]),
            "ResNet-20, C 10, N 8": (ten.folded, ten.x[:8]),
            "MLP 3072-512-512, C 100, N 1": (mlp, flat),
        }
    page.say(
        "Ways to the gradients of all logits of the same model, frozen and folded, ms with the forward pass: a loop of "
        "backward passes, several cotangents in one backward pass (`torch.func.vmap`), as many copies of the input in "
        "one forward and one backward pass, and the second as `torch.compile` makes it. The engine takes the first for "
        "batches and large images, the second for a few small inputs. It does not compile: that takes a compiler, and "
        "for each new shape a time that is not in these figures:"
    )
    page.table(["case", *WAYS], [_row(page, name, *which, quick=quick) for name, which in models.items()])


def _row(page: Page, name: str, model: nn.Module, x: Tensor, *, quick: bool) -> list[str]:
    model = model.requires_grad_(False)
    with torch.no_grad():
        classes = model(x).shape[1]
    cotangents = torch.eye(classes)[:, None].expand(-1, len(x), -1)
    exact = _one_by_one(model, x, cotangents)
    calls: dict[str, Way] = {}
    for way, make in WAYS.items():
        if quick and way == "compiled":
            continue
        try:
            gradients = make(model, x, cotangents)
        except Exception as error:  # no compiler, or one that fails
            if way != "compiled":
                raise
            page.data.setdefault("failed", {})[f"{name}, {way}"] = str(error)[:300]
            continue
        if not torch.allclose(gradients, exact, rtol=0, atol=1e-4 * float(exact.abs().max())):
            if way != "compiled":
                raise AssertionError(f"{way}: other gradients for {name}")
            # Its kernels round differently, and a unit near zero may flip: told, not raised: a run of an hour goes on.
            page.data.setdefault("failed", {})[f"{name}, {way}"] = "other gradients than one by one"
            continue
        calls[way] = partial(make, model, x, cotangents)
    times = {way: median(samples) for way, samples in timed(calls, 1 if quick else 15).items()}
    page.data.setdefault("strategies", {})[name] = times
    return [name, *(f"{times[way]:.1f}" if way in times else NONE for way in WAYS)]


def _one_by_one(model: nn.Module, x: Tensor, cotangents: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    return torch.stack([torch.autograd.grad(logits, leaf, v, retain_graph=True)[0] for v in cotangents])


def _together(model: nn.Module, x: Tensor, cotangents: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    gradients: Tensor = torch.func.vmap(lambda v: torch.autograd.grad(logits, leaf, v, retain_graph=True)[0])(
        cotangents
    )
    return gradients


def _replicated(model: nn.Module, x: Tensor, cotangents: Tensor) -> Tensor:
    leaf = x.expand(len(cotangents), *x.shape).flatten(0, 1).clone().requires_grad_()
    pulled = torch.autograd.grad(model(leaf), leaf, cotangents.flatten(0, 1))[0]
    return pulled.view(*cotangents.shape[:2], *x.shape[1:])


def _compiled(model: nn.Module, x: Tensor, cotangents: Tensor) -> Tensor:
    return _compiler()(model, x, cotangents)


@cache
def _compiler() -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    def together(model: nn.Module, x: Tensor, cotangents: Tensor) -> Tensor:
        pulled: Any = torch.func.vjp(model, x)[1]
        gradients: Tensor = torch.func.vmap(lambda v: pulled(v)[0])(cotangents)
        return gradients

    compiled: Callable[[nn.Module, Tensor, Tensor], Tensor] = torch.compile(together)
    return compiled


WAYS: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "one by one": _one_by_one,
    "together": _together,
    "replicated": _replicated,
    "compiled": _compiled,
}
