"""Evidence: named measurements of how a classifier sees an input, all made from one shared forward pass.

Each says what it rests on and what it is blind to; results/evidence.md measures both. Evidence of your own takes one
line: `EVIDENCE["mine"] = Evidence("mine", ("a", "b"), lambda seen: ...)`, and `Detector(evidence=["csm", "mine"])`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.detector.measurements import RADII, EvidenceContext, log_root, margin, shiftable
from gradgeo.detector.one_class import ClassConditionalCopula, NearestNeighbours, OneClass, Residual, UpperTail
from gradgeo.errors import choice, expected
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.options import without
from gradgeo.geometry.similarity import STATISTICS, statistics_of


@dataclass(frozen=True)
class Evidence:
    """A measurement: `measure` gives (N, F) for an observation; NaN marks a sample it cannot judge.

    `features` names the F columns for explanations; it is empty where F depends on the model.
    """

    name: str
    features: tuple[str, ...]
    measure: Callable[[EvidenceContext], Tensor]
    one_class: type[OneClass] = ClassConditionalCopula
    question: str = "geometry"  # evidence that answers the same one is joined first
    available: Callable[[InputJacobian], bool] = lambda forward: True
    around: str = ""  # what it takes of the neighbourhood: nothing, "values" or "gradients"


def _csm(seen: EvidenceContext) -> Tensor:
    """The ten statistics of the signed CSM (Schwinn et al. 2021).

    Blind to small perturbations, which hardly turn the maps, and to near-OOD inputs that the network sees as it sees
    its own.
    """
    return statistics_of(seen.csm, seen.position)


def _confidence(seen: EvidenceContext) -> Tensor:
    """Minus the log odds of the predicted class: the order of the maximum softmax probability (Hendrycks and Gimpel,
    ICLR 2017), without its rounding to 1.

    The best single evidence of mistakes. Blind to attacks beyond the boundary, which the network is sure of.
    """
    logits, own = seen.forward.logits.double(), seen.forward.predicted[:, None]
    return logits.scatter(1, own, -torch.inf).logsumexp(1, keepdim=True) - logits.gather(1, own)


def _features(seen: EvidenceContext) -> Tensor:
    """The penultimate features, for models of how far they are from trusted ones.

    Good at other data and strong attacks. Blind to small attacks, which end beside features of the other class.
    """
    features = seen.forward.features
    if features is None:
        raise expected("evidence", "other than neighbours and residual for a model without a last linear layer", "both")
    return features.double()


def _boundary(seen: EvidenceContext) -> Tensor:
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


def _nearest_boundary(seen: EvidenceContext) -> Tensor:
    """What `boundary` sees of the nearest boundary alone: its distance, how steep it is, and the logits' shape.

    Two backward passes instead of one for each class; blind to what `boundary` is blind to, and to more of it.
    """
    n, total = seen.forward.logits.shape
    logits, predicted = seen.forward.logits.double(), seen.forward.predicted[:, None]
    rival = logits.scatter(1, predicted, -torch.inf).argmax(1, keepdim=True)
    apart = seen.forward.logits.new_zeros(n, 1, total)
    apart.scatter_(2, predicted[..., None], 1.0).scatter_(2, rival[..., None], -1.0)
    steepness = log_root(seen.forward.squares(apart)[:, 0])
    gap = margin(seen.forward.logits, seen.forward.predicted)
    spread = (logits / seen.temperature).log_softmax(1)
    columns = (
        *(gap.clamp_min(1e-30).log() - steepness, steepness),
        *(gap, -logits.logsumexp(1), -(spread.exp() * spread).sum(1), logits.mean(1), logits.std(1, correction=0)),
    )
    return torch.stack(columns, dim=1)


_NEAREST = ("distance", "steepness", "logit_margin", "energy", "entropy", "logit_mean", "logit_std")


def _neighbourhood(seen: EvidenceContext) -> Tensor:
    """Theorem 1 at work: by how much the margin falls, how far the gradient turns and where it points, around x.

    The evidence of small attacks: they end just beyond a boundary, in a spot that no trusted input sits in. Says
    little of other data and nothing of mistakes.
    """
    around = seen.neighbourhood
    return torch.cat([around.drop.mean(2), around.turn.mean(2), around.zeta.mean(2)], dim=1)


def _turn(seen: EvidenceContext) -> Tensor:
    """How far the gradient turns around x, by itself: the evidence of noise and of single large steps (FGSM), which
    leave an input where the network's linear pieces are small."""
    return seen.neighbourhood.turn.mean(2)


def _curvature(seen: EvidenceContext) -> Tensor:
    """The loss's curvature along random ways from x (Lemma 2): its mean and its largest at each radius.

    Piecewise linear networks bend only at their kinks, so at the smallest radius this is mostly rounding.
    """
    curvature = seen.neighbourhood.curvature
    return torch.cat([curvature.mean(2), curvature.amax(2)], dim=1)


def _flips(seen: EvidenceContext) -> Tensor:
    """The share of neighbours that are predicted otherwise, at each radius.

    What an attack at a boundary shows; coarse, with so few neighbours: the fall of the margin says more.
    """
    return seen.neighbourhood.flip.mean(2)


def _raw_csm(seen: EvidenceContext) -> Tensor:
    """The ten statistics of the CSM of the gradients themselves, whose large entries the sign does away with.

    Blind where the signed CSM is; large gradients in a few entries outvote the rest.
    """
    return statistics_of(seen.raw_csm, seen.position)


def _magnitude(seen: EvidenceContext) -> Tensor:
    """Minus the log of the penultimate features' sum of magnitudes: inputs that excite few of them (Huang et al.,
    NeurIPS 2021; Park et al., ICCV 2023).

    Blind to attacks beyond the boundary, which excite as many or more, and to mistakes.
    """
    return -_features(seen).abs().sum(1, keepdim=True).clamp_min(1e-30).log()


def _stability(seen: EvidenceContext) -> Tensor:
    """By how much the margin falls around x: of small attacks the loudest evidence, when asked whether it is large.

    Found by forward passes alone. Blind to everything else.
    """
    return seen.drop.mean(2)


def _shifts(seen: EvidenceContext) -> Tensor:
    """By how much the margin falls where the input is shifted by one entry (Tian, Yang and Cai, AAAI 2018), as the mean
    of the smaller half of the falls, lest an axis whose neighbours have nothing in common outvote the others.

    A classifier is trained to see the same in an image or a signal a step aside; what a small attack added is tuned to
    its place. The loudest evidence of small attacks, by forward passes alone. Blind to mistakes and other data.
    """
    drop = seen.shift_drop.sort(1).values
    return drop[:, : drop.shape[1] // 2].mean(1, keepdim=True)


def _has_head(forward: InputJacobian) -> bool:
    return forward.features is not None


def _has_axes(forward: InputJacobian) -> bool:
    return bool(shiftable(forward.x))


def _at_radii(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{radius:g}" for name in names for radius in RADII)


EVIDENCE: dict[str, Evidence] = {
    e.name: e
    for e in (
        Evidence("confidence", ("log_odds",), _confidence, UpperTail, "confidence"),
        Evidence("neighbours", (), _features, NearestNeighbours, "features", _has_head),
        Evidence("stability", _at_radii("drop"), _stability, UpperTail, "stability", around="values"),
        Evidence("shifts", ("shift_drop",), _shifts, UpperTail, "stability", _has_axes),
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
    "full": ("confidence", "neighbours", "stability", "shifts", "csm", "residual", "boundary", "neighbourhood", "turn"),
    "fast": ("confidence", "neighbours", "stability", "shifts", "residual", "nearest_boundary"),
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
