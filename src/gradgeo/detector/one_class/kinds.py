"""The one-class models by the name that detector files know them by."""

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
from gradgeo.detector.one_class.loda import Loda

KINDS: dict[str, type[OneClass]] = {
    "copula": ClassConditionalCopula,
    "smooth_copula": SmoothCopula,
    "upper": UpperTail,
    "mirrored": MirroredTail,
    "neighbours": NearestNeighbours,
    "residual": Residual,
    "nearest_mean": NearestMean,
    "nearest_layer_mean": NearestLayerMean,
    "loda": Loda,
}
"""Every one-class model."""

DENSITIES = ("copula", "loda")
"""Those of features that are suspicious wherever few trusted inputs lie, between which a detector may choose."""
