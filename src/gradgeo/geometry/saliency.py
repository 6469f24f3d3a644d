"""Saliency maps: the gradient of every class's loss with respect to the input (Schwinn et al. 2021, section 3)."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from gradgeo.classifier import Classifier, Model, looks_like_probabilities, replace_unusable, traceless
from gradgeo.errors import ModelError, UnusableInputWarning, choice, expected, public, warn
from gradgeo.fast_copy import TRIAL, FastCopy
from gradgeo.geometry.engine import Graph, gradient
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.surrogates import soft_sign
from gradgeo.passes import Passes

T = TypeVar("T")
Classes = int | Tensor | None

BATCH = 64  # samples in one forward pass unless `chunk_size` says otherwise
SPARE = 4  # gradients of a sample that may exist beside what is kept of its maps
TABLES = 5  # float64 rows of C numbers that exist for each class while its cotangent is made
MANY = 32  # maps from which their products are made without holding them all
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
"""What backward passes compute in: None for the model's own type."""
MAP_BYTES = 1 << 30  # the maps of one pass stay below this unless a single sample needs more


@dataclass(frozen=True)
class Maps:
    """Which maps are made: of which loss and classes, in which precision, and what is kept of the gradient."""

    loss: Loss = field(default_factory=Loss)
    classes: Classes = None
    sign: bool = True
    channel_max: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        choice("precision", self.precision, tuple(PRECISIONS))
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


def with_gradient(output: Tensor) -> Tensor:
    """The model's output, refused if it is a constant to autograd."""
    if not output.requires_grad:
        raise ModelError(
            "the model's output cannot be differentiated with respect to its input. Look for .detach(), argmax, "
            "rounding, .numpy() or torch.no_grad() in its forward; integer or quantised models have no gradients."
        )
    return output


class ForwardPass:
    """One forward pass of a batch, and from it any number of gradients with respect to the input.

    Samples with NaN or infinite inputs are replaced by zeros for the pass, so that they cannot disturb the others;
    `usable` (N,) is False for them and for samples whose logits are not finite. `x` are the inputs as they went in,
    `features` (N, F) what enters the linear layer that makes the logits, None where there is none. `alive` (N,) says
    whether any gradient that was made so far had an entry other than zero (not asked where differentiable).

    min(C, F) gradients span all others: those of the logits or, where a linear layer makes these of fewer features
    F < C, those of the features, for then J = W J_features. Once as many are asked for, they are computed and kept, and
    every further map of the pass is a linear combination of them.

    With another `precision` only the gradients are made in it: logits, and all that is made of the gradients, are in
    the model's own type.

    With `differentiable`, logits and maps stay in the graph of `x`, which must require grad: the values are the same,
    and signs get the slope of `surrogates.soft_sign`.
    """

    def __init__(
        self, classifier: Classifier, x: Tensor, *, differentiable: bool = False, precision: str = "float32"
    ) -> None:
        x = classifier.prepare(x)
        self._classifier, self.differentiable, self._precision = classifier, differentiable, precision
        self._n = len(x)
        if self._n == 0:  # many models refuse an empty batch; one zero input stands in and is sliced away again
            x = x.new_zeros(1, *x.shape[1:])
        clean, finite = replace_unusable(x)
        self._dtype = clean.dtype
        dtype = PRECISIONS[precision]
        copy = self._copy = classifier.fast(clean.detach(), dtype)
        self._leaf = clean if differentiable else clean.detach().to(dtype or clean.dtype).requires_grad_()
        output, features, made = copy(self._leaf.clone())  # the clone lets the model work in place
        self._source, self._weight = with_gradient(output), None
        if made and features is not None and features.shape[1] < output.shape[1] and features.requires_grad:
            self._source, self._weight = features, copy.weight
        if not differentiable:
            self._graph = Graph(copy, self._source, self._leaf)
        if dtype is not None:
            with torch.no_grad():
                output, features, _ = classifier.fast(clean)(clean.clone())

        def kept(tensor: Tensor) -> Tensor:
            return tensor[: self._n] if differentiable else tensor[: self._n].detach()

        self.logits, self.x = kept(output), kept(clean)
        self.features = None if features is None else kept(features)
        self.usable = finite[: self._n] & torch.isfinite(self.logits).all(1)
        self.alive = torch.full_like(self.usable, differentiable)

    @property
    def predicted(self) -> Tensor:
        """The most likely class (N,)."""
        return self.logits.argmax(1)

    @property
    def affordable(self) -> int:
        """How many samples another pass may take within `MAP_BYTES`, at most `BATCH`."""
        entries = 2 * self._copy.activations + self._leaf[0].numel()
        return max(1, min(BATCH, MAP_BYTES // (entries * self._leaf.element_size())))

    def in_passes(self, rows: Tensor) -> Sequence[Tensor]:
        """`rows` in parts that another pass each can take."""
        parts: Sequence[Tensor] = rows.split(self.affordable)
        return parts

    def again(self, x: Tensor) -> "ForwardPass":
        """Another pass of the same classifier, for other inputs."""
        return ForwardPass(self._classifier, x, differentiable=self.differentiable, precision=self._precision)

    def logits_at(self, x: Tensor) -> Tensor:
        """The logits (N, C) of other inputs, NaN where these are not finite; no gradients unless differentiable."""
        clean, finite = replace_unusable(x)
        with torch.set_grad_enabled(self.differentiable):
            logits = self._classifier.fast(clean)(clean)[0]
        return torch.where(finite[:, None], logits, torch.nan)

    def pull_back(self, cotangents: Tensor) -> Tensor:
        """J^T v for each cotangent v: (N, K, C) -> (N, K, *input). Costs min(K, C, F) backward passes."""
        if self.differentiable:
            rows = cotangents.to(self.logits.dtype).unbind(1)
            return torch.stack([gradient(self.logits, self._leaf, row, create_graph=True) for row in rows], dim=1)
        if self._n == 0:
            return self.x.new_empty(0, cotangents.shape[1], *self.x.shape[1:])
        cotangents = self._coefficients(cotangents)
        if not self._spanned and cotangents.shape[1] < self._rank:
            return self._rows(cotangents)
        exact = torch.promote_types(self.logits.dtype, torch.float32)
        basis = self._basis.flatten(2).to(exact)
        maps = cotangents.to(exact) @ basis
        return maps.to(self._dtype).view(*maps.shape[:2], *self._leaf.shape[1:])

    def squares(self, cotangents: Tensor) -> Tensor:
        """|J^T v|^2 (N, K), float64, of each cotangent v (N, K, C): from the Gram matrix of what spans the gradients,
        so that these are not made, unless they are fewer."""
        if not self.differentiable and self._n:
            coefficients = self._coefficients(cotangents).double()
            if self._spanned or coefficients.shape[1] >= self._rank:
                return ((coefficients @ self._products) * coefficients).sum(2).clamp_min(0)
        return self.pull_back(cotangents).flatten(2).double().square().sum(2)

    @property
    def _spanned(self) -> bool:
        """Whether the gradients that span all others are there already."""
        return "_basis" in vars(self)

    @cached_property
    def _products(self) -> Tensor:
        """The Gram matrix (N, R, R), float64, of the gradients that span all others."""
        return torch.stack([_gram(rows) for rows in self._basis.flatten(2)])

    def _coefficients(self, cotangents: Tensor) -> Tensor:
        """v, or v W where features span the maps: what combines the basis to a map (N, K, R)."""
        return cotangents if self._weight is None else cotangents.double() @ self._weight.double()

    @cached_property
    def _basis(self) -> Tensor:
        """The gradients (N, R, *input) that span all others."""
        one_hot = torch.eye(self._rank, device=self.logits.device)
        return self._rows(one_hot.expand(self._n, -1, -1))

    def _rows(self, cotangents: Tensor) -> Tensor:
        cotangents = cotangents.transpose(0, 1).to(self._source.dtype)
        rows, done = torch.empty(0), 0
        for part in self._graph.pull_back(cotangents):
            if len(part) == len(cotangents):
                rows = part.to(self._dtype)
            else:  # filled as they come: gathering them at the end would take the memory twice
                rows = rows if done else part.new_empty(len(cotangents), *part.shape[1:], dtype=self._dtype)
                rows[done : done + len(part)] = part
                done += len(part)
        rows = rows.transpose(0, 1)
        self.alive = self.alive | rows[: self._n, 0].flatten(1).any(1)
        if not self.alive.all():  # most samples show with the first gradient that they are
            self.alive = self.alive | rows[: self._n].flatten(1).any(1)
        return rows

    @property
    def _rank(self) -> int:
        """How many gradients span all others."""
        return self._source.shape[1]

    def maps(self, options: Maps) -> Tensor:
        """The saliency maps (N, K, *input); unsigned ones are true gradients only up to a positive factor each."""
        cotangents, _ = options.loss.cotangents(self.logits, options.select(self.logits))
        return self.finish(self.pull_back(cotangents), options)

    def gradients(self, options: Maps) -> Tensor:
        """The saliency maps (N, K, *input), at their true size where unsigned."""
        cotangents, scale = options.loss.cotangents(self.logits, options.select(self.logits))
        maps = self.pull_back(cotangents)
        if not options.sign:
            maps = maps * scale.view(*scale.shape, *[1] * (maps.ndim - 2)).to(maps.dtype)
        return self.finish(maps, options)

    def parts(self, options: Maps, budget: int) -> Iterator[Tensor]:
        """The maps as in `maps`, some classes (N, k, *input) at a time, and numbers even for samples that are not
        `usable`; graph, cotangents, gradients and one byte for each entry stay within about `budget` bytes."""
        classes = options.select(self.logits)
        one = max(1, self._leaf.numel() * self._dtype.itemsize)
        each = SPARE * one + TABLES * 8 * self.logits.numel()  # for each class of a part
        budget -= self._graph.bytes + classes.shape[1] * self._leaf.numel()
        if classes.shape[1] >= self._rank and self._rank * one + each <= budget:
            budget -= self._rank * one
            self._basis  # noqa: B018  # made now, it serves every part
        for part in classes.split(max(1, budget // each), dim=1):
            yield self._reduced(self.pull_back(options.loss.cotangents(self.logits, part)[0]), options)

    def grams(self, options: Maps) -> Iterator[Tensor] | None:
        """The inner products (K, K), float64, of the unsigned maps of each sample in turn: of what spans them, if no
        more than there are maps, so that the maps themselves are never made; else None."""
        classes = options.select(self.logits)
        if classes.shape[1] < self._rank or self._n == 0:
            return None
        return self._grams(options.loss, classes)

    def _grams(self, loss: Loss, classes: Tensor) -> Iterator[Tensor]:
        for logits, of, products in zip(self.logits, classes, self._products, strict=True):
            coefficients = self._coefficients(loss.cotangents(logits[None], of[None])[0])[0]
            yield coefficients @ products @ coefficients.mT

    def finish(self, maps: Tensor, options: Maps) -> Tensor:
        """What `options` keep of gradients (N, K, *input); NaN for unusable samples."""
        maps = self._reduced(maps, options)
        return torch.where(self.usable.view(-1, *[1] * (maps.ndim - 1)), maps, torch.nan)

    def _reduced(self, maps: Tensor, options: Maps) -> Tensor:
        if options.sign:
            maps = soft_sign(maps) if self.differentiable else maps.sign()
        if options.channel_max:
            if maps.ndim < 4:
                raise expected("channel_max", "False for inputs without a channel axis (N, channels, ...)", True)
            maps = maps.amax(2)
        return maps


def _gram(rows: Tensor) -> Tensor:
    """rows rows^T in float64, a few columns at a time."""
    blocks = (block.double() for block in rows.split(1 << 14, dim=1))
    return sum((block @ block.mT for block in blocks), rows.new_zeros(len(rows), len(rows), dtype=torch.float64))


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


def over_passes(
    model: Model,
    inputs: Iterable[Tensor],
    options: Maps,
    chunk_size: int | None,
    measure: Callable[[ForwardPass, Maps], T],
    *,
    at_most: int = BATCH,
    memory_budget: int | None = None,
    streamed: bool = False,
    quiet: bool = False,
) -> list[T]:
    """`measure` of each forward pass over `inputs`, in order, in chunks; one warning about all unusable samples unless
    `quiet`.

    With `chunk_size` None chunks of `at_most` samples or fewer keep their maps within the memory budget; a budget
    that the caller gave and that is too small for one sample is refused. `streamed`: of many maps the measure keeps
    their products and no more than one byte an entry, and holds a few maps at once.
    """
    if chunk_size is not None and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise expected("chunk_size", "a positive integer or None", chunk_size)
    classifier, results = Classifier.of(model), []
    unusable, total, probabilities, passes = 0, 0, True, Passes(chunk_size or at_most)
    for x in inputs:
        x = classifier.prepare(x)
        with traceless(x, recurrent=classifier.recurrent):
            if chunk_size is None and (len(x) > 1 or (memory_budget is not None and len(x))):
                budget, trial = memory_for(memory_budget, x.device), replace_unusable(x[:TRIAL])[0]
                fixed, least, ample = _bytes(classifier.fast(trial), trial, options, streamed=streamed)
                if memory_budget is not None and fixed + least > budget:
                    rule = f"at least {fixed + least:,} bytes, what one sample of this model needs"
                    raise expected("memory_budget", rule, memory_budget, "Name fewer classes, or allow more.")
                budget -= fixed
                passes.size = max(1, min(at_most, budget // (ample if ample <= budget else least)))

            def run(rows: slice, x: Tensor = x) -> tuple[T, int, bool]:
                forward = ForwardPass(classifier, x[rows], precision=options.precision)
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


def _bytes(copy: FastCopy, x: Tensor, options: Maps, *, streamed: bool) -> tuple[int, int, int]:
    """What a pass takes, and each of its samples at least and amply: the graph, what is kept of the maps, cotangents,
    and gradients while they are made: a few, or amply all that span the maps, for then no map needs a backward pass of
    its own."""
    classes = copy.classes(x)
    maps = options.count(classes)
    entries, item = x[0].numel(), x.element_size()
    rank = maps if copy.head is None else min(maps, copy.head.in_features)
    spanned = maps >= rank and not options.channel_max
    streamed = streamed and maps >= MANY and (options.sign or spanned)
    kept = 1 + 2 * copy.activations * item + entries * maps * (1 if streamed else 3 * item)
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

    Cost: one forward and min(K, C) backward passes to the input per sample; where a linear layer makes the logits of F
    features, min(K, F).

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
    return torch.cat(over_passes(model, [x], options, chunk_size, ForwardPass.gradients, memory_budget=memory_budget))
