"""The pictures of the theory page, drawn by the code they explain: `make figures` writes them into docs/figures/."""

import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradgeo
from gradgeo import demo
from gradgeo.attacks import pgd
from gradgeo.data import digits
from gradgeo.detector.calibration.conformal import p_values
from gradgeo.report import plots
from gradgeo.report.plots.figures import blank

ROOT = Path(__file__).parent.parent
DPI = 80
OURS, THEIRS, GREY = plots.START, plots.END, plots.OTHER


def write(figure: Any, out: Path, name: str) -> None:
    """Small, and the same bytes for the same versions."""
    figure.savefig(out / f"{name}.png", dpi=DPI, metadata={"Software": None})


def temperature(model: nn.Module) -> float:
    """The one that a detector of this model chooses."""
    return gradgeo.Detector(model, evidence="paper").fit(*digits.split()["fit"]).temperature_


def maps(out: Path, model: nn.Module) -> None:
    """A digit and the gradient of each class, before signs are taken."""
    x = digits.split()["test"][0][:1]
    found = gradgeo.saliency_maps(model, x, sign=False, temperature=temperature(model))
    write(plots.saliency_maps(found[0], x[0]), out, "maps")


def statistics(out: Path, model: nn.Module) -> None:
    """Two of the ten statistics, of digits as they should be, attacked ones and noise."""
    x, y = (part[:200] for part in digits.split()["test"])
    noise = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    attacked = pgd(model, x, y, epsilon=0.3, steps=20, generator=torch.Generator().manual_seed(0)).adversarial
    figure = blank(6.4, 3.6)
    axes = figure.subplots()
    for name, inputs, colour in (("noise", noise, GREY), ("attacked", attacked, THEIRS), ("digits", x, OURS)):
        found = gradgeo.csm_statistics(gradgeo.csm(model, inputs), model(inputs).argmax(1))
        first, second = (found[:, gradgeo.STATISTICS.index(column)] for column in ("s1_mean", "s2_mean"))
        axes.plot(first, second, ".", color=colour, markersize=3, label=name)
    axes.set_xlabel("mean of S1: cosines among the other classes")
    axes.set_ylabel("mean of S2: with the predicted class")
    axes.legend(frameon=False, markerscale=3)
    write(figure, out, "statistics")


def zeta(out: Path) -> None:
    """How often zeta is negative, over radii, from results/local-minima.json."""
    rows = json.loads((ROOT / "results" / "local-minima.json").read_text())["zeta"]
    names = list(dict.fromkeys(row["classifier"] for row in rows))
    figure = blank(9.6, 2.5)
    for axes, name in zip(figure.subplots(1, len(names), sharey=True), names, strict=True):
        for inputs, colour in (("correct", OURS), ("PGD", THEIRS), ("noise", GREY)):
            own = [row for row in rows if row["classifier"] == name and row["inputs"] == inputs]
            axes.plot([r["radius"] for r in own], [r["negative"] for r in own], ".-", color=colour, label=inputs)
        axes.set_xscale("log")
        axes.set_title(name, fontsize=9)
        axes.set_ylim(0, 1)
    figure.axes[0].set_ylabel("share of zeta < 0")
    figure.axes[2].set_xlabel("radius")
    figure.axes[0].legend(frameon=False, fontsize=7)
    write(figure, out, "zeta")


def conformal(out: Path) -> None:
    """False alarms over calibration sets of two sizes: alpha on average, scattered around it."""
    rng = np.random.default_rng(0)
    figure = blank(6.4, 2.8)
    axes = figure.subplots()
    for size, colour in ((100, THEIRS), (1000, OURS)):
        rates = [(p_values(np.sort(rng.normal(size=size)), rng.normal(size=4000)) <= 0.05).mean() for _ in range(1500)]
        axes.hist(rates, bins=np.linspace(0, 0.14, 57), color=colour, alpha=0.7, label=f"{size} calibration inputs")
        axes.axvline(np.mean(rates), color=colour, linestyle="--", linewidth=1)
    axes.set_xlabel("false-alarm rate of one calibration set, alpha = 0.05 (dashed: mean)")
    axes.set_yticks([])
    axes.legend(frameon=False)
    write(figure, out, "conformal")


def joining(out: Path) -> None:
    """Which pairs of surprises count the same: summed, by powers of 1.5, by the larger."""
    a, b = np.meshgrid(np.linspace(0, 10, 200), np.linspace(0, 10, 200))
    figure = blank(8.4, 3.4)
    ways = (("sum", a + b), ("powers of 1.5 (ours)", (a**1.5 + b**1.5) ** (1 / 1.5)), ("largest", np.maximum(a, b)))
    for axes, (name, together) in zip(figure.subplots(1, 3, sharey=True), ways, strict=True):
        axes.contour(a, b, together, levels=[2, 4, 6, 8], colors=OURS, linewidths=1.2)
        axes.set_title(name, fontsize=9)
        axes.set_aspect("equal")
    figure.axes[0].set_ylabel("surprise of the second")
    figure.axes[1].set_xlabel("surprise of the first")
    write(figure, out, "joining")


class Times(nn.Module):
    """A classifier whose logits are larger by a factor."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        """The same decisions, other probabilities."""
        return self.model(x) * self.factor  # type: ignore[no-any-return]


def saturation(out: Path, model: nn.Module) -> None:
    """Signs of the predicted class's map that are those of float64, as the logits grow."""
    x = digits.split()["test"][0][:20]
    label = model(x).argmax(1)
    own = torch.arange(len(x)), label
    exact_model, scales = deepcopy(model).double(), (1, 2, 5, 10, 20, 50)
    ours, textbook = [], []
    for scale in scales:
        exact = gradgeo.saliency_maps(Times(exact_model, scale), x.double())[own]
        found = gradgeo.saliency_maps(Times(model, scale), x)[own]
        leaf = x.clone().requires_grad_()
        (plain,) = torch.autograd.grad(F.cross_entropy(Times(model, scale)(leaf), label, reduction="sum"), leaf)
        ours.append(float((found == exact).double().mean()))
        textbook.append(float((plain.sign() == exact).double().mean()))
    figure = blank(6.4, 2.8)
    axes = figure.subplots()
    axes.plot(scales, ours, ".-", color=OURS, label="gradgeo")
    axes.plot(scales, textbook, ".-", color=THEIRS, label="cross_entropy(...).backward() in float32")
    axes.set_xscale("log")
    axes.set_xticks(scales, map(str, scales))
    axes.minorticks_off()
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("logits times")
    axes.set_ylabel("signs as in float64")
    axes.legend(frameon=False)
    write(figure, out, "saturation")


def two_classes(out: Path) -> None:
    """The one cosine of a binary classifier, by cross-entropy and by raw logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))
        x = torch.randn(1000, 20)
    figure = blank(6.4, 2.4)
    axes = figure.subplots()
    for loss, colour, name in (("cross_entropy", THEIRS, "cross-entropy"), ("logit", OURS, "raw logits")):
        cosine = gradgeo.csm(model, x, loss=loss, sign=False)[:, 0, 1]
        axes.hist(cosine.numpy(), bins=np.linspace(-1.02, 1, 102), color=colour, label=name)
    axes.set_xlabel("cosine between the two maps, 1,000 inputs")
    axes.set_yscale("log")
    axes.set_yticks([])
    axes.legend(frameon=False)
    write(figure, out, "two-classes")


def draw(out: Path) -> None:
    """All of them."""
    out.mkdir(exist_ok=True)
    model = demo.digits_classifier()
    for figure in (maps, statistics, saturation):
        figure(out, model)
    for alone in (zeta, conformal, joining, two_classes):
        alone(out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures")
