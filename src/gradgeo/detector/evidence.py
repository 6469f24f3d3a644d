"""Evidence: named measurements of how a classifier responds to an input, all from one shared forward pass.

`gradgeo.detector.features` says what each measures and what it is blind to; results/evidence.md shows both. Evidence of
your own takes one line: `EVIDENCE["mine"] = Evidence("mine", ("a", "b"), lambda ctx: ...)`, and
`Detector(evidence=["csm", "mine"])`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor

from gradgeo.classifier.layers import LAYERS
from gradgeo.detector import columns, features
from gradgeo.detector.measurements import RADII, EvidenceContext, shiftable
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
from gradgeo.detector.words import Words, of_columns, of_spectrum
from gradgeo.errors import choice, expected
from gradgeo.geometry.jacobian import InputJacobian
from gradgeo.geometry.similarity import STATISTICS


def always_available(forward: InputJacobian) -> bool:
    """True: every model has what is measured."""
    return True


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


def _has_head(forward: InputJacobian) -> bool:
    return forward.features is not None


def _has_axes(forward: InputJacobian) -> bool:
    return bool(shiftable(forward.x))


def _is_picture(forward: InputJacobian) -> bool:
    return forward.x.ndim == 4 and forward.x.shape[-1] > 1


def _is_row(forward: InputJacobian) -> bool:
    return columns.is_row(forward.x)


_by_values = partial(Evidence, gradients=False)


def _at_radii(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{radius:g}" for name in names for radius in RADII)


OF_LAYERS = tuple(f"layer_{place + 1}" for place in range(LAYERS))
"""The evidence of each of the layers that are looked at, the first of which is nearest to the input."""

EVIDENCE: dict[str, Evidence] = {
    e.name: e
    for e in (
        _by_values("confidence", ("log_odds",), features.confidence, UpperTail, "confidence"),
        _by_values(
            "mirrored",
            ("log_odds", "mirrored_log_odds"),
            features.mirrored,
            MirroredTail,
            "confidence",
            _is_picture,
            ways=("symmetries",),
            instead_of="confidence",
        ),
        _by_values("neighbours", (), features.penultimate, NearestNeighbours, "features", _has_head),
        _by_values("stability", _at_radii("drop"), features.stability, UpperTail, "stability", neighbourhood="values"),
        _by_values("shifts", ("shift_drop",), features.shifts, UpperTail, "stability", _has_axes, ways=("shifts",)),
        _by_values("mahalanobis", (), features.penultimate, NearestMean, "features", _has_head),
        _by_values(
            "symmetry",
            ("mirror_drop", "step_drop"),
            features.symmetry,
            UpperTail,
            "stability",
            _has_axes,
            ways=("symmetries",),
        ),
        _by_values("spectrum", (), features.of_input, SmoothCopula, "input", _has_axes, words=of_spectrum),
        _by_values("columns", (), features.of_row, SmoothCopula, "input", _is_row, words=of_columns),
        Evidence("csm", STATISTICS, features.csm),
        Evidence("csm_twice", (*STATISTICS, *(f"{name}_at_1" for name in STATISTICS)), features.csm_twice),
        _by_values("residual", (), features.penultimate, Residual, "residual", _has_head),
        Evidence("boundary", features.BOUNDARY, features.boundary),
        Evidence("neighbourhood", _at_radii("drop", "turn", "zeta"), features.neighbourhood, neighbourhood="gradients"),
        Evidence("turn", _at_radii("turn"), features.turn, neighbourhood="gradients"),
        Evidence("nearest_boundary", features.NEAREST, features.nearest_boundary),
        Evidence("raw_csm", tuple(f"raw_{name}" for name in STATISTICS), features.raw_csm),
        Evidence("flips", _at_radii("flips"), features.flips, UpperTail, "stability", neighbourhood="gradients"),
        Evidence(
            "curvature", _at_radii("curvature", "largest_curvature"), features.curvature, neighbourhood="gradients"
        ),
        _by_values("magnitude", ("magnitude",), features.magnitude, UpperTail, "features", _has_head),
        *(
            _by_values(name, (), layer, NearestLayerMean, "layers", layer.available, layers=True)
            for name, layer in zip(OF_LAYERS, map(features.LayerOutput, range(LAYERS)), strict=True)
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
