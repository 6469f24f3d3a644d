"""Outliers made from trusted inputs alone, in many ways, for images, signals, tables and embedded text.

They rank detectors nearly as real ones do, so that a choice among detectors needs no data that a user does not have.
"""

import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gradgeo.classifier.wrapper import Classifier, Model, preserve_state
from gradgeo.errors import expected
from gradgeo.geometry.jacobian import with_gradient

STEPS = 10
"""Of the sign of the gradient."""
BUDGETS = {"attacked": 8 / 255, "attacked a little": 2 / 255}
"""How far an attack may move an entry, in widths of `Trusted.width`."""
BLOCKS = 4
"""Along each axis of positions, that are shuffled; fewer where there are fewer positions."""
SMOOTHED = 8
"""The share of a side that is averaged over is one in so many, at least three positions."""


@dataclass(frozen=True)
class Trusted:
    """Trusted inputs (N, channels, *positions), what they range over, and the random numbers of one kind.

    Inputs of a table (N, features) are channels without positions. `low`, `high`, `mean` and `scale` are of each
    channel, (1, channels, 1, ...).
    """

    x: Tensor
    generator: torch.Generator

    @property
    def channelwise(self) -> tuple[int, ...]:
        """The axes over which a channel's figures are taken."""
        return (0, *range(2, self.x.ndim))

    @property
    def low(self) -> Tensor:
        """The least."""
        return self.x.amin(self.channelwise, keepdim=True)

    @property
    def high(self) -> Tensor:
        """The most."""
        return self.x.amax(self.channelwise, keepdim=True)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.x.mean(self.channelwise, keepdim=True)

    @property
    def scale(self) -> Tensor:
        """The standard deviation."""
        return (self.x - self.mean).square().mean(self.channelwise, keepdim=True).sqrt()

    @property
    def width(self) -> Tensor:
        """Four standard deviations: about the range of images, and no prey of a single large value."""
        return 4 * self.scale

    @property
    def level(self) -> Tensor:
        """Of each input what contrast is about: its mean in each channel; in a table the mean over inputs."""
        return self.x.mean(self.positions, keepdim=True) if self.positions else self.mean

    @property
    def positions(self) -> tuple[int, ...]:
        """The axes of positions."""
        return tuple(range(2, self.x.ndim))

    def others(self) -> Tensor:
        """For each input another one, drawn anew at each call."""
        order = torch.randperm(len(self.x), generator=self.generator)
        other = torch.empty_like(order)
        other[order] = order.roll(1)
        return self.x[other.to(self.x.device)]

    def uniform(self, *shape: int) -> Tensor:
        """Between 0 and 1."""
        return torch.rand(*shape, generator=self.generator).to(self.x)

    def normal(self) -> Tensor:
        """Of the shape of the inputs."""
        return torch.randn(self.x.shape, generator=self.generator).to(self.x)

    def each(self, low: float, high: float) -> Tensor:
        """A number between these for each input (N, 1, ...)."""
        return low + (high - low) * self.uniform(len(self.x), *[1] * (self.x.ndim - 1))

    def sign(self) -> Tensor:
        """1 or -1 for each input (N, 1, ...)."""
        return self.each(0, 1).sub(0.5).sign()


Make = Callable[[Trusted], Tensor]


@dataclass(frozen=True)
class Kind:
    """One way of making outliers."""

    family: str
    """Kinds of one family are alike; a mean counts a family once."""
    make: Make
    positions: bool = False
    """Whether it needs an axis of positions."""


def _mixed(t: Trusted) -> Tensor:
    share = t.each(0.3, 0.7)
    return share * t.x + (1 - share) * t.others()


def _box(t: Trusted) -> Tensor:
    """A mask (N, ..., 1 or more) of a box of a third to two thirds of each axis of positions; in a table of the
    features."""
    axes = t.positions or (1,)
    inside = torch.ones(len(t.x), *[1] * (t.x.ndim - 1), dtype=torch.bool, device=t.x.device)
    for axis in axes:
        length = t.x.shape[axis]
        side = max(1, length // 2)
        start = (t.each(0, 1) * (length - side + 1)).floor()
        at = torch.arange(length).to(t.x).view(*[1] * axis, -1, *[1] * (t.x.ndim - axis - 1))
        inside = inside & (at >= start) & (at < start + side)
    return inside


def _pasted(t: Trusted) -> Tensor:
    return torch.where(_box(t), t.others(), t.x)


def _patched(t: Trusted) -> Tensor:
    return torch.where(_box(t), _constant(t), t.x)


def _crossed(t: Trusted) -> Tensor:
    """Each channel of another input: what is usual by itself and unusual together."""
    if t.x.shape[1] == 1:
        return _mixed(t)
    return torch.stack([t.others()[:, c] for c in range(t.x.shape[1])], 1)


def _noise(amount: float) -> Make:
    return lambda t: t.x + amount * t.scale * t.normal()


def _contrast(low: float, high: float) -> Make:
    return lambda t: t.level + t.each(low, high) * (t.x - t.level)


def _shifted_level(t: Trusted) -> Tensor:
    return t.x + t.sign() * t.each(1, 2) * t.scale


def _dark(t: Trusted) -> Tensor:
    return t.low + t.each(0.05, 0.25) * (t.x - t.low)


def _bright(t: Trusted) -> Tensor:
    return t.high - t.each(0.05, 0.25) * (t.high - t.x)


def _constant(t: Trusted) -> Tensor:
    level = t.uniform(len(t.x), t.x.shape[1], *[1] * len(t.positions))
    return (t.low + level * (t.high - t.low)).expand_as(t.x)


def _smoothed(t: Trusted) -> Tensor:
    """Averages over neighbours, along each axis of positions, twice."""
    x = t.x
    for axis in 2 * t.positions:
        length = x.shape[axis]
        reach = min(max(1, length // (2 * SMOOTHED)), length - 1)
        rows = x.movedim(axis, -1)  # (..., length)
        flat = F.pad(rows.reshape(-1, 1, length), (reach, reach), mode="replicate")
        x = F.avg_pool1d(flat, 2 * reach + 1, stride=1).view(rows.shape).movedim(-1, axis)
    return x


def _shuffled(t: Trusted) -> Tensor:
    """Blocks of positions in another order, that of each axis its own; of each input its own."""
    x = t.x
    for axis in t.positions:
        rows = x.movedim(axis, 1)  # (N, length, ...)
        size = max(1, rows.shape[1] // BLOCKS)
        blocks = [torch.arange(i, min(i + size, rows.shape[1])) for i in range(0, rows.shape[1], size)]
        orders = [torch.randperm(len(blocks), generator=t.generator).tolist() for _ in range(len(x))]
        taken = torch.stack([torch.cat([blocks[i] for i in order]) for order in orders]).to(x.device)
        index = taken.view(*taken.shape, *[1] * (rows.ndim - 2)).expand_as(rows)
        x = rows.gather(1, index).movedim(1, axis)
    return x


def _phases(t: Trusted) -> Tensor:
    """The magnitudes of one input's spectrum with the phases of another's; the mean is the first's."""
    own, other = (torch.fft.rfftn(x, dim=t.positions) for x in (t.x, t.others()))
    turned = torch.polar(own.abs(), other.angle()).flatten(2)
    turned[..., 0] = own.flatten(2)[..., 0]
    made: Tensor = torch.fft.irfftn(turned.view(own.shape), s=t.x.shape[2:], dim=t.positions)
    return made


def _rolled(t: Trusted) -> Tensor:
    """Around its end, by a quarter to three quarters of each axis of positions; in a table of the features."""
    x = t.x
    for axis in t.positions or (1,):
        length = x.shape[axis]
        by = (t.each(0.25, 0.75) * length).round().clamp(1, max(1, length - 1)).long()
        at = torch.arange(length, device=x.device).view(*[1] * axis, -1, *[1] * (x.ndim - axis - 1))
        x = x.gather(axis, ((at - by) % length).expand_as(x))
    return x


def _permuted(t: Trusted) -> Tensor:
    """All entries of an input in another order, each of its own."""
    order = t.uniform(len(t.x), t.x[0].numel()).argsort(1)
    return t.x.flatten(1).gather(1, order).view_as(t.x)


KINDS: dict[str, Kind] = {
    "mixed": Kind("mixed", _mixed),
    "pasted": Kind("mixed", _pasted),
    "crossed": Kind("mixed", _crossed),
    "a little noise": Kind("noise", _noise(0.3)),
    "noise": Kind("noise", _noise(1.0)),
    "gain": Kind("level", _contrast(1.5, 3)),
    "faded": Kind("level", _contrast(0.05, 0.3)),
    "clipped": Kind("level", _contrast(4, 8)),
    "level": Kind("level", _shifted_level),
    "dark": Kind("level", _dark),
    "bright": Kind("level", _bright),
    "inverted": Kind("level", lambda t: t.low + t.high - t.x),
    "constant": Kind("level", _constant),
    "patched": Kind("structure", _patched),
    "smoothed": Kind("structure", _smoothed, positions=True),
    "shuffled": Kind("structure", _shuffled, positions=True),
    "phases": Kind("structure", _phases, positions=True),
    "rolled": Kind("structure", _rolled),
    "reversed": Kind("structure", lambda t: t.x.flip(-1)),
    "permuted": Kind("structure", _permuted),
}
"""Every kind that needs no model, by name."""

ATTACKED = "attack"
"""The family of those that need one."""

FAMILIES: Mapping[str, str] = {
    **{name: kind.family for name, kind in KINDS.items()},
    **dict.fromkeys(BUDGETS, ATTACKED),
}
"""The family of every kind."""


def made_outliers(
    x: Tensor, *, model: Model | None = None, seed: int = 0, channel_axis: int = 1, kinds: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Outliers of each kind, as many as there are inputs: row i is made from input i, and from others where it needs
    them. No entry leaves the range that its channel has in `x`. The same numbers for the same arguments; a kind does
    not depend on which others are made.

    Args:
        x: trusted inputs (N, *input), two or more, finite and floating point: images (N, channels, H, W), signals
            (N, channels, time), rows of a table (N, features).
        model: a classifier, for the attacks; without one they are left out.
        seed: of the random numbers.
        channel_axis: the axis that is no position; 2 for embedded text (N, positions, width).
        kinds: names among `FAMILIES`; None for all that make sense for inputs of this shape.

    Raises:
        ArgumentError: a kind is not known, or the inputs are not as described. ModelError: as `saliency_maps`.

    Example:
        >>> x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> made_outliers(x, kinds=["mixed", "smoothed"])["smoothed"].shape
        torch.Size([8, 3, 16, 16])
    """
    _check(x, channel_axis)
    unknown = [name for name in kinds or () if name not in FAMILIES]
    if unknown:
        raise expected("kinds", f"among {', '.join(FAMILIES)}", unknown[0])
    moved = x.detach().movedim(channel_axis, 1)
    low, high = Trusted(moved, torch.Generator()).low, Trusted(moved, torch.Generator()).high
    found = {}
    for name in FAMILIES if kinds is None else kinds:
        trusted = Trusted(moved, torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode())))
        if name in KINDS:
            if KINDS[name].positions and not trusted.positions:
                continue
            made = KINDS[name].make(trusted)
        elif model is not None:
            made = _attacked(trusted, model, BUDGETS[name], channel_axis)
        else:
            continue
        found[name] = torch.minimum(torch.maximum(made, low), high).movedim(1, channel_axis).contiguous()
    return found


def _check(x: Any, channel_axis: int) -> None:
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        raise expected("x", "a floating-point tensor (N, *input)", x)
    if len(x) < 2 or not bool(x.isfinite().all()):
        raise expected("x", "two or more finite inputs", x)
    if not 1 <= channel_axis < x.ndim:
        raise expected("channel_axis", f"an axis of one input, 1 to {x.ndim - 1}", channel_axis)


def _attacked(t: Trusted, model: Model, budget: float, channel_axis: int) -> Tensor:
    """Steps of the sign of the gradient of the best other logit less the first, within a box about each input, from a
    random point of half of it.

    Source: Madry et al. 2018, with the margin of Carlini and Wagner 2017, which does not saturate.
    """
    classifier, box = Classifier(model), budget * t.width
    with preserve_state(t.x, recurrent=classifier.recurrent), torch.enable_grad():
        point = t.x + box * (t.uniform(*t.x.shape) - 0.5)  # here, where a caller's inference mode is left
        first = classifier.logits(t.x.movedim(1, channel_axis)).logits.argmax(1, keepdim=True)
        for _ in range(STEPS):
            leaf = point.detach().movedim(1, channel_axis).requires_grad_()
            logits = with_gradient(classifier(classifier.prepare(leaf).x.clone()))
            others = logits.scatter(1, first, -torch.inf).amax(1)
            (gradient,) = torch.autograd.grad((others - logits.gather(1, first)[:, 0]).sum(), leaf)
            step = gradient.to(t.x).movedim(channel_axis, 1).sign() * box * (2.5 / STEPS)
            point = torch.minimum(torch.maximum(point.detach() + step, t.x - box), t.x + box)
            point = torch.minimum(torch.maximum(point, t.low), t.high)
    return point.detach()
