"""gradgeo: whether to trust a single prediction of a PyTorch classifier, by geometric gradient analysis."""

from gradgeo import attacks, export
from gradgeo.classifier.split import tap
from gradgeo.detector.detector import Detector
from gradgeo.detector.guard import guard
from gradgeo.detector.results import Explanation, Judgement, Predictions
from gradgeo.errors import GradgeoError, GradgeoWarning
from gradgeo.geometry.neighbourhood import LocalMinimum, directional_curvature, local_minimum, zeta
from gradgeo.geometry.saliency import saliency_maps
from gradgeo.geometry.similarity import STATISTICS, cosine_similarity_matrix, csm, csm_statistics

__version__ = "0.1.0"

__all__ = [
    "STATISTICS",
    "Detector",
    "Explanation",
    "GradgeoError",
    "GradgeoWarning",
    "Judgement",
    "LocalMinimum",
    "Predictions",
    "attacks",
    "cosine_similarity_matrix",
    "csm",
    "csm_statistics",
    "directional_curvature",
    "export",
    "guard",
    "local_minimum",
    "saliency_maps",
    "tap",
    "zeta",
]
