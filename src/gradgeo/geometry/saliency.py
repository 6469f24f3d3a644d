"""Saliency maps: the gradient of every class's loss with respect to the input (Schwinn et al. 2021, section 3)."""

import torch
from torch import Tensor

from gradgeo.classifier.wrapper import Model
from gradgeo.errors import public
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Classes, Maps


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
        memory_budget: bytes that a pass may take above the model and the result; default 1 GiB, or less where half of
            the memory available is less: then the last bits of results, and single signs, may differ. Exceeded, without
            a word, only where `chunk_size` says so or one sample needs more than the default.
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
    options = Maps(Loss(loss, temperature, rescale), classes, sign, channel_max)
    maps = map_chunks(
        model,
        [x],
        options,
        lambda jacobian, rows: jacobian.gradients(options.part(rows)),
        chunk_size=chunk_size,
        memory_budget=memory_budget,
        precision=precision,
        once=True,
    )
    return torch.cat(maps)
