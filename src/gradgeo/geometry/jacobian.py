"""One forward pass of a batch, and from it any number of gradients with respect to the input."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from gradgeo.classifier.wrapper import Classifier, replace_unusable
from gradgeo.errors import ModelError, expected
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import PRECISIONS, Maps, without
from gradgeo.geometry.surrogates import soft_sign
from gradgeo.geometry.vjp import Graph, gradient

BATCH = 64  # samples in one forward pass unless `chunk_size` says otherwise
SPARE = 8  # gradients of a sample that may exist, or be freed and not given back, beside what is kept of its maps
COPIES = 4  # of the inputs: without what is not finite, as a leaf, as a clone to be worked on, channels last
TABLES = 5  # float64 rows of C numbers that exist for each class while its cotangent is made
FEW = 16  # classes up to which a backward pass less is worth a product of all maps
MAP_BYTES = 1 << 30  # the maps of one pass stay below this unless a single sample needs more


def with_gradient(output: Tensor) -> Tensor:
    """The model's output, refused if it is a constant to autograd."""
    if not output.requires_grad:
        raise ModelError(
            "the model's output cannot be differentiated with respect to its input. Look for .detach(), argmax, "
            "rounding, .numpy() or torch.no_grad() in its forward; integer or quantised models have no gradients."
        )
    return output


class InputJacobian:
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

    With `once`, for maps that are asked for once, nothing is kept: as many maps as there are gradients that span them
    are made by themselves, and those of few classes of one gradient less, for the cotangents of the softmax span no
    more than the differences of the logits do.

    With `differentiable`, logits and maps stay in the graph of `x`, which must require grad: the values are the same,
    and signs get the slope of `surrogates.soft_sign`.
    """

    def __init__(
        self,
        classifier: Classifier,
        x: Tensor,
        *,
        differentiable: bool = False,
        precision: str = "float32",
        once: bool = False,
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
        self._once = once and self._source.dtype.itemsize >= 4  # shorter types hold one-hot cotangents, not all others
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

    def again(self, x: Tensor) -> "InputJacobian":
        """Another pass of the same classifier, for other inputs."""
        return InputJacobian(self._classifier, x, differentiable=self.differentiable, precision=self._precision)

    def logits_at(self, x: Tensor) -> Tensor:
        """The logits (N, C) of other inputs, NaN where these are not finite; no gradients unless differentiable."""
        clean, finite = replace_unusable(x)
        with torch.set_grad_enabled(self.differentiable):
            logits = self._classifier.fast(clean)(clean)[0]
        return torch.where(finite[:, None], logits, torch.nan)

    def vjp(self, cotangents: Tensor, *, balanced: bool = False) -> Tensor:
        """J^T v for each cotangent v: (N, K, C) -> (N, K, *input). Costs min(K, C, F) backward passes.

        Args:
            balanced: whether the entries of each cotangent sum to zero.
        """
        if self.differentiable:
            rows = cotangents.to(self.logits.dtype).unbind(1)
            return torch.stack([gradient(self.logits, self._leaf, row, create_graph=True) for row in rows], dim=1)
        if self._n == 0:
            return self.x.new_empty(0, cotangents.shape[1], *self.x.shape[1:])
        if self._once and balanced and self._weight is None and self._rank == cotangents.shape[1] <= FEW:
            return self._of_differences(cotangents)
        cotangents = self._coefficients(cotangents)
        if not self._spanned and cotangents.shape[1] < self._rank + self._once:
            return self._rows(cotangents)
        return self._combined(cotangents, self._basis)

    def _of_differences(self, cotangents: Tensor) -> Tensor:
        """The same of the gradients by which each logit differs from the predicted one, one fewer than there are."""
        one_hot = torch.eye(self._rank, device=self.logits.device)
        others = without(self.predicted, self._rank)
        rows = self._rows(one_hot[others] - one_hot[self.predicted][:, None])
        return self._combined(cotangents.gather(2, others[:, None].expand(-1, self._rank, -1)), rows)

    def _combined(self, coefficients: Tensor, rows: Tensor) -> Tensor:
        """Sums (N, K, *input) of gradients (N, R, *input), weighted by (N, K, R)."""
        exact = torch.promote_types(self.logits.dtype, torch.float32)
        maps = coefficients.to(exact) @ rows.flatten(2).to(exact)
        return maps.to(self._dtype).view(*maps.shape[:2], *self._leaf.shape[1:])

    def squares(self, cotangents: Tensor) -> Tensor:
        """|J^T v|^2 (N, K), float64, of each cotangent v (N, K, C): from the Gram matrix of what spans the gradients,
        so that these are not made, unless they are fewer."""
        if not self.differentiable and self._n:
            coefficients = self._coefficients(cotangents).double()
            if self._spanned or coefficients.shape[1] >= self._rank:
                return ((coefficients @ self._products) * coefficients).sum(2).clamp_min(0)
        return self.vjp(cotangents).flatten(2).double().square().sum(2)

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
        for part in self._graph.vjp(cotangents):
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
        return self.finish(self.vjp(cotangents, balanced=options.loss.balanced), options)

    def gradients(self, options: Maps) -> Tensor:
        """The saliency maps (N, K, *input), at their true size where unsigned."""
        cotangents, scale = options.loss.cotangents(self.logits, options.select(self.logits))
        maps = self.vjp(cotangents, balanced=options.loss.balanced)
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
        if classes.shape[1] >= self._rank + self._once and self._rank * one + each <= budget:
            budget -= self._rank * one
            self._basis  # noqa: B018  # made now, it serves every part
        for part in classes.split(max(1, budget // each), dim=1):
            yield self._reduced(self.vjp(options.loss.cotangents(self.logits, part)[0]), options)

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
