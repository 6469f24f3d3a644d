"""Any number of inputs through a model, as many at a time as memory takes: the same chunks in every run."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self, TypeVar

import psutil
import torch
from torch import Tensor

from gradgeo.classifier.microbatch import AdaptiveBatch
from gradgeo.classifier.optimized import OptimizedModel
from gradgeo.classifier.prepared import PreparedBatch
from gradgeo.classifier.wrapper import Classifier, Model, looks_like_probabilities, preserve_state
from gradgeo.errors import UnusableInputWarning, expected, warn
from gradgeo.geometry.autograd import AutogradJacobian
from gradgeo.geometry.jacobian import BATCH, COPIES, MAP_BYTES, SPARE, TABLES, InputJacobian
from gradgeo.geometry.options import Maps

T = TypeVar("T")

MANY = 32  # maps from which their products are computed without holding them all


def memory_for(budget: int | None, device: torch.device) -> int:
    """The bytes that a pass may take: as the caller says, or `MAP_BYTES`.

    Chunks decide how sums are rounded, and rounding the signs of entries near zero. So the default is one number; only
    where half of the memory that is available does not take it, it is halved until that does.
    """
    if budget is None:
        budget, half = MAP_BYTES, _available(device) // 2
        while budget > max(1, half):
            budget //= 2
        return budget
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise expected("memory_budget", "a positive number of bytes or None", budget)
    return budget


def _available(device: torch.device) -> int:
    """Bytes that could be had: free ones, and those that the system or PyTorch holds and would give."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return int(psutil.virtual_memory().available)


class SampleBytes(NamedTuple):
    """What a pass takes in memory."""

    fixed: int
    """However many samples it has."""
    least: int
    """For each sample: inputs, graph, what is kept of maps, cotangents, and a few gradients at a time."""
    ample: int
    """For each sample, with all gradients that span the maps, for then no map needs a backward pass of its own."""


@dataclass(frozen=True)
class Plan:
    """How inputs of one shape go through a model: with what, what a pass takes, and how many go at a time.

    Made once for each call and shape, within `preserve_state`; sizes are computed where they are asked for.
    """

    model: OptimizedModel
    """Says in which precision gradients are computed."""
    options: Maps
    trial: Tensor
    """(1, *input)."""
    streamed: bool
    """Of many maps their products are kept, and no more than one byte an entry, and a few maps are held at once."""
    at_most: int
    """Samples of a chunk."""
    memory_budget: int | None

    @cached_property
    def chunk_size(self) -> int:
        """Samples of a chunk, whose maps stay within the memory budget.

        Raises:
            ArgumentError: a budget that the caller gave is too small for one sample.
        """
        budget, (fixed, least, ample) = memory_for(self.memory_budget, self.trial.device), self.bytes
        if self.memory_budget is not None and fixed + least > budget:
            rule = f"at least {fixed + least:,} bytes, what one sample of this model needs"
            raise expected("memory_budget", rule, self.memory_budget, "Name fewer classes, or allow more.")
        budget -= fixed
        return max(1, min(self.at_most, budget // (ample if ample <= budget else least)))

    @cached_property
    def bytes(self) -> SampleBytes:
        """What a pass takes."""
        classes = self.model.classes(self.trial)
        maps = self.options.count(classes)  # K
        entries, item = self.trial[0].numel(), self.trial.element_size()
        rank = maps if self.model.head is None else min(maps, self.model.head.in_features)
        spanned = maps >= rank and not self.options.channel_max
        streamed = self.streamed and maps >= MANY and (self.options.sign or spanned)
        held = 1 + (2 * self.model.activations + COPIES * entries) * item
        held += entries * maps * (1 if streamed else 3 * item)
        held += TABLES * 8 * classes * (1 if streamed else maps)
        least = held + entries * item * (SPARE if streamed else rank)
        ample = held + entries * item * (rank + SPARE)
        return SampleBytes(TABLES * 8 * maps * maps if streamed else 0, least, ample)

    def one_sample(self) -> int:
        """The bytes of a pass over a single sample."""
        return self.bytes.fixed + self.bytes.least


@dataclass(frozen=True)
class _Seen:
    """What passes saw of their inputs, for one warning each."""

    total: int = 0
    unusable: int = 0
    probabilities: bool = True

    @classmethod
    def of(cls, jacobian: InputJacobian) -> Self:
        unusable = int((~jacobian.usable).sum())
        return cls(len(jacobian.usable), unusable, looks_like_probabilities(jacobian.logits))

    def __add__(self, other: Self) -> Self:
        return replace(
            self,
            total=self.total + other.total,
            unusable=self.unusable + other.unusable,
            probabilities=self.probabilities and other.probabilities,
        )

    def warn(self) -> None:
        if self.unusable:
            warn(
                f"{self.unusable} of {self.total} inputs have NaN or infinite values or logits; their results are NaN.",
                UnusableInputWarning,
            )
        if self.probabilities and self.total > self.unusable:
            warn(
                "the model returns probabilities (rows are non-negative and sum to 1), not logits: confident "
                "predictions lose their gradients. Remove its last softmax, or wrap it in a Module that returns their "
                "logarithm."
            )


def map_chunks(
    model: Model,
    inputs: Iterable[Tensor],
    options: Maps,
    measure: Callable[[InputJacobian, slice], T],
    *,
    chunk_size: int | None = None,
    at_most: int = BATCH,
    memory_budget: int | None = None,
    precision: str = "float32",
    streamed: bool = False,
    once: bool = False,
    layers: bool = False,
    gradients: bool | None = True,
    quiet: bool = False,
) -> list[T]:
    """`measure` of each forward pass over `inputs`, in order, in chunks; one warning about all unusable samples unless
    `quiet`.

    Args:
        options: which maps `measure` asks for, and so what a pass takes in memory.
        measure: is given a pass and the positions of its rows among all inputs; called again for the same rows, or the
            first of them, where memory did not take them.
        chunk_size: samples of a chunk; with None as many as keep their maps within `memory_budget`, no more than
            `at_most`.
        memory_budget: bytes of a pass, as in `memory_for`; one that the caller gave and that is too small for one
            sample is refused.
        precision: one of `PRECISIONS`, of the gradients.
        streamed: of many maps `measure` keeps their products and no more than one byte an entry, and holds a few at
            once.
        once: it asks each pass for maps no more than once.
        layers: it asks for the outputs of layers.
        gradients: it asks for gradients; None for those that the model has.
    """
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise expected("chunk_size", "a positive integer or None", chunk_size)
    classifier, adaptive, seen = Classifier.of(model), AdaptiveBatch(chunk_size or at_most), _Seen()
    plans: dict[tuple[int, ...], Plan] = {}
    results: list[T] = []
    for x in inputs:
        batch = classifier.prepare(x)
        with preserve_state(batch.x, recurrent=classifier.recurrent):
            shape = tuple(batch.x.shape[1:])
            if shape not in plans:
                optimized = classifier.optimized(batch, precision)
                trial = batch.x[:1].detach() if len(batch) else batch.x.new_zeros(1, *shape)
                plans[shape] = Plan(optimized, options, trial, streamed, at_most, memory_budget)
            plan = plans[shape]
            if chunk_size is None and (len(batch) > 1 or (len(batch) and memory_budget is not None)):
                adaptive.size = plan.chunk_size  # of one sample it is not asked, unless to refuse the caller's budget
            asked = {"once": once, "layers": layers, "gradients": gradients}
            for saw, measured in _map_batch(plan, batch, adaptive, measure, seen.total, asked):
                results.append(measured)
                seen += saw
    if not quiet:
        adaptive.warn_if_shrunk()
        seen.warn()
    return results


def _map_batch(
    plan: Plan,
    batch: PreparedBatch,
    adaptive: AdaptiveBatch,
    measure: Callable[[InputJacobian, slice], T],
    start: int,
    asked: Mapping[str, Any],
) -> Iterator[tuple[_Seen, T]]:
    """`measure` of the chunks of one batch, whose first row is at `start`, and what each pass is `asked` for."""

    def run(rows: slice) -> tuple[_Seen, T]:
        jacobian = AutogradJacobian(plan.model, batch[rows], **asked)
        return _Seen.of(jacobian), measure(jacobian, slice(start + rows.start, start + rows.stop))

    return adaptive(len(batch), run, needs=plan.one_sample)
