"""Evidence: named measurements of how a classifier sees an input, all made from one shared forward pass.

Each says what it rests on and what it is blind to; results/evidence.md measures both. Evidence of your own takes one
line: `EVIDENCE["mine"] = Evidence("mine", ("a", "b"), lambda seen: ...)`, and `Detector(evidence=["csm", "mine"])`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from gradgeo.errors import choice, expected
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.neighbourhood import Neighbours, slope
from gradgeo.geometry.saliency import ForwardPass, Maps, memory_for
from gradgeo.geometry.similarity import STATISTICS, csm_of, statistics_of, without
from gradgeo.one_class import ClassConditionalCopula, NearestNeighbours, OneClass, Residual, UpperTail
from gradgeo.passes import Passes

RADII = (1.0, 4.0, 16.0)  # of the neighbourhood, in units of `Observation.radius`
DRAWS = 4  # neighbours at each radius


class Observation:
    """What is known of a batch: its forward pass and what derives from it, each computed once when asked.

    Args:
        forward: the pass.
        maps: of which loss, temperature and classes the saliency maps are.
        radius: root mean square per input entry of the step that takes a typical trusted input to its nearest
            boundary, to first order; what the radii of the neighbourhood are multiples of.
        gradients: whether gradients at the neighbours are wanted too, so that values alone need no passes of their own.
        moves: `displacements` of this radius, where the caller has them already.
    """

    def __init__(
        self,
        forward: ForwardPass,
        maps: Maps,
        radius: float = 1.0,
        *,
        gradients: bool = True,
        moves: Tensor | None = None,
    ) -> None:
        self.forward = forward
        self.radius = radius
        self._moves = moves
        self._gradients_around = gradients
        self.temperature = maps.loss.temperature or 1.0
        self._maps = maps

    @cached_property
    def classes(self) -> Tensor:
        """The classes with a map (N, K). The predicted class is always one: where a chosen set lacks it, it takes the
        place of the least likely of the set."""
        logits, predicted = self.forward.logits, self.forward.predicted[:, None]
        classes = self._maps.select(logits).clone()
        absent = ~(classes == predicted).any(1, keepdim=True)
        least = logits.gather(1, classes).argmin(1, keepdim=True)
        return classes.scatter_(1, least, torch.where(absent, predicted, classes.gather(1, least)))

    @cached_property
    def position(self) -> Tensor:
        """Where the predicted class stands among `classes` (N,)."""
        return (self.classes == self.forward.predicted[:, None]).int().argmax(1)

    @cached_property
    def rivals(self) -> Tensor:
        """`classes` without the predicted one (N, K - 1)."""
        return self.classes.gather(1, without(self.position, self.classes.shape[1]))

    @cached_property
    def csm(self) -> Tensor:
        """The cosine similarity matrix (N, K, K); NaN where every map is zero, for then there is nothing to compare."""
        return self._compared(sign=True)

    @cached_property
    def raw_csm(self) -> Tensor:
        """`csm` of the gradients themselves instead of their signs."""
        return self._compared(sign=False)

    def _compared(self, *, sign: bool) -> Tensor:
        chosen = self._maps.classes
        maps = replace(self._maps, classes=self.classes if isinstance(chosen, Tensor) else chosen, sign=sign)
        matrix = csm_of(self.forward, maps, memory_for(None, self.forward.x.device))
        return torch.where(self.forward.alive[:, None, None], matrix, torch.nan)

    @cached_property
    def map_norms(self) -> Tensor:
        """Log Euclidean length (N, K) of each class's loss gradient, less the confidence factor 1 - p_i; NaN where all
        vanish."""
        squares = self.forward.squares(self._maps.loss.cotangents(self.forward.logits, self.classes)[0])
        return _log_root(squares).masked_fill((squares == 0).all(1, keepdim=True), torch.nan)

    @cached_property
    def boundary_distances(self) -> Tensor:
        """Log of the first-order distance (N, K - 1) to each boundary with another class, the nearest first:
        (z_k - z_j) / |grad (z_k - z_j)|."""
        n, width = self.rivals.shape
        apart = self.forward.logits.new_zeros(n, width, self.forward.logits.shape[1])
        apart.scatter_(2, self.forward.predicted.view(n, 1, 1).expand(n, width, 1), 1.0)
        apart.scatter_(2, self.rivals[..., None], -1.0)
        logits = self.forward.logits.double()
        gaps = logits.amax(1, keepdim=True) - logits.gather(1, self.rivals)
        return (gaps.clamp_min(1e-30).log() - _log_root(self.forward.squares(apart))).sort(1).values

    @cached_property
    def neighbourhood(self) -> "Neighbourhood":
        """What the loss of the predicted class does at `DRAWS` points at each of `RADII` around each input."""
        predicted, loss = self.forward.predicted, Loss("cross_entropy", self.temperature)
        here, steepness = slope(self.forward, predicted, loss)
        before = margin(self.forward.logits, predicted)

        def measure(points: Tensor, sample: Tensor, move: Tensor) -> tuple[Tensor, ...]:
            there = self.forward.again(points)
            unit, steepness_there = slope(there, predicted[sample], loss)
            distance = move.norm(dim=1)
            along = (unit * move).sum(1) / distance
            along_here = (here[sample] * move).sum(1) / distance
            return (
                before[sample] - margin(there.logits, predicted[sample]),
                (unit * here[sample]).sum(1),
                along,
                (there.predicted != predicted[sample]).double(),
                (steepness_there * along - steepness[sample] * along_here) / distance,
            )

        return Neighbourhood(*self._around(measure))

    @cached_property
    def drop(self) -> Tensor:
        """`neighbourhood.drop`, by forward passes alone where no gradients are wanted."""
        if self._gradients_around:
            return self.neighbourhood.drop
        predicted = self.forward.predicted
        before = margin(self.forward.logits, predicted)

        def measure(points: Tensor, sample: Tensor, move: Tensor) -> tuple[Tensor, ...]:
            return (before[sample] - margin(self.forward.logits_at(points), predicted[sample]),)

        return self._around(measure)[0]

    def _around(self, measure: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]) -> list[Tensor]:
        """What `measure` makes of neighbours (n, *input), whose they are (n,) and the way there (n, d), as columns
        (N, radii, draws)."""
        x, n = self.forward.x, self.forward.x.shape[0]  # a symbol in exports, which len() would make a number
        moves = displacements(x, self.radius) if self._moves is None else self._moves
        found: list[tuple[Tensor, ...]] = []

        def there(pair: Tensor, rows: slice) -> tuple[Tensor, ...]:
            pair = pair[rows]
            sample, direction = pair // len(moves), pair % len(moves)
            move = moves[direction]
            return measure(x[sample] + move, sample, move.flatten(1).double())

        for pair in self.forward.in_passes(torch.arange(n * len(moves), device=x.device)):
            if isinstance(n, int) and n == 1:  # a pass of several inputs is halved as a whole where memory is short
                found += Passes(len(pair))(len(pair), partial(there, pair))
            else:
                found.append(there(pair, slice(None)))
        if not found:
            return [x.new_zeros(0, len(RADII), DRAWS, dtype=torch.float64)] * len(fields(Neighbourhood))
        return [torch.cat(column).view(n, len(RADII), DRAWS) for column in zip(*found, strict=True)]


def displacements(x: Tensor, radius: float) -> Tensor:
    """The ways to the neighbours (radii times draws, *input), the same for every input shaped as those in `x`."""
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
    """Cosine between the gradient there and the way there (Theorem 1)."""
    flip: Tensor
    """1 where another class is predicted, else 0."""
    curvature: Tensor
    """<H e, e> of the loss along the way there, as a difference quotient (Lemma 2)."""


def margin(logits: Tensor, predicted: Tensor) -> Tensor:
    """The logit of the class `predicted` less the largest other one (N,), float64."""
    logits, own = logits.double(), predicted[:, None]
    return (logits.gather(1, own)[:, 0]) - logits.scatter(1, own, -torch.inf).amax(1)


def _log_root(squares: Tensor) -> Tensor:
    return squares.clamp_min(1e-60).log() / 2


@dataclass(frozen=True)
class Evidence:
    """A measurement: `measure` gives (N, F) for an observation; NaN marks a sample it cannot judge.

    `features` names the F columns for explanations; it is empty where F depends on the model.
    """

    name: str
    features: tuple[str, ...]
    measure: Callable[[Observation], Tensor]
    one_class: type[OneClass] = ClassConditionalCopula
    question: str = "geometry"  # evidence that answers the same one is joined first
    available: Callable[[ForwardPass], bool] = lambda forward: True
    around: str = ""  # what it takes of the neighbourhood: nothing, "values" or "gradients"


def _csm(seen: Observation) -> Tensor:
    """The ten statistics of the signed CSM (Schwinn et al. 2021).

    Blind to small perturbations, which hardly turn the maps, and to near-OOD inputs that the network sees as it sees
    its own.
    """
    return statistics_of(seen.csm, seen.position)


def _confidence(seen: Observation) -> Tensor:
    """Minus the log odds of the predicted class: the order of the maximum softmax probability (Hendrycks and Gimpel,
    ICLR 2017), without its rounding to 1.

    The best single evidence of mistakes. Blind to attacks beyond the boundary, which the network is sure of.
    """
    logits, own = seen.forward.logits.double(), seen.forward.predicted[:, None]
    return logits.scatter(1, own, -torch.inf).logsumexp(1, keepdim=True) - logits.gather(1, own)


def _features(seen: Observation) -> Tensor:
    """The penultimate features, for models of how far they are from trusted ones.

    Good at other data and strong attacks. Blind to small attacks, which end beside features of the other class.
    """
    features = seen.forward.features
    if features is None:
        raise expected("evidence", "other than neighbours and residual for a model without a last linear layer", "both")
    return features.double()


def _boundary(seen: Observation) -> Tensor:
    """First-order distances to the decision boundaries, lengths of the loss gradients, and the logits' shape, jointly.

    An attack leaves an input confident beside a steep slope, noise leaves it unsure on a flat one: either alone is
    ordinary, both together are not. Blind to inputs that the network sees as it sees its own.
    """
    distances, norms, position = seen.boundary_distances, seen.map_norms, seen.position[:, None]
    others = norms.gather(1, without(seen.position, norms.shape[1]))
    logits = seen.forward.logits.double()
    spread = (logits / seen.temperature).log_softmax(1)
    top = logits.topk(2, dim=1).values
    columns = (
        *(distances[:, 0], distances[:, min(1, distances.shape[1] - 1)], distances.median(1).values),
        *(distances.mean(1), distances[:, -1]),
        *(norms.gather(1, position)[:, 0], others.mean(1), others.std(1, correction=0), others.amin(1), others.amax(1)),
        *(top[:, 0], top[:, 0] - top[:, 1], -logits.logsumexp(1), -(spread.exp() * spread).sum(1)),
        *(logits.mean(1), logits.std(1, correction=0)),
    )
    return torch.stack(columns, dim=1)


_BOUNDARY = (
    *("boundary_nearest", "boundary_second", "boundary_median", "boundary_mean", "boundary_farthest"),
    *("gradient_predicted", "gradient_mean", "gradient_std", "gradient_min", "gradient_max"),
    *("logit_max", "logit_margin", "energy", "entropy", "logit_mean", "logit_std"),
)


def _nearest_boundary(seen: Observation) -> Tensor:
    """What `boundary` sees of the nearest boundary alone: its distance, how steep it is, and the logits' shape.

    Two backward passes instead of one for each class; blind to what `boundary` is blind to, and to more of it.
    """
    n, total = seen.forward.logits.shape
    logits, predicted = seen.forward.logits.double(), seen.forward.predicted[:, None]
    rival = logits.scatter(1, predicted, -torch.inf).argmax(1, keepdim=True)
    apart = seen.forward.logits.new_zeros(n, 1, total)
    apart.scatter_(2, predicted[..., None], 1.0).scatter_(2, rival[..., None], -1.0)
    steepness = _log_root(seen.forward.squares(apart)[:, 0])
    gap = margin(seen.forward.logits, seen.forward.predicted)
    spread = (logits / seen.temperature).log_softmax(1)
    columns = (
        *(gap.clamp_min(1e-30).log() - steepness, steepness),
        *(gap, -logits.logsumexp(1), -(spread.exp() * spread).sum(1), logits.mean(1), logits.std(1, correction=0)),
    )
    return torch.stack(columns, dim=1)


_NEAREST = ("distance", "steepness", "logit_margin", "energy", "entropy", "logit_mean", "logit_std")


def _neighbourhood(seen: Observation) -> Tensor:
    """Theorem 1 at work: by how much the margin falls, how far the gradient turns and where it points, around x.

    The evidence of small attacks: they end just beyond a boundary, in a spot that no trusted input sits in. Says
    little of other data and nothing of mistakes.
    """
    around = seen.neighbourhood
    return torch.cat([around.drop.mean(2), around.turn.mean(2), around.zeta.mean(2)], dim=1)


def _turn(seen: Observation) -> Tensor:
    """How far the gradient turns around x, by itself: the evidence of noise and of single large steps (FGSM), which
    leave an input where the network's linear pieces are small."""
    return seen.neighbourhood.turn.mean(2)


def _curvature(seen: Observation) -> Tensor:
    """The loss's curvature along random ways from x (Lemma 2): its mean and its largest at each radius.

    Piecewise linear networks bend only at their kinks, so at the smallest radius this is mostly rounding.
    """
    curvature = seen.neighbourhood.curvature
    return torch.cat([curvature.mean(2), curvature.amax(2)], dim=1)


def _flips(seen: Observation) -> Tensor:
    """The share of neighbours that are predicted otherwise, at each radius.

    What an attack at a boundary shows; coarse, with so few neighbours: the fall of the margin says more.
    """
    return seen.neighbourhood.flip.mean(2)


def _raw_csm(seen: Observation) -> Tensor:
    """The ten statistics of the CSM of the gradients themselves, whose large entries the sign does away with.

    Blind where the signed CSM is; large gradients in a few entries outvote the rest.
    """
    return statistics_of(seen.raw_csm, seen.position)


def _magnitude(seen: Observation) -> Tensor:
    """Minus the log of the penultimate features' sum of magnitudes: inputs that excite few of them (Huang et al.,
    NeurIPS 2021; Park et al., ICCV 2023).

    Blind to attacks beyond the boundary, which excite as many or more, and to mistakes.
    """
    return -_features(seen).abs().sum(1, keepdim=True).clamp_min(1e-30).log()


def _stability(seen: Observation) -> Tensor:
    """By how much the margin falls around x: of small attacks the loudest evidence, when asked whether it is large.

    Found by forward passes alone. Blind to everything else.
    """
    return seen.drop.mean(2)


def _has_head(forward: ForwardPass) -> bool:
    return forward.features is not None


def _at_radii(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{radius:g}" for name in names for radius in RADII)


EVIDENCE: dict[str, Evidence] = {
    e.name: e
    for e in (
        Evidence("confidence", ("log_odds",), _confidence, UpperTail, "confidence"),
        Evidence("neighbours", (), _features, NearestNeighbours, "features", _has_head),
        Evidence("stability", _at_radii("drop"), _stability, UpperTail, "stability", around="values"),
        Evidence("csm", STATISTICS, _csm),
        Evidence("residual", (), _features, Residual, available=_has_head),
        Evidence("boundary", _BOUNDARY, _boundary),
        Evidence("neighbourhood", _at_radii("drop", "turn", "zeta"), _neighbourhood, around="gradients"),
        Evidence("turn", _at_radii("turn"), _turn, around="gradients"),
        Evidence("nearest_boundary", _NEAREST, _nearest_boundary),
        Evidence("raw_csm", tuple(f"raw_{name}" for name in STATISTICS), _raw_csm),
        Evidence("flips", _at_radii("flips"), _flips, UpperTail, "stability", around="gradients"),
        Evidence("curvature", _at_radii("curvature", "largest_curvature"), _curvature, around="gradients"),
        Evidence("magnitude", ("magnitude",), _magnitude, UpperTail, "features", _has_head),
    )
}
"""Every evidence by name; add to it to use your own in `Detector(evidence=[...])`."""

PRESETS: dict[str, tuple[str, ...]] = {
    "full": ("confidence", "neighbours", "stability", "csm", "residual", "boundary", "neighbourhood", "turn"),
    "fast": ("confidence", "neighbours", "stability", "residual", "nearest_boundary"),
    "paper": ("csm",),
}
"""Named sets of evidence: all that helps; the best with no more than 3 backward passes; the ten statistics alone."""


def resolve(evidence: str | list[str] | tuple[str, ...]) -> tuple[Evidence, ...]:
    """The evidence a detector uses: a preset's name, or a list of evidence names."""
    if isinstance(evidence, str):
        choice("evidence", evidence, tuple(PRESETS))
        names = PRESETS[evidence]
    else:
        names = tuple(evidence)
    if not names:
        raise expected("evidence", "at least one name", "none")
    if len(set(names)) < len(names):
        raise expected("evidence", "names without repetition", ", ".join(map(str, names)))
    for name in names:
        choice("evidence", name, tuple(EVIDENCE))
    return tuple(EVIDENCE[name] for name in names)
