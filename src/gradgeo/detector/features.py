"""What each evidence measures: its features of a batch, and what they are blind to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.detector.measurements import EvidenceContext, log_root, margin
from gradgeo.detector.spectrum import spectrum
from gradgeo.errors import expected
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.options import without
from gradgeo.geometry.similarity import statistics_of


def csm(ctx: EvidenceContext) -> Tensor:
    """The ten statistics of the signed CSM (Schwinn et al. 2021).

    Blind to small perturbations, which hardly turn the maps, and to near-OOD inputs to which the network responds as to
    its own.
    """
    return statistics_of(ctx.csm, ctx.position)


def csm_twice(ctx: EvidenceContext) -> Tensor:
    """The ten statistics at the detector's temperature, and again at temperature 1, jointly, from the same gradients.

    At its own temperature a confident network shows large attacks, at 1 those that end just beyond a boundary
    (results/paper.md). Blind to what `csm` is blind to at both.
    """
    matrices = (ctx.csm, ctx.csm_at_one)
    return torch.cat([statistics_of(matrix, ctx.position) for matrix in matrices], dim=1)  # (N, 20)


def confidence(ctx: EvidenceContext) -> Tensor:
    """Minus the log odds of the predicted class: the order of the maximum softmax probability (Hendrycks and Gimpel,
    ICLR 2017), without its rounding to 1.

    The best single evidence of mistakes. Blind to attacks beyond the boundary, of which the network is sure.
    """
    return ctx.odds_against[:, None]


def mirrored(ctx: EvidenceContext) -> Tensor:
    """The same, and that of the mean probability over a picture and its mirror image (Krizhevsky et al., NeurIPS 2012),
    for a model that takes the latter where mirrored trusted pictures keep their classes.

    Better than `confidence` at mistakes, near-OOD inputs and small attacks on photographs, the same on digits, whose
    classifiers know left from right. No pass next to `symmetry`.
    """
    return torch.stack([ctx.odds_against, ctx.mirrored_odds_against], dim=1)  # (N, 2)


def penultimate(ctx: EvidenceContext) -> Tensor:
    """The penultimate features, for models of their distance from trusted ones.

    Good at other data and strong attacks. Blind to small attacks, which end near features of the other class.
    """
    features = ctx.forward.features
    if features is None:
        raise expected("evidence", "other than that of features for a model without a last linear layer", "it")
    return features.double()


def boundary(ctx: EvidenceContext) -> Tensor:
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


BOUNDARY = (
    *("boundary_nearest", "boundary_second", "boundary_median", "boundary_mean", "boundary_farthest"),
    *("gradient_predicted", "gradient_mean", "gradient_std", "gradient_min", "gradient_max"),
    *("logit_max", "logit_margin", "energy", "entropy", "logit_mean", "logit_std"),
)


def nearest_boundary(ctx: EvidenceContext) -> Tensor:
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


NEAREST = ("distance", "steepness", "logit_margin", "energy", "entropy", "logit_mean", "logit_std")


def neighbourhood(ctx: EvidenceContext) -> Tensor:
    """Theorem 1 at work: by how much the margin falls, how far the gradient turns and where it points, around x.

    The evidence of small attacks: they end just beyond a boundary, in a spot where no trusted input lies. Says little
    of other data and nothing of mistakes.
    """
    near = ctx.neighbourhood
    return torch.cat([near.drop.mean(2), near.turn.mean(2), near.zeta.mean(2)], dim=1)  # (N, 3 radii)


def turn(ctx: EvidenceContext) -> Tensor:
    """How far the gradient turns around x, by itself: the evidence of noise and of single large steps (FGSM), which
    leave an input where the network's linear pieces are small."""
    return ctx.neighbourhood.turn.mean(2)


def curvature(ctx: EvidenceContext) -> Tensor:
    """The loss's curvature along random directions from x (Lemma 2): its mean and its largest at each radius.

    Piecewise linear networks bend only at their kinks, so at the smallest radius this is mostly rounding.
    """
    curvature = ctx.neighbourhood.curvature  # (N, radii, draws)
    return torch.cat([curvature.mean(2), curvature.amax(2)], dim=1)  # (N, 2 radii)


def flips(ctx: EvidenceContext) -> Tensor:
    """The share of neighbours that are predicted otherwise, at each radius.

    What an attack at a boundary shows; coarse, with so few neighbours: the fall of the margin says more.
    """
    return ctx.neighbourhood.flip.mean(2)


def raw_csm(ctx: EvidenceContext) -> Tensor:
    """The ten statistics of the CSM of the gradients themselves, with the large entries that the sign levels.

    Blind where the signed CSM is; large gradients in a few entries outvote the rest.
    """
    return statistics_of(ctx.raw_csm, ctx.position)


def magnitude(ctx: EvidenceContext) -> Tensor:
    """Minus the log of the penultimate features' sum of magnitudes: inputs that excite few of them (Huang et al.,
    NeurIPS 2021; Park et al., ICCV 2023).

    Blind to attacks beyond the boundary, which excite as many or more, and to mistakes.
    """
    return -penultimate(ctx).abs().sum(1, keepdim=True).clamp_min(1e-30).log()


def stability(ctx: EvidenceContext) -> Tensor:
    """By how much the margin falls around x: large values are the strongest evidence of small attacks.

    Measured by forward passes alone. Blind to everything else.
    """
    return ctx.drop.mean(2)


def shifts(ctx: EvidenceContext) -> Tensor:
    """By how much the margin falls where the input is shifted by one entry (Tian, Yang and Cai, AAAI 2018), as the mean
    of the smaller half of the falls, so that an axis whose neighbours have nothing in common does not outvote the rest.

    A classifier is trained to give the same answer for an image or a signal a step aside; a small attack is tuned to
    its place. The most surprising evidence of small attacks, by forward passes alone. Blind to mistakes and other data.
    """
    drop = ctx.shift_drop.sort(1).values  # (N, 2 axes), rising
    return drop[:, : drop.shape[1] // 2].mean(1, keepdim=True)


def symmetry(ctx: EvidenceContext) -> Tensor:
    """By how much the margin falls where the input is mirrored along its last axis, and where it is shifted by one
    entry along every axis.

    A classifier keeps its margin under the symmetries that it was trained with, and an attack is not symmetric. Each
    fall counts by how little it varies over trusted inputs, so a symmetry that this classifier does not have says
    nothing: the mirror is one of photographs, not of digits. Two forward passes, next to all that `shifts` and
    `stability` know of small attacks. Blind to mistakes and to most other data.
    """
    return ctx.symmetry_drop


def of_input(ctx: EvidenceContext) -> Tensor:
    """Range, level and detail of the input itself, without any pass (`gradgeo.detector.spectrum`).

    The evidence of spoilt inputs, and of data of another sort: light, contrast, blur and noise that the classifier has
    learned to overlook. Blind to mistakes, and to near-OOD inputs and small attacks, whose detail is like that of
    trusted ones.
    """
    return spectrum(ctx.forward.x)


def of_row(ctx: EvidenceContext) -> Tensor:
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
