"""The outputs of layers throughout a model, noted in the pass that is made anyway."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

LAYERS = 6
"""Layers that are looked at, evenly spaced, the first and the last among them."""

WIDEST = 256
"""Entries of a layer's output that are kept at most, evenly spaced: their covariance is part of a detector's file."""

KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

Noted = dict[int, Tensor]
"""Outputs (N, F) by the place of their layer."""


class LayerOutputs:
    """Outputs of some layers, each averaged over positions: (N, channels, *positions) of a convolution, (N, *positions,
    F) of a linear layer. Of several calls of a layer in one pass the last counts.

    Args:
        layers: of a model of one's own, at which hooks stay: what gives the output, and whether it is that of a
            convolution.
    """

    def __init__(self, layers: list[tuple[nn.Module, bool]]) -> None:
        self._count = len(layers)
        self._calls = threading.local()
        for place, (layer, convolves) in enumerate(layers):
            layer.register_forward_hook(self._hook(place, convolves))

    @contextmanager
    def noted(self, wanted: bool) -> Iterator[Noted]:
        """What a pass of this thread gives inside, in its graph; nothing where none are `wanted`."""
        noted = Noted()
        self._calls.noted = noted if wanted else None
        try:
            yield noted
        finally:
            self._calls.noted = None

    def of(self, noted: Noted, n: int) -> tuple[Tensor, ...]:
        """The outputs (N, F) of all layers; none where a pass of `n` inputs went another way than the first did."""
        # In a trace n is a symbol, which len() would turn into a number.
        found = tuple(noted[place] for place in range(self._count) if place in noted and noted[place].shape[0] == n)
        return found if len(found) == self._count else ()

    def _hook(self, place: int, convolves: bool) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            noted: Noted | None = getattr(self._calls, "noted", None)
            # At once: what follows may write into the output.
            if noted is not None and isinstance(output, Tensor) and output.ndim >= 2:
                noted[place] = _pooled(output, convolves)

        return note


def _pooled(output: Tensor, convolves: bool) -> Tensor:
    """(N, C, *positions) or (N, *positions, F) -> (N, at most `WIDEST`)."""
    positions = tuple(range(2, output.ndim) if convolves else range(1, output.ndim - 1))
    rows = output.mean(positions) if positions else output  # (N, F)
    return rows[:, :: -(-rows.shape[1] // WIDEST)].clone()


def spaced(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """At most `LAYERS` of them, evenly spaced, the first and the last among them."""
    count, last = min(LAYERS, len(layers)), len(layers) - 1
    return [layers[round(i * last / max(1, count - 1))] for i in range(count)]


def one_row_each(outputs: Mapping[nn.Module, Tensor], n: int) -> list[nn.Module]:
    """The layers whose outputs have a row for each of `n` inputs."""
    return [layer for layer, output in outputs.items() if output.ndim >= 2 and len(output) == n]


def undecided(outputs: Mapping[nn.Module, Tensor], n: int) -> bool:
    """Whether an output may have its `n` inputs along the second axis, as those of sequences first."""
    return any(output.ndim >= 3 and output.shape[0] == output.shape[1] == n for output in outputs.values())
