"""Theorem 1 on trained classifiers: zeta around inputs over radii, and what piecewise linear networks make of it."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.page import Page
from benchmarks.shipped import Suite, pgd_examples
from gradgeo import attacks, demo
from gradgeo.bench.classifier_under_test import ClassifierUnderTest, logits_of
from gradgeo.errors import require
from gradgeo.geometry.neighbourhood import directional_curvature, local_minimum, zeta

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPSILON = {"digits": demo.EPSILON, "mnist": 0.3, "fashion": 0.1, "ecg5000": 0.1, "cifar10": 8 / 255}
"""Of the attack on each classifier; ecg5000 in standard deviations of its signals, which have no bounds."""

SIZE, SIZES = 200, {"cifar10": 100}
"""Inputs of each group; fewer for the slow classifier."""

GROUPS = {"correct": "#2264ab", "PGD": "#d9541e", "noise": "#8a8a8a", "misclassified": "#7b4fa3"}
"""The groups of inputs, and their colours in the picture."""

RADII = (1e-4, 1e-3, 1e-2, 1e-1)
DIRECTIONS = 16
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TOLERANCE = 1e-6  # zeta above minus this is not negative for the verdict, as in `local_minimum`

KINK_SIZE = 10
KINK_RADII = (1e-8, 1e-6, 1e-4)
STRAIGHT = 1e-9  # a gradient that turns by less, relative to its length, has met no kink: float64 rounds at 1e-16

PICTURE = "local-minima.png"


@dataclass
class _Illustrated(Page):
    """A page with a picture beside it."""

    figure: "Figure | None" = None

    def write(self, out: Path, name: str, command: str) -> Path:
        """Write the page, and the picture with it."""
        page = super().write(out, name, command)
        if self.figure is not None:
            self.figure.savefig(out / PICTURE, dpi=130)
        return page


@dataclass(frozen=True)
class _Around:
    """Statistics of the surroundings of the inputs of a group at one radius."""

    zeta: Tensor
    """(N, D)."""
    higher: Tensor
    """(N, D), whether the loss there is above the loss at the input."""

    @property
    def minimum(self) -> Tensor:
        """The verdict of `local_minimum` (N,), from the zeta that is there already."""
        return (self.zeta >= -TOLERANCE).all(1)

    @property
    def negative(self) -> float:
        """Share of zeta < 0."""
        return _share(self.zeta < 0)

    @property
    def right(self) -> Tensor:
        """Where the sign of zeta says rightly whether the loss is above that at the input (N, D)."""
        return (self.zeta >= 0) == self.higher

    def quantiles(self) -> list[float]:
        """Of zeta over inputs and directions."""
        quantiles: list[float] = self.zeta.double().flatten().quantile(torch.tensor(QUANTILES).double()).tolist()
        return quantiles


@dataclass(frozen=True)
class _Kinks:
    """How gradients turn between inputs and neighbours, in float64, relative to their length."""

    logit: Tensor
    """(N, D), of the predicted class's logit."""
    loss: Tensor
    """(N, D), of its cross-entropy."""

    @property
    def straight(self) -> Tensor:
        """Which neighbours lie in the same linear piece as the input (N, D)."""
        return self.logit.abs() < STRAIGHT


Surroundings = dict[tuple[str, str, float], _Around]
KinksAround = dict[tuple[str, str, float], _Kinks]


def run(suite: Suite) -> Page:
    """Distributions of zeta by group and radius, the verdicts, and the linear pieces behind them."""
    require("matplotlib", "plots")
    around: Surroundings = {}
    kinks: KinksAround = {}
    norms: dict[tuple[str, str], Tensor] = {}
    for name in EPSILON:
        classifier = suite[name]
        generator = torch.Generator().manual_seed(0)
        half = torch.randn(DIRECTIONS // 2, *classifier.x.shape[1:], generator=generator)
        half /= half.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (half.ndim - 1))
        directions = torch.cat([half, -half])  # in opposite pairs a constant gradient gives zeta < 0 in exactly half
        exact = copy.deepcopy(classifier.model).double()
        for group, x in _groups(suite, classifier).items():
            norms[name, group] = local_minimum(classifier.model, x, directions=directions[:1]).gradient_norm
            for radius in RADII:
                around[name, group, radius] = _around(classifier, x, directions, radius)
            for radius in KINK_RADII if group != "misclassified" else ():
                kinks[name, group, radius] = _turns(exact, x[:KINK_SIZE].double(), directions, radius)
    return _page(around, kinks, norms)


def _groups(suite: Suite, classifier: ClassifierUnderTest) -> dict[str, Tensor]:
    size = SIZES.get(classifier.name, SIZE)
    right = classifier.correct
    clean = classifier.half + right[classifier.half :].nonzero()[:size, 0]
    x, y, epsilon = classifier.x[clean], classifier.y[clean], EPSILON[classifier.name]
    generator = torch.Generator().manual_seed(0)
    if bool(classifier.x.min() >= 0) and bool(classifier.x.max() <= 1):
        attacked, noise = pgd_examples(classifier, x, y, epsilon), torch.rand(x.shape, generator=generator)
    else:
        result = attacks.pgd(classifier.model, x, y, epsilon=epsilon, steps=100, bounds=None, generator=generator)
        attacked, noise = result.adversarial[result.success], torch.randn(x.shape, generator=generator)
    return dict(zip(GROUPS, (x, attacked, noise, classifier.x[~right][:size]), strict=True))


def _around(classifier: ClassifierUnderTest, x: Tensor, directions: Tensor, radius: float) -> _Around:
    points = (x[:, None] + radius * directions).flatten(0, 1)
    here, label = _losses(classifier, x)
    there, _ = _losses(classifier, points, label.repeat_interleave(len(directions)))
    higher = there.view(len(x), -1) > here[:, None]
    return _Around(zeta(classifier.model, x, radius=radius, directions=directions), higher)


def _losses(classifier: ClassifierUnderTest, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A rising function of the cross-entropy of `label`, or else of the predicted class, that does not saturate:
    log(sum of the others' exponentials) minus the label's logit."""
    logits = logits_of(classifier.model, x).double()
    label = logits.argmax(1) if label is None else label
    others = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)
    return others - logits.gather(1, label[:, None])[:, 0], label


def _turns(model: Any, x: Tensor, directions: Tensor, radius: float) -> _Kinks:
    turns = []
    for loss in ("logit", "cross_entropy"):
        curvature = directional_curvature(model, x, radius=radius, directions=directions, loss=loss)
        norm = local_minimum(model, x, radius=radius, directions=directions[:1], loss=loss).gradient_norm
        turns.append(curvature * radius * x[0].numel() ** 0.5 / norm[:, None])
    return _Kinks(*turns)


def _page(around: Surroundings, kinks: KinksAround, norms: dict[tuple[str, str], Tensor]) -> Page:
    page = _Illustrated("Theorem 1 on trained classifiers", figure=_draw(around))
    page.say(
        "zeta(x~) is the cosine between the gradient of the predicted class's cross-entropy at a neighbour x~ and the "
        "direction from x to x~: negative where descent from x~ leads away from x. Theorem 1 (Schwinn et al. 2021): x "
        "is a local minimum if and only if zeta is not negative as x~ -> x. "
        f"{DIRECTIONS // 2} random directions and their opposites, the same for all inputs; radius is the root mean "
        "square of x~ - x per entry. "
        "PGD: untargeted, L-inf, 100 steps, random start, epsilon "
        f"{', '.join(f'{epsilon:.3g} ({name})' for name, epsilon in EPSILON.items())}; successful examples only. Noise:"
        " uniform, for ecg5000 normal. A *minimum* is an input with zeta < 0 in no direction, as `local_minimum` "
        "has it."
    )
    page.say(f"![zeta, its negative share and the share of minima over radii]({PICTURE})")
    page.say("## Where the theorem holds")
    page.say(_in_the_limit(around, norms))
    page.say(_at_a_radius(around))
    page.say(_minima(around))
    page.say("## Where networks bend it")
    page.say(_pieces(kinks))
    page.table(
        ["classifier", "inputs", "radius", "same piece", "on a kink"], [_kink_row(*item) for item in kinks.items()]
    )
    for name in EPSILON:
        page.say(f"## {name}")
        rows = [_row(group, radius, a) for (n, group, radius), a in around.items() if n == name]
        quantiles = [f"{q:.0%}" for q in QUANTILES]
        page.table(["inputs", "number", "radius", *quantiles, "zeta < 0", "minima", "sign right"], rows)
    page.say(
        "Quantiles are those of zeta over inputs and directions. *sign right*: share of neighbours where zeta >= 0 goes"
        " with a loss above that at x, zeta < 0 with one below."
    )
    page.data = _data(around, kinks, norms)
    return page


def _in_the_limit(around: Surroundings, norms: dict[tuple[str, str], Tensor]) -> str:
    smallest = [a for (_, _, radius), a in around.items() if radius == RADII[0]]
    shares, inputs = [a.negative for a in smallest], torch.cat([a.minimum for a in smallest])
    norm = torch.cat([*norms.values()])
    zero = int((norm == 0).sum())
    text = (
        f"**In the limit.** At radius {RADII[0]:g} between {min(shares):.0%} and {max(shares):.0%} of zeta are "
        f"negative in the {len(shares)} groups, and {int(inputs.sum())} of {len(inputs)} inputs are minima. The "
        f"gradient is exactly zero at {zero} of {len(norm)} inputs; its smallest norm is {float(norm.min()):.1e}, "
        f"the median {float(norm.median()):.1e}. "
    )
    if zero < len(norm):
        text += (
            "Where the gradient is not zero and the loss smooth, zeta tends to the cosine of gradient and direction, "
            "which is negative in one of two opposite directions: taken to the limit the theorem says 'no minimum', "
            "and is right, of trusted and attacked inputs alike. It tells them apart only at a radius."
        )
    return text


def _at_a_radius(around: Surroundings) -> str:
    right = {r: _share(_joined(a.right for (*_, radius), a in around.items() if radius == r)) for r in RADII}
    minima = [(a.minimum, a.higher.all(1)) for a in around.values()]
    passed, lowest = (torch.cat(column) for column in zip(*minima, strict=True))
    shares = ", ".join(f"{share:.1%} at {radius:g}" for radius, share in right.items())
    return (
        f"**At a radius.** The sign of zeta says rightly whether the loss at x~ is above that at x for {shares}. Over "
        f"all radii {int(passed.sum())} verdicts are 'minimum'; in {_share(lowest[passed]):.1%} of them the loss at x "
        f"is indeed below that at all {DIRECTIONS} neighbours, against {_share(lowest[~passed]):.1%} of the other "
        "verdicts."
    )


def _minima(around: Surroundings) -> str:
    pairs = [(name, radius) for name in EPSILON for radius in RADII]
    share = {key: _share(a.minimum) for key, a in around.items()}
    more = [(n, r) for n, r in pairs if share[n, "PGD", r] > share[n, "correct", r]]
    less = [(n, r) for n, r in pairs if share[n, "PGD", r] < share[n, "correct", r]]
    n, r = max(pairs, key=lambda pair: abs(share[pair[0], "PGD", pair[1]] - share[pair[0], "correct", pair[1]]))
    gap = {(n, r): around[n, "PGD", r].negative - around[n, "correct", r].negative for n, r in pairs}
    lowest, highest = min(gap, key=gap.__getitem__), max(gap, key=gap.__getitem__)
    falling = {(n, r): 1 - _share(around[n, "correct", r].higher) for n, r in pairs}
    most = max(falling, key=falling.__getitem__)

    def describe(pair: tuple[str, float]) -> str:
        attacked, correct = (around[pair[0], group, pair[1]].negative for group in ("PGD", "correct"))
        return f"{pair[0]} at {pair[1]:g}, {attacked:.0%} against {correct:.0%}"

    text = (
        f"**Trusted and attacked inputs.** In {len(pairs)} pairs of classifier and radius, attacked inputs are minima "
        f"more often than correct ones in {len(more)}, less often in {len(less)}; the largest difference is on {n} at "
        f"{r:g}: {share[n, 'PGD', r]:.0%} of the attacked, {share[n, 'correct', r]:.0%} of the correct inputs. zeta is "
        f"negative less often around attacked inputs in {sum(g < 0 for g in gap.values())} pairs (most so on "
        f"{describe(lowest)}), more often in {sum(g > 0 for g in gap.values())} (most so on {describe(highest)}). "
    )
    if len(more) > len(less):
        text += "To be a minimum is therefore no sign of trust. "
    if falling[most] > 0.5:
        text += (
            f"Correct inputs can even be near a maximum: on {most[0]} at {most[1]:g} the loss is lower than at x in "
            f"{falling[most]:.0%} of their neighbours: the classifier grows surer as the input gets noisier."
        )
    return text


def _pieces(kinks: KinksAround) -> str:
    straight, logit, loss = (
        _joined(getattr(k, field) for k in kinks.values()) for field in ("straight", "logit", "loss")
    )
    turn = float(logit[straight].abs().amax())
    turns = f"turns by at most {turn:.0e} of its length" if turn else "does not turn at all"
    inside, across = loss[straight] < -STRAIGHT, loss[~straight] < -STRAIGHT
    text = (
        f"The classifiers are piecewise linear up to the softmax. In float64, {len(inside)} of {len(loss)} pairs of "
        "input and neighbour lie in one linear piece. Within it the gradient of the predicted class's logit "
        f"{turns}, so that all curvature is the softmax's, and that of the cross-entropy is negative in "
        f"{int(inside.sum())} pairs: a convex function of linear ones has neither saddles nor maxima, and a margin, "
        "itself linear, no minima. With a kink between the two it is negative in "
        f"{int(across.sum())} of {len(across)} pairs ({_share(across):.0%}). "
    )
    at_kink = {
        key: (int((~k.straight).all(1).sum()), len(k.straight)) for key, k in kinks.items() if key[2] == KINK_RADII[0]
    }
    touched = [f"{n} of {total} {group} ({name})" for (name, group, _), (n, total) in at_kink.items() if n]
    if touched:
        text += (
            "Some inputs lie on a kink themselves, with no direction in the same piece even at radius "
            f"{KINK_RADII[0]:g}: {', '.join(touched)}; none in the other {len(at_kink) - len(touched)} groups. There "
            "the gradient does not exist, autograd picks one side, and zeta has another limit in each direction, whose "
            "negative share need not be one half. Where a network has max pooling, windows in constant areas tie, "
            "which puts inputs there."
        )
    return text


def _kink_row(key: tuple[str, str, float], kinks: _Kinks) -> list[str]:
    name, group, radius = key
    on_kink = int((~kinks.straight).all(1).sum())
    return [name, group, f"{radius:g}", f"{_share(kinks.straight):.1%}", f"{on_kink} of {len(kinks.straight)}"]


def _row(group: str, radius: float, around: _Around) -> list[str]:
    quantiles = [f"{value:.3f}" for value in around.quantiles()]
    shares = (around.negative, _share(around.minimum), _share(around.right))
    return [group, str(len(around.zeta)), f"{radius:g}", *quantiles, *(f"{share:.1%}" for share in shares)]


def _data(around: Surroundings, kinks: KinksAround, norms: dict[tuple[str, str], Tensor]) -> dict[str, Any]:
    return {
        "zeta": [
            {
                **dict(zip(("classifier", "inputs", "radius"), key, strict=True)),
                "number": len(a.zeta),
                "quantiles": dict(zip(map(str, QUANTILES), a.quantiles(), strict=True)),
                "negative": a.negative,
                "minima": _share(a.minimum),
                "sign_right": _share(a.right),
                "lower_than_all": _share(a.higher.all(1)),
                "gradient_norm_median": float(norms[key[:2]].median()),
            }
            for key, a in around.items()
        ],
        "kinks": [
            {
                **dict(zip(("classifier", "inputs", "radius"), key, strict=True)),
                "number": len(k.logit),
                "same_piece": _share(k.straight),
                "on_a_kink": int((~k.straight).all(1).sum()),
                "negative_curvature_in_piece": int((k.straight & (k.loss < -STRAIGHT)).sum()),
                "negative_curvature_across_kinks": int((~k.straight & (k.loss < -STRAIGHT)).sum()),
            }
            for key, k in kinks.items()
        ],
    }


def _draw(around: Surroundings) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.7 * len(EPSILON), 7.2), layout="constrained")
    axes = figure.subplots(3, len(EPSILON), sharex=True)
    for column, name in enumerate(EPSILON):
        top, middle, bottom = axes[:, column]
        top.set_title(name)
        for group, colour in GROUPS.items():
            at_radii = [around[name, group, radius] for radius in RADII]
            quantiles = [a.quantiles() for a in at_radii]
            top.fill_between(RADII, [q[1] for q in quantiles], [q[3] for q in quantiles], color=colour, alpha=0.15)
            top.plot(RADII, [q[2] for q in quantiles], "o-", color=colour, markersize=3, label=group)
            middle.plot(RADII, [a.negative for a in at_radii], "o-", color=colour, markersize=3)
            bottom.plot(RADII, [_share(a.minimum) for a in at_radii], "o-", color=colour, markersize=3)
        top.axhline(0, color="black", linewidth=0.6)
        middle.axhline(0.5, color="black", linewidth=0.6)
        bottom.set_xscale("log")
        bottom.set_xlabel("radius")
        for shares in (middle, bottom):
            shares.set_ylim(-0.04, 1.04)
        for each in axes[:, column]:
            each.spines[["top", "right"]].set_visible(False)
            each.tick_params(labelleft=each is top or not column)
    for row, label in enumerate(("zeta: median and quartiles", "share of zeta < 0", "share of minima")):
        axes[row, 0].set_ylabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=len(GROUPS), loc="outside upper center", frameon=False)
    return figure


def _joined(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def _share(which: Tensor) -> float:
    return float(which.double().mean()) if which.numel() else 0.0
