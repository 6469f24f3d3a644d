"""What a verdict rests on, and how well scores separate, as pictures."""

from __future__ import annotations  # signatures say ArrayLike, not the union behind it

import math
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from gradgeo import metrics
from gradgeo._typing import Array
from gradgeo.detector.results import Explanation
from gradgeo.errors import expected, public
from gradgeo.report.plots.figures import blank, saved

if TYPE_CHECKING:
    from matplotlib.figure import Figure


WITHIN, BEYOND, RANGE = "#2264ab", "#c44a14", "#c3ccd5"
"""Colours of a statistic within the trusted range, of one beyond it, and of the range."""

FARTHEST = 1.5
"""Widths of the trusted range that are drawn to each side of it; what is farther stands at the edge as an arrow."""

COLOURS = ("#2264ab", "#c44a14", "#7b4fa3", "#2e7d5b", "#8a6d00", "#6c7683")


@public
def statistics(explanation: Explanation, file: str | PathLike[str] | None = None, *, count: int = 10) -> Figure:
    """The statistics of one input beside the range of trusted inputs, the most unusual on top.

    Each is drawn in units of its own range: the bar goes from the 5 % to the 95 % quantile of the calibration inputs.

    Args:
        explanation: from `Detector.explain`.
        file: where to write the picture; the ending decides the format (.png, .svg, .pdf).
        count: statistics that are shown at most.

    Example:
        >>> import torch, gradgeo
        >>> from gradgeo import plots
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> x = torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> detector = gradgeo.Detector(model, evidence="paper").fit(x)
        >>> figure = plots.statistics(detector.explain(x[:1])[0])
        >>> len(figure.axes[0].get_yticklabels())
        10
    """
    if not isinstance(explanation, Explanation):
        raise expected("explanation", "one of those that Detector.explain returns", explanation)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise expected("count", "a positive integer", count)
    shown = list(explanation.statistics.items())[:count]
    figure = blank(6.4, 1.1 + 0.34 * max(1, len(shown)))
    axes = figure.subplots()
    for row, (_, one) in enumerate(shown):
        low, high = one.typical
        at = (one.value - low) / (high - low) if high > low else 0.5 if one.value == low else math.inf
        axes.barh(row, 1, left=0, height=0.5, color=RANGE)
        colour = WITHIN if 0 <= at <= 1 else BEYOND
        if math.isfinite(one.value):
            place = float(np.clip(at, -FARTHEST, 1 + FARTHEST))
            axes.plot(place, row, "o" if place == at else "<" if at < 0 else ">", color=colour, markersize=6)
        text = f"{one.value:.3g}   [{low:.3g}, {high:.3g}]   p = {one.p_value:.2g}"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#333333")
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.set(xlim=(-FARTHEST - 0.2, 1.2 + FARTHEST), ylim=(max(1, len(shown)) - 0.4, -0.6))
    axes.set_xticks([0, 1], ["5 %", "95 %"])
    axes.set_xlabel("quantile of trusted inputs")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    verdict = "trusted" if explanation.trusted else "not trusted"
    axes.set_title(f"class {explanation.label}: {verdict}, p = {explanation.p_value:.3g}", fontsize=10, loc="left")
    return saved(figure, file)


@public
def roc(
    trusted: ArrayLike | Mapping[str, tuple[ArrayLike, ArrayLike]],
    untrustworthy: ArrayLike | None = None,
    file: str | PathLike[str] | None = None,
    *,
    alpha: float | None = None,
) -> Figure:
    """ROC curves of outlier scores, with AUROC and its 95 % interval.

    Args:
        trusted: scores (N,) of trusted inputs, larger = less trustworthy; or name -> (trusted, untrustworthy) for
            several curves. NaN, an input that could not be judged, counts as the largest.
        untrustworthy: scores (M,) of the others; not with a mapping.
        file: where to write the picture; the ending decides the format (.png, .svg, .pdf).
        alpha: a share of trusted inputs flagged, which is marked.

    Example:
        >>> from gradgeo import plots
        >>> figure = plots.roc({"ours": ([1, 2, 3, 4], [3, 5, 6, 7]), "guess": ([1, 2], [1, 2])}, alpha=0.05)
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['ours: AUROC 90.6 [36.9, 99.1]', 'guess: AUROC 50.0 [3.5, 96.5]']
    """
    if isinstance(trusted, Mapping) == (untrustworthy is not None):
        raise expected("untrustworthy", "scores, or None where `trusted` is a mapping of both", untrustworthy)
    pairs: Mapping[str, Any] = trusted if isinstance(trusted, Mapping) else {"": (trusted, untrustworthy)}
    if not pairs:
        raise expected("trusted", "at least one pair of scores", "none")
    figure = blank(4.6, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=RANGE, linewidth=1)
    if alpha is not None:
        axes.axvline(alpha, color="#333333", linewidth=0.8, linestyle=(0, (1, 2)))
    for i, (name, (inside, outside)) in enumerate(pairs.items()):
        label = f"{name}: " * bool(name) + f"AUROC {metrics.auroc(inside, outside)}"
        axes.plot(*_curve(inside, outside), color=COLOURS[i % len(COLOURS)], linewidth=1.8, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="trusted inputs flagged", ylabel="untrustworthy inputs caught")
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return saved(figure, file)


def _curve(trusted: ArrayLike, untrustworthy: ArrayLike) -> tuple[Array, Array]:
    """The shares of both at or above each score, from the largest down."""
    groups = [np.asarray(scores, np.float64) for scores in (trusted, untrustworthy)]
    inside, outside = (np.sort(np.where(np.isnan(group), np.inf, group)) for group in groups)
    scores = np.unique(np.r_[inside, outside])[::-1]
    first, second = (1 - np.searchsorted(group, scores, "left") / len(group) for group in (inside, outside))
    return np.r_[0.0, first], np.r_[0.0, second]
