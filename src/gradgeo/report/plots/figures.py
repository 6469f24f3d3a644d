"""Figures that need no display and show themselves in a notebook."""

from functools import cache
from io import BytesIO
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradgeo.errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
"""What pictures can be written as."""

MOST_WRITTEN = 12
"""Classes of a matrix whose names, and values, are written."""


def blank(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    require("matplotlib", "plots")
    return _picture()(figsize=(width, height), layout="constrained")  # type: ignore[no-any-return]


@cache
def _picture() -> Any:
    from matplotlib.figure import Figure  # without pyplot there is no global state and no display

    class Picture(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            written = BytesIO()
            self.savefig(written, format="png", dpi=110)
            return written.getvalue()

    return Picture


def saved(figure: "Figure", file: str | PathLike[str] | None) -> "Figure":
    """`figure`, written to `file` if that is one; the ending decides the format."""
    if file is not None:
        figure.savefig(file, dpi=150)
    return figure


def tick(axes: Any, classes: list[str]) -> None:
    """Names of the classes along a matrix, where there is room for them."""
    shown = range(len(classes)) if len(classes) <= MOST_WRITTEN else []
    long = any(len(classes[i]) > 3 for i in shown)
    axes.set_xticks(shown, [classes[i] for i in shown], fontsize=8, rotation=90 if long else 0)
    axes.set_yticks(shown, [classes[i] for i in shown], fontsize=8)


def show_input(axes: Any, x: Tensor) -> None:
    """An image (channels, H, W) or (H, W), or a signal (channels, L), in bare axes."""
    axes.set_xticks([])
    axes.set_yticks([])
    values = x.detach().float().cpu()
    if values.ndim == 3:
        values = values.permute(1, 2, 0) if len(values) == 3 else values.mean(0)
        axes.imshow(values.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        axes.plot(values.flatten(0, -2).T.numpy(), linewidth=1)


def name_of(label: int, names: Any) -> str:
    """Of a class: its name, else its number."""
    return str(names[label]) if 0 <= label < len(names) else str(label)
