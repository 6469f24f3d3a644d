"""Extracting evidence from whole sources of inputs: what `fit`, `predict` and `explain` have in common."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from gradgeo._typing import IntArray
from gradgeo.classifier.wrapper import Model
from gradgeo.detector.evidence import Evidence
from gradgeo.detector.measurements import EvidenceContext
from gradgeo.errors import UnusableInputWarning, expected, warn
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.options import Maps

UNBOUNDED = 1e6  # root mean square per input entry beyond which there is no boundary to speak of
LONG_ENOUGH = 0.5  # seconds of a trial that tells how long all will take
RIVALS = 12  # most likely other classes whose boundaries are looked at for the nearest


@dataclass(frozen=True)
class EvidenceFeatures:
    """What was measured of N inputs, on the CPU; NaN features where they cannot be judged."""

    features: tuple[Tensor, ...]
    """(N, F) of each evidence, float64."""
    label: Tensor
    """(N,) int64, the predicted class, -1 where unusable."""
    probability: Tensor
    """(N,) float64, its softmax probability."""
    logits: Tensor | None = None
    """(N, C), where asked for."""
    csm: Tensor | None = None
    """(N, K, K), where asked for."""
    classes: Tensor | None = None
    """(N, K) classes of the CSM, where asked for."""

    def __getitem__(self, rows: Tensor | IntArray) -> Self:
        """Some of the inputs, by their positions."""
        optional = (None if table is None else table[rows] for table in (self.logits, self.csm, self.classes))
        return type(self)(
            tuple(table[rows] for table in self.features), self.label[rows], self.probability[rows], *optional
        )

    @property
    def has_gradient(self) -> Tensor:
        """Whether every feature of an input is finite (N,): without a gradient no geometry is defined."""
        finite = torch.ones(len(self.label), dtype=torch.bool)
        for table in self.features:
            finite &= table.isfinite().all(1)
        return finite


class _Done:
    """Tells how many inputs have been measured, each once, also where memory made a pass start again."""

    def __init__(self, advance: Callable[[int], None] | None) -> None:
        self._advance, self._upto = advance, 0

    def __call__(self, rows: slice) -> None:
        if self._advance is not None and rows.stop > self._upto:
            self._advance(rows.stop - self._upto)
            self._upto = rows.stop


def _seconds(x: Tensor, work: Callable[[Tensor], object]) -> float:
    """What `work` takes for one input: by 1, or by 4 or all of `x` where that is quick, for few at once take longer."""
    work(x[:1])  # the first call of all also imports and compiles, for more than a second
    each = 0.0
    for count in (1, 4, len(x)):
        began = time.perf_counter()
        work(x[:count])
        each = (time.perf_counter() - began) / min(count, len(x))
        if each * count > LONG_ENOUGH:
            break
    return each


@dataclass(frozen=True)
class EvidenceExtractor:
    """Which evidence is measured, from which maps, and at which radius around each input."""

    evidence: tuple[Evidence, ...]
    """M kinds, in the order of the features."""
    maps: Maps
    """The loss, temperature and classes of the saliency maps."""
    radius: float = 1.0
    """Of the neighbourhood, root mean square per input entry."""

    @property
    def has_neighbourhood(self) -> bool:
        """Whether anything is measured around the inputs, so that the radius matters."""
        return any(e.neighbourhood != "none" for e in self.evidence)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the evidence."""
        return tuple(e.name for e in self.evidence)

    def only(self, evidence: tuple[Evidence, ...]) -> Self:
        """The extractor of some of its evidence."""
        part = replace(self, evidence=evidence)
        return part if part.has_neighbourhood else replace(part, radius=1.0)

    def part(self, measured: EvidenceFeatures, evidence: tuple[Evidence, ...]) -> EvidenceFeatures:
        """Of what this extractor `measured`, the features of some of its evidence."""
        return replace(measured, features=tuple(measured.features[self.evidence.index(e)] for e in evidence))

    def context(self, forward: InputJacobian) -> EvidenceContext:
        """What the evidence measures of a forward pass."""
        gradients = any(e.neighbourhood == "gradients" for e in self.evidence)
        ways = dict.fromkeys(way for e in self.evidence for way in e.ways)
        return EvidenceContext(forward, self.maps, self.radius, gradients=gradients, ways=ways)

    def features(self, ctx: EvidenceContext) -> list[Tensor]:
        """The features (N, F) of each evidence, float64 on the CPU; NaN for unusable samples."""
        usable = ctx.forward.usable[:, None]  # (N, 1)
        # The neighbourhood comes last: the gradients that span all maps may be there by then, and serve at the input.
        order = sorted(self.evidence, key=lambda e: e.neighbourhood != "none")
        features = {e.name: torch.where(usable, e.measure(ctx).double(), torch.nan).cpu() for e in order}
        return [features[e.name] for e in self.evidence]

    def seconds(self, model: Model, x: Tensor, num_classes: int) -> tuple[float, float]:
        """What the radius and what all evidence take for one input, by some of them (n, *input), as few as take long
        enough to tell."""
        each = []
        if not self.has_neighbourhood:
            each.append(0.0)
        else:
            each.append(_seconds(x, lambda some: self.typical_radius(model, [some], num_classes, batch_size=len(some))))
        each.append(_seconds(x, lambda some: self.measure(model, [some], batch_size=len(some), quiet=True)))
        return each[0], each[1]

    def typical_radius(
        self,
        model: Model,
        inputs: Iterable[Tensor],
        num_classes: int,
        *,
        batch_size: int,
        advance: Callable[[int], None] | None = None,
    ) -> float:
        """The median first-order distance of trusted `inputs` to their nearest boundary, per root of input entries.

        A radius in units of the classifier's own: the same noise level would be nothing to one model and all to
        another. Of many classes only the `RIVALS` most likely others are candidates for the nearest boundary.

        Cost: one forward and at most `RIVALS` backward passes per input.
        """
        # Chunks are sized for the maps of these classes alone: of few classes, more inputs fit.
        sized_for = self.maps
        if sized_for.count(num_classes) > RIVALS + 1:
            sized_for = replace(sized_for, classes=RIVALS + 1)

        done = _Done(advance)

        def distances(forward: InputJacobian, rows: slice) -> Tensor:
            entries = max(1, forward.x[:1].numel())
            nearest: Tensor = EvidenceContext(forward, self.maps).nearest_boundary(RIVALS).exp() / entries**0.5
            nearest = nearest.cpu()  # (n,)
            done(rows)
            return nearest

        near = map_chunks(model, inputs, sized_for, distances, at_most=batch_size, quiet=True)
        if not near:
            raise expected("data", "the same at both readings", "no input at the second")
        distance = torch.cat(near)
        distance = distance[distance < UNBOUNDED]
        return float(distance.median()) if len(distance) else 1.0

    def measure(
        self,
        model: Model,
        inputs: Iterable[Tensor],
        *,
        batch_size: int,
        keep: tuple[str, ...] = (),
        quiet: bool = False,
        advance: Callable[[int], None] | None = None,
    ) -> EvidenceFeatures:
        """Features, labels and probabilities of `inputs`, and those of "logits", "csm" and "classes" that `keep` names.

        The CSM is NaN where the model has no gradients and no evidence asks for any.

        `advance` is called with the number of inputs measured since its last call.

        Warns of inputs that cannot be judged, with their count, unless `quiet`.
        """

        done = _Done(advance)

        def measured(forward: InputJacobian, rows: slice) -> tuple[Tensor, ...]:
            ctx = self.context(forward)
            features = self.features(ctx)  # first, so that keeping a CSM changes no rounding
            probability = forward.logits.double().softmax(1).amax(1)
            columns = (
                torch.where(forward.usable, forward.predicted, -1),
                torch.where(forward.usable, probability, torch.nan),
                *(ctx.kept(name) for name in keep),
            )
            columns = tuple(column.cpu() for column in columns)
            done(rows)
            return (*columns, *features)

        layers = any(e.layers for e in self.evidence)
        needed = any(e.gradients for e in self.evidence)
        gradients = None if "csm" in keep and not needed else needed
        chunks = map_chunks(
            model, inputs, self.maps, measured, at_most=batch_size, layers=layers, gradients=gradients, quiet=quiet
        )
        if not chunks:
            no_features = tuple(torch.empty(0, len(e.features), dtype=torch.float64) for e in self.evidence)
            return EvidenceFeatures(no_features, torch.empty(0).long(), torch.empty(0).double())
        label, probability, *others = (torch.cat(column) for column in zip(*chunks, strict=True))
        asked_for, features = dict(zip(keep, others, strict=False)), tuple(others[len(keep) :])
        result = EvidenceFeatures(features, label, probability, **asked_for)
        if not quiet and (zero := int((~result.has_gradient & (label >= 0)).sum())):
            warn(
                f"{zero} of {len(label)} inputs have no gradient at all (dead network): they cannot be judged.",
                UnusableInputWarning,
            )
        return result
