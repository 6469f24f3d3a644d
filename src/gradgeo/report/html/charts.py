"""Charts by matplotlib as the inside of an SVG whose colours the style sheet of a page decides."""

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

from gradgeo.errors import require

ROLES = {
    "ink": "#000001",
    "quiet": "#000007",
    "ours": "#000002",
    "peer": "#000003",
    "other": "#000004",
    "odd": "#000005",
    "line": "#000006",
}
"""Colours the charts are drawn in; the style sheet gives each its colour in light and in dark."""


def chart(
    draw: Callable[[Any], None],
    *,
    size: tuple[float, float],
    frame: tuple[float, float, float, float],
    extra: str,
) -> str:
    """The inside of an SVG of `size` points with one pair of axes, on which `draw` draws in the colours of `ROLES`.

    No element has an id but those that `draw` names by `gid="panel-..."`, so that many charts fit on one page. Titles
    and names belong around it, in HTML, where nothing takes a dollar sign for mathematics.

    Args:
        draw: called with the axes.
        size: width and height.
        frame: left, bottom, width and height of the axes, as shares of `size`.
        extra: that installs matplotlib.
    """
    require("matplotlib", extra)
    from matplotlib import style
    from matplotlib.figure import Figure  # without pyplot there is no global state and no display

    chosen = {"svg.fonttype": "none", "svg.hashsalt": "gradgeo", "font.family": "sans-serif", "font.size": 9}
    with style.context(["default", chosen]):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72))
        axes = figure.add_axes(frame)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(ROLES["line"])
        axes.tick_params(left=False, bottom=False, labelcolor=ROLES["ink"], pad=3)
        draw(axes)
        for artist in axes.get_children():
            artist.set_clip_on(False)  # a clip would need an id, and ids are one page's
        written = StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = text[text.index("<g ") : text.rindex("</svg>")]
    # coordinates need no more than a tenth of a point; labels, which follow a >, stay as they are
    text = re.sub(r"(?<![>\d.-])-?\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", text)
    for role, colour in ROLES.items():
        text = text.replace(colour, f"var(--{role})")
    return text


def tidy(text: str) -> str:
    """The SVG of `chart` without ids, fonts and what else a page does not need."""
    text = re.sub(r' id="[^"]*"|font-family:[^;"]*;? ?| transform="rotate\(-0 [^"]*"', "", text)
    return " ".join(text.split())


def panels(text: str) -> tuple[str, dict[int, str]]:
    """The SVG of `chart` in which parts are named panel-0, panel-1, ...: what is around them, and each of them."""
    parts: dict[int, list[str]] = {}

    def take(found: re.Match[str]) -> str:
        parts.setdefault(int(found[1]), []).append(found[2])
        return ""

    rest = re.sub(r'<g id="panel-(\d+)">\s*(.*?)</g>', take, text, flags=re.DOTALL)
    return rest, {panel: "".join(inside) for panel, inside in parts.items()}
