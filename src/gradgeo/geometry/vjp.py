"""Gradients with respect to the input for many cotangents of one forward pass, each by the cheapest way that works.

A loop over the cotangents is best for batches of images and for large ones: each backward pass fills the machine.
Without convolutions, and for a few images, several cotangents go through one backward pass together, as many as stay
in the cache. Which way is faster was measured: results/engine.md, results/architectures.md, which name the processor.

The thresholds decide chunks, and chunks decide rounding; so they are constants, the same on every machine.
"""

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from gradgeo.classifier.conv_kernels import SINGLE
from gradgeo.classifier.microbatch import out_of_memory
from gradgeo.classifier.optimized import OptimizedModel
from gradgeo.errors import ModelError, warn

LARGE_BATCH = 8
"""Samples from which a loop over cotangents is as fast as any other way through convolutions."""
TOGETHER = {"cpu": 32, "cuda": 128}
"""Samples times cotangents in one backward pass through convolutions."""
ENTRIES = 400_000
"""Entries that enter the widest convolution in such a pass on a CPU: 1.6 MB of float32, which an L2 cache holds."""
BYTES = 32 << 20
"""Input gradients of one backward pass through a model without convolutions, which an L3 cache holds."""

_TORCH = str(Path(torch.__file__).parent)
_CATCHING_WARNINGS = threading.Lock()
"""Held while warnings are caught, which is for all threads at once."""


class RetainedGraph:
    """One forward pass from `leaf` to `source` (N, R), to be differentiated any number of times."""

    def __init__(self, copy: OptimizedModel, source: Tensor, leaf: Tensor) -> None:
        self._copy, self._source, self._leaf = copy, source, leaf
        shape = leaf.shape[1:]
        if shape not in copy.widest:
            copy.widest[shape] = _widest_convolution(source)
        self._widest = copy.widest[shape]

    def vjp(self, cotangents: Tensor) -> Iterator[Tensor]:
        """J^T v for each cotangent v: (K, N, R) -> parts (k, N, *input), in order."""
        for part in cotangents.split(self.chunk):  # (k, N, R)
            yield self._batched(part) if self.chunk > 1 else self._one_by_one(part)

    @property
    def bytes(self) -> int:
        """About what it holds: the output of each layer, and as much again while a backward pass runs."""
        return 2 * self._copy.activations * len(self._leaf) * self._leaf.element_size()

    @property
    def chunk(self) -> int:
        """How many cotangents go through one backward pass."""
        n, widest = max(1, len(self._leaf)), self._widest
        if self._copy.batchable is False:
            return 1
        if not widest:
            return max(1, BYTES // (self._leaf.numel() * self._leaf.element_size()))
        if self._leaf.device.type != "cpu":
            return max(1, TOGETHER["cuda"] // n)
        return max(1, min(TOGETHER["cpu"], ENTRIES // widest) // n) if n < LARGE_BATCH else 1

    def _one_by_one(self, cotangents: Tensor) -> Tensor:
        maps = self._leaf.new_empty(len(cotangents), *self._leaf.shape)  # (k, N, *input)
        for row, cotangent in zip(maps, cotangents, strict=True):
            row.copy_(self._gradient(cotangent))
        return maps

    def _gradient(self, cotangent: Tensor) -> Tensor:
        return gradient(self._source, self._leaf, cotangent)

    def _batched(self, cotangents: Tensor) -> Tensor:
        maps, slow = None, None
        if self._copy.batchable:
            try:
                return torch.func.vmap(self._gradient)(cotangents)
            except Exception as error:
                if not out_of_memory(error):
                    raise
        else:
            with _CATCHING_WARNINGS:
                if self._copy.batchable is None:  # else another thread has tried meanwhile
                    maps, slow = self._try_batched(cotangents)
        if maps is None:
            maps = self._one_by_one(cotangents)  # raises what is the model's fault, not that of batching
        if slow is not None:
            warn(
                "the model's classes are differentiated one by one, which takes longer: its backward pass does not "
                f"work for several at once ({slow.splitlines()[0][:120]})."
            )
        return maps

    def _try_batched(self, cotangents: Tensor) -> tuple[Tensor | None, str | None]:
        """The maps of one batched backward pass, None where that fails, and why it is slow, None where it is not.

        Where memory does not take it nothing is known of the model, and nothing is slow but this pass."""
        with warnings.catch_warnings(record=True) as caught:
            # A pattern of its own: an equal filter would be taken out before it is put first, and the other threads,
            # whose filters these are too, would for a moment be without it.
            warnings.filterwarnings("always", ".*")
            try:
                maps, slow = torch.func.vmap(self._gradient)(cotangents), None
            except Exception as error:  # whatever cannot be batched: custom functions, values read out
                if out_of_memory(error):
                    return None, None
                maps, slow = None, str(error)
        for w in caught:
            if "performance drop" in str(w.message):
                slow = slow or str(w.message)
            elif not w.filename.startswith(_TORCH):  # of another thread meanwhile
                warnings.warn_explicit(w.message, w.category, w.filename, w.lineno, source=w.source)
        self._copy.batchable = slow is None
        return maps, slow


def gradient(source: Tensor, leaf: Tensor, cotangent: Tensor, *, create_graph: bool = False) -> Tensor:
    """J^T v of one cotangent for each sample: (N, R) -> (N, *input)."""
    try:
        (maps,) = torch.autograd.grad(
            source, leaf, cotangent, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
    except Exception as error:  # any failure of foreign code, as in a forward pass
        if out_of_memory(error):
            raise  # fewer inputs may do
        raise ModelError(f"the model cannot be differentiated: {type(error).__name__}: {error}") from error
    if maps is None:
        raise ModelError("the model's output does not depend on its input, so there are no saliency maps.")
    return maps


def _widest_convolution(source: Tensor) -> int:
    """Entries per sample of the largest input of a convolution, 0 without any, read off the graph."""
    widest, seen, left = 0, set(), [source.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [parent for parent, _ in node.next_functions]
        if hasattr(node, "entered"):  # of a convolution of our own
            widest = max(widest, node.entered)
        elif node.name().startswith("MkldnnConvolution"):  # of a small single image
            widest = max(widest, SINGLE)
        elif node.name().startswith(("Convolution", "CudnnConvolution")):
            entered = node._saved_input  # type: ignore[attr-defined]
            widest = max(widest, entered[0].numel())
    return widest
