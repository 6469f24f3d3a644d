"""Whether the graphs of a classifier give autograd's gradients.

A gradient jumps where a unit changes its slope: where what enters a ReLU is zero, or two entries of a pooling window
are equal. Within rounding of there every kernel takes its own side, and so does every processor: gradients that are
right then differ, and say nothing of the graphs. Hence the comparison is made where no unit is so near:

- with autograd of the very function that was traced, whose layers run the kernels that the graphs run;
- in float64, in which a unit has to lie 1e9 times nearer to be within rounding;
- at inputs moved a little at random, for in frames of one colour, and behind a margin of zeros, ties are exact.

There every input has to agree, and a hundred times more nearly than two float32 gradients could. A model that rounds
to float32 on the way is compared in its own type, of which every input has to agree as well. Only where a model cannot
be brought to float64 at all, a share of the inputs may differ, for single units of theirs fall on the other side.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.errors import ExportError
from gradgeo.export.traced import Differentiate, GradientGraphs, TracedClassifier

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4}
"""How far gradients may be apart, relative to the largest entry of an input's."""

MAY_DIFFER = 0.25
"""Share of the inputs whose gradients may be further apart, where float64 cannot tell a unit on the other side from a
wrong graph."""

COTANGENTS = 3
"""Of each input. Gradients are linear in the cotangent: what is wrong for a class is wrong for a random mixture."""

INPUTS, ALONE = 8, 4
"""How many inputs are looked at together, and how many of them one by one."""

MOVED = 0.01
"""How far inputs are moved, as a share of the way to noise between the smallest entry of all and the largest."""


def verify_gradients(traced: TracedClassifier, classifier: Classifier, x: Tensor) -> None:
    """Choose whether `traced.graphs` tile, so that their gradients are autograd's for batches of one and of several.

    Cost: for each of eight inputs about ten forward and backward passes in float64.

    Raises:
        ExportError: neither way gives them.
    """
    x = _moved(x[:INPUTS])
    with preserve_state(x, recurrent=classifier.recurrent):
        for tiles in (True, False):
            traced.graphs.tiles = tiles
            exact = _agree_in_float64(traced, classifier, x)
            if exact or _agree(traced.graphs, traced.function, x, may_differ=MAY_DIFFER if exact is None else 0.0):
                return
    raise ExportError(
        "the traced gradients of the model are not those of autograd. Its answer to one input may depend on the others "
        "of the batch, or on random numbers; serve it in Python instead."
    )


def _moved(x: Tensor) -> Tensor:
    """`x` (N, *input) on the way to noise, within the range of its entries: no two entries stay equal."""
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    low, high = x.amin(), x.amax()
    return torch.lerp(x, low + (high - low) * noise, MOVED)


def _agree_in_float64(traced: TracedClassifier, classifier: Classifier, x: Tensor) -> bool | None:
    """Whether that is so of the same graphs in float64; None where the model does not compute in it."""
    if not classifier.private:  # a function, or a module that cannot be copied, cannot be brought to another type
        return None
    try:
        function = Differentiate.of(classifier, x, dtype=torch.float64)
        return _compared(traced.graphs.in_float64(), function, x.double(), may_differ=0.0)
    except Exception:  # what layers and functions of the model say of a type that they do not know
        return None


def _agree(
    graphs: GradientGraphs, function: Callable[[Tensor, Tensor], tuple[Tensor, ...]], x: Tensor, *, may_differ: float
) -> bool:
    """`_compared`; False for graphs that do not take these inputs."""
    try:
        return _compared(graphs, function, x, may_differ=may_differ)
    except (RuntimeError, ValueError):  # shapes that do not fit further rows
        return False


def _compared(
    graphs: GradientGraphs, function: Callable[[Tensor, Tensor], tuple[Tensor, ...]], x: Tensor, *, may_differ: float
) -> bool:
    """Whether the gradients of the inputs (N, *input) agree, one by one and all together."""
    generator = torch.Generator().manual_seed(1)
    cotangents = torch.randn(COTANGENTS, len(x), graphs.rank, generator=generator, dtype=x.dtype)  # (K, N, R)
    known = torch.stack([function(x, cotangent)[-1] for cotangent in cotangents])  # (K, N, *input)
    with torch.no_grad():
        together = _pulled(graphs, x, cotangents)
        pairs = zip(x[:ALONE].split(1), cotangents[:, :ALONE].split(1, dim=1), strict=True)
        alone = torch.cat([_pulled(graphs, one, of_one) for one, of_one in pairs], dim=1)
    return _enough(known, together, may_differ) and _enough(known[:, :ALONE], alone, may_differ)


def _pulled(graphs: GradientGraphs, x: Tensor, cotangents: Tensor) -> Tensor:
    *_, saved = graphs(x)
    return graphs.vjp(saved, cotangents)


def _enough(known: Tensor, found: Tensor, may_differ: float) -> bool:
    """Whether the gradients (K, N, *input) agree for all inputs but the share that may differ."""
    if known.shape != found.shape:
        return False
    apart, largest = (t.abs().transpose(0, 1).flatten(1).amax(1) for t in (known - found, known))  # (N,)
    agrees = apart <= TOLERANCES[known.dtype] * largest.clamp_min(1e-30)
    return float((~agrees).double().mean()) <= may_differ
