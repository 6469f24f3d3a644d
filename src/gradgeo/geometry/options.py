"""Which saliency maps are made, and what of them is kept."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gradgeo.errors import expected
from gradgeo.geometry.losses import Loss

Classes = int | Tensor | None


@dataclass(frozen=True)
class Maps:
    """Which maps are made: of which loss and classes, and what is kept of the gradient."""

    loss: Loss = field(default_factory=Loss)
    classes: Classes = None
    sign: bool = True
    channel_max: bool = False

    def __post_init__(self) -> None:
        if self.classes is not None and not isinstance(self.classes, int):
            object.__setattr__(self, "classes", _indices(self.classes))

    def select(self, logits: Tensor) -> Tensor:
        """Class indices (N, K): all, the N most likely in falling order, or the chosen ones."""
        n, total = logits.shape
        if self.classes is None:
            return torch.arange(total, device=logits.device).expand(n, -1)
        if isinstance(self.classes, int):
            if not 2 <= self.classes <= total:
                raise expected("classes", f"between 2 and {total} (the number of classes)", self.classes)
            return logits.topk(self.classes, dim=1).indices
        return self._chosen(self.classes, n, total).to(logits.device).expand(n, -1)

    def count(self, total: int) -> int:
        """How many of `total` classes have a map, K."""
        if self.classes is None:
            return total
        return self.classes if isinstance(self.classes, int) else self.classes.shape[-1]

    def part(self, rows: slice) -> "Maps":
        """The same maps for some of the samples."""
        if isinstance(self.classes, Tensor) and self.classes.ndim == 2:
            return replace(self, classes=self.classes[rows])
        return self

    def _chosen(self, classes: Tensor, n: int, total: int) -> Tensor:
        if classes.ndim == 2 and len(classes) != n:
            raise expected("classes", f"of shape (K,) or ({n}, K)", classes)
        if classes.shape[-1] == 0:
            raise expected("classes", "at least one class", classes)
        if classes.numel() and not (int(classes.min()) >= 0 and int(classes.max()) < total):
            raise expected("classes", f"within 0..{total - 1}", f"{int(classes.min())}..{int(classes.max())}")
        if bool((classes.sort(-1).values.diff(dim=-1) == 0).any()):
            raise expected("classes", "without repetition", classes, "Each class has one map.")
        return classes.long()


def _indices(classes: object) -> Tensor:
    """Classes given as a tensor, or as an array or list that makes one."""
    rule = "None, an int, or an integer tensor of shape (K,) or (N, K)"
    try:
        chosen = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError) as error:  # strings, ragged lists, other objects
        raise expected("classes", rule, classes) from error
    if chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool or chosen.ndim not in (1, 2):
        raise expected("classes", rule, classes)
    return chosen


def without(position: Tensor, size: int) -> Tensor:
    """All of `size` positions but the given one: (N,) -> (N, size - 1)."""
    every = torch.arange(size - 1, device=position.device)
    return every + (every >= position[:, None]).long()
