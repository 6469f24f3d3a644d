"""One forward pass of a batch, and from it any number of gradients with respect to the input.

With z = F(x), J = dz/dx (C, *input) of each sample. A saliency map is J^T v for a cotangent v (C,); everything a
detector looks at is made of such products, of their squares, or of their inner products.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from gradgeo.classifier.prepared import PreparedBatch
from gradgeo.errors import ModelError, expected
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps, without

BATCH = 64  # samples in one forward pass unless `chunk_size` says otherwise
SPARE = 8  # gradients of a sample that may exist, or be freed and not given back, besides what is kept of its maps
COPIES = 4  # of the inputs: without what is not finite, as a leaf, as a clone to be worked on, channels last
TABLES = 5  # float64 rows of C numbers that exist for each class while its cotangent is computed
FEW = 16  # classes up to which a backward pass less is worth a product of all maps
MAP_BYTES = 1 << 30  # the maps of one pass stay below this unless a single sample needs more


def with_gradient(output: Tensor) -> Tensor:
    """The model's output, refused if it is a constant to autograd."""
    if not output.requires_grad:
        raise ModelError(
            "the model's output cannot be differentiated with respect to its input. Look for .detach(), argmax, "
            "rounding, .numpy() or torch.no_grad() in its forward; integer or quantised models have no gradients: "
            'Detector(evidence="lite") needs none.'
        )
    return output


class InputJacobian(ABC):
    """The logits of a batch, and products with their Jacobian J with respect to the input.

    R gradients span all others: those of the logits (R = C) or, where a linear layer makes these of fewer features
    F < C, those of the features (R = F), for then J = W J_features. Once as many are asked for, they are computed and
    kept as `basis`, and every further map of the pass is a linear combination of them.

    An implementation says how gradients are computed (`_rows`), how other inputs go through the same classifier
    (`again`, `logits_at`, `affordable_parts`), and what it holds in memory.

    Args:
        batch: the inputs.
        logits: (N, C).
        features: (N, F), what enters the linear layer that makes the logits; None where there is none.
        layers: (N, F) of each of some layers throughout the classifier; none where they were not asked for.
        rank: how many gradients span all others, R.
        weight: (C, F), which makes the logits of the features, where these are what is differentiated.
        once: maps are asked for once, so that nothing need be kept: as many maps as there are gradients that span them
            are then computed by themselves, and those of few classes of one gradient less, for the cotangents of the
            softmax span no more than the differences of the logits do.
    """

    has_graph: bool = True
    """Whether it can be asked for gradients at all."""
    differentiable: ClassVar[bool] = False
    """Whether logits and maps stay in the graph of the inputs."""

    def __init__(
        self,
        batch: PreparedBatch,
        logits: Tensor,
        features: Tensor | None,
        *,
        rank: int,
        weight: Tensor | None = None,
        layers: tuple[Tensor, ...] = (),
        once: bool = False,
    ) -> None:
        self.x = batch.x
        """(N, *input): the inputs as they went in, zeros for rows that hold NaN or infinity."""
        self.logits = logits
        self.features = features
        self.layers = layers
        self.rank = rank
        self.finite = batch.usable
        """(N,) bool: whether every entry of the input is finite."""
        self.usable = batch.usable & torch.isfinite(logits).all(1)
        """(N,) bool: whether every entry of the input and of its logits is finite."""
        self.has_gradient = torch.zeros_like(self.usable)
        """(N,) bool: whether any gradient that was computed so far had an entry other than zero."""
        self._n = batch.x.shape[0]  # a symbol in exports, which len() would turn into a number
        self._weight = weight
        self._once = once

    @abstractmethod
    def _rows(self, cotangents: Tensor) -> Tensor:
        """The gradients (N, K, *input) of what is differentiated, for cotangents (N, K, R); notes `has_gradient`."""

    @abstractmethod
    def again(self, x: Tensor) -> "InputJacobian":
        """Another pass of the same classifier, for other inputs of its device and dtype."""

    @abstractmethod
    def logits_at(self, x: Tensor) -> Tensor:
        """The logits (N, C) of other inputs, NaN where these are not finite; no gradients unless differentiable."""

    @abstractmethod
    def affordable_parts(self, rows: Tensor) -> Sequence[Tensor]:
        """`rows` (M,) in parts, of each of which another pass can take the inputs."""

    @property
    def graph_bytes(self) -> int:
        """About what the pass itself holds."""
        return 0

    @property
    def predicted(self) -> Tensor:
        """The most likely class (N,)."""
        return self.logits.argmax(1)

    def vjp(self, cotangents: Tensor, *, balanced: bool = False) -> Tensor:
        """J^T v for each cotangent v: (N, K, C) -> (N, K, *input). Costs min(K, R) backward passes.

        Args:
            balanced: whether the entries of each cotangent sum to zero.
        """
        if self._n == 0:
            return self.x.new_empty(0, cotangents.shape[1], *self.x.shape[1:])
        if self._once and balanced and self._weight is None and self.rank == cotangents.shape[1] <= FEW:
            return self._of_differences(cotangents)
        coefficients = self.coefficients(cotangents)  # (N, K, R)
        if self._has_basis or coefficients.shape[1] >= self.rank + self._once:
            return self._combined(coefficients, self.basis)
        return self._rows(coefficients)

    def squares(self, cotangents: Tensor) -> Tensor:
        """|J^T v|^2 (N, K), float64, of each cotangent v (N, K, C).

        v^T (J J^T) v takes the Gram matrix of what spans the gradients, so that these are not computed, unless they
        are fewer than R.
        """
        coefficients = self.coefficients(cotangents).double()  # (N, K, R)
        if self._n and (self._has_basis or coefficients.shape[1] >= self.rank):
            return ((coefficients @ self.gram) * coefficients).sum(2).clamp_min(0)  # (N, K)
        return self.vjp(cotangents).flatten(2).double().square().sum(2)

    def coefficients(self, cotangents: Tensor) -> Tensor:
        """What combines the basis to each map: v, or v W where features span the maps. (N, K, C) -> (N, K, R)."""
        return cotangents if self._weight is None else cotangents.double() @ self._weight.double()

    @cached_property
    def basis(self) -> Tensor:
        """The gradients (N, R, *input) that span all others."""
        one_hot = torch.eye(self.rank, device=self.logits.device)  # (R, R)
        return self._rows(one_hot.expand(self._n, -1, -1))

    @property
    def _has_basis(self) -> bool:
        return "basis" in vars(self)

    @cached_property
    def gram(self) -> Tensor:
        """The inner products (N, R, R), float64, of the gradients that span all others."""
        return torch.stack([_gram(rows) for rows in self.basis.flatten(2)])

    def _of_differences(self, cotangents: Tensor) -> Tensor:
        """`vjp` by the C - 1 gradients by which each logit differs from the predicted one.

        For v whose entries sum to zero, sum_j v_j z_j = sum_{j != p} v_j (z_j - z_p).
        """
        one_hot = torch.eye(self.rank, device=self.logits.device)
        others = without(self.predicted, self.rank)  # (N, C - 1)
        rows = self._rows(one_hot[others] - one_hot[self.predicted][:, None])  # (N, C - 1, *input)
        return self._combined(cotangents.gather(2, others[:, None].expand(-1, self.rank, -1)), rows)

    def _combined(self, coefficients: Tensor, rows: Tensor) -> Tensor:
        """Sums of gradients: (N, K, R) of (N, R, *input) -> (N, K, *input)."""
        exact = torch.promote_types(self.logits.dtype, torch.float32)
        maps = coefficients.to(exact) @ rows.flatten(2).to(exact)  # (N, K, d)
        return maps.to(self.x.dtype).view(*maps.shape[:2], *self.x.shape[1:])

    def maps(self, options: Maps, gradients: Tensor | None = None) -> Tensor:
        """The saliency maps (N, K, *input); unsigned ones are true gradients only up to a positive factor each.

        Args:
            gradients: what `vjp` gives of the losses' cotangents, where it is there already.
        """
        if gradients is None:
            cotangents, _ = options.loss.cotangents(self.logits, options.select(self.logits))
            gradients = self.vjp(cotangents, balanced=options.loss.balanced)
        return self._finished(gradients, options)

    def gradients(self, options: Maps) -> Tensor:
        """The saliency maps (N, K, *input), at their true size where unsigned."""
        cotangents, scale = options.loss.cotangents(self.logits, options.select(self.logits))  # (N, K, C), (N, K)
        maps = self.vjp(cotangents, balanced=options.loss.balanced)
        if not options.sign:
            maps = maps * scale.view(*scale.shape, *[1] * (maps.ndim - 2)).to(maps.dtype)
        return self._finished(maps, options)

    def iter_map_chunks(self, options: Maps, budget: int, gradients: Tensor | None = None) -> Iterator[Tensor]:
        """The maps as in `maps`, some classes (N, k, *input) at a time, and numbers even for samples that are not
        `usable`; graph, cotangents, gradients and one byte for each entry stay within about `budget` bytes."""
        if gradients is not None:
            yield from (self._reduced(part, options) for part in gradients.split(SPARE, dim=1))
            return
        classes = options.select(self.logits)  # (N, K)
        one = max(1, self.x.numel() * self.x.dtype.itemsize)  # bytes of one gradient of every sample
        each = SPARE * one + TABLES * 8 * self.logits.numel()  # for each class of a chunk
        budget -= self.graph_bytes + classes.shape[1] * self.x.numel()
        if classes.shape[1] >= self.rank + self._once and self.rank * one + each <= budget:
            budget -= self.rank * one
            self.basis  # noqa: B018  # computed now, it serves every chunk
        for chunk in classes.split(max(1, budget // each), dim=1):
            yield self._reduced(self.vjp(options.loss.cotangents(self.logits, chunk)[0]), options)

    def grams(self, options: Maps) -> Iterator[Tensor] | None:
        """The inner products (K, K), float64, of the unsigned maps of each sample in turn: of what spans them, if no
        more than there are maps, so that the maps themselves are never computed; else None."""
        classes = options.select(self.logits)  # (N, K)
        if classes.shape[1] < self.rank or self._n == 0:
            return None
        return self._grams(options.loss, classes)

    def _grams(self, loss: Loss, classes: Tensor) -> Iterator[Tensor]:
        for logits, of, gram in zip(self.logits, classes, self.gram, strict=True):  # (C,), (K,), (R, R)
            coefficients = self.coefficients(loss.cotangents(logits[None], of[None])[0])[0]  # (K, R)
            yield coefficients @ gram @ coefficients.mT

    def _finished(self, maps: Tensor, options: Maps) -> Tensor:
        """What `options` keep of gradients (N, K, *input); NaN for unusable samples."""
        maps = self._reduced(maps, options)
        return torch.where(self.usable.view(-1, *[1] * (maps.ndim - 1)), maps, torch.nan)

    def _reduced(self, maps: Tensor, options: Maps) -> Tensor:
        """(N, K, *input) -> the same, or (N, K, *axes) without the channels."""
        if options.sign:
            maps = self._sign(maps)
        if options.channel_max:
            if maps.ndim < 4:
                raise expected("channel_max", "False for inputs without a channel axis (N, channels, ...)", True)
            maps = maps.amax(2)
        return maps

    def _sign(self, maps: Tensor) -> Tensor:
        return maps.sign()


def _gram(rows: Tensor) -> Tensor:
    """rows rows^T (R, R) in float64, of (R, d), a few columns at a time: float64 copies of all would be large."""
    blocks = (block.double() for block in rows.split(1 << 14, dim=1))
    return sum((block @ block.mT for block in blocks), rows.new_zeros(len(rows), len(rows), dtype=torch.float64))
