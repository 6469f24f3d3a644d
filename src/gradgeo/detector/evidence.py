"""Evidence: named measurements of how a classifier responds to an input, all from one shared forward pass.

Each says what it measures and what it is blind to; results/evidence.md shows both. Evidence of your own takes one
line: `EVIDENCE["mine"] = Evidence("mine", ("a", "b"), lambda ctx: ...)`, and `Detector(evidence=["csm", "mine"])`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gradgeo.classifier.layers import LAYERS
from gradgeo.detector import columns, spectrum
from gradgeo.detector.measurements import RADII, EvidenceContext, log_root, margin, shiftable
from gradgeo.detector.one_class.base import (
    ClassConditionalCopula,
    MirroredTail,
    NearestLayerMean,
    NearestMean,
    NearestNeighbours,
    OneClass,
    Residual,
    SmoothCopula,
    UpperTail,
)
from gradgeo.detector.one_class.kinds import DENSITIES, KINDS
from gradgeo.errors import choice, expected
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.options import without
from gradgeo.geometry.similarity import STATISTICS, statistics_of


def always_available(forward: InputJacobian) -> bool:
    """True: every model has what is measured."""
    return True


class InputKind(NamedTuple):
    """Of what inputs are, what words need to know."""

    channels: int
    columns: tuple[str, ...] = ()
    """Of a table, where they have names."""


Words = Callable[[Sequence[float], Sequence[float], Sequence[float], InputKind], tuple[str, ...]]
"""In which ways features (F,) lie below the least (F,) or above the most (F,) of trusted inputs, for people."""


@dataclass(frozen=True)
class Evidence:
    """A measurement of each input of a batch, and how its features become an outlier score."""

    name: str
    features: tuple[str, ...]
    """Names of the F features, for explanations; empty where F depends on the model."""
    measure: Callable[[EvidenceContext], Tensor]
    """Features (N, F) of a batch; NaN marks a sample that cannot be judged."""
    one_class: type[OneClass] = ClassConditionalCopula
    """The model of the features over trusted inputs."""
    question: str = "geometry"
    """What it asks of an input; evidence of the same question is fused first."""
    available: Callable[[InputJacobian], bool] = always_available
    """Whether a model has what is measured, by a pass of one input or of none."""
    neighbourhood: Literal["none", "values", "gradients"] = "none"
    """What it measures at points around the input; `Detector.fit` then finds their radius."""
    ways: tuple[str, ...] = ()
    """Those of `measurements.WAYS` in which it moves inputs; those of all evidence go through the model together."""
    layers: bool = False
    """Whether it asks for the outputs of layers, which are noted in the one pass."""
    gradients: bool = True
    """Whether it may ask the pass for gradients; where no evidence does, the pass keeps no graph."""
    instead_of: str | None = None
    """The evidence whose place it takes, in presets, where a model has it."""
    words: Words | None = None
    """What `Explanation.seen` says of its features; for those of a copula, which knows their range."""


def _csm(ctx: EvidenceContext) -> Tensor:
    """The ten statistics of the signed CSM (Schwinn et al. 2021).

    Blind to small perturbations, which hardly turn the maps, and to near-OOD inputs to which the network responds as to
    its own.
    """
    return statistics_of(ctx.csm, ctx.position)


def _csm_twice(ctx: EvidenceContext) -> Tensor:
    """The ten statistics at the detector's temperature, and again at temperature 1, jointly, from the same gradients.

    At its own temperature a confident network shows large attacks, at 1 those that end just beyond a boundary
    (results/paper.md). Blind to what `csm` is blind to at both.
    """
    matrices = (ctx.csm, ctx.csm_at_one)
    return torch.cat([statistics_of(matrix, ctx.position) for matrix in matrices], dim=1)  # (N, 20)


def _confidence(ctx: EvidenceContext) -> Tensor:
    """Minus the log odds of the predicted class: the order of the maximum softmax probability (Hendrycks and Gimpel,
    ICLR 2017), without its rounding to 1.

    The best single evidence of mistakes. Blind to attacks beyond the boundary, of which the network is sure.
    """
    return ctx.odds_against[:, None]


def _mirrored(ctx: EvidenceContext) -> Tensor:
    """The same, and that of the mean probability over a picture and its mirror image (Krizhevsky et al., NeurIPS 2012),
    for a model that takes the latter where mirrored trusted pictures keep their classes.

    Better than `confidence` at mistakes, near-OOD inputs and small attacks on photographs, the same on digits, whose
    classifiers know left from right. No pass next to `symmetry`.
    """
    return torch.stack([ctx.odds_against, ctx.mirrored_odds_against], dim=1)  # (N, 2)


def _features(ctx: EvidenceContext) -> Tensor:
    """The penultimate features, for models of their distance from trusted ones.

    Good at other data and strong attacks. Blind to small attacks, which end near features of the other class.
    """
    features = ctx.forward.features
    if features is None:
        raise expected("evidence", "other than that of features for a model without a last linear layer", "it")
    return features.double()


def _boundary(ctx: EvidenceContext) -> Tensor:
    """First-order distances to the decision boundaries, lengths of the loss gradients, and the logits' shape, jointly.

    An attack leaves an input confident next to a steep slope, noise leaves it unsure on a flat one: either alone is
    ordinary, both together are not. Blind to inputs to which the network responds as to its own.
    """
    distances, norms, position = ctx.boundary_distances, ctx.map_norms, ctx.position[:, None]  # (N, K - 1), (N, K)
    others = norms.gather(1, without(ctx.position, norms.shape[1]))  # (N, K - 1)
    logits = ctx.forward.logits.double()
    spread = (logits / ctx.temperature).log_softmax(1)
    top = logits.topk(2, dim=1).values  # (N, 2)
    measured = (
        *(distances[:, 0], distances[:, min(1, distances.shape[1] - 1)], distances.median(1).values),
        *(distances.mean(1), distances[:, -1]),
        *(norms.gather(1, position)[:, 0], others.mean(1), others.std(1, correction=0), others.amin(1), others.amax(1)),
        *(top[:, 0], top[:, 0] - top[:, 1], -logits.logsumexp(1), -(spread.exp() * spread).sum(1)),
        *(logits.mean(1), logits.std(1, correction=0)),
    )
    return torch.stack(measured, dim=1)


_BOUNDARY = (
    *("boundary_nearest", "boundary_second", "boundary_median", "boundary_mean", "boundary_farthest"),
    *("gradient_predicted", "gradient_mean", "gradient_std", "gradient_min", "gradient_max"),
    *("logit_max", "logit_margin", "energy", "entropy", "logit_mean", "logit_std"),
)


def _nearest_boundary(ctx: EvidenceContext) -> Tensor:
    """What `boundary` measures of the nearest boundary alone: its distance, how steep it is, and the logits' shape.

    One backward pass instead of one for each class; blind to what `boundary` is blind to, and more so.
    """
    n, total = ctx.forward.logits.shape
    logits, predicted = ctx.forward.logits.double(), ctx.forward.predicted[:, None]  # (N, C), (N, 1)
    rival = logits.scatter(1, predicted, -torch.inf).argmax(1, keepdim=True)  # (N, 1)
    apart = ctx.forward.logits.new_zeros(n, 1, total)  # e_k - e_j, whose gradient is that of the margin
    apart.scatter_(2, predicted[..., None], 1.0).scatter_(2, rival[..., None], -1.0)
    steepness = log_root(ctx.forward.squares(apart)[:, 0])
    gap = margin(ctx.forward.logits, ctx.forward.predicted)
    spread = (logits / ctx.temperature).log_softmax(1)
    measured = (
        *(gap.clamp_min(1e-30).log() - steepness, steepness),
        *(gap, -logits.logsumexp(1), -(spread.exp() * spread).sum(1), logits.mean(1), logits.std(1, correction=0)),
    )
    return torch.stack(measured, dim=1)


_NEAREST = ("distance", "steepness", "logit_margin", "energy", "entropy", "logit_mean", "logit_std")


def _neighbourhood(ctx: EvidenceContext) -> Tensor:
    """Theorem 1 at work: by how much the margin falls, how far the gradient turns and where it points, around x.

    The evidence of small attacks: they end just beyond a boundary, in a spot where no trusted input lies. Says little
    of other data and nothing of mistakes.
    """
    near = ctx.neighbourhood
    return torch.cat([near.drop.mean(2), near.turn.mean(2), near.zeta.mean(2)], dim=1)  # (N, 3 radii)


def _turn(ctx: EvidenceContext) -> Tensor:
    """How far the gradient turns around x, by itself: the evidence of noise and of single large steps (FGSM), which
    leave an input where the network's linear pieces are small."""
    return ctx.neighbourhood.turn.mean(2)


def _curvature(ctx: EvidenceContext) -> Tensor:
    """The loss's curvature along random directions from x (Lemma 2): its mean and its largest at each radius.

    Piecewise linear networks bend only at their kinks, so at the smallest radius this is mostly rounding.
    """
    curvature = ctx.neighbourhood.curvature  # (N, radii, draws)
    return torch.cat([curvature.mean(2), curvature.amax(2)], dim=1)  # (N, 2 radii)


def _flips(ctx: EvidenceContext) -> Tensor:
    """The share of neighbours that are predicted otherwise, at each radius.

    What an attack at a boundary shows; coarse, with so few neighbours: the fall of the margin says more.
    """
    return ctx.neighbourhood.flip.mean(2)


def _raw_csm(ctx: EvidenceContext) -> Tensor:
    """The ten statistics of the CSM of the gradients themselves, with the large entries that the sign levels.

    Blind where the signed CSM is; large gradients in a few entries outvote the rest.
    """
    return statistics_of(ctx.raw_csm, ctx.position)


def _magnitude(ctx: EvidenceContext) -> Tensor:
    """Minus the log of the penultimate features' sum of magnitudes: inputs that excite few of them (Huang et al.,
    NeurIPS 2021; Park et al., ICCV 2023).

    Blind to attacks beyond the boundary, which excite as many or more, and to mistakes.
    """
    return -_features(ctx).abs().sum(1, keepdim=True).clamp_min(1e-30).log()


def _stability(ctx: EvidenceContext) -> Tensor:
    """By how much the margin falls around x: large values are the strongest evidence of small attacks.

    Measured by forward passes alone. Blind to everything else.
    """
    return ctx.drop.mean(2)


def _shifts(ctx: EvidenceContext) -> Tensor:
    """By how much the margin falls where the input is shifted by one entry (Tian, Yang and Cai, AAAI 2018), as the mean
    of the smaller half of the falls, so that an axis whose neighbours have nothing in common does not outvote the rest.

    A classifier is trained to give the same answer for an image or a signal a step aside; a small attack is tuned to
    its place. The most surprising evidence of small attacks, by forward passes alone. Blind to mistakes and other data.
    """
    drop = ctx.shift_drop.sort(1).values  # (N, 2 axes), rising
    return drop[:, : drop.shape[1] // 2].mean(1, keepdim=True)


def _symmetry(ctx: EvidenceContext) -> Tensor:
    """By how much the margin falls where the input is mirrored along its last axis, and where it is shifted by one
    entry along every axis.

    A classifier keeps its margin under the symmetries that it was trained with, and an attack is not symmetric. Each
    fall counts by how little it varies over trusted inputs, so a symmetry that this classifier does not have says
    nothing: the mirror is one of photographs, not of digits. Two forward passes, next to all that `shifts` and
    `stability` know of small attacks. Blind to mistakes and to most other data.
    """
    return ctx.symmetry_drop


def _spectrum(ctx: EvidenceContext) -> Tensor:
    """Range, level and detail of the input itself, without any pass (`gradgeo.detector.spectrum`).

    The evidence of spoilt inputs, and of data of another sort: light, contrast, blur and noise that the classifier has
    learned to overlook. Blind to mistakes, and to near-OOD inputs and small attacks, whose detail is like that of
    trusted ones.
    """
    return spectrum.spectrum(ctx.forward.x)


def _columns(ctx: EvidenceContext) -> Tensor:
    """The columns of a table's row, without any pass.

    The evidence of rows of another sort: values, or pairs of values, that no trusted row has. Blind to mistakes.
    """
    return ctx.forward.x.double()


@dataclass(frozen=True)
class LayerOutput:
    """The output of one of up to six layers, evenly spaced through the classifier, averaged over positions: for models
    of its distance from trusted ones (Lee et al., NeurIPS 2018).

    No pass of its own. Early layers know of noise, light and textures, which late ones have learned to overlook. Blind
    to mistakes, and the early ones to small attacks.
    """

    place: int

    def __call__(self, ctx: EvidenceContext) -> Tensor:
        """(N, F)."""
        if not self.available(ctx.forward):
            raise expected(
                "the model", f"one with outputs of {self.place + 1} layers, as at fit", len(ctx.forward.layers)
            )
        return ctx.forward.layers[self.place].double()

    def available(self, forward: InputJacobian) -> bool:
        """Whether a pass that noted the outputs of layers has this one."""
        return self.place < len(forward.layers)


def _has_head(forward: InputJacobian) -> bool:
    return forward.features is not None


def _has_axes(forward: InputJacobian) -> bool:
    return bool(shiftable(forward.x))


def _is_picture(forward: InputJacobian) -> bool:
    return forward.x.ndim == 4 and forward.x.shape[-1] > 1


def _is_row(forward: InputJacobian) -> bool:
    return columns.is_row(forward.x)


def _words_of_spectrum(
    row: Sequence[float], low: Sequence[float], high: Sequence[float], of: InputKind
) -> tuple[str, ...]:
    return spectrum.seen(row, low, high, of.channels)


def _words_of_columns(
    row: Sequence[float], low: Sequence[float], high: Sequence[float], of: InputKind
) -> tuple[str, ...]:
    return columns.seen(row, low, high, of.columns)


_by_values = partial(Evidence, gradients=False)


def _at_radii(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{radius:g}" for name in names for radius in RADII)


OF_LAYERS = tuple(f"layer_{place + 1}" for place in range(LAYERS))
"""The evidence of each of the layers that are looked at, the first of which is nearest to the input."""

EVIDENCE: dict[str, Evidence] = {
    e.name: e
    for e in (
        _by_values("confidence", ("log_odds",), _confidence, UpperTail, "confidence"),
        _by_values(
            "mirrored",
            ("log_odds", "mirrored_log_odds"),
            _mirrored,
            MirroredTail,
            "confidence",
            _is_picture,
            ways=("symmetries",),
            instead_of="confidence",
        ),
        _by_values("neighbours", (), _features, NearestNeighbours, "features", _has_head),
        _by_values("stability", _at_radii("drop"), _stability, UpperTail, "stability", neighbourhood="values"),
        _by_values("shifts", ("shift_drop",), _shifts, UpperTail, "stability", _has_axes, ways=("shifts",)),
        _by_values("mahalanobis", (), _features, NearestMean, "features", _has_head),
        _by_values(
            "symmetry",
            ("mirror_drop", "step_drop"),
            _symmetry,
            UpperTail,
            "stability",
            _has_axes,
            ways=("symmetries",),
        ),
        _by_values("spectrum", (), _spectrum, SmoothCopula, "input", _has_axes, words=_words_of_spectrum),
        _by_values("columns", (), _columns, SmoothCopula, "input", _is_row, words=_words_of_columns),
        Evidence("csm", STATISTICS, _csm),
        Evidence("csm_twice", (*STATISTICS, *(f"{name}_at_1" for name in STATISTICS)), _csm_twice),
        _by_values("residual", (), _features, Residual, "residual", _has_head),
        Evidence("boundary", _BOUNDARY, _boundary),
        Evidence("neighbourhood", _at_radii("drop", "turn", "zeta"), _neighbourhood, neighbourhood="gradients"),
        Evidence("turn", _at_radii("turn"), _turn, neighbourhood="gradients"),
        Evidence("nearest_boundary", _NEAREST, _nearest_boundary),
        Evidence("raw_csm", tuple(f"raw_{name}" for name in STATISTICS), _raw_csm),
        Evidence("flips", _at_radii("flips"), _flips, UpperTail, "stability", neighbourhood="gradients"),
        Evidence("curvature", _at_radii("curvature", "largest_curvature"), _curvature, neighbourhood="gradients"),
        _by_values("magnitude", ("magnitude",), _magnitude, UpperTail, "features", _has_head),
        *(
            _by_values(name, (), layer, NearestLayerMean, "layers", layer.available, layers=True)
            for name, layer in zip(OF_LAYERS, map(LayerOutput, range(LAYERS)), strict=True)
        ),
    )
}
"""Every evidence by name; add to it to use your own in `Detector(evidence=[...])`."""

_ALWAYS = ("confidence", "mirrored", "mahalanobis", "spectrum", "columns", "symmetry")

PRESETS: dict[str, tuple[str, ...]] = {
    "full": (*_ALWAYS, "shifts", "csm", "boundary", *OF_LAYERS),
    "fast": (*_ALWAYS, "shifts", "nearest_boundary", *OF_LAYERS),
    "lite": (*_ALWAYS, *OF_LAYERS),
    "paper": ("csm",),
}
"""Named sets of evidence: all that helps; the best with one backward pass; what takes 3 forward passes and no backward
pass; the ten statistics alone."""


def resolve(evidence: str | Sequence[str], one_class: str = "copula") -> tuple[Evidence, ...]:
    """The evidence a detector uses: a preset's name, or a list of evidence names.

    Args:
        one_class: of `DENSITIES`, the model of evidence whose features have no direction of their own.
    """
    choice("one_class", one_class, DENSITIES)
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
    chosen = tuple(EVIDENCE[name] for name in names)
    if one_class == "copula":
        return chosen
    return tuple(replace(e, one_class=KINDS[one_class]) if e.one_class is KINDS["copula"] else e for e in chosen)


def left_out(evidence: str | Sequence[str]) -> frozenset[str]:
    """The names that are left out without a word where a model does not have them: those of a preset, and of every
    preset that a list holds whole, so that a preset with evidence of your own fits every model too.

    Example:
        >>> "shifts" in left_out([*PRESETS["fast"], "neighbours"]), "shifts" in left_out(["shifts"])
        (True, False)
    """
    if isinstance(evidence, str):
        return frozenset(PRESETS[evidence])
    held = [names for names in PRESETS.values() if set(names) <= set(evidence) and len(names) > 1]
    return frozenset(name for names in held for name in names)


def had(evidence: Sequence[Evidence], optional: frozenset[str], forward: InputJacobian) -> tuple[Evidence, ...]:
    """Those of `evidence` that a model has, by a pass of one input or of none; of the `optional` ones not such as
    another takes the place of."""
    found = [e for e in evidence if e.available(forward)]
    replaced = {e.instead_of for e in found if e.name in optional} & optional
    return tuple(e for e in found if e.name not in replaced)


def without_rows(evidence: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the same evidence but for such as keeps rows of features of trusted inputs: in their place comes
    the Mahalanobis distance to class means, which keeps moments alone.

    Example:
        >>> without_rows(["confidence", "neighbours"])
        ('confidence', 'mahalanobis')
    """
    names = ["mahalanobis" if e.one_class is NearestNeighbours else e.name for e in resolve(evidence)]
    return tuple(dict.fromkeys(names))
