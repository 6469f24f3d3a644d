"""Pictures of what the detector sees; needs matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gradgeo.errors import expected, public, require
from gradgeo.path import DecisionPath

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
"""What pictures can be written as."""

START, END, OTHER = "#2264ab", "#d9541e", "#8a8a8a"
"""Colours of the class a path starts in, the one it ends in, and any between."""


@dataclass(frozen=True)
class Panel:
    """One input beside its CSM."""

    title: str
    x: Tensor  # (channels, H, W), (H, W) or a signal (channels, L)
    csm: Tensor  # (K, K)
    classes: Sequence[int]


@public
def csm_heat_maps(panels: Sequence[Panel], path: str | PathLike[str] | None = None) -> "Figure":
    """Inputs above, the heat maps of their cosine similarity matrices below, as in the paper's first figure.

    Args:
        panels: one for each column.
        path: where to write the picture; the ending decides the format (.png, .svg, .pdf).
    """
    if not panels:
        raise expected("panels", "at least one", "none")
    require("matplotlib", "plots")
    from matplotlib.figure import Figure  # without pyplot there is no global state and no display

    figure = Figure(figsize=(2.6 * len(panels) + 0.8, 5.4), layout="constrained")
    axes = figure.subplots(2, len(panels), squeeze=False)
    image = None
    for column, panel in enumerate(panels):
        top, bottom = axes[0][column], axes[1][column]
        top.set_title(panel.title, fontsize=10)
        _input(top, panel.x)
        image = bottom.imshow(panel.csm.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        ticks = range(len(panel.classes)) if len(panel.classes) <= 12 else []
        bottom.set_xticks(ticks, [str(panel.classes[i]) for i in ticks], fontsize=8)
        bottom.set_yticks(ticks, [str(panel.classes[i]) for i in ticks], fontsize=8)
    axes[1][0].set_ylabel("class of the saliency map", fontsize=9)
    if image is not None:
        figure.colorbar(image, ax=axes[1, :].tolist(), label="cosine", shrink=0.85)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


@public
def path(path: DecisionPath, file: str | PathLike[str] | None = None, *, names: Sequence[str] = ()) -> "Figure":
    """A decision path: probabilities, mean of the CSM, zeta and outlier scores along the line, one above the other.

    The part where the class of the start is predicted has one colour, that of the end's class another; dashed lines
    mark where the label switches.

    Args:
        path: from `gradgeo.path.decision_path`.
        file: where to write the picture; the ending decides the format (.png, .svg, .pdf).
        names: of the classes; default their numbers.
    """
    require("matplotlib", "plots")
    from matplotlib.figure import Figure  # without pyplot there is no global state and no display

    colours = _Colours.of(path)
    rows = 3 if path.outlier_score is None else 4
    figure = Figure(figsize=(6.6, 0.9 + 1.65 * rows), layout="constrained")
    probability, cosine, around, *score = figure.subplots(rows, 1, sharex=True)

    for label, colour in colours.by_label.items():
        if label >= 0:
            probability.plot(path.position, path.probabilities[:, label], color=colour, linewidth=1.8)
    probability.set_ylabel("probability")
    probability.set_ylim(-0.04, 1.04)

    colours.draw(cosine, path.s1_mean, "-", "S1, classes not predicted")
    colours.draw(cosine, path.s2_mean, "--", "S2, with the predicted class")
    cosine.set_ylabel("mean of the CSM")
    colours.draw(around, path.zeta_mean, "-", "mean over directions")
    colours.draw(around, path.zeta_min, ":", "smallest")
    around.axhline(0, color="black", linewidth=0.6)
    around.set_ylabel("zeta")
    for axes in score:
        _scores(axes, path, colours)

    for axes in figure.axes:
        colours.shade(axes)
        axes.margins(x=0)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(
                fontsize=8, frameon=False, labelcolor="#333333", ncols=2, loc="lower left", bbox_to_anchor=(0, 1)
            )
    _name_parts(probability, colours, names)
    switches = ", ".join(f"{switch:.3f}" for switch in path.switches[:3]) + ", ..." * (len(path.switches) > 3)
    switch = f"the label switches at {switches}" if switches else "the label does not switch"
    figure.axes[-1].set_xlabel(f"position on the line from start to end; {switch}")
    figure.align_ylabels()
    if file is not None:
        figure.savefig(file, dpi=150)
    return figure


@dataclass(frozen=True)
class _Colours:
    """The parts of a path between its switches, and the colour of each."""

    position: Tensor
    borders: list[float]
    labels: list[int]
    by_label: dict[int, str]

    @classmethod
    def of(cls, path: DecisionPath) -> "_Colours":
        labels = torch.unique_consecutive(path.label).tolist()
        by_label = {labels[-1]: END, labels[0]: START}
        return cls(path.position, [0.0, *path.switches.tolist(), 1.0], labels, by_label)

    def parts(self) -> list[tuple[float, float, int, str]]:
        """(from, to, label, colour) of each."""
        spans = zip(self.borders, self.borders[1:], self.labels, strict=False)
        return [(low, high, label, self.by_label.get(label, OTHER)) for low, high, label in spans]

    def draw(self, axes: Any, values: Tensor, style: str, name: str) -> None:
        """`values` along the path, each part in its colour."""
        x, y = self.position.numpy(), values.numpy()
        axes.plot([], [], style, color="#333333", linewidth=1.6, label=name)
        for low, high, _, colour in self.parts():
            inside = (x > low) & (x < high)
            at = np.r_[low, x[inside], high]
            axes.plot(at, np.interp(at, x, y), style, color=colour, linewidth=1.8)

    def shade(self, axes: Any) -> None:
        """The parts as a tint behind the curves, and the switches between them."""
        for low, high, _, colour in self.parts():
            axes.axvspan(low, high, color=colour, alpha=0.07, linewidth=0)
        for border in self.borders[1:-1]:
            axes.axvline(border, color="black", linewidth=0.9, linestyle=(0, (4, 3)))


def _scores(axes: Any, path: DecisionPath, colours: _Colours) -> None:
    """Outlier scores, with a dot where the detector does not trust the prediction."""
    assert path.outlier_score is not None
    assert path.trusted is not None
    colours.draw(axes, path.outlier_score, "-", "larger = less trustworthy")
    flagged = ~path.trusted
    axes.plot(
        path.position[flagged], path.outlier_score[flagged], "o", color="black", markersize=3.5, label="not trusted"
    )
    axes.set_ylabel("outlier score")


def _name_parts(axes: Any, colours: _Colours, names: Sequence[str]) -> None:
    """The predicted class above each part that is wide enough for its name."""
    for low, high, label, colour in colours.parts():
        if high - low > 0.15:
            name = "nothing" if label < 0 else names[label] if label < len(names) else f"class {label}"
            place, on = ((low + high) / 2, 1.02), axes.get_xaxis_transform()
            axes.text(*place, f"seen as {name}", transform=on, color=colour, weight="bold", ha="center")


def _input(axes: object, x: Tensor) -> None:
    axes.set_xticks([])  # type: ignore[attr-defined]
    axes.set_yticks([])  # type: ignore[attr-defined]
    values = x.detach().float().cpu()
    if values.ndim == 3:
        values = values.permute(1, 2, 0) if len(values) == 3 else values.mean(0)
        axes.imshow(values.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)  # type: ignore[attr-defined]
    else:
        axes.plot(values.flatten(0, -2).T.numpy(), linewidth=1)  # type: ignore[attr-defined]
