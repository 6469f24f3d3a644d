"""The decision path: what changes on the line from an input to its adversarial example."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gradgeo.attacks.decision_path import DecisionPath
from gradgeo.errors import public
from gradgeo.report.plots.figures import blank, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure

START = "#2264ab"
"""Colour of the class a path starts in."""

END = "#d9541e"
"""Colour of the class it ends in."""

OTHER = "#8a8a8a"
"""Colour of any between."""


@public
def path(path: DecisionPath, file: str | PathLike[str] | None = None, *, names: Sequence[str] = ()) -> "Figure":
    """A decision path: probabilities, mean of the CSM, zeta and outlier scores along the line, one above the other.

    The part where the class of the start is predicted has one colour, that of the end's class another; dashed lines
    mark where the label switches.

    Args:
        path: from `gradgeo.attacks.decision_path.decision_path`.
        file: where to write the picture; the ending decides the format (.png, .svg, .pdf).
        names: of the classes; default their numbers.

    Example:
        >>> import torch
        >>> from gradgeo import path, plots
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> start = torch.rand(1, 3, 2, 2)
        >>> found = path.decision_path(model, start, 1 - start, points=5)
        >>> [axes.get_ylabel() for axes in plots.path(found).axes]
        ['probability', 'mean of the CSM', 'zeta']
    """
    colours = _Colours.of(path)
    rows = 3 if path.outlier_score is None else 4
    figure = blank(6.6, 0.9 + 1.65 * rows)
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
    return saved(figure, file)


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
