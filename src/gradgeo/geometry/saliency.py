"""Saliency maps: the gradient of every class's loss with respect to the input (Schwinn et al. 2021, section 3)."""

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from gradgeo.classifier.microbatch import AdaptiveBatch
from gradgeo.classifier.optimized import TRIAL, OptimizedModel
from gradgeo.classifier.wrapper import Classifier, Model, looks_like_probabilities, preserve_state, replace_unusable
from gradgeo.errors import UnusableInputWarning, expected, public, warn
from gradgeo.geometry.jacobian import BATCH, COPIES, MAP_BYTES, SPARE, TABLES, InputJacobian
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Classes, Maps

T = TypeVar("T")

MANY = 32  # maps from which their products are made without holding them all


def memory_for(budget: int | None, device: torch.device) -> int:
    """The bytes that a pass may take: as the caller says, or a quarter of what is free, at most `MAP_BYTES`."""
    if budget is None:
        return max(1, min(MAP_BYTES, _free(device) // 4))
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise expected("memory_budget", "a positive number of bytes or None", budget)
    return budget


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not told on this system
        return 4 * MAP_BYTES


def map_chunks(
    model: Model,
    inputs: Iterable[Tensor],
    options: Maps,
    chunk_size: int | None,
    measure: Callable[[InputJacobian, Maps], T],
    *,
    at_most: int = BATCH,
    memory_budget: int | None = None,
    streamed: bool = False,
    once: bool = False,
    quiet: bool = False,
) -> list[T]:
    """`measure` of each forward pass over `inputs`, in order, in chunks; one warning about all unusable samples unless
    `quiet`.

    With `chunk_size` None chunks of `at_most` samples or fewer keep their maps within the memory budget; a budget
    that the caller gave and that is too small for one sample is refused. `streamed`: of many maps the measure keeps
    their products and no more than one byte an entry, and holds a few maps at once. `once`: it asks each pass for maps
    no more than once.
    """
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise expected("chunk_size", "a positive integer or None", chunk_size)
    classifier, results = Classifier.of(model), []
    unusable, total, probabilities, passes = 0, 0, True, AdaptiveBatch(chunk_size or at_most)
    for x in inputs:
        x = classifier.prepare(x)
        with preserve_state(x, recurrent=classifier.recurrent):
            if chunk_size is None and (len(x) > 1 or (memory_budget is not None and len(x))):
                budget, trial = memory_for(memory_budget, x.device), replace_unusable(x[:TRIAL])[0]
                fixed, least, ample = _bytes(classifier.fast(trial), trial, options, streamed=streamed)
                if memory_budget is not None and fixed + least > budget:
                    rule = f"at least {fixed + least:,} bytes, what one sample of this model needs"
                    raise expected("memory_budget", rule, memory_budget, "Name fewer classes, or allow more.")
                budget -= fixed
                passes.size = max(1, min(at_most, budget // (ample if ample <= budget else least)))

            def run(rows: slice, x: Tensor = x) -> tuple[T, int, bool]:
                forward = InputJacobian(classifier, x[rows], precision=options.precision, once=once)
                measured = measure(forward, options.part(rows))
                return measured, int((~forward.usable).sum()), looks_like_probabilities(forward.logits)

            def needs(x: Tensor = x) -> int:
                trial = replace_unusable(x[:TRIAL])[0]
                return sum(_bytes(classifier.fast(trial), trial[:1], options, streamed=streamed)[:2])

            for measured, bad, like in passes(len(x), run, needs=needs):
                results.append(measured)
                unusable += bad
                probabilities = probabilities and like
        total += len(x)
    if quiet:
        return results
    passes.told()
    if unusable:
        warn(
            f"{unusable} of {total} inputs have NaN or infinite values or logits; their results are NaN.",
            UnusableInputWarning,
        )
    if probabilities and total > unusable:
        warn(
            "the model returns probabilities (rows are non-negative and sum to 1), not logits: confident predictions "
            "lose their gradients. Remove its last softmax, or wrap it in a Module that returns their logarithm."
        )
    return results


def _bytes(copy: OptimizedModel, x: Tensor, options: Maps, *, streamed: bool) -> tuple[int, int, int]:
    """What a pass takes, and each of its samples at least and amply: inputs, graph, what is kept of maps, cotangents,
    and gradients while they are made: a few, or amply all that span the maps, for then no map needs a backward pass of
    its own."""
    classes = copy.classes(x)
    maps = options.count(classes)
    entries, item = x[0].numel(), x.element_size()
    rank = maps if copy.head is None else min(maps, copy.head.in_features)
    spanned = maps >= rank and not options.channel_max
    streamed = streamed and maps >= MANY and (options.sign or spanned)
    kept = 1 + (2 * copy.activations + COPIES * entries) * item + entries * maps * (1 if streamed else 3 * item)
    kept += TABLES * 8 * classes * (1 if streamed else maps)
    least = kept + entries * item * (SPARE if streamed else rank)
    return TABLES * 8 * maps * maps if streamed else 0, least, kept + entries * item * (rank + SPARE)


@public
def saliency_maps(
    model: Model,
    x: Tensor,
    *,
    loss: str = "cross_entropy",
    classes: Classes = None,
    sign: bool = True,
    temperature: float | None = None,
    rescale: bool = False,
    channel_max: bool = False,
    chunk_size: int | None = None,
    memory_budget: int | None = None,
    precision: str = "float32",
) -> Tensor:
    """The saliency map of each class: s_i(x) = sign(grad_x L(F(x), i)), or the gradient itself with `sign=False`.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> x = torch.rand(4, 3, 2, 2)
        >>> gradgeo.saliency_maps(model, x).shape                       # all 5 classes
        torch.Size([4, 5, 3, 2, 2])
        >>> gradgeo.saliency_maps(model, x, classes=2, sign=False).shape  # the 2 most likely, unsigned
        torch.Size([4, 2, 3, 2, 2])

    Args:
        model: a classifier returning logits (N, C), or a tuple or mapping that holds them. Judged in eval mode on a
            private copy; never changed.
        x: inputs (N, *any), floating point; cast to the model's dtype and moved to its device.
        loss: "cross_entropy"; "mse", the mean squared error between the probabilities and one-hot; "logit", the raw
            score itself.
        classes: None for all C; an int K for each sample's K most likely, most likely first; an integer tensor (K,)
            or (N, K) for exactly these, in this order.
        sign: keep the sign of each entry only (-1, 0, 1).
        temperature: differentiate the loss of F(x) / temperature.
        rescale: first divide each sample's logits by their largest magnitude and multiply by 10, as the authors' code
            can (not in the paper).
        channel_max: maximum over axis 1 of the input after the sign, as the authors' code does (not in the paper).
        chunk_size: samples in one forward pass; default as many as `memory_budget` allows, at most 64.
        memory_budget: bytes that a pass may take above the model and the result; default a quarter of what is free, at
            most 1 GiB. Exceeded, without a word, only where `chunk_size` says so or one sample needs more than the
            default.
        precision: "float32" computes in the model's own type. "bfloat16" makes the gradients in that type: faster where
            the machine multiplies it, and some signs are wrong (results/engine.md says how much and how many). For
            screening only, never for a decision threshold. Logits, and all that is made of the gradients, stay in the
            model's own type; cost: one forward pass more.

    Returns:
        (N, K, *input) in the model's dtype on the model's device; without the channel axis if `channel_max`. NaN for
        samples with NaN or infinite inputs or logits. The result itself takes N K d entries: for many classes prefer
        `csm`, which never holds the maps of all samples.

    Cost: one forward and K backward passes to the input per sample; where a linear layer makes the logits of F
    features, min(K, F). The entries of a softmax's cotangents sum to zero, so all of up to 16 classes take C - 1.

    Raises:
        ArgumentError: an option or `x` is not as described, or one sample needs more than `memory_budget`.
        ModelError: the model fails on `x`, does not return one row of at least 2 scores per input, or cannot be
            differentiated.

    The cross-entropy gradient is J^T (p - e_i) = (1 - p_i) J^T (r - e_i), with r the softmax over the classes other
    than i. We pull back r - e_i and never form p - e_i, so confident predictions, whose p - e_i rounds to zero in
    float32, keep their signs. With two classes both cross-entropy maps are opposite for every input; use "logit".

    Source: Schwinn et al., "Identifying untrustworthy predictions in neural networks by geometric gradient analysis",
    UAI 2021, section 3.
    """
    options = Maps(Loss(loss, temperature, rescale), classes, sign, channel_max, precision)
    made = map_chunks(model, [x], options, chunk_size, InputJacobian.gradients, memory_budget=memory_budget, once=True)
    return torch.cat(made)
