"""The charts of a report, as the inside of SVGs of `SIZE`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradgeo._typing import Array
from gradgeo.report.html.charts import ROLES, chart, tidy
from gradgeo.report.recount import Recount
from gradgeo.report.summary import Summary, calibration_shares
from gradgeo.report.trend import Window

SIZE = (320, 180)
FRAME = (0.085, 0.13, 0.9, 0.83)
"""Left, bottom, width and height of the axes, as shares of `SIZE`."""


def scores(summary: Summary) -> str:
    """Outlier scores of the judged rows against those of the calibration inputs."""
    edges, metadata = summary.score_edges, summary.metadata
    total = max(1, int(summary.scores.sum()))

    def draw(axes: Any) -> None:
        # bins of one width, counted: matplotlib cannot scale every edge that a score may have
        highest = summary.scores.max() / total
        if metadata.calibration_scores is not None:
            usual = calibration_shares(edges, metadata.calibration_scores)
            highest = max(highest, usual.max())
            axes.stairs(usual, fill=True, color=ROLES["line"])
        axes.stairs(summary.scores / total, color=ROLES["ours"], linewidth=1.6)
        axes.set(xlim=(0, len(edges) - 1), ylim=(0, 1.08 * (highest or 1)))
        ticks = np.linspace(0, len(edges) - 1, 4)
        width = (edges[-1] - edges[0]) / (len(edges) - 1)
        axes.set_xticks(ticks, [f"{edges[0] + tick * width:.3g}" + "+" * bool(tick == ticks[-1]) for tick in ticks])
        if metadata.calibration_scores is not None and metadata.threshold is not None:
            quantiles = metadata.calibration_scores
            threshold = np.interp(1 - metadata.threshold, np.linspace(0, 1, len(quantiles)), quantiles)
            _flag(axes, float(np.interp(threshold, edges, np.arange(len(edges)))))

    return _chart(draw)


def p_values(summary: Summary) -> str:
    """P-values of the judged rows against the uniform line."""
    bins = len(summary.p_values)
    shares = summary.p_values / max(1, summary.judged)

    def draw(axes: Any) -> None:
        edges = np.linspace(0, 1, bins + 1)
        axes.stairs(shares, edges, fill=True, color=ROLES["ours"], alpha=0.25)
        axes.stairs(shares, edges, color=ROLES["ours"], linewidth=1.6)
        axes.axhline(1 / bins, color=ROLES["ink"], linewidth=1, linestyle=(0, (4, 3)))
        axes.set(xlim=(0, 1), ylim=(0, 1.08 * max(2 / bins, float(shares.max()))))
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        if summary.metadata.threshold is not None:
            _flag(axes, summary.metadata.threshold)

    return _chart(draw)


def risk_places(recounted: Recount, summary: Summary) -> list[tuple[float, float]]:
    """Where the chart of `risk` has each alpha, in the units of its SVG; none without labels."""
    coverage, wrong = _risk(recounted, summary)
    if not len(coverage):
        return []
    low, high = _risk_range(wrong)
    x = SIZE[0] * (FRAME[0] + FRAME[2] * coverage)
    y = SIZE[1] * (1 - FRAME[1] - FRAME[3] * (wrong - low) / (high - low))
    return list(zip(x.round(1).tolist(), y.round(1).tolist(), strict=True))


def risk(recounted: Recount, summary: Summary) -> str:
    """The share of errors among trusted predictions against the share of predictions trusted, from alpha to alpha."""
    coverage, wrong = _risk(recounted, summary)

    def draw(axes: Any) -> None:
        axes.set(xlim=(0, 1), ylim=_risk_range(wrong))
        axes.axhline(1 - summary.correct / summary.labelled, color=ROLES["ink"], linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(coverage, wrong, color=ROLES["ours"], linewidth=1.6)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])

    return _chart(draw)


def _risk(recounted: Recount, summary: Summary) -> tuple[Array, Array]:
    """(S,) coverage and risk at each alpha, over the rows whose true label is known."""
    trusted = summary.labelled - recounted.labelled
    if not summary.labelled:
        return np.empty(0), np.empty(0)
    wrong = trusted - (summary.correct - recounted.correct)
    risks = np.divide(wrong, trusted, out=np.zeros(len(trusted)), where=trusted > 0)
    return trusted / summary.labelled, risks


def _risk_range(wrong: Array) -> tuple[float, float]:
    return 0.0, 1.08 * (float(wrong.max()) or 1)


def shares(windows: Sequence[Window]) -> str:
    """The share flagged in each window, and where chance would have it."""

    def draw(axes: Any) -> None:
        values = [window.share for window in windows]
        highest = [*values, *(window.high for window in windows if window.high is not None)]
        axes.set_ylim(0, 1.08 * (max(highest) or 1))
        if windows[0].low is not None:
            edges = np.arange(len(windows) + 1)
            axes.stairs(
                [window.high for window in windows],
                edges,
                baseline=[window.low for window in windows],
                fill=True,
                color=ROLES["line"],
                alpha=0.6,
            )
        _steps(axes, values)
        _dots(axes, [(i, window.share) for i, window in enumerate(windows) if window.crowded])
        _times(axes, windows)

    return _chart(draw)


def quartiles(windows: Sequence[Window], usual: Sequence[float]) -> str:
    """Median and middle half of the trusted inputs' p-values in each window."""

    def draw(axes: Any) -> None:
        axes.set(ylim=(0, 1), yticks=[0, 0.25, 0.5, 0.75, 1])
        known = [window.quartiles or (np.nan,) * 3 for window in windows]
        low, middle, high = (np.array(column) for column in zip(*known, strict=True))
        edges = np.arange(len(windows) + 1)
        axes.stairs(high, edges, baseline=low, fill=True, color=ROLES["ours"], alpha=0.25)
        _steps(axes, middle)
        for level in usual:
            axes.axhline(level, color=ROLES["ink"], linewidth=1, linestyle=(0, (4, 3)))
        medians = [(i, window.quartiles[1]) for i, window in enumerate(windows) if window.shifted and window.quartiles]
        _dots(axes, medians)
        _times(axes, windows)

    return _chart(draw, percent=False)


def _chart(draw: Callable[[Any], None], *, percent: bool = True) -> str:
    def whole(axes: Any) -> None:
        draw(axes)
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        ticks = ticks[:: 1 if len(ticks) < 7 else 2]
        axes.set_yticks(ticks, [f"{100 * tick:.3g}" if percent else f"{tick:.2g}" for tick in ticks])
        axes.set_ylim(low, high)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", color=ROLES["line"], linewidth=0.5, alpha=0.7)
        axes.set_axisbelow(True)

    return tidy(chart(whole, size=SIZE, frame=FRAME, extra="report"))


def _flag(axes: Any, at: float) -> None:
    """The line beyond which inputs are flagged."""
    axes.axvline(at, color=ROLES["peer"], linewidth=1.2, linestyle=(0, (1, 1.5)))


def _steps(axes: Any, values: Any) -> None:
    axes.stairs(values, np.arange(len(values) + 1), color=ROLES["ours"], linewidth=1.6, baseline=None)


def _dots(axes: Any, places: Sequence[tuple[int, float]]) -> None:
    for window, value in places:  # a line without length: markers would need ids
        axes.plot([window + 0.5] * 2, [value] * 2, color=ROLES["peer"], linewidth=5, solid_capstyle="round")


def _times(axes: Any, windows: Sequence[Window]) -> None:
    """The start, the middle and the end of the time below the axis."""
    count = len(windows)
    axes.set_xlim(0, count)
    labels = _short([windows[0].start, windows[count // 2].start, windows[-1].end])
    places = [0, count // 2, count]
    shown = [0, 1, 2] if count > 2 else [0, 2]
    axes.set_xticks([places[i] for i in shown], [labels[i] for i in shown])
    for label, i in zip(axes.get_xticklabels(), shown, strict=True):
        label.set_horizontalalignment(("left", "center", "right")[i])


def _short(times: list[str]) -> list[str]:
    """Of dates with hours the dates where they differ, else months, days and hours; anything else as it is."""
    if not all(" " in time for time in times):
        return times
    dates = [time.partition(" ")[0] for time in times]
    return dates if len(set(dates)) == len(dates) else [time.partition("-")[2] for time in times]
