"""Cosine similarity matrices and saliency maps as pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradgeo.errors import expected, public
from gradgeo.report.plots.figures import MOST_WRITTEN, blank, name_of, saved, show_input, tick

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    Example:
        >>> import torch
        >>> from gradgeo import plots
        >>> panel = plots.Panel("a digit", torch.rand(1, 8, 8), torch.eye(10), range(10))
        >>> len(plots.csm_heat_maps([panel, panel]).axes)
        5
    """
    if not panels:
        raise expected("panels", "at least one", "none")
    figure = blank(2.6 * len(panels) + 0.8, 5.4)
    axes = figure.subplots(2, len(panels), squeeze=False)
    image = None
    for column, panel in enumerate(panels):
        top, bottom = axes[0][column], axes[1][column]
        top.set_title(panel.title, fontsize=10)
        show_input(top, panel.x)
        image = bottom.imshow(panel.csm.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        tick(bottom, [str(label) for label in panel.classes])
    axes[1][0].set_ylabel("class of the saliency map", fontsize=9)
    if image is not None:
        figure.colorbar(image, ax=axes[1, :].tolist(), label="cosine", shrink=0.85)
    return saved(figure, path)


@public
def csm(
    matrix: Tensor,
    file: str | PathLike[str] | None = None,
    *,
    classes: Sequence[int] | None = None,
    predicted: int | None = None,
    names: Sequence[str] = (),
) -> "Figure":
    """One cosine similarity matrix as a heat map; up to 12 classes with their names and values.

    Args:
        matrix: (K, K), as from `gradgeo.csm(model, x)[i]` or an `Explanation`.
        file: where to write the picture; the ending decides the format (.png, .svg, .pdf).
        classes: of the rows and columns; default 0 to K - 1.
        predicted: the class whose row and column are framed.
        names: of all classes; default their numbers.

    Example:
        >>> import torch, gradgeo
        >>> from gradgeo import plots
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> x = torch.rand(1, 3, 2, 2)
        >>> figure = plots.csm(gradgeo.csm(model, x)[0], predicted=int(model(x).argmax()))
        >>> len(figure.axes[0].texts)  # values
        25
    """
    size = len(matrix) if isinstance(matrix, Tensor) and matrix.ndim else 0
    if not isinstance(matrix, Tensor) or tuple(matrix.shape) != (size, size) or not size:
        raise expected("matrix", "of shape (K, K)", matrix)
    rows = list(range(size) if classes is None else classes)
    if len(rows) != size:
        raise expected("classes", f"the {size} of the matrix", classes)
    side = 3.4 if size <= MOST_WRITTEN // 2 else 4.6
    figure = blank(side + 0.9, side)
    axes = figure.subplots()
    values = matrix.detach().double().cpu().numpy()
    image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    tick(axes, [name_of(label, names) for label in rows])
    if size <= MOST_WRITTEN:
        for i, row in enumerate(values.tolist()):
            for j, value in enumerate(row):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(
                    j, i, f"{value:.2f}".replace("0.", ".", 1), ha="center", va="center", fontsize=7, color=colour
                )
    if predicted in rows:
        own = rows.index(int(predicted))
        for corner, width, height in (((-0.5, own - 0.5), size, 1), ((own - 0.5, -0.5), 1, size)):
            _frame(axes, corner, width, height)
    axes.set_ylabel("class of the saliency map", fontsize=9)
    figure.colorbar(image, ax=axes, label="cosine", shrink=0.85)
    return saved(figure, file)


@public
def saliency_maps(
    maps: Tensor,
    x: Tensor | None = None,
    file: str | PathLike[str] | None = None,
    *,
    classes: Sequence[int] | None = None,
    names: Sequence[str] = (),
) -> "Figure":
    """The saliency maps of one input, one for each class, all on one scale: red raises the loss of the class, blue
    lowers it.

    Args:
        maps: (K, *input) as from `gradgeo.saliency_maps(model, x)[i]`; images (K, channels, H, W) are averaged over
            channels, signals (K, channels, L) or (K, L) are drawn as lines.
        x: the input, shown first.
        file: where to write the picture; the ending decides the format (.png, .svg, .pdf).
        classes: of the maps; default 0 to K - 1.
        names: of all classes; default their numbers.

    Example:
        >>> import torch, gradgeo
        >>> from gradgeo import plots
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> x = torch.rand(1, 3, 2, 2)
        >>> figure = plots.saliency_maps(gradgeo.saliency_maps(model, x, sign=False)[0], x[0])
        >>> [axes.get_title() for axes in figure.axes[:6]]
        ['input', '0', '1', '2', '3', '4']
    """
    if not isinstance(maps, Tensor) or not 2 <= maps.ndim <= 4 or not maps.numel():
        raise expected("maps", "of shape (K, channels, H, W), (K, channels, L) or (K, L)", maps)
    rows = list(range(len(maps)) if classes is None else classes)
    if len(rows) != len(maps):
        raise expected("classes", f"the {len(maps)} of the maps", classes)
    image = maps.ndim == 4
    values = maps.detach().float().cpu()
    values = values.mean(1) if image else values
    largest = float(values.nan_to_num().abs().max()) or 1.0
    count = len(rows) + (x is not None)
    across = min(count, 6)
    down = -(-count // across)
    figure = blank(1.6 * across + 0.6, (1.8 if image else 1.4) * down + 0.2)
    places = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for spare in places[count:]:
        spare.remove()
    if x is not None:
        first = places.pop(0)
        first.set_title("input", fontsize=9)
        show_input(first, x)
    for axes, label, one in zip(places, rows, values.numpy(), strict=False):
        axes.set_title(name_of(label, names), fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        if image:
            shown = axes.imshow(one, cmap="RdBu_r", vmin=-largest, vmax=largest)
        else:
            axes.plot(one.reshape(-1, one.shape[-1]).T, linewidth=1)
            axes.set_ylim(-1.05 * largest, 1.05 * largest)
            axes.axhline(0, color="#8a8a8a", linewidth=0.6)
    if image:
        figure.colorbar(shown, ax=figure.axes, label="gradient", shrink=0.8)
    return saved(figure, file)


def _frame(axes: Any, corner: tuple[float, float], width: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="black", linewidth=1.4))
