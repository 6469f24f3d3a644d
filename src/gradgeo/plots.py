"""Pictures of what the detector sees; needs matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

from torch import Tensor

from gradgeo.errors import expected, public, require

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


def _input(axes: object, x: Tensor) -> None:
    axes.set_xticks([])  # type: ignore[attr-defined]
    axes.set_yticks([])  # type: ignore[attr-defined]
    values = x.detach().float().cpu()
    if values.ndim == 3:
        values = values.permute(1, 2, 0) if len(values) == 3 else values.mean(0)
        axes.imshow(values.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)  # type: ignore[attr-defined]
    else:
        axes.plot(values.flatten(0, -2).T.numpy(), linewidth=1)  # type: ignore[attr-defined]
