"""What evidence is measured from: a forward pass of a batch and what derives from it, each computed once on demand."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gradgeo.classifier.microbatch import AdaptiveBatch
from gradgeo.errors import ModelError
from gradgeo.geometry.chunking import memory_for
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.neighbourhood import Neighbours, slope
from gradgeo.geometry.options import Maps, without
from gradgeo.geometry.similarity import csm_of

RADII = (1.0, 4.0, 16.0)  # of the neighbourhood, in units of `EvidenceContext.radius`
DRAWS = 4  # neighbours at each radius


class EvidenceContext:
    """The forward pass of a batch and what derives from it, each computed once on demand.

    Args:
        forward: the pass: inputs `x` (N, *input), `logits` (N, C), `features` (N, F) or None, and gradients.
        maps: the loss, temperature and classes of the saliency maps.
        radius: root mean square per input entry of the step that takes a typical trusted input to its nearest
            boundary, to first order; the radii of the neighbourhood are multiples of it.
        gradients: whether gradients at the neighbours are measured too; `drop` then shares their forward passes.
        moves: `displacements` of this radius, where the caller has them already.
        ways: those of `WAYS` that will be asked for, which then go through the model together.
    """

    def __init__(
        self,
        forward: InputJacobian,
        maps: Maps,
        radius: float = 1.0,
        *,
        gradients: bool = True,
        moves: Tensor | None = None,
        ways: Iterable[str] = (),
    ) -> None:
        self.forward = forward
        self.radius = radius
        self._moves = moves
        self._ways = tuple(ways)
        self._gradients_around = gradients
        self.temperature = maps.loss.temperature or 1.0
        self._maps = maps

    @cached_property
    def classes(self) -> Tensor:
        """The classes with a map (N, K). The predicted class is always one: where a chosen set lacks it, it takes the
        place of the least likely of the set."""
        logits, predicted = self.forward.logits, self.forward.predicted[:, None]  # (N, C), (N, 1)
        classes = self._maps.select(logits).clone()  # (N, K)
        absent = ~(classes == predicted).any(1, keepdim=True)
        least = logits.gather(1, classes).argmin(1, keepdim=True)
        return classes.scatter_(1, least, torch.where(absent, predicted, classes.gather(1, least)))

    @cached_property
    def position(self) -> Tensor:
        """The index of the predicted class among `classes` (N,)."""
        return (self.classes == self.forward.predicted[:, None]).int().argmax(1)

    @cached_property
    def rivals(self) -> Tensor:
        """`classes` without the predicted one (N, K - 1)."""
        return self.classes.gather(1, without(self.position, self.classes.shape[1]))

    @cached_property
    def csm(self) -> Tensor:
        """The cosine similarity matrix (N, K, K); NaN where every map is zero, as a cosine with zero is not defined."""
        return self._cosines(sign=True)

    def kept(self, name: str) -> Tensor:
        """What is kept of a pass besides features: "logits", "csm" or "classes"; the CSM is NaN where the model has no
        gradients, which evidence that asks for them has found by then."""
        if name != "csm":
            return self.forward.logits if name == "logits" else self.classes
        try:
            if self.forward.has_graph:
                return self.csm
        except ModelError:  # of some models autograd tells no sooner
            pass
        return self.forward.x.new_full((*self.classes.shape, self.classes.shape[1]), torch.nan)

    @cached_property
    def csm_at_one(self) -> Tensor:
        """`csm` at temperature 1, of the same gradients: no further backward pass."""
        return self._cosines(sign=True, temperature=1.0)

    @cached_property
    def raw_csm(self) -> Tensor:
        """`csm` of the gradients themselves instead of their signs."""
        return self._cosines(sign=False)

    def _maps_of(self, sign: bool, temperature: float | None) -> Maps:
        """The maps of `classes`, at another temperature where one is given."""
        loss = self._maps.loss if temperature is None else replace(self._maps.loss, temperature=temperature)
        chosen = self._maps.classes
        return replace(self._maps, loss=loss, classes=self.classes if isinstance(chosen, Tensor) else chosen, sign=sign)

    def _cosines(self, *, sign: bool, temperature: float | None = None) -> Tensor:
        maps = self._maps_of(sign, temperature)
        gradients = self._loss_gradients[0] if self._kept and temperature is None else None
        matrix = csm_of(self.forward, maps, memory_for(None, self.forward.x.device), gradients=gradients)
        return torch.where(self.forward.has_gradient[:, None, None], matrix, torch.nan)

    @property
    def _kept(self) -> bool:
        """Whether the losses' gradients are kept, for all that is made of them: where they are fewer than span all
        others (`InputJacobian.basis`), of which all is made otherwise."""
        return self.classes.shape[1] < self.forward.rank

    @cached_property
    def _loss_gradients(self) -> tuple[Tensor, Tensor]:
        """The gradient (N, K, *input) of the loss of each of `classes`, and the factor (N, K), float64, that brings it
        to its true size."""
        cotangents, scale = self._maps.loss.cotangents(self.forward.logits, self.classes)  # (N, K, C), (N, K)
        return self.forward.vjp(cotangents), scale

    @cached_property
    def map_norms(self) -> Tensor:
        """Log Euclidean length (N, K) of each class's loss gradient, less the confidence factor 1 - p_i; NaN where all
        vanish."""
        if self._kept:
            squares = self._loss_gradients[0].flatten(2).double().square().sum(2)  # (N, K)
        else:
            squares = self.forward.squares(self._maps.loss.cotangents(self.forward.logits, self.classes)[0])
        return log_root(squares).masked_fill((squares == 0).all(1, keepdim=True), torch.nan)

    @cached_property
    def boundary_distances(self) -> Tensor:
        """Log of the first-order distance (N, K - 1) to each boundary with another class, the nearest first:
        (z_k - z_j) / |grad (z_k - z_j)|.

        Cost: the gradients of K losses, which the CSM is made of too, or those that span all maps; of a loss that
        does not differ as logits do, K - 1 backward passes more.
        """
        if self._kept and self._maps.loss.differs_as_logits:
            squares = self._squares_of_differences()
        else:
            squares = self._squares_to(self.rivals)
        return self._log_distances(self.rivals, squares).sort(1).values

    def nearest_boundary(self, rivals: int) -> Tensor:
        """Log of the first-order distance (N,) to the nearest of the boundaries with the most likely `rivals`.

        The nearest boundary is almost always one with a class that the logits rank high, and each boundary costs a
        backward pass: with K - 1 rivals or fewer this is `boundary_distances[:, 0]`, with more it stays affordable.
        """
        if self.rivals.shape[1] <= rivals:
            return self.boundary_distances[:, 0]
        order = self.forward.logits.gather(1, self.rivals).topk(rivals, dim=1).indices
        nearest = self.rivals.gather(1, order)
        return self._log_distances(nearest, self._squares_to(nearest)).amin(1)

    def _log_distances(self, rivals: Tensor, squares: Tensor) -> Tensor:
        """Log of the first-order distance (N, R) to the boundary with each of `rivals` (N, R), of the `squares` (N, R)
        of the gradients there."""
        logits = self.forward.logits.double()
        gaps = logits.amax(1, keepdim=True) - logits.gather(1, rivals)  # (N, R), 0 or more
        return gaps.clamp_min(1e-30).log() - log_root(squares)

    def _squares_to(self, rivals: Tensor) -> Tensor:
        """|grad (z_k - z_j)|^2 (N, R) for each of `rivals` (N, R)."""
        n, width = rivals.shape
        # The cotangent e_k - e_j pulls back to the gradient of z_k - z_j. (N, R, C)
        apart = self.forward.logits.new_zeros(n, width, self.forward.logits.shape[1])
        apart.scatter_(2, self.forward.predicted.view(n, 1, 1).expand(n, width, 1), 1.0)
        apart.scatter_(2, rivals[..., None], -1.0)
        return self.forward.squares(apart)

    def _squares_of_differences(self) -> Tensor:
        """`_squares_to` all of `rivals` (N, K - 1), without a further pass: z_k - z_j is the temperature times the
        difference of the losses of k and j."""
        gradients, scale = self._loss_gradients
        rows, sizes = gradients.flatten(2), (self.temperature * scale)[..., None]  # (N, K, d), (N, K, 1)
        place = self.position[:, None, None]
        own = rows.gather(1, place.expand(-1, 1, rows.shape[2]))[:, 0].double() * sizes.gather(1, place)[:, 0]  # (N, d)
        # One class at a time: of all together the differences in float64 would be large.
        each = zip(rows.unbind(1), sizes.unbind(1), strict=True)
        squares = torch.stack([(own - row.double() * size).square().sum(1) for row, size in each], dim=1)  # (N, K)
        return squares.gather(1, without(self.position, squares.shape[1]))

    @cached_property
    def neighbourhood(self) -> "Neighbourhood":
        """How the loss of the predicted class changes at `DRAWS` points at each of `RADII` around each input."""
        predicted, loss = self.forward.predicted, Loss("cross_entropy", self.temperature)
        here, steepness = slope(self.forward, predicted, loss)  # (N, d) unit vectors, (N,) lengths
        before = margin(self.forward.logits, predicted)  # (N,)
        moves = self._displacements  # (D, *input)

        def measure(sample: Tensor, direction: Tensor) -> tuple[Tensor, ...]:
            there = self.forward.again(self.forward.x[sample] + moves[direction])
            unit, steepness_there = slope(there, predicted[sample], loss)
            move = moves[direction].flatten(1).double()  # (n, d)
            distance = move.norm(dim=1)
            along = (unit * move).sum(1) / distance  # zeta, Theorem 1
            along_here = (here[sample] * move).sum(1) / distance
            return (
                before[sample] - margin(there.logits, predicted[sample]),
                (unit * here[sample]).sum(1),
                along,
                (there.predicted != predicted[sample]).double(),
                # Lemma 2: the change of the slope along the move, per length of the move.
                (steepness_there * along - steepness[sample] * along_here) / distance,
            )

        columns = self._at_each(len(moves), measure, columns=len(fields(Neighbourhood)))  # 5 of (N, D)
        return Neighbourhood(*(column.view(-1, len(RADII), DRAWS) for column in columns))

    @cached_property
    def drop(self) -> Tensor:
        """`neighbourhood.drop`, by forward passes alone where no evidence needs gradients there."""
        if self._gradients_around:
            return self.neighbourhood.drop
        moves = self._displacements
        drop = self._answers(len(moves), lambda x, direction: x + moves[direction]).drop
        return drop.view(-1, len(RADII), DRAWS)

    @cached_property
    def odds_against(self) -> Tensor:
        """Log odds (N,) against the predicted class, float64."""
        return odds_against(self.forward.logits, self.forward.predicted)

    @cached_property
    def mirrored_odds_against(self) -> Tensor:
        """Log odds (N,) against the predicted class, of the mean of its probability at the input and at its mirror
        image along the last axis. One forward pass of those of `symmetry_drop`."""
        both = torch.stack([self.odds_against, self._moved("symmetries").odds[:, 0]])  # (2, N)
        return F.logsigmoid(both).logsumexp(0) - F.logsigmoid(-both).logsumexp(0)

    @cached_property
    def shift_drop(self) -> Tensor:
        """By how much the predicted class's margin falls where the input is shifted by one entry, either way along each
        axis behind the channels (N, 2 * axes); what leaves is lost, what enters repeats the edge."""
        return self._moved("shifts").drop

    @cached_property
    def symmetry_drop(self) -> Tensor:
        """By how much the margin falls (N, 2) where the input is mirrored along its last axis, and where it is shifted
        by one entry along every axis behind the channels."""
        return self._moved("symmetries").drop

    def _moved(self, name: str) -> "Answers":
        """What the model answers to the inputs moved in those of `WAYS`."""
        return self._moved_together[name] if name in self._ways else self._moved_in((name,))[name]

    @cached_property
    def _moved_together(self) -> dict[str, "Answers"]:
        return self._moved_in(self._ways)

    def _moved_in(self, names: tuple[str, ...]) -> dict[str, "Answers"]:
        made = [WAYS[name](self.forward.x) for name in names]
        ways = [way for some in made for way in some]

        def moved(x: Tensor, number: Tensor) -> Tensor:
            points, number = x, number.view(-1, *[1] * (x.ndim - 1))
            for place, way in enumerate(ways):
                points = torch.where(number == place, way(x), points)
            return points

        sizes = [len(some) for some in made]
        each = zip(*(column.split(sizes, dim=1) for column in self._answers(len(ways), moved)), strict=True)
        return dict(zip(names, map(Answers._make, each), strict=True))

    @property
    def _displacements(self) -> Tensor:
        return displacements(self.forward.x, self.radius) if self._moves is None else self._moves

    def _answers(self, ways: int, there: Callable[[Tensor, Tensor], Tensor]) -> "Answers":
        """What the model answers at the points `there` gives for inputs (n, *input) and ways (n,)."""
        predicted = self.forward.predicted
        before = margin(self.forward.logits, predicted)

        def measure(sample: Tensor, direction: Tensor) -> tuple[Tensor, ...]:
            logits, own = self.forward.logits_at(there(self.forward.x[sample], direction)), predicted[sample]
            return before[sample] - margin(logits, own), odds_against(logits, own)

        return Answers(*self._at_each(ways, measure, columns=len(Answers._fields)))

    def _at_each(
        self, ways: int, measure: Callable[[Tensor, Tensor], tuple[Tensor, ...]], *, columns: int = 1
    ) -> list[Tensor]:
        """`measure` of each pair of an input and a way, as indices (n,) and (n,): columns (N, ways)."""
        x, n = self.forward.x, self.forward.x.shape[0]  # a symbol in exports, which len() would make a number
        parts: list[tuple[Tensor, ...]] = []

        def there(pair: Tensor, rows: slice) -> tuple[Tensor, ...]:
            pair = pair[rows]
            return measure(pair // ways, pair % ways)

        for pair in self.forward.affordable_parts(torch.arange(n * ways, device=x.device)):
            if isinstance(n, int) and n == 1:  # a pass of several inputs is halved as a whole where memory is short
                parts += AdaptiveBatch(len(pair))(len(pair), partial(there, pair))
            else:
                parts.append(there(pair, slice(None)))
        if not parts:
            return [x.new_zeros(0, ways, dtype=torch.float64)] * columns
        return [torch.cat(column).view(n, ways) for column in zip(*parts, strict=True)]


class Answers(NamedTuple):
    """What the model answers to inputs moved in several ways, each (N, ways), float64."""

    drop: Tensor
    """By how much the predicted class's margin falls."""
    odds: Tensor
    """Log odds against the predicted class."""


def shiftable(x: Tensor) -> list[int]:
    """The axes of `x` (N, channels, ...) that can be shifted along: those behind the channels, longer than one."""
    return [axis for axis in range(2, x.ndim) if x.shape[axis] > 1]


def shift(x: Tensor, axis: int, step: int) -> Tensor:
    """`x` shifted by one entry along an axis, forwards (`step` 1) or back (-1); the edge is repeated."""
    last = x.shape[axis] - 1
    if step > 0:
        return torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, last)], dim=axis)
    return torch.cat([x.narrow(axis, 1, last), x.narrow(axis, last, 1)], dim=axis)


def _shifts(x: Tensor) -> list[Callable[[Tensor], Tensor]]:
    return [partial(shift, axis=axis, step=step) for axis in shiftable(x) for step in (1, -1)]


def _symmetries(x: Tensor) -> list[Callable[[Tensor], Tensor]]:
    def step(x: Tensor) -> Tensor:
        for axis in shiftable(x):
            x = shift(x, axis, 1)
        return x

    return [partial(torch.flip, dims=(-1,)), step]


WAYS: dict[str, Callable[[Tensor], list[Callable[[Tensor], Tensor]]]] = {"symmetries": _symmetries, "shifts": _shifts}
"""Ways to move inputs by whole entries, of inputs shaped as those given."""


def displacements(x: Tensor, radius: float) -> Tensor:
    """The steps to the neighbours (radii * draws, *input), the same for every input shaped as those in `x`."""
    return torch.cat(
        [
            Neighbours(multiple * radius, DRAWS, generator=torch.Generator().manual_seed(i)).displacements(x)
            for i, multiple in enumerate(RADII)
        ]
    )


@dataclass(frozen=True)
class Neighbourhood:
    """Measurements at the neighbours of each input, each (N, radii, draws), float64."""

    drop: Tensor
    """By how much the predicted class's margin falls."""
    turn: Tensor
    """Cosine between the loss's gradient there and at the input."""
    zeta: Tensor
    """Cosine between the gradient there and the step there (Theorem 1)."""
    flip: Tensor
    """1 where another class is predicted, else 0."""
    curvature: Tensor
    """<H e, e> of the loss along the step there, as a difference quotient (Lemma 2)."""


def margin(logits: Tensor, predicted: Tensor) -> Tensor:
    """The logit of the class `predicted` less the largest other one (N,), float64."""
    logits, own = logits.double(), predicted[:, None]  # (N, C), (N, 1)
    return logits.gather(1, own)[:, 0] - logits.scatter(1, own, -torch.inf).amax(1)


def odds_against(logits: Tensor, predicted: Tensor) -> Tensor:
    """Log odds (N,) against the class `predicted`, float64, without the rounding of a probability to 1."""
    logits, own = logits.double(), predicted[:, None]  # (N, C), (N, 1)
    return logits.scatter(1, own, -torch.inf).logsumexp(1) - logits.gather(1, own)[:, 0]


def log_root(squares: Tensor) -> Tensor:
    """The logarithm of the square root; of zero, that of 1e-30."""
    return squares.clamp_min(1e-60).log() / 2
