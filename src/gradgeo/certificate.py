"""What can be proved of a detector that judges inputs with fresh noise, whatever an attacker knows but the draw.

`Detector(model, noise=s)` judges x + Z with Z ~ N(0, s^2 I). Two statements follow, both about changes of x by at most
r in L2, in the units of its inputs: `evasion_bound`, on average over inputs, of a detector that draws once; and
`certify`, for a single input, of the majority over many draws. The proofs are in the documentation, under Theory.

Source: the Neyman-Pearson lemma as Cohen, Rosenfeld and Kolter, "Certified adversarial robustness via randomized
smoothing", ICML 2019, use it for a class; here the event is an answer of classifier and detector together.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from gradgeo._typing import Array
from gradgeo.detector.detector import Detector
from gradgeo.errors import ArgumentError, expected, is_integer, number, positive_integer, positive_number, public

Outcome = int | None
"""What one draw says: a class that is trusted, or None for an input that is not."""


@public
def worst_case(share: float, *, radius: float, noise: float) -> float:
    """The largest probability that an event of x + Z can be given by moving x by `radius`: Phi(Phi^-1(p) + r / s).

    Example:
        >>> round(worst_case(0.01, radius=0.25, noise=0.25), 3)
        0.092
        >>> worst_case(0.01, radius=0.0, noise=0.25)
        0.01

    Args:
        share: p, the probability at x itself, or its mean over inputs: the map is concave on all of [0, 1], so that
            the mean of the bounds is at most the bound of the mean.
        radius: r, the largest L2 length of a change, in input units.
        noise: s, the standard deviation of each entry of Z, in input units.

    Half-spaces across the direction of the change reach it.
    """
    if not 0 <= number(share) <= 1:
        raise expected("share", "a number from 0 to 1", share)
    reach = _radius(radius) / positive_number("noise", noise)
    return float(share) if reach == 0 else float(special.ndtr(special.ndtri(float(share)) + reach))


@public
def evasion_bound(
    evaded: int, inputs: int, *, radius: float, noise: float, confidence: float = 0.95, queries: int = 1
) -> float:
    """How often, at most, an attacker gets a wrong answer trusted by changes of L2 length up to `radius`.

    Example:
        >>> round(evasion_bound(4, 1000, radius=0.25, noise=0.25), 3)
        0.087

    Args:
        evaded: of labelled inputs as they are, how many get a wrong label that is trusted, each judged once. They must
            have had no part in fitting, and be drawn as those are that will be attacked.
        inputs: how many were judged.
        radius, noise: as in `worst_case`; `noise` is that of the detector.
        confidence: of the upper bound of their share in all inputs (Clopper and Pearson 1934), over the draw of the
            inputs and of their noise. One statement for all radii and all attackers.
        queries: how often the attacker may try on one input, each time with fresh noise; one success counts.

    Returns:
        A bound of the mean over inputs and draws. It says nothing of a single input, and with `queries` beyond
        a few it soon says nothing at all.
    """
    if not is_integer(inputs) or inputs < 1:
        raise expected("inputs", "a positive integer", inputs)
    if not is_integer(evaded) or not 0 <= evaded <= inputs:
        raise expected("evaded", f"an integer from 0 to inputs={inputs}", evaded)
    share = 1.0 if evaded == inputs else float(special.betaincinv(evaded + 1, inputs - evaded, _share(confidence)))
    once = worst_case(share, radius=radius, noise=noise)
    tries = positive_integer("queries", queries)
    return once if tries == 1 else -math.expm1(tries * math.log1p(-once)) if once < 1 else 1.0


@dataclass(frozen=True)
class Certificates:
    """What is certified of N inputs."""

    label: Tensor
    """(N,) int64, the class that most draws give and trust; -1 where there is none."""
    trusted: Tensor
    """(N,) bool, whether that is certified, within the radius that was asked for."""
    abstained: Tensor
    """(N,) bool, whether no answer could be told to have the majority: neither trusted nor certainly untrusted."""
    radius: Tensor
    """(N,) float64, how far, in L2 and input units, x may be moved without another answer (label and trusted, or not
    trusted) getting the majority; 0 where abstained."""
    share: Tensor
    """(N,) float64, a lower bound of the probability of the answer at x; NaN where abstained."""

    def __len__(self) -> int:
        return len(self.label)


@public
def certify(
    detector: Detector,
    x: Tensor | Array,
    *,
    noise: float | None = None,
    draws: int = 1000,
    pilot: int = 100,
    radius: float = 0.0,
    confidence: float = 0.999,
) -> Certificates:
    """For each input the answer of most draws of noise, and the radius within which no change can alter it.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Linear(12, 5)  # any trained classifier
        >>> x = torch.rand(200, 12)
        >>> detector = gradgeo.Detector(model, evidence="lite", noise=0.05).fit(x)
        >>> gradgeo.certify(detector, x[:2], draws=100, pilot=20).radius.shape
        torch.Size([2])

    Args:
        detector: fitted with `noise`.
        x: (N, *input), a tensor or array.
        noise: None, or what the detector's must be, where the radius is meant for that.
        draws: by which the share of an answer is bounded. No radius exceeds `largest_radius` of it.
        pilot: further draws before them, by which the answer is chosen.
        radius: the least one with which an input is `trusted`.
        confidence: with which each input's certificate holds: one of 1,000 may be wrong at the default. For all of N
            at once take 1 - (1 - confidence) / N.

    An answer is a class that is trusted, or "not trusted", whatever the class. Its share p of draws is bounded below
    (Clopper and Pearson 1934); above one half the radius is s Phi^-1(p), else the input is abstained from.

    The false-alarm rate of this verdict is its own, and not alpha, which is that of one draw: at most 2 alpha of
    trustworthy inputs have "not trusted" as the answer of most draws, and those that are abstained from or whose radius
    is too small come on top. Measure it on trusted inputs that had no part in fitting.

    Cost: draws + pilot verdicts for each input.

    Raises:
        ArgumentError: too few draws for the confidence or the radius (the message says how many it takes), a detector
            without noise or with another. NotFittedError.
    """
    fitted = _fitted_noise(detector, noise)
    if not isinstance(x, Tensor | np.ndarray):
        raise expected("x", "a tensor or array (N, *input)", x)
    positive_integer("pilot", pilot)
    least = 0.5 if _radius(radius) == 0 else float(special.ndtr(radius / fitted))
    if _lower(positive_integer("draws", draws), draws, _share(confidence)) <= least:
        needed = math.log1p(-confidence) / math.log(least) if least < 1 else math.inf
        enough = f"more than {needed:,.0f}" if needed < 1e9 else "more than can be drawn"
        goal = f"confidence={confidence:g}" + (f" and radius={radius:g}" if radius else "")
        raise expected("draws", f"{enough} for {goal}", draws, "A smaller radius or confidence takes fewer.")
    rows = []
    for part in detector.fitted_.inputs(x, batch_size=1, drawn=True):  # (1, *input)
        first, counted = (_outcomes(detector, part, size) for size in (pilot, draws))
        (answer, _), *_ = first.most_common(1)
        share = _lower(counted[answer], draws, confidence)
        certain = share > 0.5
        reach = fitted * float(special.ndtri(share)) if certain else 0.0
        label = -1 if answer is None or not certain else answer
        rows.append((label, label >= 0 and reach >= radius, not certain, reach, share if certain else math.nan))
    columns = list(zip(*rows, strict=True)) or [()] * 5
    kinds = (torch.int64, torch.bool, torch.bool, torch.float64, torch.float64)
    return Certificates(*(torch.tensor(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


@public
def largest_radius(*, noise: float, draws: int, confidence: float = 0.999) -> float:
    """The radius of an input on which all `draws` agree, in input units: `certify` gives no larger one.

    Example:
        >>> round(largest_radius(noise=0.25, draws=1000), 2)
        0.62
    """
    positive_number("noise", noise)
    share = _lower(positive_integer("draws", draws), draws, _share(confidence))
    return max(0.0, noise * float(special.ndtri(share)))


def _outcomes(detector: Detector, row: Tensor, draws: int) -> Counter[Outcome]:
    """What `draws` queries with the input `row` (1, *input) say."""
    counts: Counter[Outcome] = Counter()
    for size in _chunks(draws, detector.settings.batch_size):
        verdicts = detector.predict(row.expand(size, *row.shape[1:]))
        pairs = zip(verdicts.label.tolist(), verdicts.trusted.tolist(), strict=True)
        counts.update(label if trusted else None for label, trusted in pairs)
    return counts


def _chunks(total: int, size: int) -> Iterator[int]:
    whole, rest = divmod(total, size)
    yield from [size] * whole + [rest] * bool(rest)


def _lower(hits: int, draws: int, confidence: float) -> float:
    """A lower bound of the probability of what happened `hits` times of `draws`."""
    return 0.0 if hits == 0 else float(special.betaincinv(hits, draws - hits + 1, 1 - confidence))


def _fitted_noise(detector: Detector, noise: float | None) -> float:
    """The noise of a detector, which must be this unless it is None."""
    if not isinstance(detector, Detector):
        raise expected("detector", "a gradgeo.Detector", detector)
    fitted = detector.fitted_.noise
    if fitted is None:
        raise ArgumentError(
            "expected a detector fitted with noise, got one without, whose rates do not hold with it. Fit again: "
            "Detector(model, noise=s).fit(x, y)."
        )
    if noise is not None and number(noise) != fitted:
        raise expected("noise", f"{fitted:g}, as the detector was fitted", noise, "For another, fit again with it.")
    return fitted


def _radius(radius: float) -> float:
    if not 0 <= number(radius) < math.inf:
        raise expected("radius", "a number, 0 or more, in input units", radius)
    return float(radius)


def _share(confidence: float) -> float:
    if not 0 < number(confidence) < 1:
        raise expected("confidence", "a number between 0 and 1", confidence)
    return float(confidence)
