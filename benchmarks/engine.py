"""What cosine similarity matrices cost: against the authors' function, and against a loop of backward passes."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.bfloat16 import screened
from benchmarks.instruction_sets import beside_avx2
from benchmarks.memory import heights
from benchmarks.page import Page
from benchmarks.shipped import Suite
from benchmarks.strategies import strategies
from benchmarks.timing import timed
from gradgeo.bench.provenance import processor
from gradgeo.geometry.similarity import csm, products_of_signs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDS = 5
MOST = 64
"""Inputs in a row, the first of a test set."""
PICTURE = "engine.png"
EXACT: dict[str, dict[str, Any]] = {"": {}}
ALSO_ROUNDED: dict[str, dict[str, Any]] = {"": {}, ", bfloat16": {"precision": "bfloat16"}}


@dataclass(frozen=True)
class _Timed:
    """Rows of one model and inputs, timed together: what ours is asked for, by what the row's name ends in.

    (a) and (b) run `share` of the classes. A first round is not counted; where one takes minutes, `warm=False` calls
    each way for two classes instead.
    """

    name: str
    model: nn.Module
    x: Tensor
    ours: dict[str, dict[str, Any]] = field(default_factory=lambda: EXACT)
    share: int | None = None
    rounds: int = ROUNDS
    warm: bool = True


@dataclass
class _Illustrated(Page):
    """A page with its figure."""

    figure: "Figure | None" = None

    def write(self, out: Path, name: str, command: str) -> Path:
        """The page, its data and the picture of what cost grows with."""
        out.mkdir(parents=True, exist_ok=True)
        if self.figure is not None:
            self.figure.savefig(out / PICTURE, dpi=130)
        return super().write(out, name, command)


def run(suite: Suite) -> Page:
    """Ratios of process times, interleaved in one run with one thread; with fewer than 100 inputs the small rows in one
    round each."""
    quick, few = suite.inputs < 100, _few(suite)
    page = _Illustrated("What the matrices cost")
    page.say(
        "One thread; medians of process times of interleaved calls, so that ratios hold on a busy machine. (a) is the "
        "authors' function as they describe it, on CPU: a loop of `cross_entropy(...).backward(retain_graph=True)`, "
        "parameters' gradients included, signs, the maximum over channels, cosines. (b) is the floor of a plain loop: "
        "one forward pass and a backward pass to the input for each class, and nothing else. Ours is `gradgeo.csm`, "
        f"with the same signs and maximum, exact float32 unless a row says bfloat16. Processor: {processor()}."
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timed_cases = _small(few, quick=quick) if quick else [*_small(few, quick=quick), *_photos()]
        page.table(
            ["case", "classes run by (a), (b)", "by ours", "ms", "times faster than (a)", "of (b)"],
            [row for case in timed_cases for row in _rows(page, case)],
        )
        page.say(
            "Where (a), (b) or ours ran a share of the classes, ratios are of their times scaled to all, which grow in "
            "proportion; ms are as measured. Top 5 % is another result than all classes, and compared as it stands. "
            "With all classes, a model whose head has F features needs F passes rather than C."
        )
        page.say(
            f"![cost against classes, samples and input entries]({PICTURE})\n\n"
            "Cost in ms against the number of classes C (ResNet-20, N = 1), of samples N (ResNet-20, C = 10) and of "
            "input entries d (a CNN of three convolutions, C = 10, N = 1): all classes, the most likely, and the floor "
            "(b), whose time beyond 50 classes is scaled."
        )
        grown = {
            "C": _against_classes(few, (10, 100) if quick else (10, 20, 50, 100, 200, 500, 1000)),
            "N": _against_samples(few, (1, 4) if quick else (1, 2, 4, 8, 16, 32, MOST)),
            "d": _against_entries((32, 64) if quick else (32, 64, 112, 160, 224)),
        }
        page.data["against"] = grown
        for letter, table in grown.items():
            names = list(next(iter(table.values())))
            page.table([letter, *names], [[str(k), *(f"{row[n]:.1f}" for n in names)] for k, row in table.items()])
        page.figure = _draw(grown)
        _products(page, quick=quick)
        strategies(page, few, _mlp(), quick=quick)
        screened(page, few if quick else suite, quick=quick)
        heights(page, quick=quick)
    finally:
        torch.set_num_threads(threads)
    beside_avx2(page, suite)
    return page


def small_rows(suite: Suite) -> Page:
    """The rows that take seconds, the products and the strategies: what is compared between processors."""
    quick, page, few = suite.inputs < 100, Page(""), _few(suite)
    torch.set_num_threads(1)
    for case in _small(few, quick=quick):
        _rows(page, case)
    _products(page, quick=quick)
    strategies(page, few, _mlp(), quick=quick)
    return page


def _few(suite: Suite) -> Suite:
    """The same classifiers with so many inputs as the rows take."""
    return Suite(suite.folder, inputs=suite.inputs, only=suite.only, most=MOST)


def _small(suite: Suite, *, quick: bool) -> list[_Timed]:
    generator = torch.Generator().manual_seed(0)
    ten, hundred, beats = (suite[name] for name in ("cifar10", "cifar100", "ecg5000"))
    mlp = _mlp()
    flat = torch.rand(8, 3072, generator=generator)
    once = 1 if quick else None
    rows = [
        _Timed("ResNet-20, C 10, N 1", ten.model, ten.x[:1], rounds=once or 15),
        _Timed("MLP 3072-512-512, C 100, N 1", mlp, flat[:1], rounds=once or ROUNDS),
        _Timed("1-D CNN, C 5, N 1", beats.model, beats.x[:1], rounds=once or 25),
    ]
    if quick:
        return rows
    top = {"": {}, ", top 5 %": {"classes": 50}}
    return [
        _Timed("ResNet-20, C 10, N 64", ten.model, ten.x[:MOST], ALSO_ROUNDED, rounds=3),
        *rows,
        _Timed("ResNet-20, C 100, N 1", hundred.model, hundred.x[:1], rounds=3),
        _Timed("ResNet-20, C 1000, N 1", with_classes(hundred.model, 1000), hundred.x[:1], top, share=100, rounds=3),
        _Timed("MLP 3072-512-512, C 100, N 8", mlp, flat),
        _Timed("1-D CNN, C 5, N 64", beats.model, beats.x[:MOST]),
    ]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 100)).eval()


def _photos() -> Iterable[_Timed]:
    """One after another, so that no more than one model is held."""
    vision: Any = import_module("torchvision").models
    photos = torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    resnet = vision.resnet18(weights=None).eval()
    for n in (8, 1):
        ways = {**ALSO_ROUNDED, ", top 5 %": {"classes": 50}}
        yield _Timed(f"ResNet-18 224, C 1000, N {n}", resnet, photos[:n], ways, share=8, rounds=1, warm=False)
    vit = with_classes(vision.vit_b_16(weights=None), 1000)  # its own head is all zeros when new
    yield _Timed("ViT-B/16 224, C 1000, N 1", vit, photos[:1], ALSO_ROUNDED, share=4, rounds=1, warm=False)


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


def _rows(page: Page, case: _Timed) -> list[list[str]]:
    learning, frozen = copy.deepcopy(case.model), copy.deepcopy(case.model)
    for model, wanted in ((learning, True), (frozen, False)):
        for parameter in model.parameters():
            parameter.requires_grad_(wanted)
    with torch.no_grad():
        total = frozen(case.x[:1]).shape[1]
    share = case.share or total

    def ours(**options: Any) -> Tensor:
        return csm(case.model, case.x, channel_max=case.x.ndim == 4, **options)

    ways: dict[str, Callable[[], object]] = {
        "authors": lambda: authors(learning, case.x, share),
        **{name: partial(ours, **options) for name, options in case.ours.items()},
        "floor": lambda: floor(frozen, case.x, share),
    }
    if not case.warm:
        authors(learning, case.x, 2)
        floor(frozen, case.x, 2)
        for options in case.ours.values():
            ours(**{**options, "classes": 2})
    times = timed(ways, case.rounds, warm=case.warm)
    rows = []
    for name, options in case.ours.items():
        run_by_ours = options.get("classes") or total
        scale = 1.0 if run_by_ours == share else total / share
        faster = scale * median(a / o for a, o in zip(times["authors"], times[name], strict=True))
        of_floor = median(o / f for o, f in zip(times[name], times["floor"], strict=True)) / scale
        milliseconds = {
            key: median(times[way]) for key, way in (("authors", "authors"), ("ours", name), ("floor", "floor"))
        }
        page.data.setdefault("cases", {})[case.name + name] = {
            **{"classes": total, "share": share, "ours_classes": run_by_ours, "ms": milliseconds},
            **{"times_faster": faster, "of_floor": of_floor},
        }
        figures = [f"{milliseconds['ours']:.1f}", f"{faster:.1f}", f"{of_floor:.2f}"]
        rows.append([case.name + name, str(share), str(run_by_ours), *figures])
    return rows


Growth = dict[int, dict[str, float]]
"""ms by what it grows with and by way."""


def _grown(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    return {name: median(values) for name, values in timed(ways, 3).items()}


def _against_classes(suite: Suite, counts: tuple[int, ...]) -> Growth:
    hundred, growth = suite["cifar100"], {}
    x = hundred.x[:1]
    for classes in counts:
        model = with_classes(hundred.model, classes).requires_grad_(False)
        some = min(classes, 50)
        row = _grown(_ways(model, x, top=5, classes=some))
        growth[classes] = {**row, "(b)": row["(b)"] * classes / some}
    return growth


def _against_samples(suite: Suite, counts: tuple[int, ...]) -> Growth:
    ten = suite["cifar10"]
    model = copy.deepcopy(ten.model).requires_grad_(False)
    return {n: _grown(_ways(model, ten.x[:n], top=3, classes=10)) for n in counts}


def _against_entries(sides: tuple[int, ...]) -> Growth:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 16, 1), (16, 32, 2), (32, 32, 2)):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    return {
        3 * side * side: _grown(_ways(model, torch.rand(1, 3, side, side, generator=generator), top=3, classes=10))
        for side in sides
    }


def _ways(model: nn.Module, x: Tensor, *, top: int, classes: int) -> dict[str, Callable[[], object]]:
    return {
        "all": lambda: csm(model, x),
        f"top {top}": lambda: csm(model, x, classes=top),
        "(b)": lambda: floor(model, x, classes),
    }


def _draw(grown: dict[str, Growth]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(1, len(grown))
    named = {"C": "classes C (N = 1)", "N": "samples N (C = 10)", "d": "input entries d (C = 10, N = 1)"}
    for ax, (letter, table) in zip(axes, grown.items(), strict=True):
        for way, colour, marker in zip(
            next(iter(table.values())), ("#2264ab", "#d9541e", "#8a8a8a"), "osx", strict=True
        ):
            ax.loglog(list(table), [row[way] for row in table.values()], color=colour, marker=marker, ms=4, label=way)
        ax.set_xlabel(named[letter])
        ax.xaxis.set_minor_formatter("")
        ax.yaxis.set_minor_formatter("")
        ax.grid(visible=True, which="major", alpha=0.3)
        ax.legend(frameon=False)
    axes[0].set_ylabel("process time, ms")
    return figure


def _products(page: Page, *, quick: bool) -> None:
    page.say("The product of signs alone, C = 1000 maps of d entries, ms:")
    sizes = (3072,) if quick else (3072, 50176, 150_528)
    page.table(["d", "float32 matmul", "ours", "times faster"], [_product(page, d) for d in sizes])


def _product(page: Page, d: int) -> list[str]:
    signs = torch.randint(-1, 2, (1000, d), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    rows = signs.float()
    times = timed({"float32": lambda: rows @ rows.T, "ours": lambda: products_of_signs(signs)}, 3 if d < 100_000 else 1)
    faster = median(f / o for f, o in zip(times["float32"], times["ours"], strict=True))
    page.data.setdefault("products", {})[d] = {**{n: median(v) for n, v in times.items()}, "times_faster": faster}
    return [str(d), f"{median(times['float32']):.1f}", f"{median(times['ours']):.1f}", f"{faster:.1f}"]
