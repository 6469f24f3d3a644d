"""What cosine similarity matrices cost: against the authors' function, and against a loop of backward passes."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradgeo.benchmark.cases import Cases
from gradgeo.benchmark.page import Page
from gradgeo.geometry.similarity import csm, products_of_signs

ROUNDS = 5


@dataclass(frozen=True)
class _Timed:
    """One row: a model and inputs; with `share` only that many classes are differentiated, by all."""

    name: str
    model: nn.Module
    x: Tensor
    share: int | None = None
    top: int | None = None
    rounds: int = ROUNDS


def run(cases: Cases) -> Page:
    """Ratios of process times, interleaved in one run with one thread."""
    page = Page("What the matrices cost")
    page.say(
        "One thread; medians of process times of interleaved calls, so that ratios hold on a busy machine. (a) is the "
        "authors' function as they describe it, on CPU: a loop of `cross_entropy(...).backward(retain_graph=True)`, "
        "parameters' gradients included, signs, the maximum over channels, cosines. (b) is the floor of a plain loop: "
        "one forward pass and a backward pass to the input for each class, and nothing else. Ours is `gradgeo.csm`, "
        "with the same signs and maximum, exact float32."
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        page.table(
            ["case", "classes run by (a), (b)", "ms", "times faster than (a)", "of (b)"],
            [_row(page, case) for case in _cases(cases)],
        )
        page.say(
            "Where (a) and (b) ran a share of the classes, their time is scaled to all: both grow in proportion. Where "
            "ours did too (`classes=` the share), it is given for the share alone. With all classes, a model whose "
            "head has F features needs F passes rather than C."
        )
        page.say("Cost against the number of classes C, ResNet-20 at N = 1, ms: all classes, and the 5 most likely.")
        page.table(["C", "all", "top 5", "(b)"], _against_classes(page, cases))
        page.say("The product of signs alone, C = 1000 maps of d entries, ms:")
        page.table(["d", "float32 matmul", "ours", "times faster"], [_product(page, d) for d in (3072, 50176)])
    finally:
        torch.set_num_threads(threads)
    return page


def _cases(cases: Cases) -> list[_Timed]:
    generator = torch.Generator().manual_seed(0)
    ten, hundred, beats = (cases[name] for name in ("cifar10", "cifar100", "ecg5000"))
    thousand = with_classes(hundred.model, 1000)
    mlp = nn.Sequential(nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 100)).eval()
    flat = torch.rand(8, 3072, generator=generator)
    vision: Any = import_module("torchvision").models
    photos = torch.rand(8, 3, 224, 224, generator=generator)
    resnet, vit = vision.resnet18(weights=None).eval(), vision.vit_b_16(weights=None).eval()
    return [
        _Timed("ResNet-20, C 10, N 64", ten.model, ten.x[:64], rounds=3),
        _Timed("ResNet-20, C 10, N 1", ten.model, ten.x[:1], rounds=15),
        _Timed("ResNet-20, C 100, N 1", hundred.model, hundred.x[:1]),
        _Timed("ResNet-20, C 1000, N 1", thousand, hundred.x[:1], share=100),
        _Timed("ResNet-20, C 1000, N 1, top 5 %", thousand, hundred.x[:1], share=100, top=50),
        _Timed("MLP 3072-512-512, C 100, N 1", mlp, flat[:1]),
        _Timed("MLP 3072-512-512, C 100, N 8", mlp, flat),
        _Timed("1-D CNN, C 5, N 64", beats.model, beats.x[:64]),
        _Timed("1-D CNN, C 5, N 1", beats.model, beats.x[:1], rounds=25),
        _Timed("ResNet-18 224, C 1000, N 8", resnet, photos, share=4, top=4, rounds=3),
        _Timed("ResNet-18 224, C 1000, N 1", resnet, photos[:1], share=16, top=16, rounds=3),
        _Timed("ResNet-18 224, C 1000, N 1, all", resnet, photos[:1], share=8, rounds=1),
        _Timed("ViT-B/16 224, C 1000, N 1", vit, photos[:1], share=4, top=4, rounds=3),
    ]


def with_classes(model: nn.Module, classes: int) -> nn.Module:
    """A copy of `model` whose last linear layer is a new one for so many classes."""
    model = copy.deepcopy(model)
    name, head = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        new = nn.Linear(head.in_features, classes)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)
    return model.eval()


def authors(model: nn.Module, x: Tensor, classes: int) -> Tensor:
    """The CSM of the first `classes` classes, as the authors' public code makes it."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    maps: list[Tensor] = []
    for i in range(classes):
        model.zero_grad()
        leaf.grad = None
        F.cross_entropy(logits, torch.full((len(x),), i), reduction="sum").backward(retain_graph=True)
        assert leaf.grad is not None
        maps.append(leaf.grad.sign().amax(1) if x.ndim > 3 else leaf.grad.sign())
    rows = F.normalize(torch.stack(maps, 1).flatten(2), dim=2)
    return rows @ rows.mT


def floor(model: nn.Module, x: Tensor, classes: int) -> None:
    """One forward pass, and a backward pass to the input for each class."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf.clone())
    for i in range(classes):
        torch.autograd.grad(logits[:, i].sum(), leaf, retain_graph=True)


def timed(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Process times in ms, one of each way a round, in turns; a first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if turn:
                times[name].append(1e3 * (time.process_time() - start))
    return times


def _row(page: Page, case: _Timed) -> list[str]:
    learning, frozen = copy.deepcopy(case.model), copy.deepcopy(case.model)
    for model, wanted in ((learning, True), (frozen, False)):
        for parameter in model.parameters():
            parameter.requires_grad_(wanted)
    with torch.no_grad():
        total = frozen(case.x[:1]).shape[1]
    share = case.share or total
    ours: dict[str, Any] = {"channel_max": case.x.ndim == 4, "classes": case.top}
    times = timed(
        {
            "authors": lambda: authors(learning, case.x, share),
            "ours": lambda: csm(case.model, case.x, **ours),
            "floor": lambda: floor(frozen, case.x, share),
        },
        case.rounds,
    )
    scale = 1.0 if case.top == share else total / share
    faster = scale * median(a / o for a, o in zip(times["authors"], times["ours"], strict=True))
    of_floor = median(o / f for o, f in zip(times["ours"], times["floor"], strict=True)) / scale
    milliseconds = {name: median(values) for name, values in times.items()}
    page.data.setdefault("cases", {})[case.name] = {
        **{"classes": total, "share": share, "ours_classes": case.top, "ms": milliseconds},
        **{"times_faster": faster, "of_floor": of_floor},
    }
    run_by = f"{share}, ours too" if case.top == share else str(share)
    return [case.name, run_by, f"{milliseconds['ours']:.1f}", f"{faster:.1f}", f"{of_floor:.2f}"]


def _against_classes(page: Page, cases: Cases) -> list[list[str]]:
    hundred, rows = cases["cifar100"], []
    x = hundred.x[:1]
    for classes in (10, 20, 50, 100, 200, 500, 1000):
        model = with_classes(hundred.model, classes).requires_grad_(False)
        ways: dict[str, Callable[[], object]] = {
            "all": lambda model=model: csm(model, x),  # type: ignore[misc]
            "top 5": lambda model=model: csm(model, x, classes=5),  # type: ignore[misc]
            "floor": lambda model=model, classes=classes: floor(model, x, min(classes, 50)),  # type: ignore[misc]
        }
        found = {name: median(values) for name, values in timed(ways, 3).items()}
        found["floor"] *= classes / min(classes, 50)
        page.data.setdefault("against_classes", {})[classes] = found
        rows.append([str(classes), *(f"{found[name]:.1f}" for name in ways)])
    return rows


def _product(page: Page, d: int) -> list[str]:
    signs = torch.randint(-1, 2, (1000, d), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    rows = signs.float()
    times = timed({"float32": lambda: rows @ rows.T, "ours": lambda: products_of_signs(signs)}, 3)
    faster = median(f / o for f, o in zip(times["float32"], times["ours"], strict=True))
    page.data.setdefault("products", {})[d] = {**{n: median(v) for n, v in times.items()}, "times_faster": faster}
    return [str(d), f"{median(times['float32']):.1f}", f"{median(times['ours']):.1f}", f"{faster:.1f}"]
